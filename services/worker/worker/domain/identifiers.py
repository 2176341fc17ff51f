"""Ids that are computed, so that the same row always means the same product and the same command."""

import uuid

PRODUCT_NAMESPACE = uuid.UUID("6f0f5f3e-6c1b-5d53-9a0b-0a2f6f6c9d11")
"""The namespace of product ids (ADR 4)."""


def product_id(sku: str) -> str:
    """The id of the product with a SKU."""
    return str(uuid.uuid5(PRODUCT_NAMESPACE, sku))


def row_command_id(job_id: uuid.UUID, line: int) -> str:
    """The command id of a row of an import: a batch that is sent twice, by whichever worker, takes effect once."""
    return str(uuid.uuid5(job_id, str(line)))


def activation_command_id(schedule_id: str) -> str:
    """The command id under which a schedule is carried out, by whichever worker."""
    return str(uuid.uuid5(uuid.UUID(schedule_id), "activate"))
