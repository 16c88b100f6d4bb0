"""The command that compares models over runs and tasks."""

import math

import pytest
from scipy import stats
from test_registry import save_backbone

from m3dt.cli import main
from m3dt.runs import Registry
from m3dt.runs.evaluations import Evaluation
from m3dt.study.paired_texts import result_texts
from m3dt.study.score_rows import COLUMNS
from m3dt.study.study_results import Results
from m3dt.utils.files import fingerprint


def write_scores(run, model, scores, episodes=10, seed=0, weights=""):
    tasks = {task: {"score": score} for task, score in scores.items()}
    result = {"tasks": tasks, "flops_per_action": 2e6, "ms_per_action": 0.5}
    result |= {"episodes": episodes, "seed": seed, "weights": weights, "num_parameters": 1}
    key = fingerprint([list(scores), episodes, seed])
    Evaluation.now(model, key, result).write(run)


def test_runs_and_the_table_of_them_say_the_same(tmp_path, capsys):
    for seed in range(2):
        write_scores(tmp_path / str(seed), "backbone", {"a": 50, "b": 20 + seed})
        write_scores(tmp_path / str(seed), "router", {"a": 54, "b": 22 + seed})
    write_scores(tmp_path / "0", "oracle", {"a": 1, "b": 2})  # not in every run: left out
    runs, table = [str(tmp_path / "0"), str(tmp_path / "1")], tmp_path / "scores.csv"
    assert main(["compare", *runs, "--against", "backbone", "--csv", str(table)]) == 0
    first = capsys.readouterr().out
    note, first = first.split("2 runs", 1)
    shown = first.splitlines()
    assert all(len(line) <= 80 for line in shown)
    assert "oracle: left out, since" in note and "oracle" not in first
    assert first.startswith(
        " x 2 tasks, compared with backbone [95 % bootstrap over runs and tasks]"
    )
    router = next(i for i, line in enumerate(shown) if line.startswith("router"))
    # IQM: the middle half of 22, 23, 54, 54. Each of 22 and 23 beats 20 and 21.
    assert shown[router].split() == ["router", "38.2", "38.5", "+3.0", "100%", "better", "2.0"]
    assert shown[router + 1].split()[-4:] == ["[+2.0,", "+4.0]", "[100%,", "100%]"]
    assert main(["compare", str(table), "--against", "backbone"]) == 0
    note, again = capsys.readouterr().out.split("2 runs", 1)
    assert "oracle: left out, since" in note and again == first


def test_runs_of_the_same_name_stay_two(tmp_path, capsys, monkeypatch):
    for folder, score in (("old", 10), ("new", 90)):
        write_scores(tmp_path / folder / "seed0", "backbone", {"a": 50})
        write_scores(tmp_path / folder / "seed0", "router", {"a": score})
    runs = [str(tmp_path / folder / "seed0") for folder in ("old", "new")]
    assert main(["compare", *runs, "--against", "backbone"]) == 0
    assert "2 runs x 1 task," in capsys.readouterr().out
    monkeypatch.chdir(runs[0])
    assert main(["compare", ".", "--against", "backbone", "--csv", "scores.csv"]) == 0
    assert (tmp_path / "old/seed0/scores.csv").read_text().splitlines()[1].startswith("seed0,")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"run,model\n\xff,b\n", "is not a table"),
        (b"part,seed,score,cell\nm3dt,0\n", "row 1 does not have"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, capsys, content, message):
    """By each command that reads one."""
    table = tmp_path / "results" / "own.csv"
    table.parent.mkdir()
    table.write_bytes(content)
    (tmp_path / "own.yaml").write_text("parts: {m3dt: {grid: {seed: [0]}}}\n")
    study = ["study", str(tmp_path / "own.yaml"), "--csv", str(table)]
    for words in (
        ["compare", str(table), "--against", "backbone"],
        ["figures", str(table)],
        [*study, "--status"],
        [*study, "--dry-run"],
    ):
        assert main(words) == 2
        assert f"own.csv: {message}" in capsys.readouterr().err, words


@pytest.mark.parametrize("column", ["seed", "score", "low", "parameters", "moe.num_experts"])
def test_a_word_in_place_of_a_number_is_named(tmp_path, capsys, column):
    table = tmp_path / "own.csv"
    row = {"part": "m3dt", "seed": "0", "score": "1", "low": "", "parameters": "7", "cell": "a"}
    row |= {"method": "mtdt", column: "many"}
    table.write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    assert main(["figures", str(table)]) == 2
    assert f"own.csv: row 1 has {column}=many" in capsys.readouterr().err
    (tmp_path / "scores.csv").write_text("run,model,task,score,mflop,ms\n0,backbone,a,1,many,2\n")
    assert main(["compare", str(tmp_path / "scores.csv"), "--against", "backbone"]) == 2
    assert "scores.csv: row 1 has mflop=many" in capsys.readouterr().err


def test_columns_may_come_in_any_order(tmp_path):
    """As in a table whose first row was written before the study had parts."""
    table = tmp_path / "own.csv"
    table.write_text("seed,score,cell,part,method,model.n_embd,suite\n0,1.5,a,m3dt,mtdt,8,mt40\n")
    assert Results.read(table).scores("m3dt") == {0: 1.5}


def test_a_study_of_one_method_has_figures(tmp_path):
    """Its table has no such column; the method is that of the study's configuration."""
    table = tmp_path / "own.csv"
    table.write_text("part,seed,score,parameters,cell\nm3dt,0,1.5,7,a\n")
    assert [row["method"] for row in Results.read(table).rows] == ["m3dt-gradient"]
    assert main(["figures", str(table), "--out", str(tmp_path / "out")]) == 0
    table.write_text("part,seed,score,parameters\nm3dt,0,1.5,7\n")
    assert main(["figures", str(table), "--out", str(tmp_path / "out")]) == 2


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("tasks", "[]", "it is not a mapping of cells"),
        ("tasks", '{"a": 3}', "it is not a mapping of cells"),
        ("tasks", '{"a": {"reach-v2": "many"}}', "a score is 'many'"),
        ("conflict", "null", "it is not a mapping of cells"),
        ("conflict", '{"a": {"backbone/conflict": 3}}', "a curve is 3"),
        ("conflict", '{"a": {"backbone/conflict": {"history": [1]}}}', "a curve is {"),
    ],
)
def test_odd_details_of_a_table_are_named(tmp_path, capsys, kind, content, message):
    table = tmp_path / "own.csv"
    table.write_text("part,seed,score,cell,method\nm3dt,0,1,a,mtdt\n")
    (tmp_path / f"own_{kind}.json").write_text(content)
    assert main(["figures", str(table)]) == 2
    assert f"own_{kind}.json: damaged ({message}" in capsys.readouterr().err


def test_cells_without_a_seed_are_named(tmp_path, capsys):
    (tmp_path / "own.csv").write_text("part,seed,score,cell\nm3dt,,1,a\n")
    assert main(["figures", str(tmp_path / "own.csv")]) == 2
    assert "own.csv: has cells without a seed" in capsys.readouterr().err


def test_scores_of_weights_that_were_replaced_are_left_out(tmp_path, capsys):
    registry = Registry(tmp_path)
    old = save_backbone(registry)
    write_scores(tmp_path, "backbone", {"a": 1}, weights=old.hash)
    write_scores(tmp_path, "oracle", {"a": 2}, weights=[old.hash])
    words = ["compare", str(tmp_path), "--against", "backbone"]
    assert main(words) == 0
    assert "oracle" in capsys.readouterr().out
    new = save_backbone(registry, seed=1)
    assert main(words) == 2
    assert "the scores of backbone, oracle, since their weights are not" in capsys.readouterr().err
    write_scores(tmp_path, "backbone", {"a": 3}, weights=new.hash)
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "left out the scores of oracle," in shown and "backbone 3.0" in shown


def test_damaged_scores_per_task_are_named(tmp_path, capsys):
    (tmp_path / "own.csv").write_text("part,seed,score,cell\nm3dt,0,1,a\n")
    (tmp_path / "own_tasks.json").write_text("{")
    assert main(["figures", str(tmp_path / "own.csv")]) == 2
    assert "own_tasks.json: damaged" in capsys.readouterr().err


def test_documents_say_what_a_table_of_scores_says(tmp_path, capsys):
    """The table's numbers are means over runs; a difference has the interval of `compare`."""
    for seed in range(2):
        write_scores(tmp_path / str(seed), "backbone", {"a": 50, "b": 20 + seed})
        write_scores(tmp_path / str(seed), "router", {"a": 54, "b": 22 + seed})
    write_scores(tmp_path / "0", "oracle", {"a": 1, "b": 2})  # not in every run: left out
    runs, table = [str(tmp_path / "0"), str(tmp_path / "1")], tmp_path / "made.csv"
    assert main(["compare", *runs, "--against", "backbone", "--csv", str(table)]) == 0
    page = tmp_path / "page.md"
    page.write_text(
        "It is <!-- result: made/router - backbone -->?<!-- end -->.\n\n"
        "<!-- result: made/scores -->\n<!-- end -->\n\n<!-- result: made/means -->\n<!-- end -->\n"
    )
    assert main(["fill", str(page), "--results", str(tmp_path)]) == 0
    text = page.read_text()
    assert "-->**better**, +3.0 [2.0, 4.0] points (bootstrap over 2 runs and 2 tasks; " in text
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in rows[0]] == ["score, mean of 2 seeds", "backbone", "router"]
    assert [cell.strip() for cell in rows[2]] == ["a", "50", "54"]
    assert [cell.strip()[:6] for cell in rows[4][1:]] == ["**35.2", "**38.2"]
    assert rows[5][1].strip() == "score, mean of 2 seeds and 2 tasks"
    means = [[cell.strip() for cell in row] for row in rows[7:]]
    assert [[name, mean[:4]] for name, mean in means] == [
        ["`backbone`", "35.2"],
        ["`router`", "38.2"],
    ]
    capsys.readouterr()
    page.write_text("It is <!-- result: made/oracle - backbone --><!-- end -->.")
    assert main(["fill", str(page), "--results", str(tmp_path)]) == 2
    assert "the results have no 'oracle - backbone'" in capsys.readouterr().err


def test_a_difference_has_the_t_test_over_runs(tmp_path):
    """Means of runs differ by 3, 4 and 5: t = 4 / (1 / sqrt(3)) with two degrees of freedom."""
    rows = [
        dict(zip(COLUMNS, (str(run), model, task, str(score), "1", "1"), strict=True))
        for run in range(3)
        for model, scores in (("a", (50, 60)), ("b", (52, 64 + 2 * run)))
        for task, score in zip("xy", scores, strict=True)
    ]
    p = 2 * stats.t.sf(4 * math.sqrt(3), df=2)
    assert result_texts(rows)["b - a"].endswith(f"; t test over runs, p = {p:.3f})")
    alone = [row for row in rows if row["run"] == "0"]
    assert result_texts(alone)["b - a"].endswith("(bootstrap over 1 run and 2 tasks)")


def test_one_run_of_one_task_has_no_interval(tmp_path, capsys):
    for model, score in (("backbone", 50), ("router", 90)):
        write_scores(tmp_path / "0", model, {"a": score})
    assert main(["compare", str(tmp_path / "0"), "--against", "backbone"]) == 0
    shown = capsys.readouterr().out
    assert "1 run x 1 task, compared with backbone\n" in shown
    assert shown.count("(n = 1)") == 6 and "inconclusive" in shown


def test_missing_scores_are_named(tmp_path, capsys):
    write_scores(tmp_path / "0", "backbone", {"a": 1})
    assert main(["compare", str(tmp_path / "0"), "--against", "bakbone"]) == 2
    assert "Did you mean 'backbone'" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "1"), "--against", "backbone"]) == 2
    assert "holds no scores" in capsys.readouterr().err
    given = ["--against", "backbone", "--models", "router"]
    assert main(["compare", str(tmp_path / "0"), *given]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "--models router: no run has scores of it. Evaluate: `m3dt evaluate --run" in shown


def test_models_are_compared_under_the_conditions_of_the_newest_or_told_ones(tmp_path, capsys):
    """The other's newest evaluation is of another seed: it is not compared with that one."""
    write_scores(tmp_path, "router:prompt", {"a": 1}, episodes=5)
    write_scores(tmp_path, "backbone", {"a": 20})
    write_scores(tmp_path, "router:prompt", {"a": 30})
    write_scores(tmp_path, "backbone", {"a": 40}, seed=1)
    write_scores(tmp_path, "backbone", {"a": 2}, episodes=5)
    (tmp_path / "evaluation" / "nearest.json").write_text('{"key": "", "result": {}}')
    models = "backbone,backbone"  # of which there is one
    words = ["compare", str(tmp_path), "--models", models, "--against", "router:prompt"]
    for told, mean, difference in (
        ([], "20.0", "-10.0"),
        (["--episodes", "5"], "2.0", "+1.0"),
        (["--episodes", "10", "--seed", "0", "--tasks", "a"], "20.0", "-10.0"),
    ):
        assert main([*words, *told]) == 0
        shown = capsys.readouterr().out
        assert "nearest.json: left out" in shown
        (line,) = [line for line in shown.splitlines() if line.startswith("backbone")]
        assert line.split()[1:4:2] == [mean, difference]
    assert main([*words, "--tasks", "b"]) == 2
    assert "holds no scores of router:prompt under these" in capsys.readouterr().err
