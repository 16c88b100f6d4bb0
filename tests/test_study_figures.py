"""Figures and claims from made-up results with known outcomes."""

import csv
import io
import json
import re
from math import log2
from pathlib import Path

import pytest

from m3dt.cli import main
from m3dt.config import load_config
from m3dt.study import FIGURES, TABLES, Results, claims, claims_table, load_study
from m3dt.study.claims.claim import FAILS, HOLDS, INCONCLUSIVE, MISSING, verdict
from m3dt.study.queries import backbone_histories, best_baseline, control_scores, scores_by
from m3dt.tasks import suite
from m3dt.utils.errors import UserError

CELLS = load_study(Path(__file__).parents[1] / "conf/study/lite.yaml", []).cells
SIZES = {"mt10": 10, "mt20": 20, "mt40": 40, "mt80": 80, "mt160": 160}


BASE = load_config("lite")


def score(cell, slope):
    """Return a made-up score; `slope` favours fewer tasks, more experts and the default M3DT."""
    values = {key.rpartition(".")[2]: value for key, value in cell.values.items()}
    method = values["method"]
    seed = 0.1 * int(values["seed"])
    better = {"m3dt-gradient": 9, "m3dt-random": 7, "m3dt-top-k": 5, "promptdt": 3}.get(method, 1)
    if cell.part == "experts":
        better += 2 * log2(min(int(values["num_experts"]), BASE.moe.num_experts))
        better += 0.5 * (int(values["num_experts"]) > BASE.moe.num_experts)
        better -= 2 * log2(BASE.moe.num_experts)
    if "max_steps" in values:
        better -= abs(log2(int(values["max_steps"]) / BASE.stage1.max_steps))
    if "official" in values.values() or "timestep_std" in values:
        better -= 1
    wider = log2(int(values.get("n_embd", BASE.model.n_embd)) / BASE.model.n_embd)
    better += min(wider, 0.3 * wider) + ("mlp_width" in values)
    tasks = -SIZES[values["suite"]] / (40 if "m3dt" in method else 20)
    return 50 + slope * (better + tasks) + seed


def history(slope, tasks):
    """Return a made-up conflict curve; `slope` raises conflict with tasks and training steps."""
    apart = [rise + tasks / 2000 for rise in (0, 0.1, 0.2, 0.3, 0.32, 0.33, 0.33, 0.33, 0.33)]
    blocks = {f"block{i}": 0.5 - 0.05 * i for i in range(BASE.model.n_layer)}
    return [
        {"step": 500 * i, "mean": 0.5 + slope * rise, "smoothed": 0.5 + slope * rise,
         "leave_one_out": 0.4 - slope * rise, "pairwise": 0.3 - slope * rise / 2,
         "independent": tasks**-0.5, "spread": 0.1,
         "parts": {"attention": 0.5, "mlp": 0.5 + slope * (0.1 + rise / 10), **blocks}}
        for i, rise in enumerate(apart)
    ]  # fmt: skip


def expert_history(slope, seed, method):
    inside, outside = 0.5 + slope * (0.2 + 0.01 * seed - 0.1 * ("random" in method)), 0.5
    measured = {
        name: {"conflict": 1 - value, "leave_one_out": value, "num_tasks": 3}
        for name, value in (("grouped", inside), ("all", outside))
    }
    return [{"step": 0, **measured}, {"step": 1000, **measured}]


@pytest.fixture
def made_up(tmp_path):
    """Return a function that writes results of the complete study in conf/study/lite.yaml."""

    def write(slope=1.0, seeds=(0, 1, 2)):
        rows, curves, played = [], {}, {}
        for cell in CELLS:
            seed = int(cell.values["seed"])
            if seed not in seeds:
                continue
            tasks = SIZES[cell.values["suite"]]
            value = score(cell, slope)
            row = {"part": cell.part, **cell.values, "score": value, "parameters": 1000}
            row["cell"] = cell.name
            played[cell.name] = dict.fromkeys(suite(cell.values["suite"], seed), value)
            row |= {
                "oracle": value + slope * (0.1 + 0.2 * len(cell.values)),
                "backbone": value - slope,
            }
            row |= {d: value for d in ("metaworld", "dmcontrol", "cheetah-vel", "ant-dir")}
            if cell.part == "experts":
                row["oracle"] = value + slope * int(cell.values["moe.num_experts"])
            rows.append(row)
            curves[cell.name] = {
                "backbone/conflict": {"history": history(slope, tasks)},
                "baseline/conflict": {"history": history(slope, tasks)},
                "expert/expert_conflict": {
                    "history": expert_history(slope, seed, cell.values["method"])
                },
                "router/expert_conflict": {
                    "history": expert_history(slope, seed, cell.values["method"])
                },
            }
        file = tmp_path / "lite.csv"
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with file.open("w") as lines:
            writer = csv.DictWriter(lines, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        (tmp_path / "lite_conflict.json").write_text(json.dumps(curves))
        (tmp_path / "lite_tasks.json").write_text(json.dumps(played))
        return file

    return write


@pytest.mark.parametrize("slope, expected", [(1.0, HOLDS), (-1.0, FAILS)])
def test_verdicts_follow_the_numbers(made_up, slope, expected):
    """Results that favour every claim, and the same results reversed."""
    found = {claim.name: claim for claim in claims(Results.read(made_up(slope)))}
    assert {name: claim.verdict for name, claim in found.items()} == dict.fromkeys(found, expected)
    assert all(claim.ours for claim in found.values())


def test_one_seed_decides_nothing(made_up):
    for claim in claims(Results.read(made_up(seeds=(0,)))):
        assert claim.verdict in (INCONCLUSIVE, HOLDS) and (
            claim.name != "tasks" or "(n = 1)" in claim.ours and claim.test == "no test, n = 1"
        )
    assert verdict({0: 5.0}) == INCONCLUSIVE


def test_an_unfinished_study_leaves_gaps(made_up):
    file = made_up()
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("ablations")))
    found = {claim.name: claim.verdict for claim in claims(Results.read(file))}
    assert found["grouping"] == MISSING and found["tasks"] == HOLDS
    assert MISSING in claims_table(Results.read(file))


def test_missing_results_are_marked(made_up):
    """All figures and tables of a study with results of one cell."""
    file = made_up()
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2]))
    for name in ("conflict", "tasks"):
        file.with_name(f"lite_{name}.json").unlink()
    results = Results.read(file)
    for figure in FIGURES.values():
        figure.draw(results).savefig(io.BytesIO())
        shown = figure.caption(results)
        assert "**not measured**" in shown and "**holds**" not in shown
        assert "**not measured** here" not in shown
    for table in TABLES.values():
        assert "not measured" in table(results)
    assert {claim.verdict for claim in claims(results)} <= {MISSING, INCONCLUSIVE}


def test_a_summary_names_incomplete_cells(made_up):
    file = made_up()
    everything = Results.read(file)
    assert f"{len(CELLS)} cells" in everything.summary()
    assert "missing" not in everything.summary()
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
    assert best_baseline(results, 40)[0] == "Prompt-DT"
    unfinished = [row for row in results.rows if row["method"] != "promptdt" or row["seed"] == "0"]
    assert best_baseline(Results(tuple(unfinished), {}), 40)[0] == "MTDT"
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
    (axes,) = FIGURES["experts"].draw(results).axes
    lines = [line for line in axes.lines if line.get_color() == "#d55e00"]
    means = scores_by(results, "experts")
    mean = [sum(found.values()) / 3 for found in means.values()]
    faint = [list(line.get_ydata()) for line in lines if line.get_alpha()]
    assert faint == [pytest.approx([m + 0.1 * (seed - 1) for m in mean]) for seed in range(3)]
    (bold,) = [list(line.get_ydata()) for line in lines if not line.get_alpha()]
    assert bold == pytest.approx(mean)


def test_every_cell_of_the_study_is_shown(made_up, monkeypatch):
    """Every cell is used by some figure, table or claim."""
    results, asked = Results.read(made_up()), set()
    scores = Results.scores

    def remember(self, part, column="score", **values):
        for number, row in enumerate(self.rows):
            short = {key.rpartition(".")[2]: value for key, value in row.items()}
            if row["part"] == part and all(short.get(k) == str(v) for k, v in values.items()):
                asked.add(number)
        return scores(self, part, column, **values)

    monkeypatch.setattr(Results, "scores", remember)
    for figure in FIGURES.values():
        figure.draw(results)
    for table in TABLES.values():
        table(results)
    claims(results)
    missed = [row for number, row in enumerate(results.rows) if number not in asked]
    assert missed == []


def test_the_command_writes_pictures_and_markdown(made_up, tmp_path, capsys):
    out = tmp_path / "results"
    assert main(["figures", str(made_up()), "--out", str(out)]) == 0
    written = {path.name for path in out.iterdir()}
    assert written == {"figures", "figures.md", "tables.md", "claims.md"}
    pictures = {path.name: path.read_bytes() for path in (out / "figures").iterdir()}
    assert set(pictures) == {f"{name}.png" for name in FIGURES}
    assert all(content[:4] == b"\x89PNG" for content in pictures.values())
    shown = (out / "figures.md").read_text()
    assert all((out / link).is_file() for link in re.findall(r"\]\((.*?)\)", shown))
    assert shown.count("![]") == len(FIGURES) and shown.count("# ") == len(FIGURES)
    tables = (out / "tables.md").read_text()
    assert "| M3DT-Gradient | 1,000 |" in tables and "without grouping" in tables
    assert main(["figures", str(tmp_path / "none.csv")]) == 2
    assert "m3dt study conf/study/none.yaml" in capsys.readouterr().err


def test_captions_state_their_claims(made_up):
    results = Results.read(made_up())
    known = [claim.name for claim in claims(results)]
    assert len(set(known)) == len(known)
    for figure in FIGURES.values():
        assert figure.claims and set(figure.claims) <= set(known)
        assert figure.caption(results).count("**holds**") == len(figure.claims)


def test_results_must_exist(tmp_path):
    with pytest.raises(UserError, match="no such results"):
        Results.read(tmp_path / "lite.csv")
