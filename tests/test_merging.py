"""Results of a study from several machines become one table, from which figures are drawn."""

import csv
import json
import shutil

import pytest
from quick_run import QUICK, TWO_TASKS
from test_study import STEPS

from m3dt.cli import main
from m3dt.study import load_study

STUDY = """
runs: {runs}
set: ["suite_seed={{seed}}"]
parts:
  m3dt:
    grid: {{seed: [0], suite: [mt40], method: [m3dt-gradient, m3dt-random]}}
    reuse: {runs}/seed{{seed}}_{{suite}}_m3dt-gradient
    models: [backbone, oracle, router]
  baselines:
    grid: {{seed: [0], suite: [mt40], method: [promptdt]}}
"""
CELLS = ("seed0_mt40_m3dt-gradient", "seed0_mt40_m3dt-random", "seed0_mt40_promptdt")


@pytest.fixture
def merging(tmp_path):
    """Return a function that merges folders into merged/own.csv, and one that makes a folder."""
    path = tmp_path / "own.yaml"
    path.write_text(STUDY.format(runs=tmp_path / "runs"))
    keys = {cell.name: cell.key for cell in load_study(path, []).cells}
    merged = tmp_path / "merged/own.csv"

    def merge(*folders):
        words = ["study", str(path), "--csv", str(merged), "--merge", *map(str, folders)]
        return main(words)

    def folder(name, scores, settings=None):
        place = tmp_path / name
        place.mkdir()
        with (place / "own.csv").open("w", newline="") as lines:
            writer = csv.writer(lines)
            columns = ["cell", "settings", "title", "score", "low", "high", "parameters"]
            writer.writerow([*columns, *("metaworld", "dmcontrol", "cheetah-vel", "ant-dir")])
            for cell, score in scores.items():
                key = settings or keys.get(cell, "0")
                writer.writerow([cell, key, cell, score, "", "", 7, score, "nan", "nan", "nan"])
        tasks = {cell: {"reach-v2": score} for cell, score in scores.items()}
        (place / "own_tasks.json").write_text(json.dumps(tasks))
        return place

    return merge, folder, merged


def read(file):
    with file.open() as lines:
        rows = {row["cell"]: float(row["score"]) for row in csv.DictReader(lines)}
    tasks = json.loads(file.with_name(f"{file.stem}_tasks.json").read_text())
    return rows, {cell: scores["reach-v2"] for cell, scores in tasks.items()}


def test_tables_are_joined_in_the_order_of_the_study(merging):
    merge, folder, merged = merging
    first, second = folder("res=first", {CELLS[2]: 3.0}), folder("second", {CELLS[0]: 1.0})
    curves = {"baseline/conflict": {"history": []}}
    (first / "own_conflict.json").write_text(json.dumps({CELLS[2]: curves}))
    assert merge(first, second) == 0
    expected = {CELLS[0]: 1.0, CELLS[2]: 3.0}
    assert read(merged) == (expected, expected) and list(read(merged)[0]) == list(expected)
    conflict = json.loads(merged.with_name("own_conflict.json").read_text())
    assert conflict == {CELLS[2]: curves}
    written = merged.read_text()
    assert merge(folder("third", {CELLS[1]: 2.0, CELLS[0]: 1.0})) == 0  # one of them again
    assert read(merged)[0] == {**expected, CELLS[1]: 2.0} and written != merged.read_text()
    third = merged.read_text()
    assert merge(first) == 0 and merged.read_text() == third


def test_cells_that_differ_are_named_and_nothing_is_written(merging, capsys):
    merge, folder, merged = merging
    first = folder("first", dict.fromkeys(CELLS, 1.0))
    second = folder("second", {CELLS[0]: 1.0, CELLS[1]: 2.0, CELLS[2]: 2.0})
    assert merge(first, second) == 2
    said = capsys.readouterr().err
    assert f"second/own.csv: 2 cells have other scores than in {first}/own.csv" in said
    assert CELLS[1] in said and CELLS[2] in said and CELLS[0] not in said
    assert not merged.exists()
    assert merge(first) == 0 and merge(second) == 2  # the table is one of the two
    assert f"other scores than in {merged}" in capsys.readouterr().err
    # Means that agree do not hide tasks that differ.
    (second / "own.csv").write_text((first / "own.csv").read_text())
    assert merge(second) == 2 and "2 cells have" in capsys.readouterr().err
    (second / "own_tasks.json").unlink()
    assert merge(second) == 0


def test_what_does_not_belong_is_refused_or_left_out(merging, capsys, tmp_path):
    merge, folder, merged = merging
    assert merge(folder("other", {CELLS[0]: 1.0}, settings="another")) == 2
    assert "1 cell was made with other settings" in capsys.readouterr().err
    assert merge(tmp_path) == 2
    assert f"{tmp_path}/own.csv: no such file" in capsys.readouterr().err
    damaged = folder("damaged", {CELLS[0]: 1.0})
    (damaged / "own_tasks.json").write_text("{")
    assert merge(damaged) == 2 and "own_tasks.json: damaged" in capsys.readouterr().err
    assert not merged.exists()
    assert merge(folder("more", {CELLS[0]: 1.0, "removed": 5.0})) == 0
    assert "left out: removed" in capsys.readouterr().out
    assert read(merged)[0] == {CELLS[0]: 1.0}


def test_cells_trained_on_different_data_stand_in_no_one_table(merging, capsys):
    """Each machine collected its own data into a folder of the same name."""
    merge, folder, merged = merging
    places = [folder("first", {CELLS[0]: 1.0}), folder("second", {CELLS[1]: 1.0})]
    for place, dataset in zip(places, ("aaa", "bbb"), strict=True):
        head, *rows = (place / "own.csv").read_text().splitlines()
        rows = [f"{row},{dataset}" for row in rows]
        (place / "own.csv").write_text("\n".join([f"{head},dataset", *rows]) + "\n")
    assert merge(*places) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{CELLS[1]} was trained on other data (bbb) than {CELLS[0]} (aaa)" in said
    assert not merged.exists()
    (places[1] / "own.csv").write_text((places[1] / "own.csv").read_text().replace("bbb", "aaa"))
    assert merge(*places) == 0


def test_a_table_of_another_study_loses_nothing(merging, capsys, tmp_path):
    merge, folder, merged = merging
    first = folder("first", {CELLS[0]: 1.0})
    assert merge(first) == 0
    lines = merged.read_text().splitlines()
    merged.write_text("\n".join([*lines, lines[1].replace(CELLS[0], "seed9_other")]) + "\n")
    before = merged.read_text()
    assert merge(first) == 2
    assert "1 cell is not of this study, for example seed9_other" in capsys.readouterr().err
    assert merged.read_text() == before


def test_pieces_on_two_machines_end_in_figures(tmp_path, data, commands_here):
    """Each machine runs what fits, saves its results elsewhere and is lost; none is repeated."""
    file = tmp_path / "own.yaml"
    settings = [*QUICK, TWO_TASKS, *STEPS, f"data={data}", "callbacks.conflict.stages=[baseline]"]

    def study(*words):
        return main(["study", str(file), *settings, *words])

    for name, method in (("first", "m3dt-random"), ("second", "promptdt")):
        file.write_text(STUDY.format(runs=tmp_path / name))
        kept = tmp_path / f"kept-{name}/own.csv"
        words = ["--where", f"method={method}", "--minutes", "9", "--csv", str(kept)]
        assert study(*words) == 0
        shutil.rmtree(tmp_path / name)
    merged = tmp_path / "merged/own.csv"
    folders = [str(tmp_path / f"kept-{name}") for name in ("first", "second")]
    assert study("--csv", str(merged), "--merge", *folders) == 0
    with merged.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["cell"] for row in rows] == [CELLS[1], CELLS[2]] and rows[0]["oracle"]
    curves = json.loads(merged.with_name("own_conflict.json").read_text())
    assert "baseline/conflict" in curves[CELLS[2]]
    assert main(["figures", str(merged), "--out", str(tmp_path / "out")]) == 0
    assert "M3DT-Random" in (tmp_path / "out/tables.md").read_text()
    drawn = {path.stem for path in (tmp_path / "out/figures").glob("*.png")}
    assert {"domains", "profiles"} <= drawn and "parameters" not in drawn  # of one size
