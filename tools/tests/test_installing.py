"""What is installed into an image: the pinned files and no others, without what only debuggers read."""

import hashlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parent.parent


def wheel(directory: Path, name: str, *, needs: str = "") -> str:
    """Make a distribution, and answer its hash."""
    file = directory / f"{name}-1.0-py3-none-any.whl"
    needed = f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(
            f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needed}"
        )
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def installed(directory: Path, constraints: str) -> "subprocess.CompletedProcess[str]":
    (directory / "constraints.txt").write_text(constraints, encoding="utf-8")
    (directory / "requirements.txt").write_text("planted\n", encoding="utf-8")
    words = [sys.executable, TOOLS / "install_locked.py", directory / "venv/bin/python"]
    return subprocess.run(
        [*words, directory / "constraints.txt", directory / "requirements.txt"],
        capture_output=True,
        text=True,
        check=False,
        env={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(directory), "PIP_CONFIG_FILE": "/dev/null"},
    )


def test_only_files_with_the_pinned_hashes_are_installed(tmp_path: Path) -> None:
    """Also of what is needed in turn: one wrong hash, or none, and nothing is."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    needed = wheel(tmp_path, "needed_in_turn")
    planted = wheel(tmp_path, "planted", needs="needed-in-turn")
    library = next((tmp_path / "venv/lib").glob("*/site-packages"))
    pins = "planted==1.0 \\\n    --hash=sha256:{}\nneeded-in-turn==1.0 \\\n    --hash=sha256:{}\n"
    for constraints, why in (
        (pins.format(planted, "0" * 64), "DO NOT MATCH"),
        (pins.format(planted, needed).partition("needed")[0], "does not pin needed-in-turn"),
    ):
        refused = installed(tmp_path, constraints)
        assert refused.returncode != 0
        assert why in refused.stderr
        assert not list(library.glob("planted*"))
    done = installed(tmp_path, pins.format(planted, needed))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in library.glob("*.py")} == {"planted.py", "needed_in_turn.py"}


def test_a_library_without_its_symbols_works_as_before(tmp_path: Path, program: Callable[[str], ModuleType]) -> None:
    """It is smaller, it is loaded, and there is nothing more to cut off; what is no library stays."""
    strip = program("strip_symbols").strip
    source = next(Path(sysconfig.get_paths()["purelib"]).glob("uvloop/loop.*.so"))
    library = tmp_path / source.name
    shutil.copy(source, library)
    text = tmp_path / "linker.so"
    text.write_text("INPUT(libother.so)", encoding="utf-8")
    cut = strip(library)
    assert library.stat().st_size == source.stat().st_size - cut < source.stat().st_size
    load = f"import importlib.util as u; u.module_from_spec(u.spec_from_file_location('uvloop.loop', {str(library)!r}))"
    subprocess.run([sys.executable, "-c", load], check=True)
    assert strip(library) == strip(text) == 0
    assert text.read_text(encoding="utf-8") == "INPUT(libother.so)"


@pytest.mark.parametrize("service", ["auth", "catalog-command", "catalog-query", "event-store", "gateway", "worker"])
def test_every_service_is_made_of_itself_and_no_other(service: str, program: Callable[[str], ModuleType]) -> None:
    """Beside what all stand on."""
    _, own = program("requirements").needed((f"services/{service}",))
    assert own[0] == f"services/{service}"
    assert set(own[1:]) <= {"protos/gen", "services/chassis", "services/catalog-events"}
