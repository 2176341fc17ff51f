"""Cut off what no process needs of shared libraries: the tables of symbols and sections that debuggers read.

Wheels carry them more often than not, a third of what some of our services install. The loader goes by the segments
of a library (ELF specification, "Program Loading"), and those that are loaded come before the rest in the file. `strip`
does the same by way of the sections, and is part of a compiler's tools, which slim images lack.

usage: strip_symbols.py DIRECTORY
"""

import struct
import sys
from pathlib import Path

_ELF64_LITTLE = b"\x7fELF\x02\x01"
_SHARED = 3
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")


def strip(library: Path) -> int:
    """Shorten a library to what is loaded, and answer by how many bytes; nothing is done to any other file."""
    content = library.read_bytes()
    if not content.startswith(_ELF64_LITTLE) or len(content) < _HEADER.size:
        return 0
    header = list(_HEADER.unpack_from(content))
    kind, program_offset, program_size, programs = header[1], header[5], header[9], header[10]
    if kind != _SHARED or program_size != _PROGRAM.size:
        return 0
    end = _HEADER.size
    for number in range(programs):
        _, _, offset, _, _, in_file, *_ = _PROGRAM.unpack_from(content, program_offset + number * program_size)
        end = max(end, offset + in_file, program_offset + (number + 1) * program_size)
    if end >= len(content):
        return 0
    # Where the table of sections is, how many there are, and which holds their names: nowhere, none.
    header[6], header[12], header[13] = 0, 0, 0
    library.write_bytes(_HEADER.pack(*header) + content[_HEADER.size : end])
    return len(content) - end


if __name__ == "__main__":
    saved = sum(strip(path) for path in Path(sys.argv[1]).rglob("*.so*") if path.is_file() and not path.is_symlink())
    print(f"{saved / 1e6:.0f} MB of symbols cut off")
