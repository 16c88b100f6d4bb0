"""Shared fixtures; helper modules of this folder are importable by name."""

import shutil
import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("fuzz")

from fuzz.fixtures import cases, made, pytest_terminal_summary  # noqa: E402, F401
from moments import Moments  # noqa: E402
from tensorboard.summary.writer import event_file_writer  # noqa: E402

from m3dt.cli import main  # noqa: E402
from m3dt.config import load_config  # noqa: E402
from m3dt.data.format import DatasetIndex, Trajectory, write_task  # noqa: E402
from m3dt.tasks import get_task, registration  # noqa: E402


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out tests by their marks
def pytest_collection_modifyitems(items):
    """Mark tests that collect data or train runs as long; others bear the mark themselves."""
    for item in items:
        if not {"data", "finished", "made"}.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.long)
    # The longest tests of `make faults` first, so that its workers end together.
    items.sort(key=lambda item: item.path.stem != "test_soak")


@pytest.fixture(autouse=True)
def forget_tasks_of_tests():
    """Forget tasks that a test has registered: each new worker would import its file, and torch."""
    before = dict(registration._own)
    yield
    for name, own in [*registration._own.items()]:
        if "test_" not in own.module:
            continue
        if name in before:
            registration._own[name] = before[name]
        else:
            del registration._own[name]


@pytest.fixture
def commands_here(monkeypatch):
    """Run a study's commands in this process: a new one imports torch for seconds.

    The study of tests/test_study.py starts processes.
    """
    from m3dt.study import runner  # other tests also run where m3dt lacks a part

    monkeypatch.setattr(runner, "_run_words", lambda words, clock: main(list(words)))


# One task of each width: 39/4, 24/6 and 27/8.
SYNTHETIC_TASKS = ("reach-v2", "walker-walk", "ant-dir-3")
SYNTHETIC_LENGTHS = (30, 12, 25, 3, 18, 30)


def write_dataset(folder, tasks, lengths=SYNTHETIC_LENGTHS, seed=0):
    """Write random trajectories in the real format and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    index = DatasetIndex({}, {})
    for task in tasks:
        spec = get_task(task)
        offset = rng.normal(size=spec.state_dim)
        trajectories = [
            Trajectory(
                rng.normal(size=(T, spec.state_dim)) + offset,
                rng.uniform(-1, 1, (T, spec.action_dim)),
                rng.normal(size=T),
                bool(rng.integers(2)),
            )
            for T in lengths
        ]
        index.tasks[task] = write_task(folder, spec, trajectories, {"seed": seed})
    index.write(folder)
    return folder


@pytest.fixture
def one_thread():
    """Let torch compute on one thread: then a row rounds alike however many others there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def pictures_of_one_pixel(request):
    """Spare trainings the drawing of figures for TensorBoard, a quarter of a short one's time.

    Not in the file that compares what they log.
    """
    if request.path.stem == "test_logs":
        yield
        return

    def drawn(figure):
        plt.close(figure)
        return np.zeros((3, 1, 1), np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.utils.tensorboard.writer.figure_to_image", lambda f, close: drawn(f))
        yield


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory):
    """A dataset of three tasks with different widths and ragged trajectories."""
    return write_dataset(tmp_path_factory.mktemp("synthetic"), SYNTHETIC_TASKS)


TINY = (
    "model.n_layer=2",
    "model.n_head=2",
    "model.n_embd=16",
    "model.context_length=4",
    "model.prompt_length=2",
    "moe.num_experts=2",
    "moe.router=token",
    "loader.batch_size=4",
    "trainer.accelerator=cpu",
)


@pytest.fixture
def tiny():
    """Return the overrides that make every stage a matter of seconds."""
    return list(TINY)


@pytest.fixture
def tiny_config(tiny):
    """A small configuration; overrides may be added."""

    def make(*overrides, conf="quickstart"):
        return load_config(conf, [*tiny, *overrides])

    return make


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id):
    """Return a function that fills a folder in one worker of pytest-xdist and shows it to all."""
    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent

    def make(name, fill):
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def agent(tmp_path_factory):
    """An agent of two tasks that no training made."""
    import small_agent  # it needs the whole package

    return small_agent.make_agent(
        write_dataset(tmp_path_factory.mktemp("agent"), small_agent.TASKS)
    )


@pytest.fixture(scope="session")
def agents(synthetic):
    """An agent of each kind, by its method's name; their weights are random."""
    from random_agents import METHODS, make_agent

    return {method: make_agent(synthetic, method) for method in METHODS}


@pytest.fixture(scope="session")
def data(made_once):
    """Trajectories of three domains from real simulators; copy before changing them."""
    from quick_run import QUICK

    def collect(folder):
        assert main(["collect", *QUICK, f"data={folder}"]) == 0

    return made_once("collected", collect)


@pytest.fixture(scope="session")
def finished(made_once, tmp_path_factory, data):
    """A run on them whose stages were never interrupted; copy before changing it.

    Each worker has a copy: commands lock a run and write their scores and logs into it.
    """
    from quick_run import call

    def train(folder):
        for stage in ("stage1", "stage2", "stage3"):
            assert call(stage, folder, data) == 0

    whole = made_once("finished", train)
    return shutil.copytree(whole, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="session")
def official(tmp_path_factory):
    """The authors' sample files, imported."""
    from imports import OFFICIAL, import_from

    folder = tmp_path_factory.mktemp("official") / "data"
    import_from(OFFICIAL, folder, "npz")
    return folder


@pytest.fixture
def moments(monkeypatch):
    """Return the actions; event files that are begun within a second keep their order."""
    monkeypatch.setattr(Moments, "actions", {})
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(10**6))
    return Moments.actions


@pytest.fixture
def made_up(tmp_path):
    """Return a function that writes made-up results of a complete study; see `write_results`."""
    from made_up_study import write_results  # reads study files, which other tests do not need

    return partial(write_results, tmp_path)
