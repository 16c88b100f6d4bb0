"""Studies: grids of settings; each cell is trained and evaluated once, whatever fails."""

import csv
import json
import math
import re
import shutil
import threading
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock
from quick_run import QUICK, TWO_TASKS
from started import Command, ended

from m3dt.cli import main
from m3dt.config import METHODS
from m3dt.data.format import INDEX, DatasetIndex
from m3dt.runs.layout import SCORES
from m3dt.runs.registry import Registry
from m3dt.study import load_study
from m3dt.study.cell_data import DataHere
from m3dt.study.cell_results import sign_results
from m3dt.study.chains import chains, select_cells
from m3dt.study.score_table import check_table, scored_cells, table_rows, write_table
from m3dt.tasks import tasks_of
from m3dt.utils.errors import UserError

STEPS = [f"{stage}.max_steps=4" for stage in ("stage1", "stage2", "stage3", "baseline")]


def study_file(folder, text):
    path = folder / "own.yaml"
    path.write_text(text)
    return path


def test_the_grid_is_a_product(tmp_path):
    path = study_file(
        tmp_path,
        f"conf: mt160\nruns: {tmp_path}/runs\nset: [model.n_layer=2]\nreuse: elsewhere\n"
        "grid:\n  method: [mtdt, harmodt]\n  seed: [0, 1, 2]\n"
        "only:\n  mtdt: [model.task_embedding=5]\n",
    )
    study = load_study(path, ["baseline.max_steps=9"])
    assert [cell.name for cell in study.cells] == [
        f"{method}_seed{seed}" for method in ("mtdt", "harmodt") for seed in range(3)
    ]
    assert study.cells[4].overrides == (
        "model.n_layer=2", "baseline.max_steps=9", "method=harmodt", "seed=1",
        f"run={tmp_path}/runs/harmodt_seed1",
    )  # fmt: skip
    assert "model.task_embedding=5" in study.cells[0].overrides
    assert {cell.reuse for cell in study.cells} == {Path("elsewhere")}


PARTS = """
conf: mt160
runs: {runs}
set: ["suite_seed={{seed}}"]
parts:
  methods:
    grid: {{method: [m3dt-random, m3dt-gradient], seed: [0, 1]}}
    reuse: {runs}/m3dt-random_seed{{seed}}
    models: [oracle, router]
  experts:
    grid: {{moe.num_experts: [2, 4], seed: [0, 1]}}
    set: ["stage2.max_steps={{num_experts}}"]
    reuse: {runs}/m3dt-random_seed{{seed}}
"""


def test_parts_share_runs_and_stay_together(tmp_path):
    study = load_study(study_file(tmp_path, PARTS.format(runs=tmp_path)), [])
    assert [(cell.part, cell.name) for cell in study.cells] == [
        *(("methods", f"m3dt-{m}_seed{s}") for m in ("random", "gradient") for s in (0, 1)),
        *(("experts", f"num_experts{e}_seed{s}") for e in (2, 4) for s in (0, 1)),
    ]
    assert [cell.reuse and cell.reuse.name for cell in study.cells] == [
        None, None, *["m3dt-random_seed0", "m3dt-random_seed1"] * 3,
    ]  # fmt: skip
    assert study.cells[0].models == ("oracle", "router")
    assert "suite_seed=1" in study.cells[1].overrides
    assert "stage2.max_steps=4" in study.cells[7].overrides
    for index in (0, 1):  # cells that share a backbone go to one job
        names = [cell.name for cell in select_cells(study, f"{index}/2")]
        values = ("m3dt-random", "m3dt-gradient", "num_experts2", "num_experts4")
        assert names == [f"{value}_seed{index}" for value in values]
        assert [cell.name for cell in select_cells(study, "0/1", [f"seed={index}"])] == names
    both = select_cells(study, "0/1", ["seed=1", "part=experts"])
    assert [cell.name for cell in both] == ["num_experts2_seed1", "num_experts4_seed1"]
    with pytest.raises(UserError, match="--where sed=1"):
        select_cells(study, "0/1", ["sed=1"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grid: {method: [mtdt]}\nonyl: {}\n", "unknown key 'onyl'. Did you mean 'only'"),
        ("conf: quickstart\n", "'grid' must give a list"),
        ("grid: {method: mtdt}\n", "'grid' must give a list"),
        ("grid: {method: [mtdtt]}\n", "method=mtdtt"),
        ("grid: {model.n_layers: [2]}\n", "model.n_layer"),
        (
            "grid: {method: [mtdt]}\nonly: {mdt: [seed=1]}\n",
            "'mdt' is not one of them. Did you mean 'mtdt'",
        ),
        ("grid: [unclosed\n", "not valid YAML"),
        ("- a list\n", "mapping"),
        ("parts: {a: {grid: {seed: [1]}, sett: []}}\n", "unknown key 'sett'. Did you mean 'set'"),
        ("parts: [a]\n", "'parts' must map"),
        ("parts: {a: {grid: {seed: [1]}}, b: {grid: {seed: [1]}}}\n", "the same values: "),
        ('grid: {seed: [1]}\nset: ["suite_seed={sed}"]\n', "no {sed}. Did you mean 'seed'"),
    ],
)
def test_mistakes_are_named(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        load_study(study_file(tmp_path, text), [])
    assert words in str(error.value)


ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "conf/study").glob("*.yaml"))


@cache
def shipped(file):
    """Return a shipped study; the large ones take seconds to load."""
    return load_study(file, [])


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shards_of_shipped_studies_need_nothing_of_each_other(file):
    """Each cell is in one shard; no text of its settings names the run of another shard's cell."""
    study = shipped(file)
    count = 5
    shards = [select_cells(study, f"{index}/{count}") for index in range(count)]
    names = [cell.name for cells in shards for cell in cells]
    assert sorted(names) == sorted(cell.name for cell in study.cells)
    order = [cell.name for cell in study.cells]
    for cells in shards:
        assert [c.name for c in cells] == [n for n in order if n in {c.name for c in cells}]
        others = {str(study.runs / name) for name in names} - {
            str(study.runs / c.name) for c in cells
        }
        for cell in cells:
            texts = f"{cell.reuse} {cell.copy} {cell.config.init_from} {' '.join(cell.overrides)}"
            assert not others & set(re.split(r"[ =]", texts)), cell.name


TABLES = [file for file in SHIPPED if (ROOT / f"results/{file.stem}.csv").is_file()]


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.stem)
def test_shipped_results_are_those_of_their_study(file):
    """So that `m3dt study` goes on from them."""
    table, study = ROOT / f"results/{file.stem}.csv", shipped(file)
    check_table(study, table)
    with table.open() as lines:
        assert {row["cell"] for row in csv.DictReader(lines)} <= {cell.name for cell in study.cells}


@pytest.mark.parametrize(
    ("method", "override", "concerns"),
    [
        ("promptdt", "harmodt.exchanged_share=0.07", False),
        ("harmodt", "harmodt.exchanged_share=0.07", True),
        ("promptdt", "stage2.max_steps=7", False),
        ("m3dt-random", "stage2.max_steps=7", True),
        ("m3dt-random", "baseline.max_steps=7", False),
        ("m3dt-end-to-end", "baseline.max_steps=7", True),
        ("m3dt-end-to-end", "moe.num_experts=7", True),
        ("promptdt", "loader.resident=off", False),
        ("promptdt", "baseline.keep_every=7", False),
        ("promptdt", "evaluation.episodes=7", True),
        ("promptdt", "loader.batch_size=30", True),
    ],
)
def test_a_key_has_the_settings_that_concern_a_cell(tmp_path, method, override, concerns):
    path = study_file(tmp_path, f"grid: {{method: [{method}]}}\n")
    (plain,), (changed,) = (load_study(path, given).cells for given in ([], [override]))
    assert (plain.key != changed.key) == concerns


def test_runs_outside_a_study_keep_no_cells_together():
    study = shipped(next(file for file in SHIPPED if file.stem == "extend"))
    assert set(chains(study).values()) == {cell.name for cell in study.cells}


def test_every_way_to_build_on_a_run_keeps_cells_together(tmp_path):
    """Also in a chain of several, from the last cell to the first, and by a file in a run."""
    path = study_file(
        tmp_path,
        f"conf: mt160\nruns: {tmp_path}/runs\nparts:\n"
        f"  tuned:\n    grid: {{method: [promptdt], baseline.max_steps: [7]}}\n"
        f"    set: ['init_from={tmp_path}/x/../runs/seed0_promptdt']\n"
        f"  first:\n    grid: {{seed: [0, 1], method: [promptdt]}}\n"
        f"  copied:\n    grid: {{moe.router: [prompt]}}\n    copy: {tmp_path}/runs/max_steps9\n"
        f"  reused:\n    grid: {{baseline.max_steps: [9]}}\n"
        f"    reuse: {tmp_path}/runs/seed1_promptdt\n"
        f"  shown:\n    grid: {{method: [mtdt]}}\n"
        f"    evaluate: ['evaluation.prompts={tmp_path}/runs/seed1_promptdt/data']\n"
        f"  alone:\n    grid: {{method: [bc]}}\n    reuse: elsewhere/seed1_promptdt\n",
    )  # fmt: skip
    study = load_study(path, [])
    assert [[cell.name for cell in select_cells(study, f"{i}/4")] for i in range(4)] == [
        ["promptdt_max_steps7", "seed0_promptdt"],
        ["seed1_promptdt", "prompt", "max_steps9", "mtdt"],
        ["bc"],
        [],
    ]
    filtered = [select_cells(study, f"{i}/2", ["method=promptdt"]) for i in range(2)]
    assert [len(cells) for cells in filtered] == [2, 1]


@pytest.mark.parametrize("shard", ["x", "5", "0/0", "2/2", "1/2/3"])
def test_shards_are_checked(tmp_path, shard, capsys):
    path = study_file(tmp_path, "grid: {method: [mtdt]}\n")
    assert main(["study", str(path), "--shard", shard]) == 2
    assert f"--shard {shard}" in capsys.readouterr().err


def test_the_shipped_studies_have_all_methods():
    cells = [cell for file in SHIPPED for cell in shipped(file).cells]
    assert {cell.values["method"] for cell in cells if "method" in cell.values} == set(METHODS)


class Ran(NamedTuple):
    """A study of two cells, one of which fails the first time."""

    file: Path
    runs: Path
    table: Path
    settings: list[str]
    first: Command
    after_first: tuple[dict[str, str], dict[str, float]]  # row of the table, scores of the run
    second: Command

    def command(self, *more):
        words = ["study", str(self.file), *self.settings]
        return [*words, *more, "--csv", str(self.table)]


@pytest.fixture(scope="module")
def ran(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    runs, table = folder / "runs", folder / "table.csv"
    file = study_file(
        folder,
        f"runs: {runs}\nparts:\n"
        f"  first:\n    grid: {{seed: [0], method: [promptdt, mtdt]}}\n"
        f"    only: {{promptdt: [data=nowhere]}}\n"
        f"  second:\n    grid: {{method: [m3dt-random]}}\n"
        f"    reuse: {runs}/seed0_promptdt\n",
    )
    settings = [*QUICK, TWO_TASKS, *STEPS, "callbacks.conflict.stages=[baseline]", f"data={data}"]
    settings += ["loader.validation_trajectories=1", "baseline.validate_every=3"]
    words = ["study", file, *settings, "--where", "seed=0", "--csv", table]
    first = ended(words)
    (row,) = csv.DictReader(table.open())
    after_first = (
        row,
        json.loads((runs / "seed0_mtdt" / SCORES).read_text())["models"]["baseline:mtdt"],
    )
    file.write_text(file.read_text().replace("nowhere", str(data)))
    second = ended(words)
    return Ran(file, runs, table, settings, first, after_first, second)


def test_a_failing_cell_stops_no_other(ran):
    """The message names it, and the next run repeats it but no finished cell."""
    assert ran.first.returncode == 1
    assert "1 cell failed: seed0_promptdt" in ran.first.output and "nowhere" in ran.first.output
    row, scores = ran.after_first
    entry = Registry(ran.runs / "seed0_mtdt").get("baseline", "mtdt")
    assert float(row["val/loss baseline"]) == pytest.approx(entry.metrics["val/loss"], abs=1e-5)
    assert float(row["score"]) == pytest.approx(scores["score"], abs=0.01)
    assert (row["method"], row["title"]) == ("mtdt", "MTDT")
    assert ran.second.returncode == 0
    assert "holds 1 of 2 cells already" in ran.second.output
    assert re.findall(r"^(\w+): (\w+) ─", ran.second.output, re.M) == [
        ("seed0_promptdt", "train"), ("seed0_promptdt", "evaluate"),
    ]  # fmt: skip
    assert [row["method"] for row in csv.DictReader(ran.table.open())][:2] == ["promptdt", "mtdt"]


def test_a_table_outlives_its_runs(ran, capfd, commands_here):
    """Its cells are not repeated unless settings change."""
    curves = ran.table.with_name("table_conflict.json")
    written = (ran.table.read_text(), curves.read_text())
    assert "seed0_mtdt" in written[1]
    shutil.rmtree(ran.runs)
    assert main(ran.command("--where", "seed=0")) == 0
    assert "holds 2 of 2 cells already" in capfd.readouterr().out
    assert not ran.runs.exists()
    study = load_study(ran.file, ran.settings)
    assert scored_cells(study, ran.table) == {"seed0_promptdt", "seed0_mtdt"}
    write_table(study, ran.table)
    assert (ran.table.read_text(), curves.read_text()) == written
    same = load_study(ran.file, [*ran.settings, "moe.top_k=0"])  # the default
    assert scored_cells(same, ran.table) == {"seed0_promptdt", "seed0_mtdt"}
    other = load_study(ran.file, [*ran.settings, "baseline.learning_rate=0.5"])
    assert scored_cells(other, ran.table) == set() and table_rows(other, ran.table) == []
    assert main(ran.command("baseline.learning_rate=0.5")) == 2
    assert "2 cells were made with other settings" in capfd.readouterr().err
    assert ran.table.read_text() == written[0]

    assert main(ran.command()) == 0
    before, after = (
        list(csv.DictReader(t.splitlines())) for t in (written[0], ran.table.read_text())
    )
    assert [{key: row[key] for key in before[0]} for row in after[:2]] == before
    found = {path.parent.name for path in ran.runs.glob("*/registry")}
    assert found == {"m3dt-random"}  # takes no model from the others


def test_jobs_write_a_table_one_after_the_other(tmp_path):
    """A job must not write what it read before another job wrote."""
    path = study_file(tmp_path, f"runs: {tmp_path}/runs\ngrid: {{method: [promptdt]}}\n")
    study, table = load_study(path, []), tmp_path / "table.csv"
    with FileLock(tmp_path / ".table.csv.lock"):
        other = threading.Thread(target=write_table, args=(study, table))
        other.start()
        other.join(0.5)
        assert other.is_alive()
    other.join(10)
    assert not other.is_alive()


RESULT = {"method": "PromptDT", "score": 1.0, "ci95": None, "domains": {}, "tasks": {}}
RESULT |= {"num_parameters": 7, "episodes": 1}


def results_in(study):
    """Give a study's only cell results that it has not signed."""
    file = study.runs / study.cells[0].name / SCORES
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"models": {"x": RESULT}}))
    return file


def test_results_of_other_settings_do_not_count(tmp_path):
    """They would be shown under settings that they were not made with."""
    path = study_file(tmp_path, f"runs: {tmp_path}/runs\ngrid: {{method: [promptdt]}}\n")
    study, table = load_study(path, []), tmp_path / "table.csv"
    (cell,) = study.cells
    results_in(study)
    assert table_rows(study, table) == []  # another command may have written them
    sign_results(study, cell)
    assert [row["settings"] for row in table_rows(study, table)] == [cell.key]
    write_table(study, table)
    for changed in ("evaluation.episodes=7", "baseline.max_steps=9"):
        other = load_study(path, [changed])
        assert table_rows(other, tmp_path / "new.csv") == []
        with pytest.raises(UserError, match="1 cell was made with other settings"):
            check_table(other, table)
    results_in(study)  # as of an evaluation that failed on its way: the row is not lost
    write_table(study, table)
    assert [row["settings"] for row in table_rows(study, table)] == [cell.key]


def test_results_of_other_data_do_not_count(tmp_path, data):
    """The data were collected again after a cell was trained."""
    path = study_file(tmp_path, f"runs: {tmp_path}/runs\ngrid: {{method: [promptdt]}}\n")
    folder, table = tmp_path / "data", tmp_path / "table.csv"
    shutil.copytree(data, folder)
    study = load_study(path, [TWO_TASKS, f"data={folder}"])
    (cell,) = study.cells
    results, tasks = results_in(study), tasks_of(cell.config)
    sign_results(study, cell)
    checksum = DatasetIndex.read(folder).checksum(tasks)[:12]
    results.write_text(results.read_text().replace('"dataset": ""', f'"dataset": "{checksum}"'))
    write_table(study, table)
    (row,) = csv.DictReader(table.open())
    assert row["dataset"] == checksum
    index = json.loads((folder / INDEX).read_text())
    index["tasks"][tasks[0]]["sha256"] = "0" * 64
    (folder / INDEX).write_text(json.dumps(index))
    assert table_rows(study, table) == []
    with pytest.raises(UserError, match="1 cell was trained on other data .* for example promptdt"):
        check_table(study, table)
    shutil.rmtree(folder)  # nothing is known of it
    assert len(table_rows(study, table)) == 1


@pytest.mark.parametrize("way", ["together", "in a row", "no"])
def test_an_extension_is_of_the_data_of_its_tasks(tmp_path, data, way):
    """Its models are of the run that it is a copy of, too, whose data may be elsewhere."""
    text = f"copy: elsewhere\nextend: '{way}'\ngrid: {{seed: [0]}}\n"
    study = load_study(study_file(tmp_path, text), [TWO_TASKS, f"data={data}"])
    (cell,) = study.cells
    index, tasks = DatasetIndex.read(data), tasks_of(cell.config)
    groups = [[task] for task in tasks] if way == "in a row" else [tasks]
    own = "+".join(["source", *(index.checksum(group)[:12] for group in groups)])
    assert DataHere().agrees(cell, own)
    assert DataHere().agrees(cell, "source+other") == (way == "no")  # nothing is trained


def test_scores_of_an_earlier_version_are_told_with_the_remedy(tmp_path):
    """They held one model's result alone."""
    path = study_file(tmp_path, f"runs: {tmp_path}/runs\ngrid: {{method: [promptdt]}}\n")
    study = load_study(path, [])
    file = tmp_path / "runs" / study.cells[0].name / SCORES
    file.parent.mkdir(parents=True)
    others = ['{"models": {"x"', '{"models": {"x": {}}}', '{"models": [1]}', "[]"]  # or damaged
    for changed in ({"score": math.nan}, {"num_parameters": "x"}, {"episodes": 1.5}):
        others.append(json.dumps({"models": {"x": RESULT | changed}}))
    for content in ('{"method": "PromptDT", "score": 1.0}', *others):
        file.write_text(content)
        with pytest.raises(UserError, match=r"scores\.json: is not what.*Delete it.*evaluates"):
            table_rows(study, tmp_path / "table.csv")
