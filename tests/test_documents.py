"""Documents name only tests, commands, settings and files that exist; a newcomer's commands run."""

import argparse
import ast
import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from quick_run import QUICK, TWO_TASKS

from m3dt.cli import main
from m3dt.cli.parser import make_parser
from m3dt.config import DEFAULT_CONF, load_config
from m3dt.runs.shipped import WEIGHTS_FOLDER
from m3dt.tasks import tasks_of

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a newcomer types: each of these commands is run, if only for a few steps.
FIRST_PAGES = [ROOT / "README.md", ROOT / "docs/install.md", ROOT / "docs/quickstart.md"]


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
        check_command(shlex.split(line.rstrip("\\ ")))


def check_command(words):
    """Check that a command of m3dt parses, and that its configuration loads."""
    options, rest = make_parser().parse_known_args(words)
    assert not [word for word in rest if word.startswith("-")], words
    overrides = [w for w in [*getattr(options, "overrides", []), *rest] if "=" in w]
    known = [word for word in overrides if word.partition("=")[2].islower()]
    conf = getattr(options, "conf", "/") or DEFAULT_CONF
    if "/" not in conf and conf.islower():
        config = load_config(conf, known)
        films = getattr(options, "film", ())
        assert not films or set(films) <= set(tasks_of(config)), words


def options_of_commands():
    (commands,) = (
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return {name: set(sub._option_string_actions) for name, sub in commands.choices.items()}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_inside_sentences_exist(path):
    """Those in backticks may leave arguments out, but name a command and options that it has."""
    known = options_of_commands()
    for line in re.findall(r"`(?:\S+/)?m3dt ([^`]+)`", path.read_text()):
        command, *words = line.split()
        if command == "--help" or not command.islower():  # m3dt COMMAND
            continue
        assert command in known, line
        named = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert named <= known[command], line


def make_commands(path):
    """Return the words behind each `make` of a document, in code and in backticks."""
    text = path.read_text()
    lines = re.findall(r"^    make (.*?)(?:  +#.*)?$", text, re.M)
    return [shlex.split(line) for line in (*lines, *re.findall(r"`make ([^`]+)`", text))]


def recipe(words):
    """Return the lines that make would run, without those of `make setup`."""
    variables = [word for word in words if "=" in word]
    setup = set(make_n("setup", *variables))
    return [line for line in make_n(*words) if line not in setup]


def make_n(*words):
    own = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CONF", "ARGS", "TORCH"}  # of `make test`
    environment = {name: value for name, value in os.environ.items() if name not in own}
    command = ["make", "-n", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.splitlines()


M3DT = ".venv/bin/m3dt "


@pytest.mark.parametrize("path", FIRST_PAGES, ids=lambda path: path.name)
def test_what_make_would_run_exists(path):
    """Each line is a command of m3dt that parses and loads, or a tool that is installed."""
    for words in make_commands(path):
        lines = recipe(words)
        assert lines or words[0] == "setup", words
        for line in lines:
            if line.startswith(M3DT):
                check_command(shlex.split(line.removeprefix(M3DT)))
                continue
            (tool,) = re.findall(r"\.venv/bin/(\w+)", line)
            assert shutil.which(tool, path=Path(sys.executable).parent), line


def test_variables_reach_the_commands_behind_make():
    ran = recipe(["stage1", "CONF=mt10", "ARGS=seed=1 run=runs/seed1"])
    words = [shlex.split(line.removeprefix(M3DT)) for line in ran]
    given = ["--conf", "mt10", "seed=1", "run=runs/seed1"]
    assert words == [["collect", *given], ["stage1", *given]]
    setup = make_n("--always-make", "setup", "TORCH=torch --index-url URL")
    assert [line for line in setup if line.endswith("constraints.txt torch --index-url URL")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_requirements_in_documents_exist(path):
    """What pip is given: files that are there, and extras that the package has."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for line in re.findall(r"pip install ([^`\n]+)", path.read_text()):
        words = shlex.split(line.partition("  #")[0])
        for option, file in zip(words, words[1:], strict=False):
            assert option != "-c" or (ROOT / file).is_file(), line
        for extras in re.findall(r"(?:\.|m3dt)\[([\w,-]+)\]", line):
            assert set(extras.split(",")) <= set(setup["options.extras_require"]), line


SHORT = [*QUICK, *(f"{s}.max_steps=4" for s in ("stage1", "stage2", "stage3", "baseline"))]
SHORT += ["prompt_router.max_steps=4", "evaluation.workers=2", TWO_TASKS]


def first_commands():
    """Return the commands of m3dt that the first pages and their lines of make run, in order."""
    found = []
    for path in FIRST_PAGES:
        lines = re.findall(r"^    (m(?:ake|3dt) .*?)(?:  +#.*)?$", path.read_text(), re.M)
        for program, *words in map(shlex.split, lines):
            ran = recipe(words) if program == "make" else [shlex.join(["m3dt", *words])]
            found += [shlex.split(line)[1:] for line in ran if re.match(r"(\S+/)?m3dt ", line)]
    return list(map(list, dict.fromkeys(map(tuple, found))))


def test_the_first_commands_run(data, tmp_path, monkeypatch, capfd):
    """Those of README and of the pages on installing and starting; with fewer tasks and steps."""
    monkeypatch.chdir(tmp_path)
    commands = first_commands()
    names = [words[0] for words in commands]
    assert names[:5] == ["collect", "stage1", "stage2", "stage3", "evaluate"]
    assert {"train", "registry"} <= set(names) and names.count("stage3") == 2
    for words in commands:
        if "--film" in words:  # needs a backend that draws
            continue
        options, _ = make_parser().parse_known_args(words)
        if hasattr(options, "conf"):
            words = [*words, *SHORT, f"data={data}", f"run=runs/{options.conf or DEFAULT_CONF}"]
        assert main(words) == 0, (words, capfd.readouterr().err)
    shown = capfd.readouterr().out
    assert "nothing to collect" in shown and "oracle" in shown and "harmodt: baseline" in shown


@pytest.mark.long
def test_the_example_of_the_quickstart_runs(tmp_path):
    """With the run that the package ships, and one episode per task instead of ten."""
    shutil.copytree(WEIGHTS_FOLDER / "quickstart", tmp_path / "runs/quickstart")
    text = (ROOT / "docs/quickstart.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert "episodes=10" in code
    (tmp_path / "example.py").write_text(code.replace("episodes=10", "episodes=1"))
    command = [sys.executable, "example.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "door-open-v2" in done.stdout and "score" in done.stdout


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
