"""The conflict callback: its measures, its silence, and its stop."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from conftest import SYNTHETIC_TASKS
from test_stages import FAST, copy_of, data_for, fresh_model, train

from m3dt.callbacks import GradientConflictCallback, RouterUsageCallback, gradient_conflict
from m3dt.callbacks.conflict_measures import measure, part_of
from m3dt.stages import BackboneStage, RouterStage
from m3dt.stages.stopping import StoppingRule, judge, smooth, successive_variance

NAMES = [
    "embed.state.weight",
    "transformer.h.0.attn.c_attn.weight",
    "transformer.h.0.mlp.c_fc.weight",
    "transformer.h.1.ln_1.weight",
    "predict_action.weight",
]


MEMORY = pytest.mark.parametrize("memory", [2**30, 300, 1])  # all rows, two or three, one


def table_of(gradients, memory=2**30, rank=0, world_size=1):
    """Measure gradients of several parameters, which stand for the model's first parts."""
    parameters = dict(zip(NAMES, gradients[0], strict=False))
    flat = [torch.cat([t.flatten() for t in g]) for g in gradients]
    return measure(parameters, flat.__getitem__, len(flat), memory, rank, world_size)


def cos(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


def test_parts():
    assert [part_of(name) for name in NAMES] == [
        "embedding",
        "block0/attention",
        "block0/mlp",
        "block1/attention",
        "head",
    ]


@MEMORY
def test_measures_equal_naive_cosines(memory):
    torch.manual_seed(0)
    shapes = [(3, 4), (5,), (2, 2), (7,), (6,)]
    common = [torch.randn(shape) for shape in shapes]
    tasks = [[c + torch.randn(s) for c, s in zip(common, shapes, strict=True)] for _ in range(6)]
    table = table_of(tasks, memory)

    def check(keep):
        chosen = [i for i, name in enumerate(NAMES) if keep(part_of(name))]
        flat = [torch.cat([g[i].flatten() for i in chosen]) for g in tasks]
        mean = torch.stack(flat).mean(dim=0)
        torch.testing.assert_close(
            table.to_mean(keep).float(), torch.tensor([cos(g, mean) for g in flat])
        )
        others = [sum(flat) - g for g in flat]
        torch.testing.assert_close(
            table.leave_one_out(keep).float(),
            torch.tensor([cos(g, o) for g, o in zip(flat, others, strict=True)]),
            rtol=1e-4,
            atol=1e-5,
        )

    check(lambda part: True)
    check(lambda part: part.startswith("block0/"))
    check(lambda part: part.endswith("/attention"))
    flat = [torch.cat([t.flatten() for t in g]) for g in tasks]
    pairs = [cos(flat[i], flat[j]) for i in range(6) for j in range(6) if i != j]
    assert table.pairwise() == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)


def test_independent_gradients_meet_the_floor():
    """In high dimension, cos(g_i, G) of independent gradients is 1/sqrt(N), the others are 0."""
    generator = torch.Generator().manual_seed(0)
    tasks = [[torch.randn(200_000, generator=generator)] for _ in range(10)]
    table = table_of(tasks)
    assert table.to_mean().mean().item() == pytest.approx(1 / math.sqrt(10), abs=0.01)
    assert table.leave_one_out().mean().item() == pytest.approx(0, abs=0.01)
    assert table.pairwise() == pytest.approx(0, abs=0.01)


def test_gradients_are_computed_once_where_they_fit():
    calls = []

    def gradient(task):
        calls.append(task)
        return torch.full((8,), task + 1.0)

    parameters = {"head.weight": torch.empty(8)}
    for memory, expected in ((4 * 8 * 3, [0, 1, 2]), (4 * 8 * 2, [0, 1, 2] * 2)):
        calls.clear()
        measure(parameters, gradient, 3, memory)
        assert calls == expected


@MEMORY
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_tasks(monkeypatch, memory, world_size):
    """Processes, here threads, give the table of one; one of four has no task at all."""
    barrier, shown = threading.Barrier(world_size), {}

    def all_reduce(tensor):
        shown[threading.get_ident()] = tensor.clone()
        barrier.wait(10)
        tensor.copy_(sum(shown.values()))
        barrier.wait(10)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    torch.manual_seed(0)
    tasks = [[torch.randn(3, 4), torch.randn(5)] for _ in range(3)]
    alone = table_of(tasks)
    with ThreadPoolExecutor(world_size) as pool:
        jobs = [pool.submit(table_of, tasks, memory, r, world_size) for r in range(world_size)]
        for table in [job.result(20) for job in jobs]:
            assert table.parts == alone.parts
            torch.testing.assert_close(table.dots, alone.dots, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(table.squares, alone.squares, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(table.total_squares, alone.total_squares)
            assert table.unit_square == pytest.approx(alone.unit_square, rel=1e-5)


def test_vanishing_gradient_is_not_nan():
    tasks = [[torch.ones(3)], [torch.zeros(3)]]
    table = table_of(tasks)
    assert table.to_mean().isfinite().all() and table.leave_one_out().isfinite().all()


def test_training_is_bit_identical_with_and_without(synthetic):
    results = []
    for callbacks in ([], [GradientConflictCallback(every_n_steps=2, stop=False)]):
        model = fresh_model()
        train(BackboneStage(model, FAST, 0), data_for(synthetic, 1), 6, callbacks)
        results.append(copy_of(model))
    assert [r["step"] for r in callbacks[0].history] == [0, 2, 4, 6]
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_router_callback_leaves_training_alone(synthetic):
    results = []
    for callbacks in ([], [RouterUsageCallback(every_n_steps=2)]):
        model = fresh_model(2, routed=True)
        train(RouterStage(model, FAST, 0), data_for(synthetic, 3), 4, callbacks)
        results.append(copy_of(model))
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())
    usage = torch.tensor(callbacks[0].history[-1]["usage"])
    assert usage.shape == (len(SYNTHETIC_TASKS), 2)
    torch.testing.assert_close(usage.sum(dim=1), torch.ones(3))


def test_router_usage_equals_a_loop_over_tokens(synthetic):
    model, data = fresh_model(2, routed=True), data_for(synthetic, 3)
    stage, callback = RouterStage(model, FAST, 0), RouterUsageCallback()
    with torch.no_grad():
        for mixture in model.mixtures:  # fresh routers are almost indifferent
            mixture.router.layers[-1].weight.mul_(1e5)
    start = copy_of(model)
    train(stage, data, 1, [callback])
    model.load_state_dict(start)
    model.eval()
    record, entropies = callback.history[0], []
    for task in range(3):
        batch, seen = data.probe_batch(task), []
        prompt = batch.row_prompts()
        for mixture in model.mixtures:
            mixture.router.register_forward_hook(lambda m, a, out, seen=seen: seen.append(out))
        model(batch.segment, prompt)
        real = [s.attention_mask.repeat_interleave(3, dim=1) for s in (prompt, batch.segment)]
        real = torch.cat(real, dim=1)
        gates = [
            out[b, i]
            for out in seen
            for b in range(real.shape[0])
            for i in range(real.shape[1])
            if real[b, i] == 1
        ]
        usage = (sum(gates) / len(gates)).tolist()
        assert record["usage"][task] == pytest.approx(usage, rel=1e-4)
        bits = [sum(-p * math.log2(p) for p in g.tolist() if p) for g in gates]  # 1 is the most
        entropies.append(sum(bits) / len(bits))
    assert record["entropy"] == pytest.approx(sum(entropies) / 3, rel=1e-4)
    assert 0 < record["entropy"] < 0.99


@pytest.mark.parametrize("memory", [2**30, 1])
def test_measured_similarity_equals_backward_on_the_probe_batches(synthetic, monkeypatch, memory):
    monkeypatch.setattr(gradient_conflict, "gradient_memory", lambda *_: memory)
    callback = GradientConflictCallback(every_n_steps=100, stop=False, probes=3)
    model, data = fresh_model(), data_for(synthetic, 1)
    stage = BackboneStage(model, FAST, 0)
    start = copy_of(model)
    train(stage, data, 1, [callback])
    model.load_state_dict(start)
    stage.eval()
    expected = []  # of each probe, the cosines of the tasks
    for probe in range(3):
        gradients = []
        for task in range(3):
            stage.zero_grad()
            stage.loss(data.probe_batch(task, probe)).backward()
            gradients.append(torch.cat([p.grad.flatten() for p in stage.trainable().values()]))
        mean = torch.stack(gradients).mean(dim=0)
        expected.append([cos(g, mean) for g in gradients])
    record, conflicts = callback.history[0], 1 - np.mean(expected, axis=1)
    assert record["per_task"] == pytest.approx(np.mean(expected, axis=0), abs=1e-5)
    assert record["mean"] == pytest.approx(conflicts.mean(), abs=1e-5)
    assert record["error"] == pytest.approx(scipy.stats.sem(conflicts), abs=1e-5)


def stop_of(conflicts, **rule):
    """Return the step at which a training with these records, 10 steps apart, stops."""
    rule = StoppingRule(**{"window": 1, "significance": 1.0, **rule})
    steps = [10 * i for i in range(len(conflicts))]
    for n in range(1, len(conflicts) + 1):
        if judge(steps[:n], conflicts[:n], rule).stops:
            return steps[n - 1]
    return None


def test_stops_after_the_peak():
    rise_and_fall = [0.1, 0.2, 0.5, 0.4, 0.3, 0.3, 0.2]
    assert stop_of(rise_and_fall, patience=2) == 40
    assert stop_of(rise_and_fall, patience=4) == 60
    assert stop_of(rise_and_fall, patience=5) is None
    # Before min_steps nothing counts as a peak.
    assert stop_of(rise_and_fall, patience=2, min_steps=30) == 50
    assert stop_of([0.1, 0.2, 0.3, 0.4], patience=1) is None
    assert stop_of([0.5, 0.4, 0.3, 0.2], patience=2) is None  # it never rose
    # A window of 3 smooths a single spike away.
    spike = [0.1, 0.2, 0.5, 0.25, 0.3, 0.4, 0.45, 0.45, 0.3, 0.3]
    assert stop_of(spike, patience=2) == 40
    assert stop_of(spike, window=3, patience=2) == 90


def test_fluctuations_alone_rarely_stop():
    """Series of noise stop about as often as `significance` says, whatever its variance."""
    rng = np.random.default_rng(0)
    rule = StoppingRule(window=4, patience=1, significance=0.1)
    steps = list(range(30))
    judged = [judge(steps, (0.5 + 0.03 * rng.normal(size=30)).tolist(), rule) for _ in range(400)]
    assert 0.04 < np.mean([j.chance <= 0.1 for j in judged]) < 0.16
    # By hand, for one of them.
    noise = rng.normal(size=30)
    means = [np.mean(noise[i - 3 : i + 1]) if i > 2 else np.nan for i in range(30)]
    at = int(np.argmax(means[5:])) + 5
    rise = means[at] - np.nanmin(means[: at + 1])
    variance = np.mean(np.diff(noise) ** 2) / 2
    found = judge(steps, noise.tolist(), replace(rule, min_steps=5))
    assert (found.peak, found.since) == (at, 29 - at)
    assert found.rise == pytest.approx(rise)
    again = np.random.default_rng(1).normal(size=(20_000, 30))
    smoothed = np.stack([again[:, i - 3 : i + 1].mean(axis=1) for i in range(3, 30)], axis=1)
    tops = 2 + smoothed[:, 2:].argmax(axis=1)
    lows = np.array([row[: top + 1].min() for row, top in zip(smoothed, tops, strict=True)])
    rises = smoothed[np.arange(20_000), tops] - lows
    assert found.chance == pytest.approx(np.mean(rises >= rise / variance**0.5), abs=0.03)
    assert successive_variance(again[0].tolist()) == pytest.approx(
        np.mean(np.diff(again[0]) ** 2) / 2
    )


def test_a_rise_beyond_its_fluctuations_stops():
    rng = np.random.default_rng(0)
    trend = np.concatenate([np.linspace(0.5, 0.7, 20), np.linspace(0.7, 0.6, 20)])
    conflicts = (trend + 0.02 * rng.normal(size=40)).tolist()
    stopped = stop_of(conflicts, window=4, patience=5, significance=0.05)
    assert 200 < stopped < 320  # the peak is at 200
    assert (
        stop_of((0.65 + 0.02 * rng.normal(size=40)).tolist(), window=4, significance=0.01) is None
    )


def test_why_there_is_no_peak():
    rule = StoppingRule(window=1, patience=2, min_steps=10, significance=0.5)

    def reason(*means):
        return judge([10 * i for i in range(len(means))], means, rule).reason()

    assert reason(0.5) == "no 1 record up to min_steps=10 or later"
    assert "was highest at step 10, with 0 records since" in reason(0.1, 0.2)
    assert "above significance=0.5" in reason(0.1, 0.3, 0.1, 0.3, 0.1, 0.3, 0.1)
    assert "to its peak at step 10 and was lower for 2 records" in reason(0.1, 0.3, 0.2, 0.2)


def test_the_peak_is_the_largest_smoothed_record_that_counts():
    conflicts = [0.9, 0.1, 0.5, 0.7, 0.3]
    steps = [0, 10, 20, 30, 40]
    assert smooth(conflicts, 2) == pytest.approx([0.9, 0.5, 0.3, 0.6, 0.5])
    assert judge(steps, conflicts, StoppingRule(window=2)).peak == 30
    assert judge(steps[:1], conflicts[:1], StoppingRule(window=2)).peak is None
    assert judge(steps, conflicts, StoppingRule(window=1)).peak == 0
    assert judge(steps, conflicts, StoppingRule(window=2, min_steps=10)).peak == 30
    assert judge(steps, conflicts, StoppingRule(window=2, min_steps=50)).peak is None


class ScriptedConflict(GradientConflictCallback):
    """Measures for real, then replaces the smoothed conflict by a given curve."""

    curve = (0.1, 0.2, 0.6, 0.5, 0.4, 0.3)

    def _measure(self, trainer, stage, data):
        tables = super()._measure(trainer, stage, data)
        target = 1 - self.curve[min(len(self.history), len(self.curve) - 1)]
        for table in tables:
            table.dots.copy_(target * table.squares.sqrt() * table.total_squares.sqrt())
        return tables


def test_weights_at_the_peak_are_kept(synthetic):
    """Stopped two records after the peak, the selected weights are those of the peak's step."""
    stopped = fresh_model()
    callback = ScriptedConflict(every_n_steps=1, window=1, patience=2, significance=1.0)
    trainer = train(BackboneStage(stopped, FAST, 0), data_for(synthetic, 1), 5, [callback])
    step, weights = callback.selected_weights()
    conflicts = [record["mean"] for record in callback.history]
    assert max(range(len(conflicts)), key=conflicts.__getitem__) == step == callback.peak == 2
    assert trainer.global_step == callback.stopped_at == 4
    reference = fresh_model()
    train(BackboneStage(reference, FAST, 0), data_for(synthetic, 1), 2)
    parameters = dict(reference.named_parameters())
    assert weights and all(torch.equal(w, parameters[name]) for name, w in weights.items())
    assert not torch.equal(weights["predict_action.weight"], stopped.predict_action.weight)


def test_a_cooldown_follows_the_stop(synthetic):
    """Stopped at step 4, the rate falls over half as many steps; the last weights are kept."""
    config = replace(FAST, max_steps=100, decay="cooldown", cooldown_share=0.5)
    callback = ScriptedConflict(every_n_steps=1, window=1, patience=2, significance=1.0)
    stage = BackboneStage(fresh_model(), config, 0)
    trainer = train(stage, data_for(synthetic, 1), 100, [callback])
    assert (callback.peak, callback.stopped_at, trainer.global_step) == (2, 4, 6)
    assert callback.selected_weights() is None
    rates = [stage.learning_rate(step) / FAST.learning_rate for step in range(3, 7)]
    assert rates == pytest.approx([1, 1, 0.5, 0])
    assert "stopped at step 4" in callback.outcome()


def test_a_cooldown_that_has_begun_is_not_stopped(synthetic):
    config = replace(FAST, max_steps=6, decay="cooldown", cooldown_share=1.0)
    callback = ScriptedConflict(every_n_steps=1, window=1, patience=2, significance=1.0)
    trainer = train(BackboneStage(fresh_model(), config, 0), data_for(synthetic, 1), 6, [callback])
    assert (callback.stopped_at, trainer.global_step) == (None, 6)
    assert "conflict has not peaked" in callback.outcome()


def test_memory_survives_a_checkpoint(synthetic):
    callback = ScriptedConflict(every_n_steps=1, window=1, patience=2, significance=1.0)
    train(BackboneStage(fresh_model(), FAST, 0), data_for(synthetic, 1), 5, [callback])
    again = GradientConflictCallback(every_n_steps=1, window=1, patience=2, significance=1.0)
    again.load_state_dict(callback.state_dict())
    assert again.history == callback.history
    assert again.selected_weights()[0] == callback.selected_weights()[0]
    assert (again.peak, again.outcome()) == (callback.peak, callback.outcome())


def test_bad_arguments():
    with pytest.raises(ValueError, match="patience=0"):
        GradientConflictCallback(patience=0)
    with pytest.raises(ValueError, match="probes=0 must be 1 or more"):
        GradientConflictCallback(probes=0)
    with pytest.raises(ValueError, match="significance=0 must be above 0"):
        GradientConflictCallback(significance=0)
