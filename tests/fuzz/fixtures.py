"""Fixtures of the tests that draw cases, and the line that says how many there were."""

import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from fuzz.counts import COUNTS, draw_cases, parts_of


def drawn(*names):
    """Mark a test that draws the cases of strategies by its fixture `cases`."""
    parts = [(name, part) for name in names for part in parts_of(name)]
    ids = [f"{name} {part}" for name, part in parts]
    return pytest.mark.parametrize("cases", parts, indirect=True, ids=ids)


@pytest.fixture
def cases(request):
    """Return a function that draws the cases of a part; the summary adds up how many there were."""
    name, part = request.param

    def draw(case):
        number = draw_cases(name, part, case)
        request.node.user_properties.append(("cases", (name, number)))

    return draw


@pytest.fixture(scope="session")
def made(made_once):
    """A folder with a dataset, two runs and scores; copy before changing it."""
    from fuzz.sound_run import make_run  # it imports conftest, which imports this file

    return made_once("fuzz", make_run)


@contextmanager
def copy_of(folder):
    with tempfile.TemporaryDirectory() as parent:
        yield Path(shutil.copytree(folder, Path(parent) / folder.name))


def pytest_terminal_summary(terminalreporter):
    """Say how many cases were drawn, and how many of them as commands."""
    reports = [r for r in terminalreporter.stats.get("passed", []) if r.when == "call"]
    counted = Counter()
    for name, value in (found for report in reports for found in report.user_properties):
        if name == "cases":
            counted[value[0]] += value[1]
    if counted:
        commands = sum(number for name, number in counted.items() if COUNTS[name].command)
        line = f"fuzzing: {counted.total():,} cases, {commands} of them as commands"
        terminalreporter.write_line(line)
