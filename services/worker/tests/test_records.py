"""Records come out of a file the same wherever it is cut, and however large it is."""

import csv
import io
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker.domain.records import BOM, Record, RecordSplitter

cuts = st.lists(st.integers(0, 400), max_size=40)
# Few characters, so that what matters to the grammar comes often.
texts = st.text(alphabet='a",\n\r;é', max_size=12)
tables = st.lists(st.lists(texts, min_size=2, max_size=4), min_size=1, max_size=8)


def split(
    content: bytes, at: Sequence[int] = (), *, quoted: bool, limit: int = 1000, offset: int = 0, lines: int = 0
) -> list[Record]:
    splitter = RecordSplitter(limit=limit, quoted=quoted, offset=offset, lines=lines)
    bounds = [0, *sorted(min(cut, len(content)) for cut in at), len(content)]
    records: list[Record] = []
    for start, end in itertools.pairwise(bounds):
        records += splitter.feed(content[start:end])
    return records + list(splitter.finish())


@given(content=st.binary(max_size=400) | st.text(alphabet='a",\n\r', max_size=400).map(str.encode), at=cuts)
@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("limit", [5, 1000])
def test_where_the_file_is_cut_does_not_matter(content: bytes, at: list[int], *, quoted: bool, limit: int) -> None:
    """The same records, lines and offsets come out of any sequence of pieces."""
    assert split(content, at, quoted=quoted, limit=limit) == split(content, quoted=quoted, limit=limit)


@given(content=st.text(alphabet='a",\n\r', max_size=200).map(str.encode), data=st.data())
@pytest.mark.parametrize("quoted", [False, True])
def test_one_can_go_on_behind_any_record(content: bytes, data: st.DataObject, *, quoted: bool) -> None:
    """From the end of a record, with its last line, the rest comes out as if it had been read from the beginning."""
    records = split(content, quoted=quoted)
    if not records:
        return
    index = data.draw(st.integers(0, len(records) - 1))
    behind = records[index]
    rest = split(content[behind.end :], quoted=quoted, offset=behind.end, lines=behind.last_line)
    assert rest == records[index + 1 :]


@given(table=tables, at=cuts, style=st.sampled_from([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]))
def test_what_a_csv_writer_writes_comes_back(table: list[list[str]], at: list[int], style: tuple[str, Any]) -> None:
    """Quotes, commas and line breaks in cells survive, cut anywhere."""
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator=style[0], quoting=style[1]).writerows(table)
    records = split(written.getvalue().encode(), at, quoted=True)
    cells = [next(csv.reader([(record.data or b"").decode()], strict=True)) for record in records]
    assert cells == table


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    """A record that spans lines begins on its first; the next record begins behind its last."""
    content = BOM + b'sku,text\r\n"a","1\n2"\nb,"3"\n\nc,4'
    records = split(content, quoted=True)
    assert [(record.line, record.last_line, record.data) for record in records] == [
        (1, 1, b"sku,text"),
        (2, 3, b'"a","1\n2"'),
        (4, 4, b'b,"3"'),
        (5, 5, b""),
        (6, 6, b"c,4"),
    ]
    assert records[-1].end == len(content)


@pytest.mark.parametrize("quoted", [False, True])
def test_a_record_that_is_too_long_is_read_past_and_not_held(*, quoted: bool) -> None:
    """The record over the limit comes without its bytes, those around it are whole, and little is held meanwhile."""
    splitter = RecordSplitter(limit=1000, quoted=quoted)
    records = list(splitter.feed(b"first\n"))
    greatest = 0
    for _ in range(2000):
        records += splitter.feed(b"x" * 1000)
        greatest = max(greatest, splitter.held)
    records += splitter.feed(b"\nlast")
    records += splitter.finish()
    assert [record.data for record in records] == [b"first", None, b"last"]
    assert [record.line for record in records] == [1, 2, 3]
    assert greatest <= 2000


def test_a_record_of_exactly_the_limit_passes_with_either_line_end() -> None:
    """The line end does not count."""
    for end in (b"\n", b"\r\n", b""):
        assert split(b"x" * 10 + end, quoted=False, limit=10)[0].data == b"x" * 10
        assert split(b"x" * 11 + end, quoted=False, limit=10)[0].data is None


def test_a_quote_that_is_never_closed_takes_the_rest_and_says_so() -> None:
    """Rows are never made out of the inside of a quoted text."""
    records = split(b'a,b\nc,"d\ne,f\ng,h', quoted=True)
    assert [(record.line, record.unclosed) for record in records] == [(1, False), (2, True)]
