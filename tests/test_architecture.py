"""The structure of the project, held by tests: who may import whom, what is packaged."""

import ast
import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "m3dt"

# A room imports only from its left and from itself; docs/tour.md shows the same line.
FLOW = re.search(r"^    (utils -> .*)$", (ROOT / "docs/tour.md").read_text(), re.M)[1].split(" -> ")
RANK = {room: i for i, room in enumerate(("version", *FLOW))}


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


FILES = [p for p in SOURCE.rglob("*.py") if room_of(p) not in ("__init__", "__main__")]
FILES += (SOURCE / "callbacks").glob("*.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_left(path):
    room = room_of(path)
    assert room in RANK, f"{room} has no place in the order"
    for module in imported_modules(path):
        parts = module.split(".")
        if parts[0] != "m3dt" or len(parts) == 1:
            continue
        assert parts[1] == room or RANK[parts[1]] < RANK[room], f"{path} imports {module}"


def test_nobody_imports_the_callbacks_folder():
    for path in [*SOURCE.rglob("*.py"), *(ROOT / "callbacks").glob("*.py"), *ROOT.glob("tests/*")]:
        if path.suffix == ".py":
            assert "callbacks" not in {m.split(".")[0] for m in imported_modules(path)}, path


def test_package_list_is_complete():
    """A package left off the list works in editable mode and is missing from the wheel."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    found = {
        ".".join(("m3dt", *init.parent.relative_to(SOURCE).parts))
        for init in SOURCE.rglob("__init__.py")
    }
    assert listed == found | {"m3dt.callbacks", "m3dt.conf"}


def test_callbacks_are_exported():
    import m3dt.callbacks

    for name in m3dt.callbacks.__all__:
        assert getattr(m3dt.callbacks, name).__doc__
