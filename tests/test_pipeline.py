"""The commands, end to end, on trajectories from real simulators."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
import torch
from conftest import TINY, write_dataset

import m3dt
from m3dt.cli import main
from m3dt.data import DatasetStore
from m3dt.data.format import DatasetIndex
from m3dt.registry import Registry

TASKS = ("reach-v2", "cup-catch", "ant-dir-6")
STEPS = 120
QUICK = [
    *TINY,
    f"tasks=[{','.join(TASKS)}]",
    "model.dropout=0.1",
    "loader.sampling=one_task",
    f"stage1.max_steps={STEPS}",
    f"stage2.max_steps={STEPS}",
    f"stage3.max_steps={STEPS}",
    *(f"stage{i}.checkpoint_every=10" for i in (1, 2, 3)),
    "callbacks.conflict.every_n_steps=20",
    "callbacks.conflict.min_steps=1000",
    "callbacks.router_usage.every_n_steps=40",
    "grouping.num_batches=2",
    "collect.trajectories=6",
    "evaluation.episodes=1",
    "evaluation.tile=1",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collected")
    assert main(["collect", *QUICK, f"data={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A run whose stages were never interrupted."""
    run = tmp_path_factory.mktemp("finished")
    for command in ("stage1", "stage2", "stage3"):
        assert main([command, *QUICK, f"data={data}", f"run={run}"]) == 0
    return run


def call(command, run, data, *extra):
    return main([command, *QUICK, f"data={data}", f"run={run}", *extra])


def test_collected_data_is_sound(data, capsys):
    assert main(["verify", str(data)]) == 0
    assert "all sound" in capsys.readouterr().out
    store = DatasetStore.open(data, TASKS)
    for task in store.tasks:
        assert len(task.episode_ends) == 6
        # Prompts are demonstrations, the others go down to random play.
        assert task.successes[-2:].all() or task.spec.domain != "metaworld"
        spread = task.episode_returns.max() - task.episode_returns.min()
        assert task.episode_returns[-2:].max() > task.episode_returns.max() - 0.3 * spread
        assert spread > 0.2 * task.spec.target_return
        assert abs(task.actions).max() <= 1
    index = DatasetIndex.read(data)
    assert index.tasks["reach-v2"].env_id == "reach-v3"
    assert [index.tasks[t].made_by["behaviour"] for t in TASKS] == ["scripted", *["learned"] * 2]


def test_collecting_again_does_nothing(data, capsys):
    before = {p: p.stat().st_mtime_ns for p in data.iterdir()}
    assert main(["collect", *QUICK, f"data={data}"]) == 0
    assert "nothing to collect" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in data.iterdir()} == before


def test_collecting_is_reproducible_and_resumes(data, tmp_path):
    """A task lost is collected again, byte for byte."""
    copy = shutil.copytree(data, tmp_path / "copy")
    (copy / "cup-catch.hdf5").unlink()
    (copy / ".cup-catch.hdf5.0123.tmp").write_bytes(b"half")
    assert main(["collect", *QUICK, f"data={copy}"]) == 0
    assert (copy / "cup-catch.hdf5").read_bytes() == (data / "cup-catch.hdf5").read_bytes()
    assert {p.name for p in copy.iterdir()} == {p.name for p in data.iterdir()}


def test_killed_collection_equals_uninterrupted(data, tmp_path):
    """kill -9 once a task is there and others are not; the same command ends in the same bytes."""
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "m3dt", "collect", *QUICK, f"data={folder}"]
    workers = kill_after([*command, "collect.workers=1"], (folder / "dataset.json").exists)
    assert len(list(folder.glob("*.hdf5"))) < len(TASKS)
    assert workers
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))  # none lives on
    assert main(["collect", *QUICK, f"data={folder}"]) == 0
    same = {p.name: p.read_bytes() for p in data.iterdir()}
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == same


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


def test_repeating_changes_nothing_and_says_so(finished, data, capsys):
    before = {p: p.stat().st_mtime_ns for p in (finished / "registry").rglob("*")}
    for command in ("stage1", "stage2", "stage3"):
        assert call(command, finished, data) == 0
        assert "Nothing to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (finished / "registry").rglob("*")} == before


def test_evaluate_prints_a_table_and_writes_json(finished, data, tmp_path, capsys):
    file = tmp_path / "scores.json"
    arguments = ["--models", "random,backbone,expert:1,router", "--json", str(file)]
    assert call("evaluate", finished, data, *arguments) == 0
    shown = capsys.readouterr().out
    for words in (
        "random",
        "PromptDT",
        "(backbone)",
        "M3DT-Gradient",
        "(router)",
        "mean over tasks",
    ):
        assert words in shown
    scores = json.loads(file.read_text())
    assert scores["method"] == "M3DT-Gradient"
    assert list(scores["tasks"]) == list(TASKS)
    assert call("evaluate", finished, data, *arguments) == 0
    assert "Nothing to do" in capsys.readouterr().out


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
    actions = agent.predict_actions(
        torch.zeros(B, T, 39), torch.zeros(B, T, 8), torch.zeros(B, T, 1),
        torch.zeros(B, T, dtype=torch.long), torch.ones(B, T),
        torch.zeros(B, P, 39), torch.zeros(B, P, 8), torch.zeros(B, P, 1),
        torch.zeros(B, P, dtype=torch.long), torch.ones(B, P),
    )  # fmt: skip
    assert actions.shape == (B, T, 8) and actions.abs().max() <= 1


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_killed_and_resumed_equals_uninterrupted(finished, data, tmp_path, stage):
    """kill -9 after a checkpoint; the same command ends in the same bits."""
    run = tmp_path / "run"
    made = {"stage1": ["backbone"], "stage2": ["grouping", "expert"], "stage3": ["router"]}
    kinds = [kind for s in ("stage1", "stage2", "stage3") if s < stage for kind in made[s]]
    for kind in kinds:
        shutil.copytree(finished / "registry" / kind, run / "registry" / kind)
    command = [sys.executable, "-m", "m3dt", stage, *QUICK, f"data={data}", f"run={run}"]
    kill_after(command, lambda: list((run / "checkpoints").rglob("step*.ckpt")))
    assert not any((run / "registry" / kind).exists() for kind in made[stage][-1:])
    assert call(stage, run, data) == 0
    for entry in Registry(run).entries():
        assert entry.hash == Registry(finished).get(entry.kind, entry.name).hash, entry.key


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_after(command, condition):
    """Start a process, wait for a condition, and kill it with SIGKILL before it ends.

    Returns the process numbers of its children.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.002)
    pids = ["pgrep", "-P", str(process.pid)]
    children = subprocess.run(pids, capture_output=True, text=True).stdout.split()
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return children


def test_killed_after_the_conflict_stop(data, tmp_path, monkeypatch):
    """The stop itself is in the checkpoint: a resumed run must not train on."""
    early = ["callbacks.conflict.min_steps=20", "callbacks.conflict.patience=1"]
    early += ["callbacks.conflict.min_rise=-1", "callbacks.conflict.window=1"]
    assert call("stage1", tmp_path / "whole", data, *early) == 0
    whole = Registry(tmp_path / "whole").get("backbone", "main")
    conflict = whole.metrics["conflict"]
    assert whole.step < conflict["stopped_at"] < STEPS
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "save", interrupt)
        assert call("stage1", tmp_path / "killed", data, *early) == 130
    assert call("stage1", tmp_path / "killed", data, *early) == 0
    resumed = Registry(tmp_path / "killed").get("backbone", "main")
    assert (resumed.hash, resumed.step) == (whole.hash, whole.step)
    assert resumed.metrics["conflict"] == conflict


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_two_processes_equal_one(finished, data, tmp_path, stage):
    """DDP over gloo with the same global batch; only the order of sums differs."""
    kinds = [] if stage == "stage1" else ["backbone", "grouping"]
    plain = ["model.dropout=0", "stage1.max_steps=10", "stage2.max_steps=10"]
    runs = {n: tmp_path / f"ranks{n}" for n in (1, 2)}
    assert call("stage1", runs[1], data, *plain) == 0
    if kinds:
        assert call("group", runs[1], data, *plain) == 0
        for kind in kinds:
            folder = Path("registry") / kind
            shutil.copytree(runs[1] / folder, runs[2] / folder)
        assert call("stage2", runs[1], data, *plain) == 0
    two = [f"data={data}", f"run={runs[2]}", "trainer.devices=2", "trainer.strategy=ddp"]
    command = [sys.executable, "-m", "m3dt", stage, *QUICK, *plain, *two]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    for entry in Registry(runs[1]).entries():
        alone, together = Registry(runs[1]), Registry(runs[2])
        other = together.get(entry.kind, entry.name)
        for name, tensor in alone.tensors(entry).items():
            torch.testing.assert_close(together.tensors(other)[name], tensor, rtol=0, atol=2e-4)
    if stage == "stage1":
        histories = [
            Registry(run).get("backbone", "main").metrics["conflict"]["history"]
            for run in runs.values()
        ]
        assert histories[1][0]["mean"] == pytest.approx(histories[0][0]["mean"], abs=1e-5)
        assert histories[1][0]["pairwise"] == pytest.approx(histories[0][0]["pairwise"], abs=1e-5)


def test_a_gradient_that_is_not_finite_stops_the_run(data, tmp_path, capsys):
    broken = shutil.copytree(data, tmp_path / "data")
    store = DatasetStore.open(broken, ["reach-v2"]).tasks[0]
    with h5py.File(broken / "reach-v2.hdf5", "r+") as file:
        file["actions"][: store.num_training_steps] = float("nan")
    assert call("stage1", tmp_path / "run", broken) == 1
    assert "not finite at step 0" in capsys.readouterr().err
    assert Registry(tmp_path / "run").entries() == []


def test_interrupted_run_refuses_other_settings(finished, data, tmp_path, capsys):
    settings = tmp_path / "run" / "checkpoints" / "stage1" / "settings.json"
    assert call("stage1", tmp_path / "run", data, "stage1.max_steps=2") == 0
    shutil.rmtree(tmp_path / "run" / "registry")
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"seed": 5}))
    assert call("stage1", tmp_path / "run", data, "stage1.max_steps=2") == 2
    assert "seed was 5, is 0" in capsys.readouterr().err


def test_later_stages_refuse_another_backbone_or_data(error_of, finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    other = shutil.copytree(data, tmp_path / "data")
    index = DatasetIndex.read(other)
    entry = index.tasks["reach-v2"]
    index.tasks["reach-v2"] = type(entry)(**{**vars(entry), "sha256": "0"})
    index.write(other)
    assert "other settings: data" in error_of("stage2", *QUICK, f"data={other}", f"run={run}")
    changed = error_of("stage3", *QUICK, f"data={data}", f"run={run}", "loader.std_floor=0.5")
    assert "loader.std_floor was 0.01, is 0.5" in changed
    shutil.rmtree(run / "registry" / "backbone")
    assert call("stage1", run, data, "stage1.max_steps=4") == 0
    message = error_of("stage2", *QUICK, f"data={data}", f"run={run}", "stage1.max_steps=4")
    assert "trained on another backbone/main" in message


@pytest.fixture
def error_of(capsys):
    """Run a command that must fail with exit code 2, and return its one message."""

    def run(*arguments):
        assert main([str(a) for a in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("m3dt: ") and captured.err.count("\n") == 1
        assert "Traceback" not in captured.err + captured.out
        return captured.err

    return run


def test_one_clear_message_each(error_of, finished, data, tmp_path):
    run, folder = f"run={tmp_path / 'run'}", f"data={data}"
    message = error_of("stage2", *QUICK, folder, run)
    assert "has no backbone yet" in message and "m3dt stage1" in message
    assert "stage1.max_steps" in error_of("stage1", "stage1.max_step=3")
    assert "nowhere" in error_of("stage1", *QUICK, f"data={tmp_path / 'nowhere'}", run)
    assert "sweep-v2" in error_of("stage1", *QUICK, "tasks=[reach-v2,sweep-v2]", folder, run)
    assert "no trained model" in error_of("evaluate", *QUICK, folder, run)
    assert "other settings" in error_of("stage1", *QUICK, folder, f"run={finished}", "seed=9")
    assert "seed was 0, is 9" in error_of("stage1", *QUICK, folder, f"run={finished}", "seed=9")
    assert "task groups first" in error_of(
        "stage2", *QUICK, folder, f"run={lone_backbone(finished, tmp_path)}", "stage2.shard=0/2"
    )
    assert "trainer: " in error_of("stage1", *QUICK, folder, run, "trainer.precision=foo")
    assert "only 3 tasks" in error_of("stage1", *QUICK, folder, run, "moe.num_experts=4")
    assert "every_n_step'" in error_of("collect", "callbacks.conflict.every_n_step=1")
    shutil.rmtree(tmp_path / "run")
    assert "--models" in error_of("evaluate", *QUICK, run, "--models", "best")
    typo = ("collect.policies=typo", f"data={tmp_path}/d")
    assert "typo: no folder" in error_of("collect", *QUICK, *typo)
    assert "collect.trajectories=7" in error_of("collect", *QUICK, folder, "collect.trajectories=7")
    assert not (tmp_path / "run").exists() and not (tmp_path / "d").exists()


def lone_backbone(finished, tmp_path):
    run = tmp_path / "lone"
    shutil.copytree(finished / "registry" / "backbone", run / "registry" / "backbone")
    return run


def test_truncated_data_is_one_message(error_of, tmp_path):
    folder = write_dataset(tmp_path / "data", TASKS)
    path = folder / "cup-catch.hdf5"
    path.write_bytes(path.read_bytes()[:3000])
    message = error_of("stage1", *QUICK, f"data={folder}", f"run={tmp_path / 'run'}")
    assert "cup-catch.hdf5" in message and "m3dt collect" in message
    assert "1 problems" in error_of("verify", folder)


def test_missing_experts_are_named(error_of, finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "registry" / "expert" / "1")
    shutil.rmtree(run / "registry" / "router")
    message = error_of("stage3", *QUICK, f"data={data}", f"run={run}")
    assert "1 of 2 experts are missing: 1" in message


def test_a_lost_expert_is_trained_again_alone(finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    kept = Registry(run).get("expert", "0")
    shutil.rmtree(run / "registry" / "expert" / "1")
    assert call("stage2", run, data) == 0
    registry, old = Registry(run), Registry(finished)
    assert registry.get("expert", "0") == kept
    again, before = (r.tensors(r.get("expert", "1")) for r in (registry, old))
    for name, tensor in before.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-4)


def test_shards_share_the_experts(finished, data, tmp_path):
    run = tmp_path / "run"
    for kind in ("backbone", "grouping"):
        shutil.copytree(finished / "registry" / kind, run / "registry" / kind)
    assert call("stage2", run, data, "stage2.shard=1/2") == 0
    assert [e.key for e in Registry(run).entries() if e.kind == "expert"] == ["expert/1"]
    assert call("stage2", run, data, "stage2.shard=0/2") == 0
    assert call("stage3", run, data, "stage3.max_steps=2") == 0


def test_command_help_lists_the_commands():
    command = [sys.executable, "-m", "m3dt", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert result.returncode == 0
    for name in ("collect", "verify", "stage1", "group", "stage2", "stage3", "evaluate"):
        assert name in result.stdout
