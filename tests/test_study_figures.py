"""Figures and tables from made-up results with known outcomes."""

import fnmatch
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from made_up_study import cells

from m3dt.cli import main
from m3dt.study import FIGURES, TABLES, Results, claims
from m3dt.study.claims.claim import INCONCLUSIVE, MISSING
from m3dt.study.conflict_queries import backbone_histories
from m3dt.study.estimates import estimate
from m3dt.study.queries import best_baseline, control_scores
from m3dt.study.setting_queries import scores_by, scores_by_shape
from m3dt.study.tables import acting_table
from m3dt.utils.errors import UserError


def test_missing_results_are_marked(made_up):
    """All figures and tables of a study with results of one cell."""
    file = made_up()
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2]))
    for name in ("conflict", "tasks"):
        file.with_name(f"lite_{name}.json").unlink()
    results = Results.read(file)
    for figure in FIGURES.values():
        if drawn := figure.draw(results):
            drawn.savefig(io.BytesIO())
        shown = figure.caption(results)
        assert "**not measured**" in shown and "**holds**" not in shown
        assert "**not measured** here" not in shown
    for table in TABLES.values():
        whole = table is acting_table  # it leaves out what has no result
        assert ("not measured" in table(results)) != whole
    assert {claim.verdict for claim in claims(results)} <= {MISSING, INCONCLUSIVE}


def test_a_summary_names_incomplete_cells(made_up, monkeypatch):
    file = made_up()
    everything = Results.read(file)
    assert f"{len(cells())} cells" in everything.summary()
    assert "missing" not in everything.summary()
    fewer = [row for row in everything.rows if row["part"] != "top-k" or row["seed"] == "0"]
    assert "missing of top-k mt40" in Results(tuple(fewer), everything.curves).summary()
    with monkeypatch.context() as patch:  # a study that plans one seed of this part
        planned = replace(everything.design, seeds={**everything.design.seeds, "top-k": 1})
        patch.setattr(Results, "design", planned)
        assert "missing" not in Results(tuple(fewer), everything.curves).summary()
    rows = [row for row in everything.rows if row["part"] != "mlp" or row["seed"] == "1"]
    shown = Results(tuple(rows), everything.curves).summary()
    width = everything.values("mlp", "mlp_width")[0]
    assert shown.endswith(f"Seeds are missing of mlp mt40 promptdt {width} (1 of 3).")


def test_numbers_of_the_paper_are_shown(made_up):
    results = Results.read(made_up())
    rows = TABLES["Methods (table 1)"](results).splitlines()
    assert [row.split(" | ")[3] for row in rows if "M3DT-" in row] == ["89.09", "89.23"]
    assert "| 67.34 |" in TABLES["Ablations (table 2)"](results)
    assert TABLES["Domains (tables 6 and 7)"](results).count("| 84.77 |") == 1
    assert sum("77.89" in claim.paper for claim in claims(results)) == 3


def test_two_models_task_by_task(made_up):
    """2 seeds x the same 2 tasks, computed by hand."""
    results = Results.read(made_up(seeds=(0, 1)))
    played = {cell: dict(scores) for cell, scores in results.tasks.items()}
    wanted = {"mlp_width": (3.0, 3.5), "timestep_std": (-9.0, 0.5)}  # change in each of two tasks
    for seed in (0, 1):
        plain = f"seed{seed}_mt40_promptdt"
        played[plain] = {"a": 50.0, "b": 20.0}
        for cell in played:
            for setting, change in wanted.items():
                if cell.startswith(f"{plain}_{setting}"):
                    played[cell] = {"a": 50.0 + change[0], "b": 20.0 + change[1]}
    table = TABLES["Task by task"](Results(results.rows, {}, played))
    rows = {tuple(row[2:].split(" | ")[:2]): row.split(" | ")[2:] for row in table.splitlines()}
    # The sum of a task differs from 2 means by 2 d: half = t sqrt(2 (2 d)^2 2) / 4 = t d,
    # with d = 0.25 around a mean of 3.25, d = 4.75 around -4.25, and t = 12.706 of two tasks.
    wide = rows["40", f"Prompt-DT, model.mlp_width={results.values('mlp', 'mlp_width')[0]}"]
    assert wide == ["Prompt-DT", "4", "3.2 [0.1, 6.4] (n = 2)", "4", "0 |"]
    large = rows["40", "Prompt-DT, model.timestep_std=1.0"]
    assert large == ["Prompt-DT", "4", "-4.2 [-64.6, 56.1] (n = 2)", "0", "2 |"]
    references = {name: row[0] for (tasks, name), row in rows.items() if tasks == "40"}
    assert "Prompt-DT" not in references
    assert references["noisy top-k, moe.top_k=2"] == references["big experts"] == "M3DT-Gradient"
    assert (
        references["without grouping"] == "M3DT-Random" and references["M3DT-Random"] == "Prompt-DT"
    )
    assert rows["160", "MTDT"][:2] == ["Prompt-DT", "320"]


def test_domains_together_weigh_each_task_equally(made_up):
    """160 tasks have 50 of Meta-World and 30 of DMControl."""
    rows = Results.read(made_up()).rows
    for row in rows:
        row.update(metaworld="80", dmcontrol="40")
    found = control_scores(Results(rows, {}), 160, "m3dt", "m3dt-gradient")
    assert found == dict.fromkeys(range(3), pytest.approx((50 * 80 + 30 * 40) / 80))


def test_the_best_baseline_is_one_with_all_seeds(made_up):
    results = Results.read(made_up(seeds=(0, 1)))
    assert best_baseline(results, 40)[0] == "HarmoDT"
    unfinished = [row for row in results.rows if row["method"] != "harmodt" or row["seed"] == "0"]
    assert best_baseline(Results(tuple(unfinished), {}), 40)[0] == "Prompt-DT"
    assert best_baseline(Results((), {}), 40) == ("the baselines", {})


def test_curves_are_those_of_the_longest_training_with_all_seeds(made_up):
    results = Results.read(made_up())
    longest = dict(results.curves)
    assert backbone_histories(results).keys() == {0, 1, 2}
    del longest["seed1_mt40_m3dt-gradient_max_steps5000"]
    longest["seed0_mt40_m3dt-gradient"] = {"backbone/conflict": {"history": [{"step": 7}]}}
    found = backbone_histories(Results(results.rows, longest))
    assert found.keys() == {0, 1, 2} and found[0] == [{"step": 7}]


def test_profiles_show_the_share_of_scores_above(made_up):
    """All tasks of a seed have one made-up score; seeds differ by a tenth."""
    results = Results.read(made_up())
    line = FIGURES["profiles"].draw(results).axes[1].lines[0]
    scores = results.scores("baselines", suite="mt40", method="promptdt").values()
    expected = [sum(score > x for score in scores) / 3 for x in range(100)]
    assert line.get_label() == "Prompt-DT (n = 120)"
    assert list(line.get_ydata()) == pytest.approx(expected)


def test_figures_show_means_and_each_seed(made_up):
    """Seeds differ by a tenth at any number of experts."""
    results = Results.read(made_up())
    axes = FIGURES["experts"].draw(results).axes[0]
    lines = [line for line in axes.lines if line.get_color() == "#d55e00"]
    means = scores_by(results, "experts")
    mean = [sum(found.values()) / 3 for found in means.values()]
    faint = [list(line.get_ydata()) for line in lines if line.get_alpha()]
    assert faint == [pytest.approx([m + 0.1 * (seed - 1) for m in mean]) for seed in range(3)]
    (bold,) = [list(line.get_ydata()) for line in lines if line.get_linestyle() == "-"]
    assert bold == pytest.approx(mean)


def test_bars_are_intervals_and_panels_of_a_row_share_a_range(made_up):
    results = Results.read(made_up())
    figure = FIGURES["domains"].draw(results)
    assert len({axes.get_ylim() for axes in figure.axes[:3]}) == 1
    bars = figure.axes[0].containers[0]
    assert bars.get_label() == "Prompt-DT (n = 3)" and len(bars.lines[2]) == 1
    scores = results.scores("baselines", "metaworld", suite="mt10", method="promptdt")
    low, high = estimate(scores).interval
    assert list(bars.lines[2][0].get_segments()[0][:, 1]) == pytest.approx([low, high])


def test_nothing_connects_names(made_up):
    for name in ("residual", "shape"):
        for axes in FIGURES[name].draw(Results.read(made_up())).axes:
            assert {line.get_linestyle() for line in axes.lines} == {"None"}


def test_own_domains_are_shown(made_up):
    results = Results.read(made_up())
    rows = tuple({**row, "swimming": "50", "swimming return": "1"} for row in results.rows)
    more = Results(rows, results.curves, results.tasks)
    assert "swimming" in titles("domains", more) and "swimming" in titles("returns", more)


def titles(name, results):
    return [axes.get_title(loc="left") for axes in FIGURES[name].draw(results).axes]


def without(results, *parts):
    rows = tuple(row for row in results.rows if row["part"] not in parts)
    return Results(rows, results.curves, results.tasks)


def bold(axes):
    """Return the points of the means in a panel, by label, which names the seeds."""
    names = {
        bars.lines[0].get_color(): bars.get_label().removesuffix(" (n = 3)")
        for bars in axes.containers
    }
    return {
        names[line.get_color()]: (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if line.get_alpha() is None and line.get_linestyle() != "None" and line.get_marker() == "o"
    }


def test_panels_follow_the_rows(made_up):
    """Numbers of tasks, experts and steps that were measured have panels, others have none."""
    results = Results.read(made_up())
    every = [f"Number of experts, {n} tasks" for n in (40, 80, 160)]
    assert titles("experts", results) == every
    at_forty = [row for row in results.rows if row["part"] != "experts" or row["suite"] == "mt40"]
    assert titles("experts", Results(tuple(at_forty), {})) == every[:1]
    during, after = titles("stopping", results)
    assert during == "During training, 40 tasks"
    assert titles("stopping", without(results, "training")) == [after]
    routers, over_experts = titles("top_k", results)
    assert over_experts == "Over the number of experts, 40 tasks"
    usual = [row for row in results.rows if row["part"] != "top-k" or not row["moe.num_experts"]]
    assert titles("top_k", Results(tuple(usual), {})) == [routers]
    # Figures become smaller with their panels.
    before, now = (FIGURES["top_k"].draw(r) for r in (results, Results(tuple(usual), {})))
    assert before.get_size_inches()[0] == 2 * now.get_size_inches()[0]


def test_shapes_of_prompt_dt(made_up):
    """Rows over layers, heads and width; the study's own shape is Prompt-DT's row."""
    results = Results.read(made_up())
    shapes = ["3 x 4 x 64", *(f"{n} x {h} x 48" for n in (3, 6) for h in (2, 4))]
    found = scores_by_shape(results)
    assert list(found) == shapes and all(len(scores) == 3 for scores in found.values())
    assert list(found["6 x 2 x 48"].values()) == [
        float(row["score"])
        for row in results.rows
        if row["part"] == "shape" and (row["model.n_layer"], row["model.n_head"]) == ("6", "2")
    ]
    (axes,) = FIGURES["shape"].draw(results).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == shapes
    (claim,) = (claim for claim in claims(results) if claim.name == "shape")
    assert claim.text.startswith("Prompt-DT with 3 layers, 4 heads and width 64 beats every other")
    assert list(claim.differences) == [f"over {shape}" for shape in shapes[1:]]


def test_returns_asked_for_and_achieved(made_up):
    """Achieved is 0.9 of what was asked for in all domains; asking for 1 is the usual cell."""
    results = Results.read(made_up())
    figure = FIGURES["returns"].draw(results)
    assert len(figure.axes) == 8
    for axes in figure.axes[:4]:
        found = bold(axes)
        assert set(found) == {"Prompt-DT", "M3DT-Gradient"}
        for asked, achieved in found.values():
            assert asked == [0.25, 0.5, 1, 1.5] and achieved == pytest.approx(0.9 * np.array(asked))
    scores = results.scores("returns", method="promptdt", target_scale=0.5)
    _, shown = bold(figure.axes[4])["Prompt-DT"]
    assert shown[1] == pytest.approx(np.mean(list(scores.values())))
    # Tables without achieved returns still show scores.
    bare = [{k: v for k, v in row.items() if not k.endswith("return")} for row in results.rows]
    assert len(FIGURES["returns"].draw(Results(tuple(bare), {})).axes) == 4


def test_experts_trained_end_to_end_are_shown_where_they_were_measured(made_up):
    results = Results.read(made_up())
    measured = FIGURES["expert_conflict"].draw(results).axes[0]
    assert measured.get_xticklabels()[-1].get_text() == "end\nto end"
    curves = {k: v for k, v in results.curves.items() if "end-to-end" not in k}
    others = FIGURES["expert_conflict"].draw(Results(results.rows, curves)).axes[0]
    assert [label.get_text() for label in others.get_xticklabels()][-1] == "no\ngroups"


def test_every_cell_of_the_study_is_shown(made_up, monkeypatch):
    """Every cell is used by some figure, table or claim."""
    results, asked = Results.read(made_up()), set()
    scores = Results.scores

    def remember(self, part, column="score", **values):
        asked.update(row["cell"] for row in self._rows(part, values))
        return scores(self, part, column, **values)

    monkeypatch.setattr(Results, "scores", remember)
    for figure in FIGURES.values():
        figure.draw(results)
    for table in TABLES.values():
        table(results)
    claims(results)
    assert {row["cell"] for row in results.rows} == asked


def test_the_command_writes_pictures_and_markdown(made_up, tmp_path, capsys):
    """A figure of which nothing was measured is not drawn, and its claims say so."""
    out = tmp_path / "results"
    for path in made_up().parent.glob("lite*.*"):
        path.rename(path.with_name(path.name.replace("lite", "mine")))
    file = tmp_path / "mine.csv"
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(("returns", "shape"))]
    file.write_text("".join(kept))
    assert main(["figures", str(file), "--out", str(out)]) == 0
    assert "No study is called 'mine'" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "figures", "figures.md", "tables.md", "claims.md"
    }  # fmt: skip
    pictures = {path.stem: path.read_bytes() for path in (out / "figures").iterdir()}
    assert set(pictures) == set(FIGURES) - {"returns", "shape"}
    assert all(content[:4] == b"\x89PNG" for content in pictures.values())
    shown = (out / "figures.md").read_text()
    assert all((out / link).is_file() for link in re.findall(r"\]\((.*?)\)", shown))
    assert shown.count("![]") == len(pictures) and shown.count("# ") == len(FIGURES)
    sections = dict(re.findall(r"^# (.*?)\n\n(.*)$", shown, re.M))
    assert "**not measured**" in sections["Shape of Prompt-DT (figure 10)"]
    assert sections["Top-k routing (figure 9)"] == "![](figures/top_k.png)"
    tables = (out / "tables.md").read_text()
    assert "| M3DT-Gradient | 1,000 |" in tables and "without grouping" in tables
    for name, hint in (("none", "Give the table that"), ("mid", "`m3dt study mid` makes them")):
        assert main(["figures", str(tmp_path / f"{name}.csv")]) == 2
        assert hint in capsys.readouterr().err


def test_captions_state_their_claims(made_up):
    results = Results.read(made_up())
    known = [claim.name for claim in claims(results)]
    assert len(set(known)) == len(known)
    for figure in FIGURES.values():
        named = [fnmatch.filter(known, pattern) for pattern in figure.claims]
        assert named and all(named)
        assert figure.caption(results).count("**holds**") == sum(map(len, named))


def test_results_must_exist(tmp_path):
    with pytest.raises(UserError, match="no such results"):
        Results.read(tmp_path / "lite.csv")
