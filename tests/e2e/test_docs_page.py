"""The page at /docs, as a browser shows it: from the gateway alone, under its own policy, with everything in it."""

import base64
import hashlib
import shutil
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from harness.running import Reached
from playwright.async_api import Page, async_playwright, expect

pytestmark = pytest.mark.xdist_group("system")

_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_REPORT_VIOLATIONS = """
  window.violations = [];
  document.addEventListener("securitypolicyviolation",
    (event) => window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
"""

# The default of 5 s is short for a page of this size where two cores do much else.
expect.set_options(timeout=60_000)


@dataclass
class Seen:
    """A page, and what happened on it."""

    page: Page
    complaints: list[str] = field(default_factory=list[str])
    requests: list[str] = field(default_factory=list[str])


def _key_pin(reached: Reached) -> str:
    """The public key of the gateway, as Chromium's command line names it."""
    address = urlsplit(reached.url)
    shown = ssl.get_server_certificate((address.hostname or "", address.port or 0), ca_certs=str(reached.ca))
    key = x509.load_pem_x509_certificate(shown.encode()).public_key()
    return base64.b64encode(
        hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    ).decode()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Needs a browser: apt-get install chromium (.ci/run does).")
    return program


@pytest.fixture
async def docs(chromium: str, reached: Reached) -> AsyncIterator[Seen]:
    """The page in a browser that trusts this gateway's key and no other."""
    flags = [*_FLAGS, f"--ignore-certificate-errors-spki-list={_key_pin(reached)}"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=flags, chromium_sandbox=False, timeout=60_000
        )
        try:
            page = await browser.new_page(viewport={"width": 1280, "height": 1000})
            seen = Seen(page)
            page.on(
                "console",
                lambda message: seen.complaints.append(message.text) if message.type in {"error", "warning"} else None,
            )
            page.on("pageerror", lambda error: seen.complaints.append(str(error)))
            page.on("request", lambda request: seen.requests.append(request.url))
            page.on("requestfailed", lambda request: seen.complaints.append(f"{request.url}: {request.failure}"))
            await page.add_init_script(_REPORT_VIOLATIONS)
            await page.goto(f"{reached.url}/docs", wait_until="networkidle")
            yield seen
        finally:
            await browser.close()


async def test_the_docs_page_shows_every_operation_and_asks_nobody_else(docs: Seen, reached: Reached) -> None:
    """All operations of the description are there; an opened one shows its example; nothing is complained of, refused by policy or fetched from elsewhere, which the policy would refuse."""
    page = docs.page
    await expect(page.locator(".info .title")).to_contain_text("Almagest")
    async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=str(reached.ca))) as client:
        description = (await client.get(f"{reached.url}/openapi.json")).json()
    methods = {"get", "put", "post", "delete", "patch"}
    operations = {
        operation["operationId"]
        for path in description["paths"].values()
        for method, operation in path.items()
        if method in methods
    }
    assert len(operations) > 10
    await expect(page.locator(".opblock")).to_have_count(len(operations))

    creating = page.locator("[id$='-createProduct']")
    await creating.locator(".opblock-summary-control").click()
    example = creating.locator(".opblock-section-request-body .example, .opblock-section-request-body pre").first
    await expect(example).to_contain_text('"sku"')

    assert await page.evaluate("window.violations") == []
    assert docs.complaints == []
    ours = urlsplit(reached.url).netloc
    addresses = [urlsplit(url) for url in docs.requests]
    assert {address.netloc for address in addresses if address.scheme not in {"data", "blob"}} == {ours}

    await page.evaluate("new Image().src = 'https://elsewhere.invalid/pixel.png'")
    await page.wait_for_function("window.violations.length > 0")
    assert await page.evaluate("window.violations") == ["img-src: https://elsewhere.invalid/pixel.png"]
