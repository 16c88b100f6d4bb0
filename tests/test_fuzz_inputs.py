"""Drawn configurations, datasets and imports: accepted and right, or refused in one message."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from conftest import SYNTHETIC_TASKS, write_dataset
from fuzz import checks, configurations, datasets, own, sources
from fuzz.counts import COUNTS
from fuzz.fixtures import copy_of, drawn
from fuzz.invariants import run_command, run_here
from fuzz.sound_run import words_for
from fuzz.values import mutated
from hypothesis import strategies as st
from imports import left_alone

from m3dt.behaviour import Library
from m3dt.behaviour.player import reference_return
from m3dt.config import LoaderConfig, ModelConfig, load_config
from m3dt.data import DatasetStore, M3DTDataModule, TaskContext, TaskStream
from m3dt.data.collect import TaskCollector
from m3dt.data.format import DatasetIndex, write_task
from m3dt.data.verify import verify
from m3dt.tasks import registration
from m3dt.utils.errors import RunError, UserError


def test_counts():
    """`make faults` draws 5,000 cases, 200 or more of them as commands."""
    assert sum(count.all for count in COUNTS.values()) == 5000
    assert sum(count.all for count in COUNTS.values() if count.command) >= 200


@drawn("overrides")
def test_overrides(cases):
    def case(data):
        accepted("quickstart", configurations.overrides(data))

    cases(case)


@drawn("configuration files")
def test_configuration_files(cases):
    def case(data):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "drawn.yaml"
            path.write_bytes(configurations.file_content(data))
            accepted(str(path), [])

    cases(case)


def accepted(conf, overrides):
    """Return a configuration, which must be written as it was read, or None if it is refused."""
    try:
        config = load_config(conf, overrides)
    except UserError as error:
        assert str(error)
        return None
    with tempfile.TemporaryDirectory() as folder:
        checks.check_round_trip(config, Path(folder))
    return config


@drawn("trained configurations")
def test_trained_configurations(cases, made):
    cases(lambda data: train_drawn(data, made, run_here))


@drawn("configurations as commands")
def test_configurations_as_commands(cases, made):
    cases(lambda data: train_drawn(data, made, run_command))


def train_drawn(data, made, run_words):
    command, drawn = configurations.short_training(data)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [*words_for(run, made / "data"), *drawn]
        config = accepted("quickstart", words)
        outcome = run_words(command, *words)
        assert config or outcome.code == 2
        found = checks.check_registered(run)
        assert outcome.code or found, outcome
        for key in found:
            checks.check_lineage(run, key)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("sound"), SYNTHETIC_TASKS)


@drawn("damaged datasets")
def test_damaged_datasets(cases, sound):
    """A damaged file is detected when it is opened, or by verify."""

    def case(data):
        with copy_of(sound) as folder:
            name = data.draw(st.sampled_from(["dataset.json", "reach-v2.hdf5"]))
            before = (folder / name).read_bytes()
            after = mutated(data, before)
            (folder / name).write_bytes(after)
            try:
                read_dataset(folder, steps=1)
                problems = verify(folder)["problems"]
            except UserError as error:
                problems = [str(error)]
            assert problems or after == before or name == "dataset.json"

    cases(case)


@drawn("wrong datasets")
def test_wrong_datasets(cases, sound):
    """Refused by name, or consistent; whatever training reads of the others is finite."""

    def case(data):
        with copy_of(sound) as folder:
            datasets.make_wrong(data, folder)
            try:
                problems = verify(folder)["problems"]
            except UserError as error:
                problems = [str(error)]
            assert all(str(folder) in problem or "unknown task" in problem for problem in problems)
            if not problems:
                checks.check_dataset(folder)
            try:
                read = read_dataset(folder, steps=3)
            except UserError as error:
                assert problems or "lacks" in str(error)
                return
            assert all(tensor.isfinite().all() for tensor in read)

    cases(case)


def read_dataset(folder, steps):
    """Return all tensors that a training and an agent read of a dataset."""
    store = DatasetStore.open(folder, SYNTHETIC_TASKS)
    model = ModelConfig(n_embd=8, n_head=1, context_length=5, prompt_length=3)
    streams = TaskStream(0, (0, 1, 2))
    module = M3DTDataModule(store, LoaderConfig(batch_size=4), model, 0, 1, streams)
    batches = [module.batch(step) for step in range(steps)]
    assert batches[0].segment.states.shape == (4, 5, 39)
    context = TaskContext.from_store(store, LoaderConfig(), model)
    return [t for b in batches for t in (*b.segment, *b.prompt)] + [*context.tensors().values()]


@drawn("datasets as commands")
def test_datasets_as_commands(cases, sound):
    def case(data):
        with copy_of(sound) as folder:
            datasets.make_wrong(data, folder)
            file = folder.parent / "report.json"
            if run_command("verify", folder, "--json", file).code == 0:
                checks.check_dataset(folder)
                assert json.loads(file.read_text())["problems"] == []

    cases(case)


@drawn("own tasks")
def test_own_tasks(cases):
    """Refused in one message, or their data are sound and their scores lie in 0 to 100."""

    def case(data):
        drawn_task = own.task(data)
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(registration, "_own", dict(registration._own))
            try:
                returns = collect_own(drawn_task, Path(folder))
            except (UserError, RunError) as error:
                assert str(error) and "\n" not in str(error)
                assert not (Path(folder) / "dataset.json").exists()
                return
            assert verify(Path(folder))["problems"] == []
            try:
                (store,) = DatasetStore.open(folder, [drawn_task.spec.name]).tasks
                scores = [store.spec.normalized_score(total, False) for total in returns]
            except (UserError, RunError) as error:
                assert drawn_task.spec.name in str(error) and "\n" not in str(error)
                return
            assert store.spec.is_complete and all(0 <= score <= 100 for score in scores)
            assert store.spec.score is None or store.spec.normalized_score(max(returns), True) >= 0

    cases(case)


def collect_own(task, folder):
    """Register and collect a task as `m3dt collect` does, here; return the returns."""
    registration.register_task(task.spec, task.make_env, task.policy)
    collector = TaskCollector(task.spec, 0, Library())
    trajectories = [collector.trajectory(number, 4) for number in range(4)]
    made_by = {"seed": 0, **collector.player.ladder.describe()}
    entry = write_task(folder, task.spec, trajectories, made_by, reference_return(task.spec))
    index = DatasetIndex({task.spec.name: entry}, {})
    index.write(folder)
    return [trajectory.episode_return for trajectory in trajectories]


SOURCES = {
    f"{prefix} {kind}": getattr(sources, f"{prefix}_{kind}")
    for prefix, kind in (
        ("damaged", "npz"), ("wrong", "npz"), ("damaged", "promptdt"), ("damaged", "tdmpc2"),
        ("wrong", "minari"),
    )
}  # fmt: skip


@drawn(*SOURCES)
def test_imports(cases, request):
    """What an import takes is sound; one that is refused leaves nothing."""
    make = SOURCES[request.node.callspec.params["cases"][0]]

    def case(data):
        source, kind = make(data)
        target = Path(tempfile.mkdtemp()) / "data"
        try:
            if run_here("import", source, target, "--format", *kind.split()).code:
                assert not target.exists() or left_alone(target)
            else:
                assert verify(target)["problems"] == []
        finally:
            shutil.rmtree(source)
            shutil.rmtree(target.parent)

    cases(case)
