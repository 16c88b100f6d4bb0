"""What is made of the study of new tasks, of made-up scores whose means are known."""

import json
from pathlib import Path

import pytest

from m3dt.config import find_study
from m3dt.study import Results, claims, new_tasks, write_outputs
from m3dt.study.claims.claim import FAILS, HOLDS, INCONCLUSIVE, MISSING
from m3dt.study.new_tasks import BEFORE, WAYS
from m3dt.study.outputs import report_of, tables_and_claims

NEW, OLD = ("push-v2", "cup-catch"), ("walker-walk", "door-open-v2", "ant-dir-3")


def row(part, seed, number, tasks=NEW, rate="", **columns):
    name = f"seed{seed}_{part}_{number}_{'-'.join(tasks)}_{rate}"
    fixed = {"part": part, "seed": str(seed), "data": f"data/new{number}", "tasks": str([*tasks])}
    return {**fixed, "baseline.learning_rate": rate, "score": "1", "cell": name, **columns}


def results(forgotten=0.1, parts=new_tasks.PARTS, seeds=(0, 1, 2)):
    """Scores on new tasks: way's level + seed; with 50 trajectories, 10 more; tasks 5 apart."""
    rows, tasks = [], {}

    def add(part, seed, number, level, rate="", names=NEW, **columns):
        found = row(part, seed, number, names, rate, **columns)
        rows.append(found)
        base = level + seed + (10 if number == 50 else 0)
        tasks[found["cell"]] = {name: base + 5 * (name == NEW[1]) for name in names}
        return found["cell"]

    for seed in seeds:
        for number in (5, 50):
            cell = add("unseen", seed, number, 10, parameters="1000")
            tasks[f"{cell}/nearest"] = dict.fromkeys(NEW, 30.0)
            for name in NEW:
                add("tuned", seed, number, 20, "0.001", (name,), parameters="400")
                add("tuned", seed, number, 41, "0.002", (name,), parameters="400")
                add("scratch", seed, number, 15, "0.004", (name,), parameters="400")
            extended = ("expert", "row") if number == 50 else ("expert",)
            for part in extended:
                cell = add(part, seed, number, 40, parameters="1200")
                tasks[f"{cell}/oracle"] = {name: s + 1 for name, s in tasks[cell].items()}
                tasks[cell] |= dict.fromkeys(OLD, 70.0 - forgotten * (1 + seed / 10))
                tasks[f"{cell}/{BEFORE}"] = dict.fromkeys(OLD, 70.0)
    chosen = tuple(r for r in rows if r["part"] in parts)
    return Results(chosen, {}, tasks, "extend")


def verdicts(found):
    return {claim.name: claim.verdict for claim in claims(found)}


def test_scores_are_means_over_the_new_tasks():
    found = results()
    assert new_tasks.new_tasks(found) == [*NEW] and new_tasks.trajectories(found) == [5, 50]
    level = {"nearest": 30, "zero-shot": 12.5, "expert": 42.5, "own expert": 43.5}
    for name, expected in level.items():
        by_seed = 0 if name == "nearest" else 1
        scores = new_tasks.scores(found, WAYS[name], 5)
        assert scores == {seed: expected + by_seed * seed for seed in range(3)}, name
    assert new_tasks.scores(found, WAYS["scratch"], 50) == {0: 27.5, 1: 28.5, 2: 29.5}
    assert new_tasks.scores(found, WAYS["backbone"], 5) == {}
    assert new_tasks.best_tuned(found, 50) == ("0.002", {0: 53.5, 1: 54.5, 2: 55.5})
    assert new_tasks.old_scores(found, "row", 50, BEFORE) == {0: 70, 1: 70, 2: 70}
    assert new_tasks.old_scores(found, "row", 5) == {}
    assert new_tasks.trained_parameters(found) == {"expert": 100, "tuned": 400, "scratch": 400}


def test_a_seed_without_a_task_has_no_score():
    found = results()
    lost = next(r for r in found.rows if r["part"] == "scratch" and r["data"].endswith("50"))
    rows = tuple(r for r in found.rows if r is not lost)
    assert [*new_tasks.scores(Results(rows, {}, found.tasks), WAYS["scratch"], 50)] == [1, 2]


@pytest.mark.parametrize(
    ("forgotten", "verdict"), [(0.1, HOLDS), (2.0, FAILS), (0.455, INCONCLUSIVE)]
)
def test_claims_say_what_the_scores_show(forgotten, verdict):
    found = verdicts(results(forgotten))
    assert found["forgetting 5"] == found["forgetting row"] == verdict
    # The best rate is one point better, with the same distance in each seed.
    assert found["expert close 50"] == HOLDS
    assert found["transfer 5"] == found["expert learns 5"] == found["nearest 50"] == HOLDS
    assert found["routed 5"] == HOLDS


def test_what_is_missing_is_not_claimed():
    found = verdicts(results(parts=("unseen", "tuned", "scratch")))
    assert set(found.values()) == {MISSING}


def test_tables_have_a_row_per_way():
    text = tables_and_claims(results())["tables"]
    assert "| full fine-tuning, rate 0.002 | 400 | 44.5 " in text
    assert "| new expert, by the router | 100 | 43.5 " in text
    assert "| new expert, by the router | 51 | 56 |" in text  # one by one, 50 trajectories
    assert text.count("| one after the other") == 1 and "| -0.1 [-0.1, -0.1] (n = 3) |" in text
    assert "backbone, zero-shot" not in text and "All seeds have the same" in results().summary()


def test_the_figure_is_drawn_of_what_there_is(tmp_path):
    found = results(parts=("unseen", "tuned"))
    (figure,) = report_of(found).figures.values()
    (axes,) = figure.draw(found).axes
    labels = [label.removesuffix(" (n = 3)") for label in axes.get_legend_handles_labels()[1]]
    assert labels == ["nearest recorded state", "agent, zero-shot", "full fine-tuning"]
    _write(results(), tmp_path / "extend.csv")
    names = {path.name for path in write_outputs(tmp_path / "extend.csv", tmp_path / "out")}
    assert names == {"new_tasks.png", "figures.md", "tables.md", "claims.md"}


def _write(found, file):
    columns = list(dict.fromkeys(key for row in found.rows for key in row))
    lines = [",".join(columns)]
    lines += [",".join(f'"{r.get(c, "")}"' for c in columns) for r in found.rows]
    file.write_text("\n".join(lines))
    file.with_name(f"{file.stem}_tasks.json").write_text(json.dumps(found.tasks))


def test_the_shipped_study_has_these_parts():
    text = find_study(Path("extend.yaml")).read_text()
    assert all(f"\n  {part}:" in text for part in new_tasks.PARTS)
