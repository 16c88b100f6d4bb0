"""Experts as one wide network: the plain computation, with frozen weights laid out once."""

import pytest
import torch
from test_models import make_model

from m3dt.config import ComputeConfig
from m3dt.models.fast.mixture import mix, run_mixture
from m3dt.models.variants.top_k import TopKRouter

WAYS = ("in_turn", "together", "wide")


def frozen_mixture(num_experts=3):
    mixture = make_model(num_experts).mixtures[0]
    mixture.experts.requires_grad_(False)
    return mixture


def results(mixture, compute, x, target):
    """Return the output and the gradients of x, the router, and the experts if they train."""
    mixture.zero_grad()
    x = x.clone().requires_grad_()
    y = compute(x)
    (y * target).sum().backward()
    trained = {n: p.grad.clone() for n, p in mixture.named_parameters() if p.requires_grad}
    return {"output": y.detach(), "x": x.grad, **trained}


@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_mix_equals_the_plain_one(way, trains, top_k):
    mixture = frozen_mixture()
    if top_k:
        mixture.router = TopKRouter(make_model().config, 3, top_k).eval()
        mixture.router.noise.requires_grad_(False)
    mixture.experts.requires_grad_(trains)
    x, target = torch.randn(2, 20, 5, 16)
    compute = ComputeConfig(experts=way)
    mine = results(mixture, lambda x: run_mixture(mixture, x, compute), x, target)
    plain = results(mixture, mixture, x, target)
    assert mine.keys() == plain.keys()
    for name, expected in plain.items():
        torch.testing.assert_close(mine[name], expected, rtol=1e-4, atol=1e-5, msg=name)
    assert bool(mixture.experts.kept) == (way == "wide" and not trains)


@pytest.mark.parametrize("way", WAYS)
def test_mixing_in_bf16_stays_near_float32(way):
    """Eight bits: relative errors of a percent, and a few where a ReLU goes the other way."""
    mixture = frozen_mixture(8)
    x, target = torch.randn(2, 200, 16)
    logits = torch.randn(200, 8)
    got = []
    for lower in (False, True):
        x, logits = (tensor.detach().clone().requires_grad_() for tensor in (x, logits))
        gates = logits.softmax(dim=1)
        if lower:
            with torch.autocast("cpu", torch.bfloat16):
                y = mix(mixture.experts, x, gates, ComputeConfig(experts=way))
        else:
            y = sum(gates[:, e : e + 1] * mixture.experts(e, x) for e in range(8))
        (y * target).sum().backward()
        got.append((y.detach(), logits.grad, x.grad))
    for exact, rounded, tolerance in zip(*got, (0.01, 0.01, 0.05), strict=True):
        assert (rounded - exact).norm() < tolerance * exact.norm()


def test_frozen_weights_are_laid_out_once():
    """A copy per precision; when parameters are written, it is written in place."""
    mixture, x = frozen_mixture(), torch.randn(2, 5, 16)

    def run(dtype=torch.float32):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, dtype == torch.bfloat16):
            mixed = run_mixture(mixture, x, ComputeConfig(experts="wide"))
        if dtype == torch.float32:
            torch.testing.assert_close(mixed, mixture(x))
        return mixture.experts.kept[dtype].weights

    first, lower = run(), run(torch.bfloat16)
    assert first.fc.shape == (16, 3 * 64) and lower.fc.dtype == torch.bfloat16
    assert run() is first and run(torch.bfloat16) is lower
    before = [tensor.clone() for tensor in lower]
    weights = {name: 2 * tensor for name, tensor in mixture.experts.weights_of(1).items()}
    for change in (
        lambda: mixture.experts.load_expert(1, weights),
        lambda: mixture.experts.reset([4, 5, 6]),
    ):
        change()
        assert run() is first and run(torch.bfloat16) is lower
    assert all((new != old).any() for new, old in zip(lower, before, strict=True))
    assert not any("kept" in name for name in mixture.state_dict())


def test_training_uses_what_an_evaluation_laid_out():
    mixture, compute = frozen_mixture(), ComputeConfig(experts="wide")
    x = torch.randn(2, 5, 16)
    with torch.inference_mode():
        run_mixture(mixture, x, compute)
    kept = mixture.experts.kept[torch.float32]
    run_mixture(mixture, x, compute).sum().backward()
    assert mixture.experts.kept[torch.float32] is kept
    assert all(p.grad is not None for p in mixture.router.parameters())


def test_weights_that_train_again_are_not_taken_from_the_kept_ones():
    mixture, compute = frozen_mixture(), ComputeConfig(experts="wide")
    x = torch.randn(2, 5, 16)
    run_mixture(mixture, x, compute)
    mixture.experts.requires_grad_(True)
    for parameter in mixture.experts.parameters():
        parameter.data.mul_(2)  # as a CUDA graph does: nobody counts it
    with torch.no_grad():
        torch.testing.assert_close(run_mixture(mixture, x, compute), mixture(x))


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_compiled_experts_side_by_side_are_one_graph(precision, monkeypatch):
    """Torch 2.11 cannot trace whether a device has autocast: that would split each block."""

    def untraceable(kind):
        torch._dynamo.graph_break()
        return True

    monkeypatch.setattr(torch.amp, "is_autocast_available", untraceable)
    mixture, x = frozen_mixture(), torch.randn(2, 5, 16)
    compute = ComputeConfig(experts="wide")

    def run(x):
        return run_mixture(mixture, x, compute)

    with torch.autocast("cpu", precision, enabled=precision is not None):
        expected = run(x)
        found = torch.compile(run, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(found, expected, rtol=1e-2 if precision else 1e-5, atol=1e-2)
