"""Store, sampler and DataModule against naive code."""

import pickle
import re
from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from conftest import SYNTHETIC_LENGTHS, SYNTHETIC_TASKS, write_dataset

from m3dt.config import LoaderConfig, ModelConfig
from m3dt.data import DatasetStore, ExpertStreams, M3DTDataModule, TaskContext, TaskStream
from m3dt.data.draws import rows_by_task, split_trajectories
from m3dt.data.format import DatasetIndex
from m3dt.data.resident import ResidentData
from m3dt.data.sampler import TaskSampler
from m3dt.data.verify import verify
from m3dt.tasks import get_task
from m3dt.utils.errors import UserError

MODEL = ModelConfig(n_layer=1, n_head=1, n_embd=8, context_length=6, prompt_length=4)


@pytest.fixture
def store(synthetic):
    return DatasetStore.open(synthetic, SYNTHETIC_TASKS)


def module(store, streams=None, **loader):
    loader = LoaderConfig(**{"batch_size": 6, **loader})
    streams = ExpertStreams(tuple(streams)) if streams else TaskStream(0, (0, 1, 2))
    return M3DTDataModule(store, loader, MODEL, 11, 1, streams)


def trajectory(folder, task, number):
    """Read one trajectory with h5py, without the code under test."""
    with h5py.File(folder / f"{task}.hdf5") as file:
        ends = file["episode_ends"][:]
        start = 0 if number == 0 else ends[number - 1]
        return {k: file[k][start : ends[number]] for k in ("observations", "actions", "rewards")}


def naive_segment(folder, task, number, start, stop, length):
    """Build one padded row, step by step."""
    spec = get_task(task)
    data = trajectory(folder, task, number)
    training = np.concatenate(
        [trajectory(folder, task, i)["observations"] for i in range(len(SYNTHETIC_LENGTHS) - 2)]
    ).astype(np.float64)
    mean, std = np.zeros(39), np.ones(39)
    mean[: spec.state_dim] = training.mean(axis=0)
    std[: spec.state_dim] = np.maximum(training.std(axis=0), 0.01)
    rows = {k: [] for k in ("states", "actions", "returns_to_go", "timesteps", "attention_mask")}
    for _ in range(length - (stop - start)):
        rows["states"].append((np.zeros(39) - mean) / std)
        rows["actions"].append(np.full(8, -10.0))
        rows["returns_to_go"].append([0.0])
        rows["timesteps"].append(0)
        rows["attention_mask"].append(0.0)
    for t in range(start, stop):
        state, action = np.zeros(39), np.zeros(8)
        state[: spec.state_dim] = data["observations"][t]
        action[: spec.action_dim] = data["actions"][t]
        rows["states"].append((state - mean) / std)
        rows["actions"].append(action)
        rows["returns_to_go"].append(
            [data["rewards"][t:].sum(dtype=np.float64) / spec.return_scale]
        )
        rows["timesteps"].append(t)
        rows["attention_mask"].append(1.0)
    return {k: np.array(v) for k, v in rows.items()}


@pytest.mark.parametrize("task", range(3))
def test_segments_equal_naive_assembly(store, synthetic, task):
    sampler = TaskSampler(store.tasks[task], LoaderConfig(), ModelConfig())
    ends = store.tasks[task].episode_ends
    numbers = np.array([0, 0, 1, 2, 3, 5])
    starts = np.array([0, 27, 5, 24, 1, 10])
    begin = ends[numbers] - np.array(SYNTHETIC_LENGTHS)[numbers] + starts
    rows = sampler.segments(numbers, begin, 6, sampler.inputs)
    for i, (number, start) in enumerate(zip(numbers, starts, strict=True)):
        stop = min(start + 6, SYNTHETIC_LENGTHS[number])
        expected = naive_segment(synthetic, SYNTHETIC_TASKS[task], number, start, stop, 6)
        for name, value in expected.items():
            np.testing.assert_allclose(
                getattr(rows, name)[i], value, rtol=1e-5, atol=1e-5, err_msg=name
            )


@pytest.mark.parametrize("length", [4, 25])
def test_prompts_are_the_steps_before_the_last(store, synthetic, length):
    """A trajectory of 18 steps, no longer than a prompt of 25, serves whole."""
    sampler = TaskSampler(store.tasks[1], LoaderConfig(), ModelConfig())
    rows = sampler.prompts(np.array([0, 1]), length)
    for i, number in enumerate((4, 5)):
        T = SYNTHETIC_LENGTHS[number]
        start, stop = (T - 1 - length, T - 1) if length < T else (0, T)
        expected = naive_segment(synthetic, SYNTHETIC_TASKS[1], number, start, stop, length)
        np.testing.assert_array_equal(rows.timesteps[i], expected["timesteps"])
        np.testing.assert_array_equal(rows.attention_mask[i], expected["attention_mask"])
        np.testing.assert_allclose(rows.states[i], expected["states"], atol=1e-5)
        np.testing.assert_allclose(rows.returns_to_go[i], expected["returns_to_go"], atol=1e-5)


def test_training_segments_start_uniformly_over_transitions(store):
    """Trajectories are drawn by length, starts evenly, and prompts never."""
    sampler = TaskSampler(store.tasks[0], LoaderConfig(), ModelConfig())
    training, _ = split_trajectories(store.tasks[0], held_out=0)
    begin, _ = training.draw(np.random.default_rng(0), 20_000)
    rows = sampler.rows(begin, 6)
    lengths = np.array(SYNTHETIC_LENGTHS[:-2])
    first = rows.timesteps[np.arange(20_000), (rows.attention_mask == 0).sum(axis=1)]
    expected = np.array([(lengths > t).sum() for t in range(30)]) / lengths.sum()
    observed = np.bincount(first, minlength=30) / 20_000
    assert np.abs(observed - expected).max() < 0.006  # 4 standard errors


def test_batches_are_a_pure_function(store):
    first, second = module(store), module(store)
    second.batch(4)
    for a, b in zip(flatten(first.batch(9)), flatten(second.batch(9)), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.batch(9).segment.states, first.batch(12).segment.states)


def flatten(batch):
    return [*batch.segment, *batch.prompt, *batch[2:]]


@pytest.mark.parametrize("normalization", ["floored", "official"])
def test_behaviour_cloning_reads_batches_without_returns(store, normalization):
    """Rows and all else are those of Prompt-DT; on the device as from files."""
    loader = LoaderConfig(6, "mixed", normalization=normalization)
    everything = TaskStream(0, (0, 1, 2))
    whole, cloning = (
        M3DTDataModule(store, loader, replace(MODEL, condition_on_return=shown), 11, 1, everything)
        for shown in (True, False)
    )
    resident = ResidentData(cloning._mapped, "cpu")
    for step in range(5):
        shown, hidden = whole.batch(step), cloning.batch(step)
        wanted = shown._replace(
            segment=shown.segment._replace(returns_to_go=torch.zeros(6, 6, 1)),
            prompt=shown.prompt._replace(returns_to_go=torch.zeros(6, 4, 1)),
        )
        for batch in (hidden, resident.gather(cloning.draws(step))):
            assert all(map(torch.equal, flatten(batch), flatten(wanted)))
        assert shown.segment.returns_to_go.any() and shown.prompt.returns_to_go.any()


@pytest.mark.parametrize("share, held_out", [(0.1, 0), (0.5, 0), (0.34, 5), (0.01, 3), (1, 5)])
def test_the_best_trajectories_are_those_of_a_sorted_list(tmp_path, share, held_out):
    lengths = tuple(np.random.default_rng(3).integers(3, 9, 32))
    folder = write_dataset(tmp_path / "data", SYNTHETIC_TASKS[:1], lengths)
    store = DatasetStore.open(folder, SYNTHETIC_TASKS[:1]).tasks[0]
    _, out = split_trajectories(store, held_out)
    best, same = split_trajectories(store, held_out, share)
    assert np.array_equal(same.ends, out.ends)  # other methods' held-out loss is comparable
    returns = [
        (trajectory(folder, SYNTHETIC_TASKS[0], n)["rewards"].sum(dtype=np.float64), n)
        for n in range(30)
        if store.episode_ends[n] not in out.ends
    ]
    assert len(returns) == 30 - held_out
    kept = max(1, round(share * len(returns)))
    wanted = sorted(n for _, n in sorted(returns, reverse=True)[:kept])
    assert np.array_equal(best.ends, store.episode_ends[wanted])
    begin, _ = best.draw(np.random.default_rng(0), 500)
    assert {store.locate(b)[0] for b in begin} == set(wanted)


@pytest.mark.parametrize("resident", ["on", "off"])
def test_batches_come_of_the_best_trajectories(store, resident):
    """Prompts are still the last two trajectories; statistics are those of all."""
    data = module(store, sampling="mixed", best_share=0.25, resident=resident)
    data.place(torch.device("cpu"), 0)
    everything = module(store, sampling="mixed")
    for step in range(10):
        draws = data.draws(step)
        batch, read = data.gather(draws), data.batch(step)
        assert all(map(torch.equal, flatten(batch), flatten(read)))
        assert torch.equal(batch.prompt.states, everything.batch(step).prompt.states)
        for task, begin in zip(draws.task.tolist(), draws.begin.tolist(), strict=True):
            best = int(store.tasks[task].episode_returns[:-2].argmax())
            assert store.tasks[task].locate(begin)[0] == best


@pytest.mark.parametrize("tasks_per_batch", [1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_rows_of_each_task_are_known_without_reading_them(store, tasks_per_batch, world_size):
    data = module(store, sampling="mixed", batch_size=8, tasks_per_batch=tasks_per_batch)
    for step in range(3):
        tasks = [(step * tasks_per_batch + i) % 3 for i in range(tasks_per_batch)]
        for rank in range(world_size):
            batch = data.batch(step, rank, world_size)
            assert batch.tasks.tolist() == tasks
            sizes = rows_by_task(8 // world_size, len(tasks), rank, world_size)
            assert sizes == [batch.task_index.tolist().count(task) for task in tasks]
            parts = list(batch.by_task(sizes))
            prompts = torch.cat([part.row_prompts().states for part in parts])
            assert torch.equal(prompts, batch.row_prompts().states)
            for task, size, part in zip(tasks, sizes, parts, strict=True):
                assert part.task_index.tolist() == size * [task] and part.tasks.tolist() == [task]


@pytest.mark.parametrize("sampling", ["one_task", "mixed"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_global_batch(store, sampling, world_size):
    data = module(store, sampling=sampling)
    whole = data.batch(5)
    parts = [data.batch(5, rank, world_size) for rank in range(world_size)]
    key = [tuple(row.flatten().tolist()) for row in whole.segment.states]
    rows = [tuple(row.flatten().tolist()) for p in parts for row in p.segment.states]
    assert sorted(rows) == sorted(key)
    assert {len(p.task_index) for p in parts} == {6 // world_size}
    # The mean over ranks of the weighted sums is the single process's weighted sum.
    together = sum((p.loss_weight * p.segment.actions.sum(dim=(1, 2))).sum() for p in parts)
    alone = (whole.loss_weight * whole.segment.actions.sum(dim=(1, 2))).sum()
    torch.testing.assert_close(together / world_size, alone)


def test_one_task_goes_round_robin(store):
    data = module(store)
    assert [int(data.batch(s).task_index.unique()) for s in range(5)] == [0, 1, 2, 0, 1]


def test_mixed_weighs_tasks_equally(store):
    batch = module(store, sampling="mixed").batch(0)
    assert sorted(batch.task_index.tolist()) == [0, 0, 1, 1, 2, 2]
    entries = batch.segment.attention_mask.sum(dim=1) * batch.action_mask.sum(dim=1)
    for task in range(3):
        mine = batch.task_index == task
        assert (batch.loss_weight * entries)[mine].sum().item() == pytest.approx(1 / 3, rel=1e-5)


def test_fewer_tasks_may_share_a_batch(store):
    """In turn: over three batches of two, each of three tasks comes twice, half a batch each."""
    data = module(store, sampling="mixed", tasks_per_batch=2)
    seen = [data.batch(step).task_index.tolist() for step in range(3)]
    assert seen == [[0, 0, 0, 1, 1, 1], [2, 2, 2, 0, 0, 0], [1, 1, 1, 2, 2, 2]]
    assert len(data.batch(0).prompt.states) == 4  # two prompts a task, each read by several rows


def test_streams_are_independent(store):
    """An expert's batches do not depend on which other experts share the process."""
    alone = module(store, [TaskStream(4, (1,))]).batch(3)
    among = module(store, [TaskStream(2, (0, 2)), TaskStream(4, (1,))]).batch(3)
    assert torch.equal(alone.segment.states, among.segment.states[6:])
    assert torch.equal(alone.loss_weight, among.loss_weight[6:])


def test_action_mask_marks_real_dims(store):
    data = module(store)
    assert [int(data.batch(s).action_mask[0].sum()) for s in range(3)] == [4, 6, 8]


def test_context_round_trip(store):
    context = TaskContext.from_store(store, LoaderConfig(), MODEL)
    again = TaskContext.from_tensors(context.tasks, context.tensors())
    assert again.tasks == SYNTHETIC_TASKS
    assert torch.equal(again.prompts.states, context.prompts.states)
    assert context.prompts.states.shape == (3, 2, 4, 39)
    with pytest.raises(UserError, match="reach-v2"):
        context.index("reach-v1")


def test_constant_dimension_does_not_explode(tmp_path):
    folder = write_dataset(tmp_path, ["reach-v2"])
    with h5py.File(folder / "reach-v2.hdf5", "r+") as file:
        std = file.attrs["state_std"]
        std[5] = 0.0
        file.attrs["state_std"] = std
    task = DatasetStore.open(folder, ["reach-v2"]).tasks[0]
    assert np.isfinite(
        TaskSampler(task, LoaderConfig(), ModelConfig()).prompts(np.array([0]), 4).states
    ).all()


def test_missing_tasks_are_all_named(synthetic):
    with pytest.raises(UserError) as error:
        DatasetStore.open(synthetic, ["reach-v2", "push-v2", "sweep-v2"])
    assert "push-v2, sweep-v2" in str(error.value)
    with pytest.raises(UserError, match="m3dt collect"):
        DatasetStore.open(synthetic / "nowhere", ["reach-v2"])


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_truncated_file_is_refused(tmp_path, keep):
    folder = write_dataset(tmp_path, ["reach-v2"])
    path = folder / "reach-v2.hdf5"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UserError, match=r"reach-v2\.hdf5"):
        DatasetStore.open(folder, ["reach-v2"])


def test_wrong_width_and_schema_are_refused(tmp_path):
    folder = write_dataset(tmp_path, ["reach-v2", "ant-dir-3"])
    (folder / "ant-dir-3.hdf5").replace(folder / "reach-v2.hdf5")
    with pytest.raises(UserError, match="observations"):
        DatasetStore.open(folder, ["reach-v2"])
    index = DatasetIndex.read(folder)
    DatasetIndex(index.tasks, {}, schema_version=99).write(folder)
    with pytest.raises(UserError, match="99"):
        DatasetIndex.read(folder)


def test_what_is_missing_is_collected_by_its_name(tmp_path):
    remedy = f'`m3dt collect "tasks=[walker-run]" data={tmp_path}`'
    with pytest.raises(UserError, match=re.escape(f"no dataset here. Collect one with {remedy}.")):
        DatasetStore.open(tmp_path, ["walker-run"])
    write_dataset(tmp_path, ["reach-v2"])
    with pytest.raises(UserError, match=re.escape(f"To collect these alone, run {remedy}. ")):
        DatasetStore.open(tmp_path, ["reach-v2", "walker-run"])
    with pytest.raises(UserError, match="Collect one with `m3dt collect again`"):
        DatasetStore.open(tmp_path / "new", ["walker-run"], collected_by="m3dt collect again")


@pytest.mark.parametrize("ends", [[10, 10, 18], [0, 10, 18], [10, 14], [18, 10, 18], []])
def test_empty_trajectories_are_refused(tmp_path, ends):
    """Or ones that run backwards, or leave steps over, or are too few for two prompts and more."""
    folder = write_dataset(tmp_path, ["reach-v2", "push-v2"])
    with h5py.File(folder / "push-v2.hdf5", "r+") as file:
        steps = len(file["rewards"])
        del file["episode_ends"]
        file["episode_ends"] = np.array([*ends[:-1], steps][: len(ends)], np.int64)
    problems = [p for p in verify(folder)["problems"] if "episode_ends" in p]
    assert len(problems) == 1 and "push-v2" in problems[0]
    with pytest.raises(UserError, match="push-v2.*'episode_ends' does not divide"):
        DatasetStore.open(folder, ["reach-v2", "push-v2"])


def test_verify_finds_flipped_bytes_and_bad_values(tmp_path):
    folder = write_dataset(tmp_path, ["reach-v2", "push-v2", "ant-dir-3"])
    assert verify(folder)["problems"] == []
    with h5py.File(folder / "push-v2.hdf5", "r+") as file:
        file["observations"][3, 2] = np.nan
    with h5py.File(folder / "ant-dir-3.hdf5", "r+") as file:
        file["rewards"][3] += 1
    problems = "\n".join(verify(folder)["problems"])
    assert "reach-v2" not in problems
    assert problems.count("checksum") == 2
    assert "'observations' is not finite, first in trajectory 0 at step 3" in problems
    assert "'episode_returns' are not the sums" in problems


def test_released_pages_are_read_again(store):
    rewards = store.tasks[0].rewards
    before = rewards.copy()
    store.tasks[0].release()
    assert np.array_equal(before, rewards)


def test_a_store_is_sent_to_workers_as_a_path(store):
    task = store.tasks[1]
    sent = pickle.dumps(task)
    assert len(sent) < 2000
    assert np.array_equal(pickle.loads(sent).observations, task.observations)


def test_worker_processes_change_no_batch(store):
    class Trainer:
        global_step, global_rank, world_size = 7, 0, 1
        strategy = SimpleNamespace(root_device=torch.device("cpu"))

    batches = []
    for num_workers in (0, 2):
        data = module(store, num_workers=num_workers)
        data.trainer = Trainer()
        stream = iter(data.train_dataloader())
        batches.append([flatten(next(stream).batches[0]) for _ in range(3)])
    expected = [flatten(module(store).batch(step)) for step in (7, 8, 9)]
    for found in batches:
        for a, b in zip(found, expected, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
