"""When a step is recorded as a graph or compiled, and when that is refused."""

from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from trainings import fit, training

from m3dt.config import ComputeConfig
from m3dt.engine.choices import Choices, choose
from m3dt.utils.errors import UserError


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
        precision="32-true", world_size=1, max_steps=10, callbacks=[Looks()],
        _detect_anomaly=False,
    )  # fmt: skip
    assert choose(ComputeConfig(), trainer, True) == Choices(graph=False, compile=False)
    with pytest.raises(UserError, match="Looks, which looks into a step"):
        choose(ComputeConfig(graph="on"), trainer, True)
