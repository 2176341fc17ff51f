"""The client against a real HTTPS server that answers as the gateway's contract says."""

import json
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from almagest_cli.local.authority import LocalAuthority

JOB = {
    "job_id": "01", "type": "import", "name": "cars", "state": "running", "error": None, "options": {"dry_run": False},
    "progress": {"bytes_total": 10, "bytes_done": 5, "rows_done": 1, "rows_created": 1, "rows_changed": 0,
                 "rows_unchanged": 0, "rows_refused": 0},
    "consistency_tokens": ["abc"], "created_at": "2026-11-22T00:00:00Z",
}  # fmt: skip
ENDED = JOB | {"state": "succeeded"}
PRODUCT = {"product_id": "6f0f5f3e-6c1b-5d53-9a0b-0a2f6f6c9d11", "sku": "A/1", "kind": "car", "name": "Café [red]", "text": "",
           "category": "vehicles/suv", "status": "published", "attributes": {"make": "Kia", "body_styles": ["SUV"]},
           "price": {"amount": "1.00", "currency": "USD"}, "revision": 1}  # fmt: skip


def tokens(*, seconds=600, number=1):
    now = datetime.now(UTC)
    return {
        "access_token": f"access-{number}",
        "expires_at": (now + timedelta(seconds=seconds)).isoformat(),
        "refresh_token": f"refresh-{number}",
        "session_expires_at": (now + timedelta(days=1)).isoformat(),
        "token_type": "Bearer",
    }


class Door:
    """What the server answers, by method and path; and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[dict], tuple]] = {}
        self.asked: list[dict] = []
        self.url = ""

    def on(self, operation, status=200, body=None, headers=None) -> None:
        self.answers[operation] = lambda _request: (status, body, headers or {})

    def log_in(self, **arguments: float) -> None:
        self.on("POST /v1/sessions", 201, tokens(**arguments) | {"user": {"email": "me@here", "roles": ["admin"]}})

    def paths(self) -> list[str]:
        return [f"{request['method']} {request['path']}" for request in self.asked]


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    authority = LocalAuthority(tmp_path_factory.mktemp("ca"))
    return authority, authority.issue_web()


@pytest.fixture
def door(web) -> Iterator[Door]:
    door = Door()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.do_GET()

        def do_GET(self):
            url = urlsplit(self.path)
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = {"method": self.command, "path": url.path, "query": {k: v[0] for k, v in parse_qs(url.query).items()},
                       "headers": dict(self.headers), "body": body}  # fmt: skip
            door.asked.append(request)
            answer = door.answers.get(f"{self.command} {url.path}")
            status, content, headers = (
                answer(request) if answer else (404, {"title": "Not found", "detail": f"no {url.path}"}, {})
            )
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(web[1] / "tls.crt", web[1] / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    door.url = f"https://localhost:{server.server_address[1]}"
    yield door
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cli(almagest, door, web):
    def run(*arguments: str, **more: str):
        return almagest(*arguments, **({"ALMAGEST_URL": door.url, "ALMAGEST_CA": str(web[0].certificate_file)} | more))

    return run


@pytest.fixture
def logged_in(cli, door):
    door.log_in()
    assert cli("login", "--password-stdin", stdin="secret\n").code == 0
    door.asked.clear()
    return cli


def test_a_session_is_kept_for_our_eyes_and_used(cli, door, state):
    """The tokens lie in a private file, go out as a bearer token, and are gone after logging out."""
    door.log_in()
    done = cli("login", "--email", "me@here", "--password-stdin", stdin="a secret\n")
    assert (done.code, door.asked[0]["body"]) == (0, b'{"email":"me@here","password":"a secret"}')
    assert stat.S_IMODE((state / "session.json").stat().st_mode) == 0o600
    door.on("GET /v1/products/sku:A%2F1", 200, PRODUCT)
    assert cli("get", "A/1", "--json").json == PRODUCT
    assert door.asked[-1]["headers"]["Authorization"] == "Bearer access-1"
    assert cli("get", "sku:A/1", "--json").json == PRODUCT
    assert cli("token").out == "access-1\n"
    door.on("POST /v1/sessions:end", 204, b"")
    assert cli("logout", "--json").json == {"logged_out": True}
    assert door.asked[-1]["body"] == b'{"refresh_token":"refresh-1"}'
    assert not (state / "session.json").exists()
    assert cli("get", "A/1").code == 4


def test_a_token_near_its_end_is_refreshed_once(cli, door):
    """Several commands at once spend the refresh token once: its second use would end the session."""
    door.log_in(seconds=5)
    cli("login", "--password-stdin", stdin="secret\n")
    door.on("POST /v1/sessions:refresh", 200, tokens(number=2))
    door.on("GET /v1/jobs/01", 200, JOB)
    done = []
    threads = [threading.Thread(target=lambda: done.append(cli("jobs", "show", "01"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.code for one in done] == [0] * 4
    assert door.paths().count("POST /v1/sessions:refresh") == 1
    assert door.asked[-1]["headers"]["Authorization"] == "Bearer access-2"


def test_a_session_that_ended_at_the_gateway_asks_to_log_in(cli, door, state):
    """A refused refresh forgets the session, and says what to do."""
    door.log_in(seconds=-5)
    cli("login", "--password-stdin", stdin="secret\n")
    door.on("POST /v1/sessions:refresh", 401, {"title": "Unauthenticated", "detail": "The session has ended."})
    done = cli("list")
    assert (done.code, "almagest login" in done.err) == (4, True)
    assert not (state / "session.json").exists()


def test_a_session_is_not_shown_to_another_gateway(logged_in):
    """Tokens go to the gateway that gave them and to nobody else."""
    assert logged_in("list", ALMAGEST_URL="https://127.0.0.1:1").code == 4


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (400, 1, ""),
        (401, 4, "almagest login"),
        (403, 4, "Log in as someone"),
        (404, 1, ""),
        (409, 5, ""),
        (412, 5, "changed meanwhile"),
        (429, 1, ""),
        (500, 1, "almagest trace 0123"),
        (503, 3, "almagest status"),
        (504, 3, "almagest trace 0123"),
    ],
)
def test_problems_become_exit_codes_with_what_to_do(logged_in, door, status, code, hint):
    """Each kind of refusal ends with its documented exit code, its detail and its wrong fields."""
    errors = [{"field": "price_from", "message": "must be a decimal"}]
    body = {"title": "T", "detail": "The detail [bold].", "reason": "R", "trace_id": "0123", "errors": errors}
    door.on("GET /v1/products", status, body, {"Content-Type": "application/problem+json"})
    done = logged_in("list")
    assert (done.code, done.out) == (code, "")
    assert "The detail [bold]." in done.err
    assert "price_from: must be a decimal" in done.err
    assert hint in done.err
    as_json = json.loads(logged_in("list", "--json").err)
    assert (as_json["exit_code"], as_json["problem"]["reason"]) == (code, "R")


def test_an_answer_that_is_no_gateways_is_told_as_such(logged_in, door):
    """An HTML page of some other server is not printed."""
    door.on("GET /v1/products", 502, b"<html>", {"Content-Type": "text/html"})
    done = logged_in("list")
    assert done.code == 3
    assert "ALMAGEST_URL" in done.err
    assert "<html>" not in done.err


def test_nobody_there_an_unknown_authority_and_a_wrong_ca_are_told_apart(almagest, logged_in, door, tmp_path):
    """Each failure on the way says which it is, and what to do."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = almagest(
            "login", "--password-stdin", stdin="x", ALMAGEST_URL=f"https://localhost:{unused.getsockname()[1]}"
        )
    assert (nobody.code, "almagest up" in nobody.err) == (3, True)
    unknown = almagest("login", "--password-stdin", stdin="x", ALMAGEST_URL=door.url)
    assert (unknown.code, "ALMAGEST_CA" in unknown.err) == (3, True)
    missing = logged_in("list", ALMAGEST_CA=str(tmp_path / "nowhere"))
    assert (missing.code, "no file" in missing.err) == (1, True)
    assert almagest("list", ALMAGEST_URL="localhost:8443").code == 1


def test_all_pages_are_walked_and_printed_a_product_a_line(logged_in, door):
    """--all follows the cursors with the same filters."""

    def page(request):
        cursor = request["query"].get("cursor")
        return 200, {"items": [PRODUCT], "next_cursor": None if cursor else "next"}, {}

    door.answers["GET /v1/products"] = page
    done = logged_in("list", "--make", "Kia", "--all", "--json")
    assert [json.loads(line) for line in done.out.splitlines()] == [PRODUCT, PRODUCT]
    assert [request["query"] for request in door.asked] == [
        {"make": "Kia", "page_size": "200"},
        {"make": "Kia", "page_size": "200", "cursor": "next"},
    ]
    shown = logged_in("list")
    assert "Café [red]" in shown.out
    assert "--all shows all" in shown.err


def test_history_shows_who_when_why_and_what(logged_in, door):
    """Actor, reason, trace, job and line, and each field before and after."""
    change = {"revision": 2, "type": "PriceSet", "recorded_at": "2026-11-22T00:00:00Z", "actor": "me@here", "reason": "sale",
              "trace_id": "f00d", "job_id": "01", "import_line": 7, "fields": [{"field": "price.amount", "before": None, "after": "1.00"}]}  # fmt: skip
    door.on(f"GET /v1/products/{PRODUCT['product_id']}/history", 200, {"items": [change], "next_cursor": None})
    shown = logged_in("history", PRODUCT["product_id"].upper()).out
    for part in ("PriceSet", "me@here", "because sale", "trace f00d", "job 01 line 7", "price.amount: null -> 1.00"):
        assert part in shown


CHANGE = {"revision": 3, "type": "PriceSet", "recorded_at": "2026-11-27T00:00:00Z", "actor": "me@here", "reason": "sale", "trace_id": "f00d",
          "job_id": "01", "import_line": 7, "position": "0:12", "fields": [{"field": "price.amount", "before": "2.00", "after": "1.00"},
          {"field": "name", "before": "A", "after": "B"}], "effective_at": None, "effective_until": None, "facts": [], "facts_withheld": False}  # fmt: skip


def test_looking_back_takes_times_as_people_write_them(logged_in, door):
    """A day is midnight here; an offset is kept; a position goes as it is; what is none of these does not go at all."""
    door.on("GET /v1/products", 200, {"items": [], "next_cursor": None})
    door.on("GET /v1/products:search", 200, {"items": [], "next_cursor": None})
    door.on(f"GET /v1/products/{PRODUCT['product_id']}", 200, PRODUCT)
    logged_in("list", "--as-of", "2026-11-27", TZ="Europe/Berlin")
    logged_in("search", "kia", "--make", "Kia", "--as-of", "2026-11-27T09:30Z", "--known-at", "2026-11-28T00:00+05:00")
    logged_in("get", PRODUCT["product_id"], "--as-of", "1:42")
    assert [request["query"] for request in door.asked] == [
        {"as_of": "2026-11-27T00:00:00+01:00", "page_size": "20"},
        {"text": "kia", "make": "Kia", "as_of": "2026-11-27T09:30:00+00:00", "known_at": "2026-11-28T00:00:00+05:00",
         "page_size": "20"},
        {"as_of": "1:42"},
    ]  # fmt: skip
    refused = logged_in("list", "--as-of", "yesterday")
    assert (refused.code, "2026-11-27T09:30" in refused.err, len(door.asked)) == (2, True, 3)


def test_a_difference_is_shown_by_field(logged_in, door):
    """From a revision or a time to another one, or to the present."""
    path = f"/v1/products/{PRODUCT['product_id']}/diff"
    told = {"product_id": PRODUCT["product_id"], "from_revision": 2, "to_revision": 3, "fields": CHANGE["fields"]}
    door.on(f"GET {path}", 200, told)
    shown = logged_in("diff", PRODUCT["product_id"], "2").out
    assert "revision 2 -> revision 3" in shown
    assert "price.amount: 2.00 -> 1.00" in shown
    logged_in("diff", PRODUCT["product_id"], "0:7", "2026-11-27T00:00Z")
    assert [request["query"] for request in door.asked] == [
        {"from": "2"},
        {"from": "0:7", "to": "2026-11-27T00:00:00+00:00"},
    ]


def test_an_explanation_leads_on_to_the_import_and_the_trace(logged_in, door):
    """The event, with what it did to this field only, who had planned it, and what to type next."""
    path = f"/v1/products/{PRODUCT['product_id']}/explain"
    planned = {**CHANGE, "type": "PriceScheduled", "fields": [], "facts": [{"field": "price.amount", "value": "1.00"}],
               "effective_at": "2026-11-27T00:00:00Z"}  # fmt: skip
    told = {"field": "price.amount", "value": "1.00", "before": None, "set_by": CHANGE, "scheduled_by": planned}
    door.on(f"GET {path}", 200, told)
    shown = logged_in("explain", PRODUCT["product_id"], "price.amount").out
    for part in ("price.amount is 1.00", "PriceSet", "line 7", "as was planned by", "PriceScheduled", "effective 2026-11-27",
                 "almagest jobs show 01", "almagest trace f00d"):  # fmt: skip
        assert part in shown, part
    assert "name: A -> B" not in shown
    door.on(f"GET {path}", 200, {**told, "value": None, "set_by": None, "scheduled_by": None})
    assert "never had a value" in logged_in("explain", PRODUCT["product_id"], "price.amount").out


def import_answers(door, ended):
    door.on("POST /v1/imports", 202, JOB, {"Location": "/v1/jobs/01"})
    door.on("GET /v1/products", 200, {"items": [], "next_cursor": None})
    door.on("GET /v1/jobs/01", 200, ended)
    door.on(
        "GET /v1/jobs/01/events",
        200,
        b"".join(b"event: job\ndata: " + json.dumps(job).encode() + b"\n\n" for job in (JOB, ended)),
    )
    row = {
        "line": 3,
        "sku": "X",
        "problem": {"reason": "INVALID", "message": "no", "errors": [{"field": "vin", "message": "bad"}]},
    }
    door.on("GET /v1/jobs/01/refused", 200, {"items": [row], "next_cursor": None})


def test_an_import_is_uploaded_watched_and_reported(logged_in, door, tmp_path):
    """The file goes out as it is with its length, the options as parameters, and the end is visible to reads before we return."""
    import_answers(door, ENDED)
    file = tmp_path / "cars.csv"
    file.write_bytes(b"sku,kind\n" + b"x" * 700_000)
    done = logged_in("import", str(file), "--on-error", "skip", "--dry-run", "--reason", "why", "--json")
    assert (done.code, done.json["state"]) == (0, "succeeded")
    upload = door.asked[0]
    assert upload["query"] == {
        "format": "csv",
        "on_error": "skip",
        "dry_run": "true",
        "reason": "why",
        "name": "cars.csv",
    }
    assert upload["body"] == file.read_bytes()
    assert upload["headers"]["Content-Length"] == str(file.stat().st_size)
    assert upload["headers"]["Content-Type"] == "text/csv"
    assert upload["headers"]["Idempotency-Key"]
    assert door.asked[-1]["headers"]["Almagest-Consistency"] == "abc"
    queued = logged_in("import", "-", "--format", "ndjson", "--no-watch", stdin='{"sku": "A"}\n')
    assert (queued.code, "almagest jobs watch 01" in queued.out) == (0, True)
    assert door.asked[-1]["body"] == b'{"sku": "A"}\n'


def test_an_import_with_refused_rows_names_them_and_ends_with_five(logged_in, door, tmp_path):
    """Refused rows have an exit code of their own, so that a script notices."""
    import_answers(
        door, JOB | {"state": "failed", "progress": JOB["progress"] | {"rows_refused": 20}, "consistency_tokens": []}
    )
    file = tmp_path / "cars.ndjson"
    file.write_text("{}\n")
    done = logged_in("import", str(file))
    assert done.code == 5
    assert "line 3 (X): vin: bad" in done.out
    assert "vin: bad" in done.out
    assert "almagest jobs refused 01" in done.err
    assert logged_in("jobs", "refused", "01", "--json").json["line"] == 3


def test_a_watched_job_is_found_again_when_the_stream_breaks(logged_in, door):
    """A stream that ends before the job did is asked for again."""
    streams = iter([b"event: job\ndata: " + json.dumps(JOB).encode() + b"\n\n", b""])
    import_answers(door, ENDED)
    door.answers["GET /v1/jobs/01/events"] = lambda _request: (200, next(streams), {})
    looks = iter([JOB, ENDED])
    door.answers["GET /v1/jobs/01"] = lambda _request: (200, next(looks), {})
    done = logged_in("jobs", "watch", "01", "--json")
    assert done.code == 0
    assert [json.loads(line)["state"] for line in done.out.splitlines()] == [
        "running",
        "running",
        "succeeded",
        "succeeded",
    ]


def test_wrong_usage_is_told_before_anything_is_sent(logged_in, door, tmp_path):
    """A format that cannot be known, an unknown option value, a file that is not there, a password that nobody can type."""
    file = tmp_path / "cars.txt"
    file.write_text("")
    assert logged_in("import", str(file)).code == 2
    assert logged_in("import", str(file), "--format", "csv", "--on-error", "ignore").code == 2
    assert logged_in("import", str(tmp_path / "nowhere.csv")).code == 1
    assert logged_in("login").code == 2
    assert logged_in("list", "--no-such-option").code == 2
    assert door.asked == []
