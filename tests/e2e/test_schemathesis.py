"""Everything that the OpenAPI document says can be asked is asked of the whole system, well and badly formed.

No server error, no status, media type, header or body that the document does not name.
"""

import ssl
from typing import Any

import httpx
import pytest
import schemathesis
from harness.door import Door
from harness.running import Reached
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

_EXAMPLES = 6
_SETTINGS: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": [Phase.explicit, Phase.generate],
    "suppress_health_check": list(HealthCheck),
}
_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

pytestmark = pytest.mark.xdist_group("system")


@pytest.fixture(scope="module")
def door(door: Door) -> Door:
    """With the product that the examples of the description speak of."""
    product = {
        "sku": "volvo-v60-2026",
        "kind": "car",
        "name": "Volvo V60",
        "attributes": {"make": "Volvo", "model": "V60", "model_year": 2026},
    }
    # It is there already where these tests ran before, against the same system.
    assert door.http.post("/v1/products", json=product).status_code in {201, 409}
    return door


@pytest.fixture(scope="module")
def api(reached: Reached) -> Any:
    with httpx.Client(verify=ssl.create_default_context(cafile=str(reached.ca))) as anyone:
        document = anyone.get(f"{reached.url}/openapi.json").json()
    # Who asks, asks with a token: signatures and proofs that are made up say nothing about what the operations do.
    config = SchemathesisConfig.from_dict({"generation": {"with-security-parameters": False}})
    return schemathesis.openapi.from_dict(document, config=config)


def test_the_description_is_true(api: Any, door: Door, reached: Reached) -> None:
    """Whatever is asked, the answer is one that the description names."""
    headers = {"Authorization": door.http.headers["authorization"]}
    failures: dict[str, BaseException] = {}
    asked: set[str] = set()
    for result in api.get_all_operations():
        operation = result.ok()
        name = f"{operation.method.upper()} {operation.path}"
        asked.add(name)
        try:
            _ask(operation, url=reached.url, headers=headers, ca=str(reached.ca))
        except BaseException as failure:  # noqa: BLE001 - all are told together
            failures[name] = failure
    assert not failures, "\n\n".join(f"{name}: {failure}" for name, failure in failures.items())
    assert len(asked) >= 30


def _ask(operation: Any, *, url: str, headers: dict[str, str], ca: str) -> None:
    """Ask one operation what it says it can be asked, and what it does not."""

    @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    @settings(max_examples=_EXAMPLES, **_SETTINGS)
    def well(case: schemathesis.Case) -> None:
        _bound(case)
        case.call_and_validate(base_url=url, headers=headers, verify=ca, timeout=30, checks=_CHECKS)

    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @settings(max_examples=_EXAMPLES, **_SETTINGS)
    def badly(case: schemathesis.Case) -> None:
        _bound(case)
        case.call_and_validate(base_url=url, headers=headers, verify=ca, timeout=30, checks=_CHECKS)

    def _bound(case: schemathesis.Case) -> None:
        # A feed that follows what is to come would be waited for for ever.
        if operation.path == "/v1/changes":
            case.query = {**(case.query or {}), "follow": "false"}

    well()
    if operation.body or operation.query or operation.path_parameters or operation.headers:
        badly()
