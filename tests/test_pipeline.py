"""The commands, end to end, on trajectories from real simulators."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from quick_run import ONE_TASK, STEPS, TASKS, TWO_TASKS, call

import m3dt
from m3dt.cli import main
from m3dt.data import Segment
from m3dt.runs import Entry, Registry
from m3dt.runs.evaluations import Conditions, evaluations, newest


def test_stages_fill_the_registry(finished, capsys):
    entries = Registry(finished).entries()
    keys = ["backbone/main", "grouping/main", "expert/0", "expert/1", "router/main"]
    assert [entry.key for entry in entries] == keys
    backbone, grouping, *experts, router = entries
    assert grouping.parents == {"backbone/main": backbone.hash}
    assert sorted(t for g in grouping.metrics["groups"] for t in g) == sorted(TASKS)
    assert [e.tasks for e in experts] == grouping.metrics["groups"]
    assert router.parents == {e.key: e.hash for e in (backbone, *experts)}
    assert len(backbone.metrics["conflict"]["history"]) == STEPS // 20 + 1
    assert torch.tensor(router.metrics["router_usage"]).shape == (3, 2)
    assert main(["registry", str(finished)]) == 0
    assert "router/main" in capsys.readouterr().out
    assert not (finished / "checkpoints" / "stage1").exists()


def test_grouping_measures_on_the_resident_dataset(finished, data, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "registry" / "grouping")
    assert call("group", run, data, "loader.resident=on", "grouping.memory_gb=1e-4") == 0
    assert "million transitions" in capsys.readouterr().out
    grouping, before = (Registry(r).get("grouping", "main") for r in (run, finished))
    assert grouping.metrics == before.metrics
    name = "agreement_gram"
    gram, expected = (
        Registry(r).tensors(e)[name] for r, e in ((run, grouping), (finished, before))
    )
    torch.testing.assert_close(gram, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


def test_repeating_changes_nothing_and_says_so(finished, data, capsys):
    before = {p: p.stat().st_mtime_ns for p in (finished / "registry").rglob("*")}
    for command in ("stage1", "stage2", "stage3"):
        assert call(command, finished, data) == 0
        assert "Nothing to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (finished / "registry").rglob("*")} == before


def test_settings_newer_than_a_run_had_their_defaults(finished, data, tmp_path, capsys):
    """A run older than a setting counts as finished if the setting has its default."""
    run = shutil.copytree(finished, tmp_path / "run")
    path = run / "registry" / "backbone" / "main" / "entry.json"
    entry = json.loads(path.read_text())
    del entry["settings"]["model"]["residual"], entry["settings"]["stage1"]["weight_decay"]
    path.write_text(json.dumps(asdict(Entry(**entry).sealed())))
    assert call("stage1", run, data) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert call("stage1", run, data, "model.residual=official") == 2
    assert "model.residual was paper, is official" in capsys.readouterr().err


def test_evaluate_prints_a_table_and_writes_json(finished, data, tmp_path, capsys):
    file = tmp_path / "scores.json"
    arguments = ["--models", "random,nothing,backbone,expert:1,router", "--json", str(file)]
    assert call("evaluate", finished, data, *arguments) == 0
    shown = capsys.readouterr().out
    for words in (
        "random",
        "nothing",
        "(n = 1)",  # one episode has no interval
        "PromptDT",
        "(backbone)",
        "M3DT-Gradient",
        "(router)",
        "mean over tasks",
    ):
        assert words in shown
    results = json.loads(file.read_text())["models"]
    assert list(results) == ["random", "nothing", "backbone", "expert:1", "router"]
    scores = results["router"]
    assert scores["method"] == "M3DT-Gradient"
    assert list(scores["tasks"]) == list(TASKS)
    assert call("evaluate", finished, data, *arguments) == 0
    assert "Nothing to do" in capsys.readouterr().out
    # A run that reuses the backbone reuses its scores, unless the settings differ.
    other = ["--models", "backbone", "--json", str(file), f"reuse={finished}"]
    assert call("stage1", tmp_path / "run", data, f"reuse={finished}") == 0
    assert call("evaluate", tmp_path / "run", data, *other) == 0
    assert "Nothing to do" in capsys.readouterr().out
    (told,) = json.loads(file.read_text())["models"].values()
    assert told["run"] == str(tmp_path / "run")
    (kept,) = evaluations(tmp_path / "run")[0]
    assert kept.result == told


def test_other_tasks_episodes_and_seeds_are_kept_beside_each_other(finished, data, tmp_path):
    """Each has a file and a page of TensorBoard, and none is played twice."""
    run = tmp_path / "run"
    shutil.copytree(finished / "registry", run / "registry")
    words = ["--models", "random", TWO_TASKS]
    other = ([], ["evaluation.seed=1"], ["evaluation.episodes=2"], [ONE_TASK])
    for changed in other:
        assert call("evaluate", run, data, *words, *changed) == 0
    files = {path: path.stat().st_mtime_ns for path in (run / "evaluation").glob("*.json")}
    found, notes = evaluations(run)
    assert notes == [] and len(files) == len(found) == len({one.conditions for one in found}) == 4
    assert [(len(one.result["tasks"]), *one.conditions[1:]) for one in found] == [
        (2, 1, 0), (2, 1, 1), (2, 2, 0), (1, 1, 0)
    ]  # fmt: skip
    assert newest(found)["random"] == found[-1]
    assert newest(found, Conditions(seed=1))["random"] == found[1]
    pages = {path.name for path in (run / "logs" / "evaluation").iterdir()}
    assert pages == {path.stem for path in files}
    for changed in other:
        assert call("evaluate", run, data, *words, *changed) == 0
    assert files == {p: p.stat().st_mtime_ns for p in (run / "evaluation").glob("*.json")}


class CountingCallback(pl.Callback):
    """A callback of somebody else, whose state changes as it trains."""

    def __init__(self, patience=3):
        self.patience = patience
        self.steps = 0

    def on_train_batch_end(self, *args):
        self.steps += 1


class FirstWeightsCallback(pl.Callback):
    """Keeps the weights from before the first step."""

    def on_train_start(self, trainer, stage):
        self.weights = {n: p.detach().clone() for n, p in stage.trainable().items()}

    def selected_weights(self):
        return 0, self.weights


def test_weights_of_step_0_are_registered_as_such(data, tmp_path):
    own = "callbacks.first={class: test_pipeline.FirstWeightsCallback, stages: [stage1]}"
    few = ("stage1.max_steps=2", "callbacks.conflict=null", own)
    assert call("stage1", tmp_path / "run", data, *few) == 0
    assert Registry(tmp_path / "run").get("backbone", "main").step == 0


def test_what_counts_of_callbacks(data, tmp_path, capsys):
    """A foreign one's arguments count, since it might stop; those of an observer do not."""
    run = tmp_path / "run"
    own = "{{class: test_pipeline.CountingCallback, stages: [stage1], patience: {}}}"
    few = ("stage1.max_steps=2", "callbacks.conflict.stop=false")
    assert call("stage1", run, data, *few, f"callbacks.count={own.format(3)}") == 0
    assert "Nothing to do" not in capsys.readouterr().out
    observed = "callbacks.conflict.every_n_steps=1"
    for more in ((), (observed,), ("callbacks.conflict=null",), ("callbacks.progress=null",)):
        assert call("stage1", run, data, *few, f"callbacks.count={own.format(3)}", *more) == 0
        assert "Nothing to do" in capsys.readouterr().out
    assert call("stage1", run, data, *few, f"callbacks.count={own.format(4)}") == 2
    assert "patience was 3, is 4" in capsys.readouterr().err
    assert call("stage1", run, data, *few, "trainer.precision=bf16-mixed") == 2


@pytest.mark.parametrize(
    ("kind", "name", "experts"),
    [(None, None, 2), ("router", None, 2), ("expert", "1", 1), ("backbone", None, 0)],
)
def test_load_gives_a_ready_agent(finished, kind, name, experts):
    agent = m3dt.load(finished, kind=kind, name=name)
    assert len(agent.model.mixtures) == (2 if experts else 0)
    assert all(mixture.num_experts == experts for mixture in agent.model.mixtures)
    assert not agent.model.training
    B, T, P = 2, 3, 2
    segment, prompt = (
        Segment(
            torch.zeros(B, length, 39), torch.zeros(B, length, 8), torch.zeros(B, length, 1),
            torch.zeros(B, length, dtype=torch.long), torch.ones(B, length),
        ) for length in (T, P)
    )  # fmt: skip
    actions = agent.predict(segment, prompt)
    assert actions.shape == (B, T, 8) and actions.abs().max() <= 1


def test_command_help_lists_the_commands():
    command = [sys.executable, "-m", "m3dt", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert result.returncode == 0
    for name in ("collect", "verify", "stage1", "group", "stage2", "stage3", "evaluate"):
        assert name in result.stdout


def test_another_number_of_threads_is_refused_on_resuming(data, tmp_path, monkeypatch, capsys):
    """The last bits of products depend on it; the message names the variable that sets it."""
    run, short = tmp_path / "run", ["stage1.max_steps=2", "callbacks.conflict=null"]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # torch has read it before
    before = torch.get_num_threads()

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    try:
        torch.set_num_threads(2)
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "save", interrupt)
            assert call("stage1", run, data, *short) == 130
        torch.set_num_threads(1)
        assert call("stage1", run, data, *short) == 2
        assert "trainer.OMP_NUM_THREADS was 2, is 1" in capsys.readouterr().err
        torch.set_num_threads(2)
        assert call("stage1", run, data, *short) == 0
    finally:
        torch.set_num_threads(before)


def test_registered_is_said_of_what_the_registry_holds(data, tmp_path, monkeypatch, capsys):
    """Here the process takes itself for another than the first rank, which registers."""
    monkeypatch.setattr("m3dt.training.job.is_first_rank", lambda: False)
    few = ("stage1.max_steps=2", "callbacks.conflict=null")
    assert call("stage1", tmp_path / "run", data, *few) == 1
    told = capsys.readouterr()
    assert "no backbone/main in" in told.err and "registered" not in told.out


def test_results_of_a_run_that_was_moved_name_its_folder(finished, data, tmp_path, capsys):
    run, moved, file = tmp_path / "run", tmp_path / "moved", tmp_path / "scores.json"
    shutil.copytree(finished, run)
    words = ["--models", "random", "--json", str(file), ONE_TASK, "evaluation.seed=5"]
    for folder, stored in ((run, False), (moved, True)):
        if stored:
            run.rename(moved)
        assert call("evaluate", folder, data, *words) == 0
        assert ("Nothing to do" in capsys.readouterr().out) == stored
        assert json.loads(file.read_text())["models"]["random"]["run"] == str(folder)


def test_results_can_go_to_another_folder(finished, data, tmp_path, capsys):
    """As of a run that somebody else keeps, and that cannot be written."""
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    out = tmp_path / "out"
    words = ["--models", "random", "--out", str(out), "evaluation.seed=4", ONE_TASK]
    assert call("evaluate", finished, data, *words) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    (file,) = (out / "evaluation").glob("random.*.json")
    assert (out / "logs" / "evaluation" / file.stem).is_dir()
    assert call("evaluate", finished, data, *words) == 0
    assert "Nothing to do" in capsys.readouterr().out
