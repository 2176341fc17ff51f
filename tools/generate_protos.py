"""Generate protos/gen/almagest from protos/almagest, or with --check say whether it is up to date.

Messages and typed stubs come from protoc as grpcio-tools ships it, with the stubs of mypy-protobuf. The code made is
committed, so that reading and installing it needs no tool.
"""

import filecmp
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

PROTOS = Path(__file__).resolve().parent.parent / "protos"
GENERATED = PROTOS / "gen" / "almagest"


def generate(into: Path) -> None:
    """Write the package `almagest` below `into`."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "almagest").rglob("*.proto"))
    well_known = str(files("grpc_tools") / "_proto")
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{well_known}"]
    command += [f"--plugin=protoc-gen-mypy={plugin}", f"--plugin=protoc-gen-mypy_grpc={plugin}_grpc"]
    command += [f"--{kind}={into}" for kind in ("python_out", "grpc_python_out")]
    command += [f"--{kind}=quiet:{into}" for kind in ("mypy_out", "mypy_grpc_out")]
    subprocess.run([*command, *sources], check=True)
    for directory in sorted({path.parent for path in (into / "almagest").rglob("*.py")}):
        for package in (directory, *directory.parents):
            if package == into:
                break
            (package / "__init__.py").touch()
    (into / "almagest" / "py.typed").touch()


def differences(left: Path, right: Path) -> list[str]:
    """The paths below the two directories whose contents differ or that only one has."""

    def listing(root: Path) -> set[Path]:
        return {
            path.relative_to(root) for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts
        }

    one, other = listing(left), listing(right)
    changed = [path for path in one & other if not filecmp.cmp(left / path, right / path, shallow=False)]
    return sorted(str(path) for path in [*(one ^ other), *changed])


def main() -> None:
    """Generate, or check."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh)
        if "--check" in sys.argv[1:]:
            stale = differences(fresh / "almagest", GENERATED)
            if stale:
                raise SystemExit("out of date, run `make protos`: " + ", ".join(stale))
            return
        shutil.rmtree(GENERATED, ignore_errors=True)
        shutil.copytree(fresh / "almagest", GENERATED)


if __name__ == "__main__":
    main()
