"""The structure of the project, held by tests: who may import whom, what is packaged."""

import ast
import configparser
import importlib
import os
import re
import subprocess
import sys
from collections import Counter
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

LONGEST = 50  # lines of a function
# File names that occur more than once, and why.
REPEATED = {"__init__.py": "each package has one"}


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


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("m3dt.training", "m3dt.study"),  # a broken study file or figure cannot stop a training
        # Processes that step environments import these; torch would take them seconds.
        ("m3dt.tasks.workers", "torch"),
        ("m3dt.data.collect", "torch"),
        ("m3dt.cli.evaluating", "lightning"),
        ("m3dt.study.paired", "lightning"),
        # gymnasium imports it to look up a name.
        ("m3dt.envs", "torch"),
        ("m3dt.envs", "mujoco"),
    ],
)
def test_imports_leave_out(module, unwanted):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert module in loaded
    assert not [name for name in loaded if f"{name}.".startswith(f"{unwanted}.")]


def test_an_agent_is_loaded_without_what_trains(tmp_path):
    """Neither Lightning nor torch's compiler: importing them takes longer than all the rest."""
    code = "import m3dt, sys; m3dt.load('quickstart'); print(*sys.modules)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    loaded = done.stdout.split()
    assert "m3dt.evaluation" in loaded and not {"lightning", "torch._dynamo"} & {*loaded}


def test_functions_are_short():
    long = [
        f"{path.relative_to(SOURCE)}:{node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno >= LONGEST
    ]
    assert not long


def test_file_names_are_unique():
    counts = Counter(path.name for path in {*SOURCE.rglob("*.py"), *FILES})
    assert {name for name, count in counts.items() if count > 1} == set(REPEATED)


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


@pytest.mark.parametrize("module", ["m3dt.callbacks", "m3dt.data"])
def test_exported_names_are_documented(module):
    package = importlib.import_module(module)
    for name in package.__all__:
        assert getattr(package, name).__doc__


def test_products_have_one_mode_whatever_is_imported_first():
    """MKL reads its mode at its first product; training must not depend on importing evaluation."""
    code = "import os, m3dt, sys; print(os.environ['MKL_CBWR'], 'torch' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if k != "MKL_CBWR"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["AUTO,STRICT", "False"]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "70"}, "70"),
        ({"OMP_WAIT_POLICY": "passive"}, "None"),
        ({"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "70"}, "70"),
    ],
)
def test_threads_spin_briefly_unless_the_user_says_otherwise(own, expected):
    """GNU's OpenMP reads it as torch is loaded: after m3dt by the command and by the module."""
    code = "import os, m3dt, sys; print(os.environ.get('GOMP_SPINCOUNT')); import torch"
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    inherited = {k: v for k, v in os.environ.items() if k not in names}
    environment = {**inherited, "OMP_DISPLAY_ENV": "verbose", **own}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [expected]
    counts = set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr))
    if counts and expected.isdigit():  # another OpenMP has no such variable
        assert counts == {expected}


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("autograd.grad(", "stages/gradients.py"),  # grouping, HarmoDT and callbacks ask it
        ("STATE_DIM = ", "config/model_settings.py"),
        ("ACTION_DIM = ", "config/model_settings.py"),
    ],
)
def test_some_things_are_written_once(what, where):
    found = {str(path.relative_to(SOURCE)) for path in FILES if what in path.read_text()}
    assert found == {where}
