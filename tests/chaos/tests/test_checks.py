"""Each planted defect is found, by the check that is there for it; the same history without it holds."""

import base64
import random

import pytest
from chaos import findings, history
from chaos.chain import COLUMNS
from chaos.check import check
from chaos.history import FAIL, UNKNOWN


def verdict(tale):
    tale.tell()
    return check(tale.directory)


def rows_of(tale, stream):
    return [row for row in tale.rows if row["stream"] == stream]


def test_a_history_that_holds_is_found_to_hold_by_every_check(tale):
    """And no check was left out."""
    tale.append("one", outcome=UNKNOWN, answer=None, completed=None)
    refused = conflict_that_ignores_what_was_answered(tale)
    refused["conflict"] = ["chaos-one", 4]
    tale.follow()
    tale.chain()
    found = verdict(tale)
    assert found.hold, found.report()
    assert {check for check in findings.CHECKS if not found.checked[check]} == set()


def renumber(tale):
    for position, row in enumerate(tale.rows, 1):
        row["position"] = position


def lost_append(tale):
    """Acknowledged, then gone; the log closed over it."""
    gone = tale.rows.pop()
    assert gone["stream"] == "chaos-two"
    tale.messages[-1] |= {"checkpoint": len(tale.rows)}


def lost_from_the_middle(tale):
    del tale.rows[1]


def doubled_append(tale):
    row = tale.rows[-1]
    tale.rows.append(row | {"position": row["position"] + 1, "revision": row["revision"] + 1})


def moved_append(tale):
    """Answered at another revision than it has."""
    tale.operations[0]["answer"]["revisions"] = [[1, 3]]


def refused_append_is_there(tale):
    tale.append("two", outcome=FAIL, answer=None, reason="REVISION_CONFLICT")


def nobodys_event(tale):
    tale.append("two")
    tale.operations.pop()


def half_of_an_unknown_append(tale):
    tale.append("three", count=3, outcome=UNKNOWN, answer=None)
    tale.rows.pop()


def another_answer_to_the_same_id(tale):
    first = tale.operations[0]
    tale.operations.append(
        first
        | {"invoked": tale.tick(), "completed": tale.tick(), "replayed": True}
        | {"answer": first["answer"] | {"position": first["answer"]["position"] + 1}}
    )


def written_twice_for_the_same_id(tale):
    tale.operations.append(tale.operations[0] | {"invoked": tale.tick(), "completed": tale.tick()})


def other_content_for_the_same_id(tale):
    tale.operations.append(tale.operations[0] | {"invoked": tale.tick(), "completed": tale.tick(), "altered": True})


def reordered_revisions(tale):
    one = rows_of(tale, "chaos-one")
    one[0]["revision"], one[1]["revision"] = one[1]["revision"], one[0]["revision"]


def against_real_time(tale):
    """An append that was called after another was answered stands before it."""
    last = next(operation for operation in reversed(tale.operations) if operation["kind"] == "append")
    last |= {"invoked": 1.0, "completed": 2.0}
    first = tale.operations[1]
    first |= {"invoked": 3.0, "completed": 4.0}


def stale_stream_read(tale):
    """An event that was acknowledged before the read is not in its answer."""
    reads = [operation for operation in tale.operations if operation["kind"] == "read"]
    reads[1] |= {"last": reads[0]["last"], "digest": reads[0]["digest"]}


def read_of_something_else(tale):
    tale.read("one")["digest"] = "0000000000000000"


def conflict_that_ignores_what_was_answered(tale):
    tale.operations.append(
        tale.operations[0]
        | {"id": "9d0c9c1e-0000-4000-8000-000000000001", "invoked": tale.tick(), "completed": tale.tick()}
        | {"outcome": FAIL, "answer": None, "reason": "REVISION_CONFLICT", "conflict": ["chaos-one", 1]}
    )
    return tale.operations[-1]


def skipped_event(tale):
    message = tale.messages[0]
    message["positions"] = history.ranges([1, 2, 4, 5])


def repeated_event(tale):
    message = tale.messages[1]
    message["positions"] = [[5, 5], *message["positions"]]


def subscription_that_ends_early(tale):
    tale.messages.pop()


def other_events_in_a_subscription(tale):
    tale.messages[1]["digest"] = "0000000000000000"


def stale_read(tale):
    tale.operations[-3]["seen"][0][1:3] = [1, "10.01"]


def product_that_is_not_there_yet(tale):
    tale.operations[-3]["seen"][0][1:3] = [-1, None]


def session_that_goes_back(tale):
    tale.get("5f9b8c1e-0000-5000-8000-000000000001", 1, "10.01", at_least=1)


def price_nobody_set(tale):
    tale.operations = [operation for operation in tale.operations if operation.get("amount") != "10.01"]


def refused_price_is_there(tale):
    next(one for one in tale.operations if one.get("amount") == "10.01")["outcome"] = FAIL


def wrong_price_seen(tale):
    tale.operations[-3]["seen"][0][2] = "10.01"


def corrupted_row(tale):
    tale.documents[0]["price"] = {"amount": "10.03", "currency": "EUR"}


def missing_row(tale):
    tale.documents.clear()


def doubled_row(tale):
    tale.documents *= 2


def unexpected_answer(tale):
    tale.operations[-3]["status"] = 500


def time_that_goes_back(tale):
    tale.rows[3]["recorded_at"] -= 1_000


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (lost_append, findings.ONCE),
        (lost_from_the_middle, findings.ONCE),
        (lost_from_the_middle, findings.POSITIONS),
        (doubled_append, findings.ONCE),
        (moved_append, findings.ONCE),
        (refused_append_is_there, findings.ABSENT),
        (nobodys_event, findings.ABSENT),
        (half_of_an_unknown_append, findings.UNKNOWN),
        (another_answer_to_the_same_id, findings.SAME),
        (written_twice_for_the_same_id, findings.SAME),
        (other_content_for_the_same_id, findings.SAME),
        (reordered_revisions, findings.DENSE),
        (against_real_time, findings.ORDER),
        (stale_stream_read, findings.ORDER),
        (conflict_that_ignores_what_was_answered, findings.ORDER),
        (read_of_something_else, findings.READS),
        (skipped_event, findings.SUBSCRIPTIONS),
        (repeated_event, findings.SUBSCRIPTIONS),
        (subscription_that_ends_early, findings.SUBSCRIPTIONS),
        (other_events_in_a_subscription, findings.SUBSCRIPTIONS),
        (stale_read, findings.FRESH),
        (product_that_is_not_there_yet, findings.FRESH),
        (session_that_goes_back, findings.FRESH),
        (price_nobody_set, findings.ABSENT),
        (refused_price_is_there, findings.ABSENT),
        (wrong_price_seen, findings.READS),
        (corrupted_row, findings.PROJECTION),
        (missing_row, findings.PROJECTION),
        (doubled_row, findings.PROJECTION),
        (unexpected_answer, findings.TOLD),
        (time_that_goes_back, findings.TIMES),
    ],
)
def test_a_planted_defect_is_found(tale, plant, expected):
    """With the chain made anew, so that it is not the chain that tells."""
    plant(tale)
    tale.chain()
    found = verdict(tale)
    assert found.wrong[expected], found.report()
    assert not found.wrong[findings.CHAIN]


@pytest.mark.parametrize("column", COLUMNS)
def test_any_changed_column_breaks_the_chain(tale, column):
    """Whatever is changed behind the log's back."""
    row = random.Random(column).choice(tale.rows[:-1])  # noqa: S311 - any will do
    row[column] = {
        "stream": "chaos-other",
        "category": "other",
        "type": "other",
        "event_id": "00000000-0000-4000-8000-000000000000",
        "payload": base64.b64encode(b"other").decode(),
        "metadata": base64.b64encode(b"other").decode(),
        "hash": base64.b64encode(bytes(32)).decode(),
        "original_shard": 1,
        "original_position": 1,
        "bucket": (row["bucket"] + 1) % 1024,
    }.get(column, 7_777)
    assert verdict(tale).wrong[findings.CHAIN]


def test_a_copy_of_a_moved_event_is_compared_with_what_it_was_copied_from(tale):
    """It is no second event, and it may not differ."""
    copied = {"original_shard": 0, "original_position": 1, "recorded_at": tale.rows[-1]["recorded_at"]}
    tale.rows.append(tale.rows[0] | {"position": len(tale.rows) + 1} | copied)
    tale.follow()
    tale.chain()
    assert verdict(tale).hold


def test_a_copy_that_differs_is_found(tale):
    """As above, with another payload."""
    tale.rows.append(
        tale.rows[0] | {"position": len(tale.rows) + 1, "original_shard": 0, "original_position": 1, "payload": "AAAA"}
    )
    tale.follow()
    tale.chain()
    assert verdict(tale).wrong[findings.DENSE]
