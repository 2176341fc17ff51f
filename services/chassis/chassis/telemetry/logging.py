"""JSON lines on stderr, with the ids of the trace and without secrets."""

import dataclasses
import logging
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, cast

import orjson
import structlog
from opentelemetry import trace

REDACTED = "[redacted]"

_SECRET_PARTS = (
    "password",
    "passwd",
    "token",
    "authorization",
    "secret",
    "email",
    "e_mail",
    "first_name",
    "last_name",
    "full_name",
    "cookie",
    "credential",
    "private_key",
    "api_key",
    "apikey",
    "dsn",
)
_MAXIMUM_DEPTH = 8
# Addresses in the midst of a text: of an exception, of a URL. Quadratic in nothing: what precedes the @ is bounded.
_ADDRESS = re.compile(r"[\w.!#$%'*+^`{|}~-]{1,64}(?:@|%40)[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")

# What libraries say at INFO is theirs to know; at WARNING it is ours. SQLAlchemy's pool speaks under the name of its
# class, which is ours.
_QUIET = (
    "grpc",
    "asyncio",
    "uvicorn",
    "alembic.runtime.plugins",
    "opentelemetry",
    "chassis.database.engine._Pool",
)


def _is_secret(key: object) -> bool:
    lowered = str(key).lower().replace("-", "_")
    return any(part in lowered for part in _SECRET_PARTS)


def redacted(value: Any, depth: int = 0) -> Any:
    """A copy of a value without the values of keys that name secrets or persons, at any depth, and without e-mail
    addresses in texts.
    """
    if isinstance(value, str):
        return _ADDRESS.sub(REDACTED, value) if "@" in value or "%40" in value else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Else they would be written out field by field, past all of this.
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if depth >= _MAXIMUM_DEPTH:
            return REDACTED
        entries = cast("Mapping[object, Any]", value)
        return {str(key): REDACTED if _is_secret(key) else redacted(inner, depth + 1) for key, inner in entries.items()}
    if isinstance(value, list | tuple | set | frozenset):
        if depth >= _MAXIMUM_DEPTH:
            return REDACTED
        return [redacted(inner, depth + 1) for inner in cast("Iterable[Any]", value)]
    return value


def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if _is_secret(key):
            event[key] = REDACTED
        else:
            event[key] = redacted(value)
    return event


def _add_trace(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
        event["span_id"] = f"{context.span_id:016x}"
    return event


def _render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    return orjson.dumps(event, default=_shown, option=orjson.OPT_NON_STR_KEYS).decode()


def _shown(value: object) -> str:
    """What stands for an object in a line: of a message its name only, since its text is all of its fields."""
    message = getattr(type(value), "DESCRIPTOR", None)
    return f"<{message.full_name}>" if message is not None else redacted(str(value))


def configure_logging(service: str, level: str = "INFO") -> None:
    """Send what this process logs, through structlog or the standard library, to stderr as one JSON object per line."""

    def add_service(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        _add_trace,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _redact,
                _render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
