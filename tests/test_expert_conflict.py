"""The conflict inside experts, against a loop over experts and tasks."""

import pytest
import torch
from test_stages import FAST, data_for, fresh_model, train

from m3dt.callbacks import ExpertConflictCallback, expert_conflict
from m3dt.config import MoEConfig
from m3dt.data import TaskStream
from m3dt.models import add_mixtures
from m3dt.stages import ExpertStage, RouterStage

GROUPS = {3: (0, 2), 5: (1,), 6: (0, 1, 2)}


@pytest.fixture(params=[2**30, 1], ids=["at_once", "one_by_one"])
def memory(request, monkeypatch):
    monkeypatch.setattr(expert_conflict, "gradient_memory", lambda *_: request.param)


def cosines(gradients):
    """Return mean cosines to the mean and to the mean of the others."""
    mean = sum(gradients) / len(gradients)
    to_mean = [torch.cosine_similarity(g, mean, dim=0) for g in gradients]
    rest = [torch.cosine_similarity(g, sum(gradients) - g, dim=0) for g in gradients]
    return torch.stack(to_mean).mean().item(), torch.stack(rest).mean().item()


def naive(stage, data, e, tasks, parts):
    """Measure one expert: its own slice of the gradient, one task after the other."""
    gradients = []
    for task in tasks:
        stage.zero_grad()
        batch = data.probe_batches([task] * parts)
        stage.loss(batch).backward()
        weights = [
            p.grad[e].flatten() for m in stage.model.mixtures for p in m.experts.parameters()
        ]
        gradients.append(torch.cat(weights).double())
    return cosines(gradients)


def test_records_of_stage_2_equal_a_loop(synthetic, memory):
    streams = [TaskStream(k, tasks) for k, tasks in GROUPS.items()]
    data = data_for(synthetic, 2, streams)
    stage = ExpertStage(fresh_model(3), FAST, 0, list(GROUPS)).eval()
    expected = {
        "grouped": [naive(stage, data, e, GROUPS[k], 3) for e, k in ((0, 3), (2, 6))],
        "all": [naive(stage, data, e, (0, 1, 2), 3) for e in range(3)],
    }
    callback = ExpertConflictCallback(every_n_steps=2)
    train(stage.train(), data, steps=5, callbacks=[callback])
    assert [record["step"] for record in callback.history] == [0, 2, 4]
    for name, pairs in expected.items():
        to_mean, rest = (sum(values) / len(values) for values in zip(*pairs, strict=True))
        record = callback.history[0][name]
        assert 1 - record["conflict"] == pytest.approx(to_mean, rel=1e-4)
        assert record["leave_one_out"] == pytest.approx(rest, rel=1e-4)
    assert callback.history[0]["grouped"]["num_tasks"] == 2.5  # the group of one does not count
    assert callback.history[0]["all"]["num_tasks"] == 3
    assert callback.metrics() == {"expert_conflict": {"history": callback.history}}


def test_records_of_routed_experts_equal_a_loop(synthetic, memory):
    model = fresh_model(2, routed=True)
    data = data_for(synthetic, 3)
    stage = RouterStage(model, FAST, 0, train_experts=True).eval()
    pairs = [naive(stage, data, e, (0, 1, 2), 1) for e in range(2)]
    callback = ExpertConflictCallback()
    train(stage.train(), data, steps=2, callbacks=[callback])
    (record,) = callback.history
    to_mean, rest = (sum(values) / 2 for values in zip(*pairs, strict=True))
    assert 1 - record["all"]["conflict"] == pytest.approx(to_mean, rel=1e-4)
    assert record["all"]["leave_one_out"] == pytest.approx(rest, rel=1e-4)
    assert "grouped" not in record


def test_it_changes_nothing_and_stays_silent_where_experts_rest(synthetic):
    results = []
    for callbacks in ([], [ExpertConflictCallback(every_n_steps=1)]):
        stage = ExpertStage(fresh_model(2), FAST, 0, [0, 1])
        train(
            stage,
            data_for(synthetic, 2, [TaskStream(k, (k,)) for k in (0, 1)]),
            callbacks=callbacks,
        )
        results.append(stage.model.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert callbacks[0].history[0]["grouped"] == {
        "conflict": 0.0, "leave_one_out": 1.0, "num_tasks": 0.0,
    }  # fmt: skip
    for model in (fresh_model(2, routed=True), fresh_model()):
        model.requires_grad_(False)
        if not model.mixtures:
            add_mixtures(model, 2, True, MoEConfig(2, "trunk"))
        callback = ExpertConflictCallback()
        train(RouterStage(model, FAST, 0), data_for(synthetic, 3), steps=1, callbacks=[callback])
        assert callback.metrics() == {}
    with pytest.raises(ValueError, match="every_n_steps=0"):
        ExpertConflictCallback(every_n_steps=0)
