"""Every shortcut equals the plain model, forward and backward."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import SYNTHETIC_TASKS
from test_models import SMALL, make_model
from test_stages import FAST, MODEL, data_for, fresh_model, train

from m3dt.bench.steps import random_batch
from m3dt.config import ComputeConfig, LoaderConfig
from m3dt.data import DatasetStore, ExpertStreams, M3DTDataModule, TaskStream
from m3dt.models import PromptDT, add_mixtures, fast
from m3dt.models.fast.frozen_experts import MixFrozenExperts
from m3dt.models.fast.mixture import run_experts, run_mixture
from m3dt.models.fast.transformer import attend, attention_mask
from m3dt.models.plain import ExpertBank
from m3dt.stages import BackboneStage, ExpertStage, RouterStage, row_losses
from m3dt.stages.stage import plain_predictions


def stage_for(number, num_experts):
    """Return a stage whose experts do something, without dropout."""
    torch.manual_seed(3)
    model = PromptDT(replace(MODEL, dropout=0.0))
    kinds = {1: BackboneStage, 2: ExpertStage, 3: RouterStage}
    if num_experts:
        add_mixtures(model, num_experts, routed=number == 3)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    rest = (range(num_experts),) if number == 2 else ()
    return kinds[number](model, FAST, 0, *rest)


def gradients(stage, predict, batch):
    stage.zero_grad()
    actions = predict()
    row_losses(actions, batch).sum().backward()
    return actions.detach(), {n: p.grad.clone() for n, p in stage.trainable().items()}


@pytest.mark.parametrize("share", ["on", "off", "auto"])
@pytest.mark.parametrize("experts", ["in_turn", "together", "wide", "auto"])
@pytest.mark.parametrize("number, num_experts", [(1, 0), (2, 1), (3, 5)])
def test_a_stage_equals_the_plain_computation(synthetic, number, num_experts, share, experts):
    stage = stage_for(number, num_experts)
    stage.set_compute(ComputeConfig(share_prompts=share, experts=experts))
    batch = data_for(synthetic, number).batch(2)
    actions, mine = gradients(stage, lambda: stage.predictions(batch), batch)
    expected, plain = gradients(stage, lambda: plain_predictions(stage.model, batch), batch)
    real = batch.segment.attention_mask.bool()
    assert real.all(dim=1).any() and not real.all()
    torch.testing.assert_close(actions[real], expected[real], rtol=1e-5, atol=1e-5)
    assert mine.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_sharing_is_taken_where_it_pays(synthetic):
    """By default one task's 6 rows share 2 prompts; three tasks' 6 prompts serve nobody twice."""
    model = fresh_model().eval()
    encoded = []
    model.prompt_embed.register_forward_hook(lambda m, i, out: encoded.append(len(out)))
    for sampling in ("one_task", "mixed"):
        batch = data_for(synthetic, 1, sampling=sampling).batch(0)
        fast.predict(model, batch, ComputeConfig())
    assert encoded == [2, 6]


@pytest.mark.parametrize("sampling", ["one_task", "mixed"])
def test_experts_of_unequal_groups_read_their_own_prompts(synthetic, sampling):
    """Sharing forced on, each of two experts in one model equals itself alone."""
    store = DatasetStore.open(synthetic, SYNTHETIC_TASKS)
    loader = LoaderConfig(batch_size=6, sampling=sampling)
    streams = [TaskStream(0, (0, 2)), TaskStream(1, (1,))]
    losses = []
    for chosen in (streams, streams[:1], streams[1:]):
        data = M3DTDataModule(store, loader, MODEL, 0, 2, ExpertStreams(tuple(chosen)))
        stage = ExpertStage(fresh_model(len(chosen)), FAST, 0, [s.key for s in chosen])
        stage.set_compute(ComputeConfig(share_prompts="on"))
        stage.eval()
        losses.append(row_losses(stage.predictions(data.batch(1)), data.batch(1)))
    torch.testing.assert_close(losses[0], torch.cat(losses[1:]))


def test_mixing_frozen_experts_has_the_right_gradients():
    """Those of autograd through the batched form, with and without a gradient of x."""
    bank = ExpertBank(SMALL, 3).double().eval()
    for parameter in bank.parameters():
        parameter.data.normal_()
    weights = tuple(p.detach() for p in bank.parameters())
    x, gates = torch.randn(4, 16, dtype=torch.double), torch.rand(4, 3, dtype=torch.double)

    def mix(x, gates):
        outputs = run_experts(bank, x.expand(3, -1, -1))
        return torch.einsum("emd,me->md", outputs, gates)

    for wants in (True, False):
        mine, theirs = ((x.clone(), gates.clone().requires_grad_()) for _ in range(2))
        if wants:
            mine[0].requires_grad_(), theirs[0].requires_grad_()
        MixFrozenExperts.apply(*mine, *weights).square().sum().backward()
        mix(*theirs).square().sum().backward()
        torch.testing.assert_close(mine[1].grad, theirs[1].grad, rtol=1e-5, atol=1e-5)
        if wants:
            torch.testing.assert_close(mine[0].grad, theirs[0].grad, rtol=1e-5, atol=1e-5)


def test_mixing_in_bf16_has_the_gradients_of_the_same_products():
    """Those of autograd through the loop with weights that were brought to bfloat16 before."""
    torch.manual_seed(0)
    bank = ExpertBank(SMALL, 3).eval()
    weights = tuple(p.detach().normal_() for p in bank.parameters())
    x, gates = torch.randn(40, 16, dtype=torch.bfloat16), torch.rand(40, 3)

    def mix(x, gates):
        w1, b1, w2, b2 = (w.to(torch.bfloat16) for w in weights)
        hidden = [torch.addmm(b1[e], x, w1[e]).relu() for e in range(3)]
        outputs = [torch.addmm(b2[e], hidden[e], w2[e]) for e in range(3)]
        return sum(gates[:, e : e + 1] * outputs[e].float() for e in range(3))

    mine, theirs = ((x.clone(), gates.clone()) for _ in range(2))
    for tensor in (*mine, *theirs):
        tensor.requires_grad_()
    target = torch.randn(40, 16)
    (MixFrozenExperts.apply(*mine, *weights) * target).sum().backward()
    (mix(*theirs) * target).sum().backward()
    for got, wanted in zip(mine, theirs, strict=True):
        error = (got.grad - wanted.grad).float().norm() / wanted.grad.float().norm()
        assert error < 0.02  # sums are rounded to 8 bits at other places


def test_attention_in_bf16_equals_the_fused_kernel():
    """With a gradient, attention in bfloat16 is computed step by step on a CPU."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, 9, 8, dtype=torch.bfloat16) for _ in range(3))
    mask = attention_mask(torch.ones(3, 9, dtype=torch.bool), None, torch.bfloat16)
    fused = attend(q, k, v, mask, 0.0)
    stepwise = attend(q.requires_grad_(), k, v, mask, 0.0)
    assert "ScaledDotProduct" not in type(stepwise.grad_fn).__name__
    torch.testing.assert_close(stepwise.detach(), fused, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("number, num_experts", [(1, 0), (2, 1), (3, 5)])
def test_bf16_stays_near_float32(number, num_experts):
    """Products in bfloat16 have 8 bits: losses and gradients agree to about a percent."""
    stage = stage_for(number, num_experts)
    torch.manual_seed(0)
    batch = random_batch(8, 6, 4)
    exact, wanted = gradients(stage, lambda: stage.predictions(batch), batch)
    with torch.autocast("cpu", torch.bfloat16):
        actions, mine = gradients(stage, lambda: stage.predictions(batch), batch)
    assert (actions.float() - exact).abs().max() < 0.1
    flat = [torch.cat([g.flatten() for g in grads.values()]) for grads in (mine, wanted)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.99


def test_router_trains_under_bf16_mixed(synthetic):
    stage = stage_for(3, 3)
    before = {n: p.clone() for n, p in stage.model.named_parameters()}
    train(stage, data_for(synthetic, 3), precision="bf16-mixed")
    for name, parameter in stage.model.named_parameters():
        assert torch.equal(parameter, before[name]) != (".router." in name)
        assert parameter.dtype == torch.float32


def test_experts_that_train_are_not_mixed_in_turn(monkeypatch):
    """The loop has no gradients of their weights; autograd computes those."""
    monkeypatch.setattr(MixFrozenExperts, "apply", lambda *arguments: pytest.fail("taken"))
    mixture, x = make_model(2).mixtures[0], torch.randn(2, 5, 16)
    run_mixture(mixture, x, ComputeConfig(experts="in_turn")).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in mixture.experts.parameters())
    mixture.experts.requires_grad_(False)
    with pytest.raises(pytest.fail.Exception, match="taken"):
        run_mixture(mixture, x, ComputeConfig(experts="in_turn"))


@pytest.mark.parametrize("number, num_experts", [(1, 0), (2, 2), (3, 3)])
def test_a_stage_can_be_traced_as_one_graph(number, num_experts):
    """Nothing in a forward pass makes torch.compile give a part back to Python."""
    torch.manual_seed(0)
    stage, batch = stage_for(number, num_experts), random_batch(8, 6, 4)
    predict = partial(fast.predict, compute=ComputeConfig(experts="wide"))
    fast.prepare(stage.model, ComputeConfig(experts="wide"))
    traced = torch.compile(predict, fullgraph=True, backend="aot_eager", dynamic=False)
    expected, wanted = gradients(stage, lambda: predict(stage.model, batch), batch)
    actions, mine = gradients(stage, lambda: traced(stage.model, batch), batch)
    torch.testing.assert_close(actions, expected)
    for name, gradient in wanted.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
