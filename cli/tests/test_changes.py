"""`almagest changes` against a server that answers as the gateway's contract says, and breaks off."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from almagest_cli.local.authority import LocalAuthority

Answer = tuple[int, str, bool]


def event(number: int, **more: object) -> str:
    change = {
        "cursor": f"c{number}", "type": "PriceSet", "sku": f"sku-{number}", "revision": 1, "kind": "car", "category": "v/suv",
        "recorded_at": "2026-11-22T16:30:00.123456Z", "reason": "Sale [50%]",
        "fields": [{"field": "price.amount", "before": None, "after": "1.00"}],
    } | more  # fmt: skip
    return f"id: c{number}\nevent: change\ndata: {json.dumps(change)}\n\n"


class Feed:
    """Gives the next of its answers: status, body, and whether it is whole."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[tuple[dict[str, list[str]], str | None]] = []
        self.url = ""


@pytest.fixture
def feed(tmp_path) -> Iterator[Feed]:
    feed = Feed()
    authority = LocalAuthority(tmp_path / "ca")
    web = authority.issue_web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            feed.asked.append((parse_qs(urlsplit(self.path).query), self.headers.get("Last-Event-ID")))
            status, body, whole = feed.answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(body.encode()) + (0 if whole else 100)))
            self.end_headers()
            self.wfile.write(body.encode())
            self.close_connection = True

        def log_message(self, *_: object):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(web / "tls.crt", web / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    feed.url = f"https://localhost:{server.server_address[1]}"
    feed.ca = str(authority.certificate_file)
    yield feed
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def changes(almagest, feed) -> Callable:
    def run(*arguments: str):
        return almagest("changes", *arguments, ALMAGEST_URL=feed.url, ALMAGEST_CA=feed.ca, ALMAGEST_TOKEN="t")

    return run


def test_what_is_recorded_is_shown_and_then_it_ends(changes, feed):
    """For people with what changed; and the filters are passed on."""
    feed.answers = [(200, "retry: 1000\n\nid: c0\n\n" + event(1) + ": still here\n\n" + event(2), True)]
    done = changes("--kind", "car", "--kind", "truck", "--category", "v", "--type", "PriceSet")
    assert done.code == 0, done.err
    assert "PriceSet sku-1 revision 1 car v/suv" in done.out
    assert "price.amount: null -> 1.00" in done.out
    assert "because Sale [50%]" in done.out
    assert feed.asked == [
        (
            {
                "after": ["start"],
                "follow": ["false"],
                "kind": ["car", "truck"],
                "category": ["v"],
                "type": ["PriceSet"],
            },
            None,
        )
    ]


def test_a_feed_that_breaks_is_taken_up_after_what_was_seen(changes, feed):
    """Whether the connection broke, or the feed said that it could not go on; each change is shown once."""
    end = 'event: end\ndata: {"reason": "ACCESS_TOKEN_EXPIRED"}\n\n'
    feed.answers = [
        (200, "id: c0\n\n" + event(1), False),
        (200, event(2) + end, True),
        (503, json.dumps({"title": "Service Unavailable", "detail": "later"}), True),
        (200, "id: c3\n\n", False),
        (200, event(4), True),
    ]
    done = changes("--json")
    assert done.code == 0, done.err
    assert [json.loads(line)["sku"] for line in done.out.splitlines()] == ["sku-1", "sku-2", "sku-4"]
    assert [last for _, last in feed.asked] == [None, "c1", "c2", "c2", "c3"]


def test_a_cursor_of_another_log_is_told_as_the_gateway_says(changes, feed):
    """And nothing is tried again."""
    problem = {"title": "Conflict", "detail": "This cursor belongs to another log.", "reason": "CURSOR_OF_ANOTHER_LOG"}
    feed.answers = [(409, json.dumps(problem), True)]
    done = changes("--follow", "--after", "c9")
    assert done.code == 5
    assert "another log" in done.err
    assert feed.asked[0][0]["after"] == ["c9"]
