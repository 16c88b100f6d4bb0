"""A run of seconds on random data, whose registry, results and settings strategies change."""

import json

import pytest
from conftest import TINY, write_dataset

from m3dt.cli import main
from m3dt.evaluation.evaluator import Journal

BY_PROMPT = "moe.router=prompt"
TASKS = ("ant-dir-3", "cheetah-vel-7")  # of the shortest episodes
NEW = "cheetah-vel-9"  # by which the run is extended
MODELS = (
    "backbone/main", "expert/0", "expert/1", "grouping/main", "router/main", "router/prompt",
)  # fmt: skip
SHORT = [
    *TINY,
    f"tasks=[{','.join(TASKS)}]",
    *(f"stage{i}.max_steps=4" for i in (1, 2, 3)),
    *(f"stage{i}.checkpoint_every=2" for i in (1, 2, 3)),
    "baseline.max_steps=2",
    "prompt_router.max_steps=4",
    "prompt_router.batch_size=4",
    "prompt_router.checkpoint_every=2",
    "harmodt.update_every=1",
    "callbacks.conflict.every_n_steps=2",
    "callbacks.expert_conflict.every_n_steps=2",
    "callbacks.router_usage.every_n_steps=2",
    "grouping.num_batches=2",
    "grouping.restarts=3",
    "evaluation.episodes=1",
    "evaluation.tile=1",
    "evaluation.workers=1",
]


def words_for(run, data):
    """Return the overrides of a run on a dataset."""
    return [*SHORT, f"data={data}", f"run={run}"]


def make_run(folder):
    """Fill a folder with a dataset, two runs of other seeds, and the scores of the first."""
    data = write_dataset(folder / "data", TASKS)
    write_dataset(folder / "new", [NEW])
    for seed in (0, 1):
        words = words_for(folder / f"run{seed}", data)
        assert main(["train", *words, f"seed={seed}"]) == 0
        assert main(["stage3", *words, f"seed={seed}", BY_PROMPT]) == 0
    words = words_for(folder / "run0", data)
    scores = folder / "scores.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "delete", lambda self: None)  # strategies change journals too
        assert main(["evaluate", *words, "--models", "router", "--json", str(scores)]) == 0


def scores_of(folder):
    """Return the scores of the router, as they were first computed."""
    return router_of(folder / "scores.json")


def router_of(file):
    """Return the router's result in what `m3dt evaluate --json` wrote."""
    return json.loads(file.read_text())["models"]["router"]
