"""Documents name only tests, commands, settings and files that exist."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from m3dt.cli.parser import make_parser
from m3dt.config import load_config
from m3dt.tasks import tasks_of

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_fault_has_a_test():
    """Each row of each kind names tests that exist, and no other row does; rare ones say so."""
    kinds = re.split(r"^## .+\n\n(?=\| fault )", (ROOT / "docs/faults.md").read_text(), flags=re.M)
    rows = [row for kind in kinds[1:] for row in re.findall(r"^\| (?!fault).+$", kind, re.M)]
    tests = {row: re.findall(r"`(test_\w+)`", row.split(" | ")[-1]) for row in rows}
    named = [name for names in tests.values() for name in names]
    assert len(kinds) == 10 and len(tests) == len(rows) >= 125
    assert all(tests.values()) and len(set(named)) == len(named)
    rare = rare_tests()
    assert set(named) <= set(rare)
    for row, names in tests.items():
        assert {rare[name] for name in names} == {row.endswith("(`make faults`) |")}, row


def rare_tests():
    """Return of each test whether only `make faults` runs it."""
    found = {}
    for path in (ROOT / "tests").glob("test_*.py"):
        module = ast.parse(path.read_text())
        marks = [ast.unparse(node) for node in module.body if isinstance(node, ast.Assign)]
        for node in module.body:
            if isinstance(node, ast.FunctionDef):
                own = [*marks, *map(ast.unparse, node.decorator_list)]
                all_of_it = ("pytest.mark.faults", "pytestmark = pytest.mark.faults")
                found[node.name] = not set(own).isdisjoint(all_of_it)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_exist(path):
    """Every line of code that starts with `m3dt COMMAND` parses; placeholders are not checked."""
    lines = re.findall(r"^    (?:MUJOCO_GL=\w+ )?m3dt (.*?)(?:  +#.*)?$", path.read_text(), re.M)
    for line in lines:
        words = shlex.split(line.rstrip("\\ "))
        options, rest = make_parser().parse_known_args(words)
        assert not [word for word in rest if word.startswith("-")], line
        overrides = [w for w in [*getattr(options, "overrides", []), *rest] if "=" in w]
        known = [word for word in overrides if word.partition("=")[2].islower()]
        if hasattr(options, "conf") and "/" not in options.conf and options.conf.islower():
            config = load_config(options.conf, known)
            films = getattr(options, "film", ())
            assert not films or set(films) <= set(tasks_of(config)), line


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_in_documents_lead_somewhere(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target
    for named in re.findall(r"`((?:results|conf|docs|notebooks|src|tests)/[\w/.-]+\.\w+)`", text):
        assert (ROOT / named).exists(), named


def test_the_tour_has_every_room_and_files_that_exist():
    tour = (ROOT / "docs/tour.md").read_text()
    (flow,) = re.findall(r"^    (utils -> .*)$", tour, re.M)
    rows = re.findall(r"^\| `(\w+)` \|.*\| `(\w+\.py)` \|$", tour, re.M)
    assert [room for room, _ in rows] == flow.split(" -> ")
    for room, file in rows:
        assert (ROOT / "src/m3dt" / room / file).is_file(), (room, file)


def test_the_readme_is_short_and_answers_five_questions_at_once():
    """Installing, running, own tasks, GPUs and results are a link each, above the commands."""
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 8000
    first_screen = text[: text.index("## Two commands")]
    for page in ("install", "quickstart", "own-tasks", "gpu", "results"):
        assert f"](docs/{page}.md)" in first_screen


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_in_documents_exist(path):
    """Every target behind `make` in a line of code or in backticks is one of the Makefile."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    commands = re.findall(r"^    make (.*?)(?:  +#.*)?$", path.read_text(), re.M)
    commands += re.findall(r"`make ([^`]+)`", path.read_text())
    for command in commands:
        words = shlex.split(command.partition("&&")[0])
        named = [word for word in words if re.fullmatch(r"[a-z0-9-]+", word)]
        assert named and set(named) <= targets, command


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_places_in_documents_lead_there(path):
    """A link such as `study.md#statistics` names a heading, as GitHub makes its address."""
    for file, place in re.findall(r"\]\(([\w/.-]*\.md)?#([\w-]+)\)", path.read_text()):
        target = path.parent / file if file else path
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
        places = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
        assert place in places, f"{file}#{place}"


def test_every_page_has_a_place_in_the_site():
    trees = re.findall(r"```\{toctree\}.*?\n\n(.*?)```", (ROOT / "docs/index.md").read_text(), re.S)
    listed = [page for tree in trees for page in tree.split()]
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert sorted(listed) == sorted(pages)
