"""Made-up results of the study in conf/study/lite.yaml and of parts that it leaves out."""

import csv
import json
import tempfile
from functools import cache
from math import log2
from pathlib import Path

from m3dt.config import load_config
from m3dt.study import load_study
from m3dt.tasks import DOMAINS, suite

FURTHER = """
conf: lite
runs: runs/further
set: ["suite_seed={seed}"]
parts:
  experts:
    grid: {seed: [0, 1, 2], suite: [mt80, mt160], method: [m3dt-gradient], moe.num_experts: [2, 4]}
  prompt:
    grid: {seed: [0, 1, 2], suite: [mt40], method: [m3dt-gradient], moe.router: [prompt]}
  baselines:
    grid: {seed: [0, 1, 2], suite: [mt40], method: [bc, bc-best]}
  masks:
    grid: {seed: [0, 1, 2], suite: [mt40], method: [harmodt], harmodt.exchanged_share: [0.07]}
  one-task:
    grid: {seed: [0, 1, 2], suite: [mt40], method: [promptdt, harmodt],
           loader.sampling: [one_task]}
  top-k:
    grid: {seed: [0, 1, 2], suite: [mt40], method: [m3dt-top-k], moe.top_k: [2],
           moe.num_experts: [4, 16]}
  shape:
    grid: {seed: [0, 1, 2], suite: [mt40], method: [promptdt], model.n_layer: [3, 6],
           model.n_head: [2, 4], model.n_embd: [48]}
  training:
    grid: {seed: [0, 1, 2], suite: [mt40], method: [promptdt], baseline.max_steps: [500, 2500]}
  returns:
    grid: {seed: [0, 1, 2], suite: [mt40], method: [promptdt, m3dt-gradient],
           evaluation.target_scale: [0.25, 0.5, 1.5]}
"""
BASE = load_config("lite")
SIZES = {"mt10": 10, "mt20": 20, "mt40": 40, "mt80": 80, "mt160": 160}


@cache
def cells():
    """Return the cells of both studies, whose loading takes seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "further.yaml"
        path.write_text(FURTHER)
        further = load_study(path, []).cells
    return (*load_study(Path(__file__).parents[1] / "conf/study/lite.yaml", []).cells, *further)


def score(cell, slope):
    """Return a made-up score; `slope` favours fewer tasks, more experts and the default M3DT."""
    values = {key.rpartition(".")[2]: value for key, value in cell.values.items()}
    method = values["method"]
    seed = 0.1 * int(values["seed"])
    better = {
        "m3dt-gradient": 9, "m3dt-random": 7, "m3dt-top-k": 5, "harmodt": 4, "promptdt": 3,
        "bc-best": 2,
    }.get(method, 1)  # fmt: skip
    if cell.part == "prompt":
        better += 1
    if cell.part == "experts":
        better += 2 * log2(min(int(values["num_experts"]), BASE.moe.num_experts))
        better += 0.5 * (int(values["num_experts"]) > BASE.moe.num_experts)
        better -= 2 * log2(BASE.moe.num_experts)
    if "max_steps" in values:
        better -= abs(log2(int(values["max_steps"]) / BASE.stage1.max_steps))
    if "official" in values.values() or "timestep_std" in values:
        better -= 1
    if cell.part == "top-k" and "num_experts" in values:
        better += 0.5
    if cell.part in ("shape", "masks", "one-task"):
        better -= 2
    if "target_scale" in values:
        better -= 3 * max(1 - float(values["target_scale"]), 0)
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


def write_results(folder, slope=1.0, seeds=(0, 1, 2)):
    """Write results of all cells and return the table; `slope` favours all claims."""
    rows, curves, played = [], {}, {}
    for cell in cells():
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
        row |= dict.fromkeys(DOMAINS, value)
        asked = float(cell.values.get("evaluation.target_scale", 1))
        row |= {f"{domain} return": 0.9 * asked for domain in DOMAINS}
        if cell.part == "experts":
            row["oracle"] = value + slope * int(cell.values["moe.num_experts"])
        rows.append(row)
        conflict = {"history": history(slope, tasks)}
        inside = {"history": expert_history(slope, seed, cell.values["method"])}
        curves[cell.name] = {
            **{f"{kind}/conflict": conflict for kind in ("backbone", "baseline")},
            **{f"{kind}/expert_conflict": inside for kind in ("expert", "router", "baseline")},
        }
    file = folder / "lite.csv"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with file.open("w") as lines:
        writer = csv.DictWriter(lines, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    (folder / "lite_conflict.json").write_text(json.dumps(curves))
    (folder / "lite_tasks.json").write_text(json.dumps(played))
    return file
