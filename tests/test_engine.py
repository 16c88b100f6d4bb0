"""The engine: chunks of steps, resident data, nothing that waits for the device."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from conftest import SYNTHETIC_TASKS
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger
from test_stages import FAST, MODEL, data_for, fresh_model

from m3dt.callbacks import GradientConflictCallback
from m3dt.config import ComputeConfig, HarmoConfig, MoEConfig
from m3dt.data import Draws, TaskStream
from m3dt.data.resident import ResidentData
from m3dt.engine import engine as engine_room
from m3dt.engine import optimizer_steps
from m3dt.engine.bad_steps import BadSteps
from m3dt.engine.choices import Choices, choose
from m3dt.engine.chunks import ChunkPlan, next_multiple
from m3dt.engine.optimizer_steps import Steps
from m3dt.models import add_mixtures, make_model
from m3dt.stages import BackboneStage, BaselineStage, ExpertStage, HarmoStage, RouterStage
from m3dt.utils.errors import RunError, UserError

GROUPS = [TaskStream(0, (0, 2)), TaskStream(1, (1,))]
SLOW = replace(FAST, max_steps=12, warmup_steps=4)
TOP = MoEConfig(2, top_k=1)
BIG = MoEConfig(2, expert="trunk")
HARMO = HarmoConfig(sparsity=0.3, update_every=4, max_changed=50)


def with_experts(routed, moe=None):
    model = fresh_model()
    add_mixtures(model, 2, routed, moe)
    return model


def mtdt():
    torch.manual_seed(1)
    return make_model(replace(MODEL, task_embedding=5), 3)


# Every training: its stage, the number that keys its batches, and whether experts share batches.
TRAININGS = {
    "stage 1": (lambda: BackboneStage(fresh_model(), SLOW, 0), 1, False),
    "stage 2": (lambda: ExpertStage(with_experts(False), SLOW, 0, [0, 1]), 2, True),
    "stage 3": (lambda: RouterStage(with_experts(True), SLOW, 0), 3, False),
    "stage 3, top-k": (
        lambda: RouterStage(with_experts(True, TOP), SLOW, 0),
        3,
        0,
    ),
    "stage 3, experts too": (lambda: RouterStage(with_experts(True), SLOW, 0, True), 3, False),
    "big experts": (lambda: ExpertStage(with_experts(False, BIG), SLOW, 0, [0, 1]), 2, True),
    "big experts, router": (lambda: RouterStage(with_experts(True, BIG), SLOW, 0), 3, False),
    "Prompt-DT": (lambda: BaselineStage(fresh_model(), SLOW, 0), 0, False),
    "MTDT": (lambda: BaselineStage(mtdt(), SLOW, 0), 0, False),
    "HarmoDT": (lambda: HarmoStage(fresh_model(), SLOW, 0, HARMO, 3), 0, False),
    "end to end": (lambda: BaselineStage(with_experts(True), SLOW, 0), 0, False),
}


def training(name, synthetic, sampling="one_task", **loader):
    """Return the stage and the data of a training."""
    make, number, experts = TRAININGS[name]
    streams = GROUPS if experts else None
    return make(), data_for(synthetic, number, streams, sampling=sampling, **loader)


def tensors_of(batch):
    return [*batch.segment, *batch.prompt, *batch[2:]]


@pytest.mark.parametrize("sampling", ["one_task", "mixed"])
@pytest.mark.parametrize("name", ["stage 1", "stage 2", "HarmoDT"])
def test_resident_batches_equal_those_from_files(synthetic, name, sampling):
    """To the bit, also a rank's share, a probe and a chunk, for both normalisations."""
    for normalization in ("floored", "official"):
        loader = {"normalization": normalization, "validation_trajectories": 1}
        _, data = training(name, synthetic, sampling, **loader)
        resident = ResidentData(data._mapped, "cpu")
        wanted = [data.draws(step, rank, 2) for step in range(20) for rank in (0, 1)]
        wanted += [data.plan.validation(1), data.plan.probe(2, 1, 7)]
        for draws in wanted:
            pairs = map(tensors_of, (resident.gather(draws), data._mapped.gather(draws)))
            for a, b in zip(*pairs, strict=True):
                assert a.dtype == b.dtype and torch.equal(a, b)


class Notes(DummyLogger):
    """Keeps what is logged: (step, values)."""

    def __init__(self):
        super().__init__()
        self.found = []

    def log_metrics(self, metrics, step=None):
        self.found.append((step, dict(metrics)))


class Calls(pl.Callback):
    """Counts calls of `training_step` without asking for any."""

    def on_train_epoch_start(self, trainer, stage):
        take, self.lengths = stage.engine.take, []

        def counted(chunk):
            self.lengths.append(chunk.num_steps)
            return take(chunk)

        stage.engine.take = counted


def fit(stage, data, callbacks=(), steps=12, **arguments):
    trainer = pl.Trainer(
        **{
            "max_steps": steps, "max_epochs": -1, "logger": False, "callbacks": list(callbacks),
            "enable_checkpointing": False, "enable_progress_bar": False, "log_every_n_steps": 2,
            "enable_model_summary": False, "use_distributed_sampler": False, "accelerator": "cpu",
            **arguments,
        }
    )  # fmt: skip
    trainer.fit(stage, datamodule=data)
    return trainer


def outcome(name, synthetic, sampling, resident, steps_per_call):
    """Train for 12 steps; return weights and optimiser state, what was logged, and the chunks."""
    stage, data = training(name, synthetic, sampling, resident=resident)
    stage.set_compute(ComputeConfig(steps_per_call=steps_per_call))
    data.place(torch.device("cpu"), 0)
    notes, calls = Notes(), Calls()
    trainer = fit(stage, data, [calls], logger=notes)
    assert trainer.global_step == 12
    state = [v for entry in trainer.optimizers[0].state.values() for v in entry.values()]
    masks = [stage.masks.packed] if isinstance(stage, HarmoStage) else []
    return [*stage.model.state_dict().values(), *state, *masks], notes.found, calls.lengths


@pytest.mark.parametrize("name", TRAININGS)
def test_chunks_of_resident_data_equal_steps_from_files(synthetic, name):
    """Weights, moments, masks and logs, to the bit."""
    sampling = "one_task" if name in ("HarmoDT", "stage 1") else "mixed"
    alone = outcome(name, synthetic, sampling, "off", 1)
    assert alone[2] == 12 * [1]
    assert [step for step, _ in alone[1]] == [2, 4, 6, 8, 10, 12]
    assert alone[1][0][1].keys() == {"train/loss", "train/gradient_norm", "learning_rate"}
    assert alone[1][0][1]["learning_rate"] == SLOW.learning_rate * 2 / 4
    together = outcome(name, synthetic, sampling, "on", 5)
    # HarmoDT revises its masks every 4 steps, between two chunks.
    assert together[2] == ([4, 4, 4] if name == "HarmoDT" else [5, 5, 2])
    assert together[1] == alone[1]
    assert all(torch.equal(a, b) for a, b in zip(together[0], alone[0], strict=True))


def test_automatic_chunks_grow_and_change_nothing(synthetic):
    alone = outcome("stage 1", synthetic, "mixed", "on", 1)
    grown = outcome("stage 1", synthetic, "mixed", "off", 0)
    assert grown[2][0] == 1 and sum(grown[2]) == 12 and max(grown[2]) > 1
    assert grown[1] == alone[1]
    assert all(torch.equal(a, b) for a, b in zip(grown[0], alone[0], strict=True))


def test_records_are_the_same_in_chunks(synthetic):
    """At the same steps, with the same values, and the same stop."""
    found = []
    for length in (1, 7):
        conflict = GradientConflictCallback(
            every_n_steps=2, min_steps=4, patience=1, window=1, min_rise=-1
        )
        stage, data = training("stage 1", synthetic, "mixed", resident="on")
        stage.set_compute(ComputeConfig(steps_per_call=length))
        data.place(torch.device("cpu"), 0)
        fit(stage, data, [conflict])
        found.append((conflict.history, conflict.stopped_at, conflict.selected_weights()))
    (history, stopped_at, (step, weights)), other = found
    assert [record["step"] for record in history] == list(range(0, stopped_at + 1, 2))
    assert (history, stopped_at, step) == (*other[:2], other[2][0])
    assert 4 <= step < stopped_at < 12
    assert all(torch.equal(weights[name], tensor) for name, tensor in other[2][1].items())


def plan(callbacks=(), steps_per_call=0, largest=1000, further=(), max_steps=10_000, limit=1.0):
    trainer = SimpleNamespace(
        callbacks=list(callbacks), max_steps=max_steps, limit_train_batches=limit
    )
    return ChunkPlan(trainer, steps_per_call, largest, further)


class Every(pl.Callback):
    """Is called after each step, and says when it must be."""

    def __init__(self, period):
        self.period = period

    def next_step(self, step):
        return next_multiple(step, self.period)

    def on_train_batch_end(self, *arguments):
        """Do nothing."""


class Foreign(pl.Callback):
    def on_train_batch_end(self, *arguments):
        """Do nothing."""


@pytest.mark.parametrize(
    ("callbacks", "start", "expected"),
    [
        ([], 0, 100),
        ([], 9_950, 50),  # the end
        ([Every(30)], 0, 30),
        ([Every(30), Every(0)], 45, 15),
        ([Every(30), Every(8)], 30, 2),
        ([Foreign()], 7, 1),
        ([LambdaCallback(on_train_batch_end=print)], 7, 1),
        ([EarlyStopping("val/loss")], 0, 100),  # it acts after validation
        ([ModelCheckpoint(every_n_train_steps=40)], 30, 10),
        ([ModelCheckpoint(monitor="val/loss")], 30, 100),
    ],
)
def test_a_chunk_ends_where_something_must_happen(callbacks, start, expected):
    assert plan(callbacks, steps_per_call=100)(start) == expected


def test_other_ends_of_chunks():
    assert plan(steps_per_call=100, further=[lambda step: 12])(0) == 12
    assert plan(steps_per_call=100, largest=64)(0) == 64
    assert plan(steps_per_call=100, limit=5)(0) == 1  # Lightning counts calls there
    assert plan(steps_per_call=100, limit=1)(0) == 1


def test_automatic_chunks_last_less_than_a_second():
    chunks = plan()
    taken, step = [], 0
    for _ in range(30):  # 10 ms a step
        taken.append(chunks(step))
        step += taken[-1]
        chunks.adapt(0.01 * taken[-1], taken[-1])
    assert taken[:5] == [1, 2, 4, 8, 16] and set(taken[8:]) == {75}
    chunks.adapt(75.0, 75)  # a slow machine all of a sudden
    assert chunks(step) == 1


def test_a_callback_that_says_no_step_is_called_after_each(synthetic):
    seen = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, stage, optimizer):
            seen.append(("step", trainer.global_step, next(stage.parameters()).grad is not None))

        def on_train_batch_end(self, trainer, stage, outputs, *arguments):
            metric = trainer.callback_metrics
            seen.append((trainer.global_step, bool(outputs["loss"] == metric["train/loss"])))

    stage, data = training("stage 1", synthetic)
    fit(stage, data, [Watch()], steps=3)
    assert [entry[0] for entry in seen if entry[0] != "step"] == [1, 2, 3]
    assert len([entry for entry in seen if entry[0] == "step"]) == 3


@pytest.mark.parametrize("chunk", [1, 4, 7])
def test_lightning_counts_optimiser_steps(synthetic, tmp_path, chunk):
    """Its own checkpoints, validations and resumption mean steps, whatever a call takes."""
    stage, data = training("stage 1", synthetic, validation_trajectories=1)
    stage.config = replace(SLOW, validate_every=6)
    stage.set_compute(ComputeConfig(steps_per_call=chunk))
    notes = Notes()
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    validation = {"val_check_interval": 6, "check_val_every_n_epoch": None}
    trainer = fit(
        stage, data, [saver], logger=notes, enable_checkpointing=True, num_sanity_val_steps=0,
        **validation,
    )  # fmt: skip
    assert trainer.global_step == trainer.fit_loop.epoch_loop.total_batch_idx + 1 == 12
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["step=10", "step=5"]
    assert [step for step, values in notes.found if "val/loss" in values] == [6, 12]


def test_a_step_that_is_held_changes_nothing(synthetic):
    """A graph is recorded by running steps, which must leave no trace."""
    stage, data = training("HarmoDT", synthetic)
    stage.engine.finish = lambda: None  # it would let go of the steps
    fit(stage, data, steps=3)
    steps = stage.engine._steps
    tensors = [*stage.model.state_dict().values()]
    tensors += [v for entry in steps.optimizer.state.values() for v in entry.values()]
    before = [tensor.clone() for tensor in tensors]
    steps._held.fill_(1)
    rows, norm = steps.step(data.batch(3), 1e-2)
    assert rows.shape == (6,) and norm > 0
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    steps._held.zero_()
    steps.step(data.batch(3), 1e-2)
    assert not all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_a_recorded_step_draws_the_dropout_of_its_number(synthetic, monkeypatch):
    """Recording runs the step and draws; the replay must not go on from there."""

    class Recording:
        """Stands for a CUDA graph on a CPU: it runs the function."""

        def __init__(self, function):
            self.function, self.recorded = function, False

        def record(self, *arguments):
            self.recorded = True
            for _ in range(3):
                self.function(*arguments)

        def __call__(self, *arguments):
            assert self.recorded
            return self.function(*arguments)

    alone = outcome("stage 1", synthetic, "mixed", "on", 1)
    monkeypatch.setattr(optimizer_steps, "Graphed", Recording)
    chosen = Choices(graph=True, compile=False)
    monkeypatch.setattr(engine_room, "choose", lambda *arguments: chosen)
    # AdamW is capturable on other devices alone.
    update = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step",
        lambda self: (self.param_groups[0].update(capturable=False), update(self)),
    )  # fmt: skip
    recorded = outcome("stage 1", synthetic, "mixed", "on", 4)
    assert recorded[1] == alone[1]
    assert all(torch.equal(a, b) for a, b in zip(recorded[0], alone[0], strict=True))


def on_meta(name, synthetic, sampling="mixed"):
    """Return what takes a gradient on the meta device, which has shapes but no values."""
    stage, data = training(name, synthetic, sampling)
    stage.set_compute(ComputeConfig())
    meta = torch.device("meta")
    resident = ResidentData(data._mapped, meta)
    if isinstance(stage, HarmoStage):
        stage.masks.packed = stage.masks.packed.to(meta)
    stage.to(meta)
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=meta), precision_plugin=None, callbacks=[]
    )
    optimizer = SimpleNamespace()  # AdamW reads its learning rate on a device without values
    choices = Choices(graph=True, compile=False)
    steps = Steps(stage, trainer, optimizer, resident.gather, choices)
    draws = Draws(*(tensor.to(meta) for tensor in data.draws(0)))
    return stage, steps, draws


@pytest.mark.parametrize("name", TRAININGS)
def test_nothing_in_a_step_waits_for_the_device(synthetic, name):
    """On meta, reading a value, a tensor left on the CPU, or a shape that depends on data raise."""
    stage, steps, draws = on_meta(name, synthetic, "one_task" if name == "HarmoDT" else "mixed")
    rows, norm = steps.gradient(draws)
    stage.end_step()
    assert rows.shape == (len(draws.task),) and norm.shape == ()
    assert {rows.device.type, norm.device.type} == {"meta"}
    assert all(p.grad is not None for p in stage.trainable().values())


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("place", ["gather", "row_losses", "clip"])
def test_a_value_that_is_read_would_be_noticed(synthetic, name, place):
    """The test above fails where `.item()` is put into any training."""
    stage, steps, draws = on_meta(name, synthetic, "one_task" if name == "HarmoDT" else "mixed")
    owner, field = {
        "gather": (steps, "gather"), "row_losses": (steps, "_row_losses"), "clip": (stage, "clip"),
    }[place]  # fmt: skip
    found = getattr(owner, field)

    def reads(*arguments):
        result = found(*arguments)
        (result.loss_weight if place == "gather" else result).sum().item()
        return result

    setattr(owner, field, reads)
    with pytest.raises(RuntimeError, match="meta"):
        steps.gradient(draws)


@pytest.mark.parametrize(
    ("setting", "message"),
    [("graph", "compute.graph=on needs a CUDA device"), ("compile", "compute.compile=on needs a")],
)
def test_what_a_device_cannot_do_is_refused(synthetic, setting, message):
    stage, data = training("stage 1", synthetic)
    stage.set_compute(ComputeConfig(**{setting: "on"}))
    with pytest.raises(UserError, match=message):
        fit(stage, data)


@pytest.mark.parametrize(
    ("kind", "precision", "ranks", "steps", "recordable", "expected"),
    [
        ("cuda", "bf16-mixed", 1, 30_000, True, (True, True)),
        ("cuda", "32-true", 1, 19_999, True, (True, False)),
        ("cuda", "bf16-mixed", 2, 30_000, True, (False, True)),
        ("cuda", "bf16-mixed", 1, 30_000, False, (False, True)),
        ("cuda", "16-mixed", 1, 30_000, True, (False, False)),
        ("cpu", "bf16-mixed", 1, 30_000, True, (False, False)),
    ],
)
def test_automatic_choices(kind, precision, ranks, steps, recordable, expected):
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(kind)),
        precision=precision, world_size=ranks, max_steps=steps, callbacks=[], _detect_anomaly=False,
    )  # fmt: skip
    assert choose(ComputeConfig(), trainer, recordable) == Choices(*expected)


def test_a_callback_that_looks_into_a_step_prevents_graphs():
    class Looks(pl.Callback):
        def on_after_backward(self, trainer, stage):
            """Look."""

    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cuda")),
        precision="32-true", world_size=1, max_steps=10, callbacks=[Foreign(), Looks()],
        _detect_anomaly=False,
    )  # fmt: skip
    assert choose(ComputeConfig(), trainer, True) == Choices(graph=False, compile=False)
    with pytest.raises(UserError, match="Looks, which looks into a step"):
        choose(ComputeConfig(graph="on"), trainer, True)


def test_bad_steps_are_told_from_overflows():
    nan, inf = float("nan"), float("inf")
    steps = BadSteps()
    assert not steps.is_bad(1.0, 2.0, float16=False)
    assert steps.is_bad(nan, nan, float16=False) and steps.is_bad(1.0, inf, float16=False)
    assert steps.count == 2
    steps = BadSteps()
    assert not any(steps.is_bad(1.0, inf, float16=True) for _ in range(20))
    assert steps.is_bad(1.0, inf, float16=True) and steps.is_bad(nan, nan, float16=True)
    assert not steps.is_bad(1.0, 1.0, float16=True) and not steps.is_bad(1.0, inf, float16=True)


def test_held_out_trajectories(synthetic):
    """Spread over the returns, never trained on, and measured as a naive mean over tasks says."""
    stage, data = training("stage 2", synthetic, "mixed", validation_trajectories=2)
    held_out = [set() for _ in SYNTHETIC_TASKS]
    for task, store in enumerate(data.store.tasks):
        order = store.episode_returns[:-2].argsort(kind="stable")
        held_out[task] = {int(order[1]), int(order[3])}  # of four
    for step in range(30):
        draws = data.draws(step)
        for task, begin in zip(draws.task.tolist(), draws.begin.tolist(), strict=True):
            number = int((data.store.tasks[task].episode_ends <= begin).sum())
            assert number < 4 and number not in held_out[task]
    validation = {"val_check_interval": 4, "check_val_every_n_epoch": None}
    trainer = fit(stage, data, steps=4, num_sanity_val_steps=0, **validation)
    stage.eval()
    losses = []
    with torch.no_grad():
        for task, expert in ((0, 0), (2, 0), (1, 1)):
            draws = data.plan.validation(task)
            number = (data.store.tasks[task].episode_ends[:, None] <= draws.begin.numpy()).sum(0)
            assert set(number.tolist()) <= held_out[task]
            batch = data.gather(Draws.join([draws, draws]))  # one part per expert
            losses.append(stage.row_losses(batch).view(2, -1).sum(dim=1)[expert])
    expected = float(torch.stack(losses).mean())
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(expected, rel=1e-5)


def test_ranks_have_as_many_rounds_of_validation(synthetic):
    """A rank without any would end the others; surplus rounds count nothing."""
    _, data = training("stage 1", synthetic, validation_trajectories=1)
    found = []
    for rank in range(4):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=4)
        (loader,) = data.val_dataloader()
        found.append([(r.chunk.inputs(0).task_index.tolist(), r.counted.tolist()) for r in loader])
    assert [len(rounds) for rounds in found] == [1, 1, 1, 1]
    counted = [tasks[0] for rounds in found for tasks, (counts,) in rounds if counts]
    assert counted == [0, 1, 2] and found[3] == [([2] * 6, [False])]


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_resident_data_is_cast_as_batches_are(synthetic, precision):
    weights = []
    for resident in ("on", "off"):
        stage, data = training("stage 1", synthetic, resident=resident)
        data.place(torch.device("cpu"), 0)
        fit(stage, data, steps=3, precision=precision)
        weights.append([t.float() for t in stage.model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_stage_that_is_trained_can_be_copied(synthetic):
    """As callbacks do that average weights."""
    stage, data = training("stage 1", synthetic)
    fit(stage, data, steps=2)
    copied = copy.deepcopy(stage)
    assert copied.engine.stage is copied and copied.model is not stage.model
    fit(copied, training("stage 1", synthetic)[1], steps=3)


def test_steps_up_to_the_fatal_one_are_logged(synthetic):
    stage, data = training("stage 1", synthetic)
    stage.config = replace(SLOW, max_bad_steps=1)
    stage.set_compute(ComputeConfig(steps_per_call=6))
    draw = data.plan.at

    def spoiled(step, *ranks):
        draws = draw(step, *ranks)
        return draws._replace(loss_weight=draws.loss_weight * (float("nan") if step > 1 else 1))

    data.plan.at, notes = spoiled, Notes()
    with pytest.raises(RunError, match="not finite at step 3, after 1 such steps"):
        fit(stage, data, logger=notes)
    counts = {step: v["train/bad_steps"] for step, v in notes.found if "train/bad_steps" in v}
    assert counts == {3: 1, 4: 2}  # values are logged once their step is done
    assert [step for step, values in notes.found if "train/loss" in values] == [2]


def test_too_many_held_out_trajectories_are_refused(synthetic):
    with pytest.raises(UserError, match="reach-v2 has 4 trajectories besides its prompts"):
        training("stage 1", synthetic, validation_trajectories=4)


def test_early_stopping_watches_the_validation_loss(synthetic):
    stage, data = training("stage 1", synthetic, validation_trajectories=1)
    stage.config = replace(SLOW, validate_every=2)
    never_better = EarlyStopping("val/loss", min_delta=1e9, patience=2)
    validation = {"val_check_interval": 2, "check_val_every_n_epoch": None}
    trainer = fit(stage, data, [never_better], num_sanity_val_steps=0, **validation)
    assert trainer.global_step == 6 and trainer.should_stop
