"""Archives are searched beneath their compression."""

from pathlib import Path

import zstandard
from chassis.searching.needles import Needles
from event_store.adapters import archive_files
from event_store.adapters.archive_files import ArchiveFiles
from event_store.adapters.searching import search_archives


async def test_a_needle_in_an_archive_is_found_once_for_each_block(tmp_path: Path):
    """Compression hides nothing; a shard without archives is searched in no time."""
    blocks = [b"nothing", b"x ada@example.org y ada@example.org", b"Ada alone", b"ADA@EXAMPLE.ORG"]
    content, index = archive_files._MAGIC, []
    for number, block in enumerate(blocks):
        compressed = zstandard.ZstdCompressor().compress(block)
        digest = archive_files.sha256(compressed).hexdigest()[: 2 * archive_files._DIGEST_BYTES]
        index.append([number + 1, 1, len(content), len(compressed), digest])
        content += compressed
    written = archive_files.json.dumps({"version": archive_files._VERSION, "blocks": index}).encode()
    trailer = archive_files._trailer.pack(
        len(content), len(written), archive_files.sha256(written).digest(), archive_files._MAGIC
    )
    (tmp_path / "shard-0").mkdir()
    (tmp_path / "shard-0" / ArchiveFiles.name_of(1, 4)).write_bytes(content + written + trailer)
    needles = Needles(findings=("ada@example.org",), mentions=("Ada",))
    told = [
        (found.searched, found.findings, found.mentions)
        async for found in search_archives([ArchiveFiles(tmp_path, shard) for shard in range(2)], needles)
    ]
    assert told[-1] == (len(content + written + trailer), 2, 1)
    assert told == sorted(told)
