"""The house: imports go one way, and no file grows beyond reading."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "ratpg"
FLOORS = ["natgrad", "optim", "rl", "algorithms", "training", "cli"]
TORCH_ONLY = ["natgrad", "optim"]
LONGEST = 400

FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    """``ratpg.rl.policy`` for ``rl/policy.py``."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> Iterator[str]:
    """Full names of the modules a file imports, anywhere in it; of ``from a import b`` both ``a`` and ``a.b``."""
    package = name_of(file) if file.name == "__init__.py" else name_of(file).rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part_of(module: str) -> str | None:
    """``rl`` for ``ratpg.rl.policy``; None outside of the package's parts."""
    name, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    return part if name == "ratpg" and part in [*FLOORS, "integrations"] else None


def test_the_walk_finds_the_package_and_its_imports() -> None:
    assert len(FILES) > 20
    assert "ratpg.rl.batch" in imports_of(PACKAGE / "algorithms" / "rat.py")
    assert {part_of(name_of(file)) for file in FILES} >= set(FLOORS)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_one_way(file: Path) -> None:
    here = part_of(name_of(file))
    if here is None or here == "integrations":  # the package's own front door, and the edge
        allowed = {*FLOORS, "integrations"} if here else {"natgrad"}
    else:
        allowed = set(FLOORS[: FLOORS.index(here) + 1])
    used = {part for module in imports_of(file) if (part := part_of(module))}
    assert used <= allowed


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_part_reaches_for_the_packages_front_door(file: Path) -> None:
    """``from ratpg import X`` inside the package would tie its parts into a knot."""
    names = list(imports_of(file))
    assert "ratpg" not in names or name_of(file) in ("ratpg", "ratpg.cli")


@pytest.mark.parametrize("file", [f for f in FILES if part_of(name_of(f)) in TORCH_ONLY], ids=name_of)
def test_the_maths_needs_torch_alone(file: Path) -> None:
    roots = {module.partition(".")[0] for module in imports_of(file)}
    assert roots - set(sys.stdlib_module_names) <= {"torch", "ratpg"}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nothing_imports_the_experiments_or_benchmarks(file: Path) -> None:
    assert not {module.partition(".")[0] for module in imports_of(file)} & {"experiments", "benchmarks", "tests"}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_file_is_longer_than_four_hundred_lines(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_file_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text()))
