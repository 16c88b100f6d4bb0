"""Studies: grids of settings, trained and evaluated once, whatever fails in between."""

import csv
import json
from pathlib import Path

import pytest
from quick_run import QUICK

from m3dt.cli import main
from m3dt.config import METHODS
from m3dt.errors import UserError
from m3dt.study import SCORES, load_study

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
        f"{method}_{seed}" for method in ("mtdt", "harmodt") for seed in range(3)
    ]
    assert study.cells[4].overrides == (
        "reuse=elsewhere", "model.n_layer=2", "baseline.max_steps=9", "method=harmodt", "seed=1",
        f"run={tmp_path}/runs/harmodt_1",
    )  # fmt: skip
    assert "model.task_embedding=5" in study.cells[0].overrides


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grid: {method: [mtdt]}\nonyl: {}\n", "unknown key 'onyl'. Did you mean 'only'"),
        ("conf: quickstart\n", "'grid' must give a list"),
        ("grid: {method: mtdt}\n", "'grid' must give a list"),
        ("grid: {method: [mtdtt]}\n", "method=mtdtt"),
        ("grid: {model.n_layers: [2]}\n", "model.n_layer"),
        ("grid: {method: [mtdt]}\nonly: {mdt: [seed=1]}\n", "'mdt' is none"),
        ("grid: [unclosed\n", "not valid YAML"),
        ("- a list\n", "mapping"),
    ],
)
def test_mistakes_are_named(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        load_study(study_file(tmp_path, text), [])
    assert words in str(error.value)


@pytest.mark.parametrize("shard", ["x", "5", "0/0", "2/2"])
def test_shards_are_checked(tmp_path, shard, capsys):
    path = study_file(tmp_path, "grid: {method: [mtdt]}\n")
    assert main(["study", str(path), "--shard", shard]) == 2
    assert f"--shard {shard}" in capsys.readouterr().err


def test_the_shipped_studies_have_all_methods():
    files = sorted((Path(__file__).parents[1] / "conf/study").glob("*.yaml"))
    cells = [cell for file in files for cell in load_study(file, []).cells]
    assert {cell.values["method"] for cell in cells} == set(METHODS)


def test_a_study_runs_resumes_and_survives_a_failing_cell(data, tmp_path, capfd):
    path = study_file(
        tmp_path,
        f"runs: {tmp_path}/runs\ngrid:\n  method: [promptdt, mtdt]\n"
        "only:\n  mtdt: [data=nowhere]\n",
    )
    table = tmp_path / "table.csv"
    shared = [*QUICK, *STEPS, f"data={data}", "--csv", str(table)]
    assert main(["study", str(path), *shared]) == 1
    printed = capfd.readouterr()
    assert "1 cells failed: mtdt" in printed.err and "nowhere" in printed.err
    (row,) = csv.DictReader(table.open())
    scores = json.loads((tmp_path / "runs" / "promptdt" / SCORES).read_text())
    assert float(row["score"]) == pytest.approx(scores["score"], abs=0.01)
    assert (row["method"], row["title"]) == ("promptdt", "PromptDT")
    path.write_text(path.read_text().replace("nowhere", str(data)))
    assert main(["study", str(path), *shared]) == 0
    assert "promptdt is finished" in capfd.readouterr().out
    assert [row["method"] for row in csv.DictReader(table.open())] == ["promptdt", "mtdt"]
