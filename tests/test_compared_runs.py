"""Which runs `m3dt compare` counts, under which conditions, and what it says of the others."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_paired import write_scores
from test_registry import entry, save_backbone

from m3dt.cli import main
from m3dt.runs import Registry
from m3dt.study.csv_tables import SCORE_COLUMNS as COLUMNS


def make_run(run, score=50.0, **more):
    """Write scores of a run whose weights no other run has."""
    for model, points in (("backbone", score), ("router", score + 4)):
        write_scores(run, model, {"a": points, "b": points - 9}, weights=f"{run}{model}", **more)
    return str(run)


def compare(capsys, *words, code=0):
    """Return what a comparison with the backbone prints, in one line."""
    capsys.readouterr()
    assert main(["compare", *map(str, words), "--against", "backbone"]) == code
    shown = capsys.readouterr()
    return " ".join((shown.err if code else shown.out).split())


def make_table(capsys, file, *runs):
    compare(capsys, *runs, "--csv", file)
    return file


def write_table(file, rows):
    """Write (run, model, task, score) as a table."""
    lines = [",".join((*map(str, row), "1", "1")) for row in rows]
    file.write_text("\n".join([",".join(COLUMNS), *lines, ""]))
    return file


def test_tables_with_the_same_names_of_runs_stay_apart(tmp_path, capsys):
    tables = []
    for study, score in (("one", 50), ("two", 70)):
        runs = [make_run(tmp_path / study / str(seed), score + seed) for seed in range(2)]
        tables.append(make_table(capsys, tmp_path / f"{study}.csv", *runs))
    both = tmp_path / "both.csv"
    shown = compare(capsys, *tables, "--csv", both)
    assert "4 runs x 2 tasks" in shown and shown.count("different runs") == 1
    assert f"{tables[0]}, {tables[1]}: have different scores of runs 0, 1, which count" in shown
    with both.open() as lines:
        names = {row["run"] for row in csv.DictReader(lines)}
    assert names == {f"{table}:{seed}" for table in tables for seed in range(2)}
    assert "4 runs x 2 tasks" in compare(capsys, both)


def test_a_table_beside_runs_of_the_same_names_is_left_out(tmp_path, capsys):
    """Since it may be of the same runs at fewer episodes, or before they were trained again."""
    runs = [make_run(tmp_path / name, 50, episodes=1) for name in ("a/s", "b/s", "t")]
    table = make_table(capsys, tmp_path / "old.csv", *runs)  # the first two by their paths
    for run in runs:
        make_run(tmp_path / run, 60, episodes=2)
    shown = compare(capsys, table, *runs)
    assert "3 runs x 2 tasks" in shown
    for run in runs:
        name = f"{table}:{run}"
        reason = "has the same name, and a table does not say of which weights"
        assert f"{name}: left out, since {run} {reason}" in shown
    table = write_table(table, [("t", "backbone", "a", 1), ("t", "backbone", "b", 1)])
    assert f"{table}:t: left out" in compare(capsys, table, runs[2])
    assert "2 runs x 2 tasks" in compare(capsys, table, runs[0])  # of another name


def test_a_table_of_the_same_scores_at_another_speed_counts_once(tmp_path, capsys):
    tables = [write_table(tmp_path / f"{i}.csv", [("0", "backbone", "a", 1)]) for i in range(3)]
    tables[1].write_text(tables[1].read_text().replace("1,1\n", "1,3\n"))
    tables[2].write_text(tables[1].read_text().replace("\n0,", "\n1,"))
    shown = compare(capsys, *tables[:2])
    assert "1 run x 1 task" in shown and "has the same name and scores: it is the same" in shown
    assert "2 runs x 1 task" in compare(capsys, tables[0], tables[2])


def test_runs_with_other_weights_and_equal_scores_are_two(tmp_path, capsys):
    """As where each task is solved."""
    shown = compare(capsys, make_run(tmp_path / "0", 100), make_run(tmp_path / "1", 100))
    assert "2 runs x 2 tasks" in shown and "left out" not in shown


def test_a_table_with_two_scores_in_one_place_is_named(tmp_path, capsys):
    rows = [("0", "backbone", "a", 1), ("0", "backbone", "a", 2)]
    table = write_table(tmp_path / "joined.csv", rows)
    message = "joined.csv: has 2 scores of backbone in a of run 0"
    assert message in compare(capsys, table, code=2)
    (tmp_path / "page.md").write_text("It is <!-- result: joined/means --><!-- end -->.")
    assert main(["fill", str(tmp_path / "page.md"), "--results", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_run_counts_once_whatever_path_leads_to_it(tmp_path, capsys, monkeypatch):
    run = make_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(run)
    shutil.copytree(run, tmp_path / "copy")
    for other, reason in (
        ("./run/../run", "left out, since it is"),
        ("link", "left out, since it is"),
        ("copy", "it is the same run"),
        (make_table(capsys, "made.csv", run), "it is the same run"),
    ):
        shown = compare(capsys, run, other)
        assert "1 run x 2 tasks" in shown and reason in shown, other
    assert "1 run x 2 tasks" in compare(capsys, "made.csv", shutil.copy("made.csv", "more.csv"))


def test_of_two_copies_the_one_with_more_evaluations_stays(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    shutil.copytree(run, tmp_path / "copy")
    write_scores(tmp_path / "copy", "oracle", {"a": 1, "b": 2}, weights="more")
    shown = compare(capsys, run, tmp_path / "copy")
    assert f"{run}: left out" in shown and "oracle" in shown


def test_runs_that_share_a_backbone_are_noted(tmp_path, capsys):
    """Once, however many they are."""
    runs = [tmp_path / name for name in ("one", "two", "three")]
    for score, run in enumerate(runs):
        write_scores(run, "backbone", {"a": 1, "b": 2}, weights="shared")
        write_scores(run, "router", {"a": score, "b": 4}, weights=run.name)
    shown = compare(capsys, *runs)
    assert "3 runs x 2 tasks" in shown and shown.count("not independent") == 1
    assert f"{', '.join(map(str, runs))}: share the weights of backbone. These runs" in shown


def test_of_a_run_and_a_part_of_it_the_whole_run_stays(tmp_path, capsys):
    """Though the part, which has only the backbone, was evaluated more often."""
    part, whole = tmp_path / "part", tmp_path / "whole"
    for seed in range(3):
        write_scores(part, "backbone", {"a": 1}, weights="shared", seed=seed)
    write_scores(whole, "backbone", {"a": 1}, weights="shared")
    write_scores(whole, "router", {"a": 2}, weights="own")
    shown = compare(capsys, part, whole)
    assert "1 run x 1 task" in shown and "router" in shown.rpartition("compared with")[2]
    assert f"{part}: left out, since {whole} has the weights of all its models" in shown


def test_runs_of_the_same_task_groups_are_independent(tmp_path, capsys):
    """The weights of a grouping are labels of tasks: equal ones tell nothing."""
    for seed in range(2):
        run = Registry(tmp_path / str(seed))
        backbone = save_backbone(run, seed=seed)
        groups = replace(entry("grouping", "main"), metrics={"groups": [["reach-v2"]]})
        run.save(groups, {"labels": torch.zeros(1)})
        write_scores(tmp_path / str(seed), "backbone", {"a": seed}, weights=backbone.hash)
    shown = compare(capsys, tmp_path / "0", tmp_path / "1")
    assert "2 runs x 1 task" in shown and "independent" not in shown


def test_runs_under_other_conditions_are_left_out(tmp_path, capsys):
    runs = [make_run(tmp_path / str(seed), 50 + seed, episodes=2) for seed in range(2)]
    odd = make_run(tmp_path / "odd", 90, episodes=1)
    shown = compare(capsys, odd, *runs)
    assert "2 runs x 2 tasks" in shown
    assert (
        f"{odd}: left out, since its scores are with 1 episode per task, those of the comparison "
        f"with 2 episodes per task. Evaluate: `m3dt evaluate --run RUN --out {odd} --models "
        'backbone "tasks=[a,b]" evaluation.episodes=2 evaluation.seed=0`.'
    ) in shown
    assert "1 run x 2 tasks" in compare(capsys, odd, *runs, "--episodes", 1)


def test_models_under_other_conditions_are_left_out(tmp_path, capsys):
    run = make_run(tmp_path / "run", episodes=2)
    write_scores(tmp_path / "run", "oracle", {"a": 99, "b": 99}, episodes=1, seed=3)
    table = tmp_path / "scores.csv"
    shown = compare(capsys, run, "--csv", table)
    assert "left out oracle, since its scores are with 1 episode per task and with" in shown
    assert "99" not in shown.rpartition("compared with")[2]
    assert "oracle" not in table.read_text()


def test_several_models_under_other_conditions_have_one_note(tmp_path, capsys):
    run = make_run(tmp_path / "run", episodes=2)
    for model in ("expert:1", "router@all", "router@prompts-1"):
        write_scores(tmp_path / "run", model, {"a": 9, "b": 9}, episodes=1)
    shown = compare(capsys, run)
    assert "left out expert:1, router@all, router@prompts-1, since their scores are with" in shown
    assert "--models expert:1,router@all " in shown
    assert "router@prompts-1: evaluated with settings of its own." in shown


@pytest.mark.parametrize(
    ("model", "setting"),
    [
        ("backbone@prompts-0.5", "evaluation.prompts."),
        ("backbone@episode-target-0.8", "evaluation.target_scale."),
        ("backbone@prompts-1-target-2", "evaluation.prompts and evaluation.target_scale."),
    ],
)
def test_no_command_asks_for_a_model_with_settings_of_its_own(tmp_path, capsys, model, setting):
    """`m3dt evaluate --models` takes no such name."""
    run = make_run(tmp_path / "run", episodes=2)
    write_scores(tmp_path / "run", model, {"a": 9, "b": 9}, episodes=1)
    shown = compare(capsys, run)
    assert f"Repeat `m3dt evaluate` with the same {setting}" in shown
    assert "--models" not in shown


def test_no_command_asks_for_a_model_that_is_gone(tmp_path, capsys):
    """Only for those of the same name that the registry still has."""
    kept = save_backbone(Registry(tmp_path))
    write_scores(tmp_path, "router", {"a": 1}, weights="gone")
    shown = compare(capsys, tmp_path, code=2)
    command = f"`m3dt evaluate --run {tmp_path} --models backbone`"
    reason = "the scores of router, since its weights are not in its registry."
    assert f"{reason} Evaluate the models that are: {command}." in shown
    write_scores(tmp_path, "backbone", {"a": 1}, weights="old")
    shown = compare(capsys, tmp_path, code=2)
    assert "of backbone, router, since their weights are not in its registry. Eval" in shown
    assert f"registry. Evaluate: {command}." in shown
    write_scores(tmp_path, "backbone", {"a": 1}, weights=kept.hash)
    assert f"Evaluate the models that are: {command}." in compare(capsys, tmp_path)


def test_a_table_without_scores_names_the_whole_command(tmp_path, capsys):
    table = tmp_path / "my scores.csv"
    table.write_text(",".join(COLUMNS) + "\n")
    command = f'`m3dt compare RUN... --against MODEL --csv "{table}"`'
    assert f"holds no scores. Write it again: {command}" in compare(capsys, table, code=2)


def test_a_model_that_a_run_lacks_is_noted_with_the_command(tmp_path, capsys):
    runs = [Path(make_run(tmp_path / f"s{seed}", 50 + seed)) for seed in range(4)]
    for run in runs[:2]:
        for model in ("router@all", "router:prompt"):
            write_scores(run, model, {"a": 9, "b": 9})
    write_scores(runs[0], "nearest", {"a": 9, "b": 9})
    for run in runs:
        (run / "config.yaml").touch()
    shown = compare(capsys, *runs)
    command = f"`m3dt evaluate --run {runs[2]} --models router:prompt,router@all "
    command += '"tasks=[a,b]" evaluation.episodes=10 evaluation.seed=0`. Do so with each of'
    reason = f"{runs[2]} lacks their scores, as does 1 other run. Evaluate: {command}"
    assert f"router-prompt, router@all: left out, since {reason}" in shown
    reason = f"{runs[1]} lacks its scores, as do 2 other runs. Evaluate: `m3dt evaluate --run"
    assert f"nearest: left out, since {reason}" in shown
    table = shown.rpartition("compared with")[2]
    assert "router" in table and "router@all" not in table and "nearest" not in table
    message = compare(capsys, *runs, "--models", "router@all", code=2)
    assert f"--models router@all: {runs[2]} lacks its scores, as does 1 other run. Eval" in message
    assert command.replace("router:prompt,", "") in message
    message = compare(capsys, *runs, "--models", "router@1", code=2)
    assert "router@1: no run has scores of it. Did you mean 'router'? If not, evaluate:" in message
    assert f"`m3dt evaluate --run {runs[0]} --models router@1 " in message


def test_a_model_that_a_run_of_a_table_lacks_is_noted(tmp_path, capsys):
    rows = [("0", "backbone", "a", 1), ("1", "backbone", "a", 2), ("1", "router", "a", 3)]
    table = write_table(tmp_path / "made.csv", rows)
    reason = f"{table}:0 lacks its scores. Give the folders of the runs, or a table that has these"
    assert f"router: left out, since {reason}" in compare(capsys, table)
    assert f"--models router: {reason}" in compare(capsys, table, "--models", "router", code=2)


def test_a_model_under_other_conditions_is_noted_once(tmp_path, capsys):
    runs = [make_run(tmp_path / str(seed), 50 + seed) for seed in range(2)]
    write_scores(tmp_path / "0", "oracle", {"a": 9, "b": 9})
    write_scores(tmp_path / "1", "oracle", {"a": 9, "b": 9}, episodes=1)
    assert compare(capsys, *runs).count("oracle, since") == 1
    write_scores(tmp_path / "0", "nearest", {"a": 9, "b": 9}, episodes=1)
    message = compare(capsys, *runs, "--models", "nearest", code=2)
    assert "nearest: no run has scores of it under the conditions of the comparison. Ev" in message


def test_runs_of_other_tasks_are_left_out(tmp_path, capsys):
    make_run(tmp_path / "0"), make_run(tmp_path / "1", 60)
    write_scores(tmp_path / "2", "backbone", {"a": 1, "c": 2}, weights="w")
    shown = compare(capsys, *(tmp_path / str(i) for i in range(3)))
    assert "2 runs x 2 tasks" in shown
    assert "2: left out, since its scores are on 2 tasks (c among them)" in shown


def test_runs_of_other_tasks_in_a_table_are_left_out(tmp_path, capsys):
    rows = [("0", "backbone", "a", 1), ("1", "backbone", "a", 2), ("2", "backbone", "b", 3)]
    rows += [("3", "router", "a", 4)]
    table = write_table(tmp_path / "made.csv", rows)
    shown = compare(capsys, table)
    assert "2 runs x 1 task" in shown and "made.csv:2: left out, since backbone has" in shown
    assert "made.csv:3: left out, since it has no scores of backbone" in shown
    write_table(table, [row for row in rows if row[1] == "backbone"])
    (tmp_path / "page.md").write_text("It is <!-- result: made/means --><!-- end -->.")
    assert main(["fill", str(tmp_path / "page.md"), "--results", str(tmp_path)]) == 2
    assert "run 0 has no score of backbone in b, but another run has" in capsys.readouterr().err


def test_the_remedy_is_a_whole_command(tmp_path, capsys):
    run = tmp_path / "a run"
    run.mkdir()
    (run / "config.yaml").touch()
    conditions = ["--episodes", 7, "--seed", 3, "--tasks", "b,a"]
    overrides = '"tasks=[a,b]" evaluation.episodes=7 evaluation.seed=3`.'
    command = f'`m3dt evaluate --run "{run}" --models backbone,router:prompt {overrides}'
    words = [run, *conditions, "--models", "router:prompt"]
    assert command in compare(capsys, *words, code=2)  # nothing was evaluated
    write_scores(run, "router:prompt", {"a": 1})
    assert command in compare(capsys, *words, code=2)  # the backbone was not
    write_scores(run, "backbone", {"a": 1})
    assert command in compare(capsys, *words, code=2)  # neither was under these conditions
    words[-1] = "router-prompt"  # as tables print it
    assert command in compare(capsys, *words, code=2)
    assert command in compare(capsys, run, *conditions, code=2)  # all that were evaluated
    more = make_run(tmp_path / "more")
    assert "each of the other runs" in compare(capsys, run, more, *conditions, code=2)


def test_no_run_is_asked_for_tasks_that_it_does_not_know(tmp_path, capsys):
    write_scores(tmp_path, "backbone", {"a": 1}, weights=save_backbone(Registry(tmp_path)).hash)
    message = compare(capsys, tmp_path, "--tasks", "b", code=2)
    assert "under these conditions. The run was trained on other tasks." in message


def test_conditions_are_not_asked_of_a_table(tmp_path, capsys):
    table = write_table(tmp_path / "made.csv", [("0", "backbone", "a", 1)])
    assert "does not say under which conditions" in compare(capsys, table, "--seed", 1, code=2)


@pytest.mark.parametrize("mistake", [["--against", "bakbone"], ["--models", "rooter"]])
def test_a_refused_comparison_writes_nothing(tmp_path, capsys, mistake):
    run, table = make_run(tmp_path / "run"), tmp_path / "scores.csv"
    words = ["compare", run, "--against", "backbone", "--csv", str(table), *mistake]
    assert main(words) == 2 and not table.exists()
    assert "Did you mean" in capsys.readouterr().err


def test_a_table_may_go_to_the_standard_output(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    assert main(["compare", run, "--against", "backbone", "--csv", "-"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("run,model,task,") and "1 run x 2 tasks" in shown.err


def test_a_table_of_the_other_kind_names_its_command(tmp_path, capsys):
    """`m3dt figures` and `study` know tables of `compare`, and `compare` knows those of a study."""
    scores = write_table(tmp_path / "own.csv", [("0", "backbone", "a", 1)])
    (tmp_path / "own.yaml").write_text("parts: {m3dt: {grid: {seed: [0]}}}\n")
    study = ["study", str(tmp_path / "own.yaml"), "--csv", str(scores)]
    for words in (["figures", str(scores)], study, [*study, "--status"]):
        assert main(words) == 2
        shown = capsys.readouterr().err
        assert f"`m3dt compare {scores} --against backbone`" in shown and "elete" not in shown
    cells = tmp_path / "cells.csv"
    cells.write_text("part,seed,score,cell\nm3dt,0,1,a\n")
    assert f"`m3dt figures {cells}`" in compare(capsys, cells, code=2)
