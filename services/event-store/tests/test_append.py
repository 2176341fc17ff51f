"""Appends over mTLS: what is written, what is refused, and that nothing is written twice."""


async def test_events_are_read_back_as_they_were_written(store):
    """Positions begin at 1, revisions at 0, and payloads come back byte by byte."""
    stream = store.command.stream()
    [answer] = await store.command.appended(store.command.item(stream, [b"one", b"two"], expected="no_stream"))
    assert (answer.first_revision, answer.last_revision, answer.position.position) == (0, 1, 2)
    events = await store.command.read(stream)
    assert [(e.position, e.revision, e.payload, e.stream) for e in events] == [
        (1, 0, b"one", stream),
        (2, 1, b"two", stream),
    ]
