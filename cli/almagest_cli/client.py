"""The client of the gateway: HTTP/2 with the right trust, the session kept fresh, problems turned into errors that
say what to do.
"""

import hashlib
import os
import ssl
import tempfile
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Self, cast
from urllib.parse import quote

import httpx
import orjson

from almagest_cli.output import CommandError, Exit
from almagest_cli.proofs import SCHEME, ProvenAuth, Prover
from almagest_cli.sessions import Session, SessionFile
from almagest_cli.settings import ClientSettings
from almagest_cli.signing import Key, SignedAuth, digest_header

_REFRESH_SECONDS = 30.0
"""How near its end an access token is exchanged for the next."""
_RECONNECT_SECONDS = 60.0
"""How long a watched job may be out of sight before we give up."""
_PIECE_BYTES = 256 * 1024
_ENDED = frozenset({"succeeded", "failed", "cancelled"})

Parameters = Mapping[str, str | int | bool | list[str]]


class Client:
    """A connection to the gateway of one person, in a session or by an access key. Use as a context manager."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._sessions = SessionFile(settings.session)
        self._proven = ProvenAuth()
        context = ssl.create_default_context(cafile=None if settings.ca is None else str(settings.ca))
        self._http = httpx.Client(
            base_url=settings.url,
            http2=True,
            verify=context,
            timeout=httpx.Timeout(30, connect=5),
            headers={"User-Agent": "almagest-cli", "Accept": "application/json"},
            # The proxy of the outside world is no way to a gateway on this machine.
            auth=self._proven if settings.key is None else SignedAuth(Key.read(settings.key)),
            trust_env=not settings.url.startswith(("https://localhost", "https://127.0.0.1")),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def log_in(self, email: str, password: str, *, bound: bool = False) -> dict[str, Any]:
        """Start a session and keep it, bound to a new key or not; answers the user."""
        prover = self._proven.prover = Prover.generate() if bound else None
        answer = orjson.loads(self._send("POST", "/v1/sessions", json={"email": email, "password": password}).content)
        if prover is not None and answer["token_type"] != SCHEME:
            raise CommandError(f"{self._settings.url} binds no tokens to keys.", hint="Log in without --bound.")
        private_key = "" if prover is None else prover.private_key
        self._sessions.save(Session.of(answer, url=self._settings.url, email=email, private_key=private_key))
        return answer["user"]

    def log_out(self) -> bool:
        """End the session, here and at the gateway; False when there was none."""
        with self._sessions.exclusively():
            session = self._sessions.load(self._settings.url)
            if session is None:
                return False
            self._send("POST", "/v1/sessions:end", json={"refresh_token": session.refresh_token})
            self._sessions.forget()
            return True

    def get(
        self, path: str, parameters: Parameters | None = None, *, consistency: Iterable[str] = ()
    ) -> httpx.Response:
        """Ask for something; with consistency tokens, as of those writes or later."""
        headers = {"Almagest-Consistency": ", ".join(consistency)} if consistency else {}
        return self._send("GET", path, params=dict(parameters or {}), headers=headers | self._authorization())

    def post(self, path: str, *, json: Any = None) -> httpx.Response:
        """Ask for something to be done. The same call again, after an answer was lost, is done once."""
        return self._send(
            "POST", path, json=json, headers=self._authorization() | {"Idempotency-Key": str(uuid.uuid4())}
        )

    def delete(self, path: str) -> httpx.Response:
        """Ask for something to be taken back."""
        return self._send("DELETE", path, headers=self._authorization() | {"Idempotency-Key": str(uuid.uuid4())})

    def upload(
        self, path: str, parameters: Parameters, content: Iterator[bytes], headers: Mapping[str, str]
    ) -> httpx.Response:
        """Send a body piece by piece, holding none of it."""
        named = self._authorization() | {"Idempotency-Key": str(uuid.uuid4())} | dict(headers)
        timeout = httpx.Timeout(120, connect=5)
        if self._settings.key is not None:
            # What is signed is the digest, which goes before the body.
            with tempfile.TemporaryFile() as spool:
                digest = hashlib.sha256()
                for piece in content:
                    digest.update(piece)
                    spool.write(piece)
                spool.seek(0)
                named["Content-Digest"] = digest_header(digest.digest())
                pieces = iter(lambda: spool.read(_PIECE_BYTES), b"")
                return self._send("POST", path, params=dict(parameters), content=pieces, headers=named, timeout=timeout)
        return self._send("POST", path, params=dict(parameters), content=content, headers=named, timeout=timeout)

    def call(self, method: str, path: str, body: bytes | None) -> httpx.Response:
        """Any request, as it is."""
        headers = self._authorization()
        if method not in ("GET", "HEAD"):
            headers |= {"Idempotency-Key": str(uuid.uuid4())}
        if body is not None:
            headers |= {"Content-Type": "application/json"}
        return self._send(method, path, content=body, headers=headers)

    def pages(self, path: str, parameters: Parameters) -> Iterator[dict[str, Any]]:
        """The pages of a collection, one after the other."""
        cursor: str | None = None
        while True:
            page = orjson.loads(self.get(path, {**parameters, **({"cursor": cursor} if cursor else {})}).content)
            yield page
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def watch_job(self, job_id: str) -> Iterator[dict[str, Any]]:
        """A job at each change, until it has ended. A gateway that goes away for a while is waited for."""
        path = f"/v1/jobs/{quote(job_id)}"
        lost_since: float | None = None
        while True:
            try:
                with self._stream(f"{path}/events") as lines:
                    for job in _events(lines):
                        lost_since = None
                        yield job
                        if job["state"] in _ENDED:
                            return
                # The stream ended without the job's end: look whether we missed it.
                job = orjson.loads(self.get(path).content)
                yield job
                if job["state"] in _ENDED:
                    return
            except CommandError as error:
                if error.code is not Exit.UNREACHABLE:
                    raise
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > _RECONNECT_SECONDS:
                    raise
            time.sleep(0.5)

    def changes(self, wanted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The change feed, with these parameters. A gateway that goes away for a while is waited for, and the feed
        goes on after what was seen last; so does one that ended with its access token.
        """
        last: str | None = None
        lost_since: float | None = None
        while True:
            whole = True
            try:
                headers = {} if last is None else {"Last-Event-ID": last}
                with self._stream("/v1/changes", wanted, headers) as lines:
                    for event_id, name, data in _server_sent(lines):
                        last, lost_since = event_id or last, None
                        if name == "change":
                            yield orjson.loads(data)
                        # It could not go on, and the next answer will say why, if it still cannot.
                        whole = whole and name != "end"
                if whole and wanted["follow"] == "false":
                    return
            except CommandError as error:
                if error.code is not Exit.UNREACHABLE:
                    raise
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > _RECONNECT_SECONDS:
                    raise
            time.sleep(0.5)

    @contextmanager
    def _stream(
        self, path: str, parameters: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Generator[Iterator[str]]:
        asked = self._authorization() | {"Accept": "text/event-stream"} | dict(headers or {})
        with (
            _reaching(self._settings),
            self._http.stream(
                "GET", path, params=dict(parameters or {}), headers=asked, timeout=httpx.Timeout(60, connect=5)
            ) as answer,
        ):
            if answer.is_error:
                answer.read()
                raise problem(answer)
            yield answer.iter_lines()

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with _reaching(self._settings):
            answer = self._http.request(method, path, **arguments)
        if answer.is_error:
            raise problem(answer)
        return answer

    def access_token(self) -> str:
        """A token for the Authorization header that is good for a while yet.

        Raises:
            CommandError: it is bound to our key, so that nobody else can use it.
        """
        scheme, token = self._credentials()
        if scheme == SCHEME:
            raise CommandError(
                "The tokens of this session are bound to its key.",
                hint="Ask with `almagest call`, or log in without --bound.",
            )
        return token

    def _authorization(self) -> dict[str, str]:
        if self._settings.key is not None:
            return {}
        return {"Authorization": " ".join(self._credentials())}

    def _credentials(self) -> tuple[str, str]:
        if token := os.environ.get("ALMAGEST_TOKEN"):
            self._proven.prover = None
            return "Bearer", token
        session = self._fresh_session()
        return SCHEME if session.private_key else "Bearer", session.access_token

    def _session(self) -> Session | None:
        session = self._sessions.load(self._settings.url)
        self._proven.prover = None if session is None or not session.private_key else Prover.of(session.private_key)
        return session

    def _fresh_session(self) -> Session:
        session = self._session()
        if session is not None and session.seconds_left() > _REFRESH_SECONDS:
            return session
        with self._sessions.exclusively():
            # Another command may have refreshed it while we waited.
            session = self._session()
            if session is None:
                raise CommandError(
                    f"Nobody is logged in at {self._settings.url}.", code=Exit.FORBIDDEN, hint="Run `almagest login`."
                )
            if session.seconds_left() > _REFRESH_SECONDS:
                return session
            try:
                answer = self._send("POST", "/v1/sessions:refresh", json={"refresh_token": session.refresh_token})
            except CommandError as error:
                if error.code is Exit.FORBIDDEN:
                    self._sessions.forget()
                    raise CommandError(
                        "The session has ended.", code=Exit.FORBIDDEN, hint="Run `almagest login`."
                    ) from None
                raise
            fresh = Session.of(
                orjson.loads(answer.content), url=session.url, email=session.email, private_key=session.private_key
            )
            self._sessions.save(fresh)
            return fresh


def problem(answer: httpx.Response) -> CommandError:
    """What a refusal of the gateway (RFC 9457) means for a person at the command line."""
    content: dict[str, Any] = {}
    with suppress(ValueError):
        parsed = orjson.loads(answer.content)
        content = cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}
    if "title" not in content:
        return CommandError(
            f"{answer.url.host} answers {answer.status_code} {answer.reason_phrase}, like no gateway of Almagest's.",
            code=Exit.UNREACHABLE if answer.is_server_error else Exit.FAILURE,
            hint="Does ALMAGEST_URL name the gateway?",
        )
    wrong: list[dict[str, str]] = content.get("errors") or []
    fields = [f"  {one['field']}: {one['message']}" for one in wrong]
    text = "\n".join([content.get("detail") or content["title"], *fields])
    trace: str | None = content.get("trace_id")
    hints: dict[int, str] = {
        httpx.codes.UNAUTHORIZED: "Run `almagest login`.",
        httpx.codes.FORBIDDEN: "Log in as someone who may: `almagest login --email ...`.",
        httpx.codes.SERVICE_UNAVAILABLE: "Is everything up? Run `almagest status`, then try again.",
        httpx.codes.PRECONDITION_FAILED: "It has changed meanwhile. Look at it again, then decide again.",
    }
    hint = hints.get(answer.status_code, "")
    if trace and answer.is_server_error:
        hint = f"{hint} See what happened: `almagest trace {trace}`.".strip()
    return CommandError(text, code=exit_code(answer.status_code), hint=hint, details={"problem": content})


def exit_code(status: int) -> Exit:
    """How a command ends when the gateway answers with this status."""
    match status:
        case httpx.codes.UNAUTHORIZED | httpx.codes.FORBIDDEN:
            return Exit.FORBIDDEN
        case httpx.codes.CONFLICT | httpx.codes.PRECONDITION_FAILED:
            return Exit.REFUSED
        case httpx.codes.BAD_GATEWAY | httpx.codes.SERVICE_UNAVAILABLE | httpx.codes.GATEWAY_TIMEOUT:
            return Exit.UNREACHABLE
        case _:
            return Exit.FAILURE


@contextmanager
def _reaching(settings: ClientSettings) -> Generator[None]:
    """Turns what can go wrong on the way into errors that say what to do."""
    try:
        yield
    except httpx.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            trusted = settings.ca or "the authorities that this machine trusts"
            raise CommandError(
                f"{settings.url} shows a certificate that {trusted} did not issue.",
                code=Exit.UNREACHABLE,
                hint="Set ALMAGEST_CA to the file of the gateway's certificate authority.",
            ) from None
        raise CommandError(
            f"Nothing answers at {settings.url}.",
            code=Exit.UNREACHABLE,
            hint="Is it up? Run `almagest up`, or set ALMAGEST_URL to where the gateway is.",
        ) from None
    except httpx.TimeoutException:
        raise CommandError(
            f"{settings.url} did not answer in time.",
            code=Exit.UNREACHABLE,
            hint="Look at `almagest status`, then try again.",
        ) from None
    except httpx.TransportError as error:
        raise CommandError(
            f"The connection to {settings.url} broke: {error or type(error).__name__}",
            code=Exit.UNREACHABLE,
            hint="Look at `almagest status`, then try again.",
        ) from None


def _server_sent(lines: Iterator[str]) -> Iterator[tuple[str, str, str]]:
    """Id, name and data of each event in a stream of server-sent events, empty where there is none."""
    found: dict[str, str] = {}
    for line in lines:
        field, _, value = line.partition(": ")
        if line:
            found[field] = value
        else:
            yield found.get("id", ""), found.get("event", ""), found.get("data", "")
            found.clear()


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The jobs in a stream of server-sent events."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].lstrip())
        elif not line and data:
            yield orjson.loads("\n".join(data))
            data.clear()
