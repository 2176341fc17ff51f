"""What a service imports when it starts is declared by it, so that it is in its image: here everything is installed."""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("auth", "catalog-command", "catalog-query", "event-store", "gateway", "worker")
OURS = {
    **{name.replace("-", "_"): ROOT / "services" / name for name in (*SERVICES, "chassis", "catalog-events")},
    "almagest": ROOT / "protos/gen",
}


@pytest.fixture(scope="module")
def tool(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("requirements")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements: set[str]) -> set[str]:
    """The distributions that are installed for these, extras left out."""
    seen: set[str] = set()
    waiting = list(requirements)
    while waiting:
        name = normal(re.split(r"[^A-Za-z0-9._-]", waiting.pop(), maxsplit=1)[0])
        if name in seen:
            continue
        seen.add(name)
        try:
            waiting += [one for one in requires(name) or () if "extra ==" not in one]
        except PackageNotFoundError:
            continue
    return seen


@cache
def imported(file: Path) -> frozenset[str]:
    """The modules that a file imports as it is loaded."""
    found: set[str] = set()
    waiting: list[ast.stmt] = list(ast.parse(file.read_text(encoding="utf-8")).body)
    while waiting:
        match waiting.pop():
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names):
                found |= {module, *(f"{module}.{alias.name}" for alias in names)}
            case ast.Try(body=body) | ast.ClassDef(body=body):
                waiting += body
            case _:
                pass
    return frozenset(found)


def loaded(module: str, seen: set[str]) -> Iterator[str]:
    """What is not ours of all that a module of ours loads."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        name = ".".join(parts[:length])
        if name in seen:
            continue
        seen.add(name)
        if parts[0] not in OURS:
            yield parts[0]
            continue
        path = OURS[parts[0]] / Path(*parts[:length])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file.is_file():
            for other in imported(file):
                yield from loaded(other, seen)


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_imports_as_it_starts_is_declared(service: str, tool: ModuleType) -> None:
    """By itself, or by what of ours it asks for, with the extras that it names."""
    module = service.replace("-", "_")
    third = set(loaded(f"{module}.__main__", set())) - set(sys.stdlib_module_names)
    assert "grpc" in third
    requirements, _ = tool.needed((f"services/{service}",))
    there = closure(requirements)
    owners = packages_distributions()
    missing = {name for name in third if not {normal(owner) for owner in owners[name]} & there}
    assert not missing
