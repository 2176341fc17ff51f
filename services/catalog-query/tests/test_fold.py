"""The fold from events to documents and rows, without a database."""

import orjson
import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.eventstore.v1 import event_pb2
from catalog_query.application.shards import Place, Shards
from catalog_query.domain import product, words
from catalog_query.domain.errors import RevisionGap, UnknownEvent, UnreadableEvent
from catalog_query.projections.product import document_of, row
from chassis.buckets import BUCKETS, BucketMap
from hypothesis import given
from hypothesis import strategies as st


def folded(history: list[event_pb2.RecordedEvent]) -> product.Document:
    document = None
    for event in history:
        document = product.evolve(document, event)
    assert document is not None
    return document


def test_a_truck_has_its_own_attributes_and_unknown_numbers_are_null(log, build):
    """Each kind shows its attributes only; what is 0 or empty on the wire is null."""
    log.append("p", build.created("p", build.truck(payload_kg=0)))
    document = folded(log.history("p"))
    assert document["kind"] == "truck"
    assert document["attributes"] == {
        "make": "Ford",
        "model": "F-150",
        "model_year": 2021,
        "vin": None,
        "body_styles": ["Pickup"],
        "payload_kg": None,
        "gross_weight_kg": 3000,
    }
    assert document["price"] is None
    assert document["status"] == "draft"


def test_properties_are_in_the_order_of_their_names(log, build):
    """A map has no order on the wire, the bytes of a document must not depend on it."""
    log.append("p", build.created("p", build.general(properties={"z": "1", "a": "2"})))
    assert list(folded(log.history("p"))["attributes"]["properties"]) == ["a", "z"]


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (events.ProductPublished(), "published"),
        (events.ProductUnpublished(), "draft"),
        (events.ProductDiscontinued(reason="old"), "discontinued"),
    ],
)
def test_the_status_follows_the_last_event(log, build, message, status):
    """Each of the three events leads to its status, and to nothing else but the bookkeeping."""
    log.append("p", build.created("p"), message)
    before = folded(log.history("p")[:1])
    after = folded(log.history("p"))
    assert after["status"] == status
    assert {key for key in after if after[key] != before[key]} <= {"status", "revision", "updated_at"}


def test_a_lost_or_doubled_event_is_noticed(log, build):
    """The fold goes by revisions, one after the other."""
    log.append("p", build.created("p"), build.price(), build.price("1.00"))
    first, second, third = log.history("p")
    with pytest.raises(RevisionGap):
        folded([first, third])
    with pytest.raises(RevisionGap):
        folded([first, second, second])
    with pytest.raises(RevisionGap):
        folded([second])


def test_an_event_of_a_newer_version_is_not_skipped(log):
    """What this version does not know might be what matters."""
    log.put("p", 0, "almagest.catalog.events.v1.ProductTeleported", b"")
    with pytest.raises(UnknownEvent, match="ProductTeleported"):
        folded(log.history("p"))


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", b""])
def test_a_payload_that_is_not_what_its_type_says_is_refused(log, payload):
    """Undecodable bytes, and a creation without a kind."""
    log.put("p", 0, "almagest.catalog.events.v1.ProductCreated", payload)
    with pytest.raises(UnreadableEvent):
        folded(log.history("p"))


def test_changes_name_the_fields_by_path_with_both_values(log, build):
    """What a description replaced, and only that."""
    log.append("p", build.created("p", build.car(doors=5)))
    log.append("p", events.ProductDescribed(description=build.car("Volvo V60 II", doors=3)))
    before, after = folded(log.history("p")[:1]), folded(log.history("p"))
    assert [(one.field, one.before, one.after) for one in product.changes(before, after)] == [
        ("name", "Volvo V60", "Volvo V60 II"),
        ("attributes.doors", 5, 3),
    ]


def test_a_row_holds_the_document_ready_to_send(log, build):
    """Stored bytes are the document, and give the same fold when read back."""
    log.append("p", build.created("p"), build.price())
    document = folded(log.history("p"))
    stored = row(document, before=None)
    assert orjson.loads(stored.document) == document
    assert stored.base_revision == -1
    assert (stored.make_key, stored.model_year, stored.price_amount) == ("volvo", 2024, "12999.00")
    assert document_of(stored.document) == document


def test_words_are_made_anew_only_when_the_description_changed(log, build):
    """A price leaves the words of the row as they are, also after a round trip through the row."""
    log.append("p", build.created("p"), build.price(), events.ProductDescribed(description=build.car("Other")))
    created, priced, described = log.history("p")
    before = document_of(row(folded([created]), before=None).document)
    after = product.evolve(before, priced)
    assert row(after, before=before).search is None
    assert "'other'" in (row(product.evolve(after, described), before=after).search or "")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Ford F-150", ["ford", "f", "150"]),
        ("Citroën  C4", ["citroen", "c4"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("a_b", ["a", "b"]),
        ("'; drop -- \\", ["drop"]),
        ("...", []),
    ],
)
def test_words_have_no_case_and_no_accents(text, found):
    """Letters and digits count, everything else separates."""
    assert words.words(text) == found


@given(st.text(max_size=60), st.text(max_size=60))
def test_every_word_of_a_document_is_asked_for_as_it_is_stored(important, other):
    """The query for any text is made of the words that a document with that text has."""
    vector = words.vector(important=important, other=other)
    for text in (important, other):
        for word in words.words(text):
            assert f"'{word}':" in vector
            assert f"'{word}'" in words.query(text)


@given(st.integers(1, 9), st.integers(1, 9))
def test_every_shard_of_the_log_feeds_each_shard_of_the_read_model_its_buckets(read_shards, event_shards):
    """However the two sides are cut, whatever shard of the log a bucket is written to finds its way to its place."""
    shards = Shards(read_shards)
    shards.learn(BucketMap(event_shards))
    fed: dict[int, list[int]] = {event_shard: [] for event_shard in range(event_shards)}
    for pair in shards.pairs():
        for first, last in pair.buckets:
            for bucket in range(first, last + 1):
                fed[pair.event_shard].append(bucket)
                place = shards.place(bucket)
                assert place is not None
                assert place.read_shard == pair.read_shard
    assert all(sorted(buckets) == list(range(BUCKETS)) for buckets in fed.values())


def test_a_bucket_is_where_the_latest_map_says():
    """What an older version of the map says changes nothing; what is supposed gives way to what the log says."""
    shards = Shards(2)
    assert shards.place(0) is None
    shards.suppose(2)
    assert shards.place(0) == Place(bucket=0, event_shard=0, read_shard=0)
    first = BucketMap(2)
    shards.learn(first.moved(0, 9, 1))
    assert shards.place(0) == Place(bucket=0, event_shard=1, read_shard=0)
    shards.learn(first)
    assert (shards.place(0), shards.epoch) == (Place(bucket=0, event_shard=1, read_shard=0), 2)
