"""Nothing in a step waits for the device: on meta, which has no values, it would raise."""

from types import SimpleNamespace

import pytest
import torch
from trainings import TRAININGS, training

from m3dt.config import ComputeConfig
from m3dt.data import Draws
from m3dt.data.resident import ResidentData
from m3dt.engine.choices import Choices
from m3dt.engine.optimizer_steps import Steps
from m3dt.stages import HarmoStage


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
