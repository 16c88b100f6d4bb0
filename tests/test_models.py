"""Properties of the models that hold for any weights."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from m3dt.config import ComputeConfig, ModelConfig
from m3dt.data import Segment
from m3dt.models import ExpertBank, Mixture, PromptDT, Router, add_mixtures, fast
from m3dt.models.fast.dropout import dropout_mask
from m3dt.models.fast.mixture import run_experts, run_mixture

SMALL = ModelConfig(n_layer=3, n_head=2, n_embd=16, context_length=5, prompt_length=3, dropout=0.1)


def random_segment(B, T, seed=0, padding=0):
    g = torch.Generator().manual_seed(seed)
    mask = torch.ones(B, T)
    mask[:, :padding] = 0
    return Segment(
        torch.randn(B, T, 39, generator=g),
        torch.rand(B, T, 8, generator=g) * 2 - 1,
        torch.randn(B, T, 1, generator=g),
        torch.arange(T).expand(B, T) + 7,
        mask,
    )


def make_model(num_experts=0, routed=True, config=SMALL):
    torch.manual_seed(0)
    model = PromptDT(config)
    if num_experts:
        add_mixtures(model, num_experts, routed)
    for parameter in model.parameters():  # biases and norms too, or a miswired one would not show
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize(
    ("width", "count"),
    [
        (128, 1_465_520),
        (256, 5_290_288),
        (512, 20_017_712),
        (1024, 77_784_112),
        (1536, 173_299_248),
    ],
)
def test_parameter_counts_of_the_backbone(width, count):
    with torch.device("meta"):
        assert PromptDT(ModelConfig(n_embd=width)).num_parameters() == count


@pytest.mark.parametrize(
    ("experts", "count"), [(8, 47_865_184), (24, 98_368_960), (40, 148_872_736), (48, 174_124_624)]
)
def test_parameter_counts_with_experts(experts, count):
    with torch.device("meta"):
        model = PromptDT(ModelConfig())
        add_mixtures(model, experts, routed=True)
    assert model.num_parameters() == count
    assert sum(p.numel() for m in model.mixtures for p in m.experts.parameters()) == (
        experts * 3_153_408
    )


@pytest.mark.parametrize("experts", [0, 3])
def test_causality(experts):
    """Changing a token changes no prediction before it, and some after it."""
    model, segment, prompt = make_model(experts), random_segment(2, 5), random_segment(2, 3, 1)
    before = model(segment, prompt)
    for name, first_affected in (("states", 3), ("actions", 4), ("returns_to_go", 3)):
        changed = getattr(segment, name).clone()
        changed[:, 3] += 1
        after = model(segment._replace(**{name: changed}), prompt)
        assert torch.equal(before[:, :first_affected], after[:, :first_affected])
        assert not torch.equal(before[:, first_affected:], after[:, first_affected:])


def test_padding_changes_nothing():
    model, prompt = make_model(3), random_segment(2, 3, 1, padding=1)
    segment = random_segment(2, 5, padding=2)
    before = model(segment, prompt)
    changed = segment._replace(states=segment.states.clone(), actions=segment.actions.clone())
    changed.states[:, :2] = 99
    changed.actions[:, :2] = -99
    other_prompt = prompt._replace(states=prompt.states.clone())
    other_prompt.states[:, 0] = 99
    after = model(changed, other_prompt)
    assert torch.equal(before[:, 2:], after[:, 2:])
    assert after.isfinite().all()


def test_padding_equals_absence():
    model, prompt = make_model(3), random_segment(2, 3, 1)
    segment = random_segment(2, 5, padding=2)
    short = Segment(*(tensor[:, 2:] for tensor in segment))
    torch.testing.assert_close(
        model(segment, prompt)[:, 2:], model(short, prompt), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("experts", [0, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_encoded_prompt_equals_one_sequence(experts, padding):
    model, segment = make_model(experts), random_segment(2, 5)
    prompt = random_segment(2, 3, 1, padding)
    encoded = fast.encode_prompt(model, prompt, None, ComputeConfig())
    action = fast.act(model, segment, encoded, ComputeConfig())
    torch.testing.assert_close(action, model(segment, prompt)[:, -1], rtol=1e-5, atol=1e-6)


def test_uniform_router_equals_the_mean_of_the_experts():
    mixture = Mixture(ExpertBank(SMALL, 4), Router(SMALL, 4)).eval()
    nn.init.zeros_(mixture.router.layers[-1].weight)
    nn.init.zeros_(mixture.router.layers[-1].bias)
    x = torch.randn(2, 7, 16)
    mean = sum(mixture.experts(e, x) for e in range(4)) / 4
    torch.testing.assert_close(mixture(x), mean)


def test_gate_weights_sum_to_one():
    gates = make_model(4).mixtures[0].router(torch.randn(3, 7, 16))
    torch.testing.assert_close(gates.sum(dim=-1), torch.ones(3, 7))


def test_bank_equals_a_loop_over_networks():
    bank = ExpertBank(SMALL, 3).eval()
    for parameter in bank.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 9, 16)
    for e in range(3):
        hidden = (x[e] @ bank.c_fc_weight[e] + bank.c_fc_bias[e]).relu()
        expected = hidden @ bank.c_proj_weight[e] + bank.c_proj_bias[e]
        torch.testing.assert_close(bank(e, x[e]), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(run_experts(bank, x)[e], expected, rtol=1e-4, atol=1e-4)


def test_unrouted_mixture_gives_each_expert_its_part():
    mixture = Mixture(ExpertBank(SMALL, 2), None).eval()
    x = torch.randn(6, 4, 16)
    whole = mixture(x)
    for e in range(2):
        part = slice(3 * e, 3 * e + 3)
        torch.testing.assert_close(whole[part], mixture.experts(e, x[part]))
    with pytest.raises(ValueError, match="5 rows are not 2 equal parts"):
        mixture(x[:5])


@pytest.mark.parametrize("residual", ["paper", "official"])
def test_zero_expert_keeps_the_backbone_only_in_the_papers_form(residual):
    config = ModelConfig(**{**vars(SMALL), "residual": residual})
    backbone, segment = make_model(config=config), random_segment(2, 5)
    before = backbone(segment)
    add_mixtures(backbone, 1, routed=False)
    for mixture in backbone.mixtures:
        for parameter in mixture.parameters():
            nn.init.zeros_(parameter)
    assert torch.equal(before, backbone.eval()(segment)) == (residual == "paper")


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_mask(p):
    like = torch.empty(401, 1003)  # not a multiple of four
    torch.manual_seed(0)
    mask = dropout_mask(like, p)
    assert mask.shape == like.shape
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])
    dropped = (mask == 0).float()
    error = 4 * (p * (1 - p) / like.numel()) ** 0.5  # 4 standard errors
    assert dropped.mean().item() == pytest.approx(p, abs=error)
    # Neighbours share a random word; they must not share their fate.
    flat = dropped.flatten() - p
    for lag in (1, 2, 3, 4):
        correlation = (flat[:-lag] * flat[lag:]).mean() / (p * (1 - p))
        assert abs(correlation.item()) < 4 / like.numel() ** 0.5
    torch.manual_seed(0)
    assert torch.equal(mask, dropout_mask(like, p))


WAYS = ("plain", "in_turn", "together", "wide")


def run(mixture, x, way):
    return mixture(x) if way == "plain" else run_mixture(mixture, x, ComputeConfig(experts=way))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("routed", [False, True])
def test_experts_of_a_block_drop_the_same_units(way, routed):
    """Where the mask drops, nothing comes from any expert; the rest is divided by 1 - p."""
    torch.manual_seed(0)
    experts = ExpertBank(replace(SMALL, dropout=0.3), 3)
    for parameter in experts.parameters():
        nn.init.normal_(parameter)
    mixture = Mixture(experts, Router(SMALL, 3) if routed else None)
    x = torch.randn(60, 10, 16)
    with torch.no_grad():
        whole, dropped = (run(mixture.train(mode), x, way) for mode in (False, True))
    keep = dropped != 0
    torch.testing.assert_close(dropped[keep], whole[keep] / 0.7, rtol=1e-4, atol=1e-4)
    parts = keep.unflatten(0, (1 if routed else 3, -1))
    assert all(torch.equal(part, parts[0]) for part in parts)
    n = parts[0].numel()
    assert parts[0].float().mean().item() == pytest.approx(0.7, abs=4 * (0.21 / n) ** 0.5)


@pytest.mark.parametrize("way", WAYS)
def test_dropout_of_an_expert_depends_on_nobody_else(way):
    """The same generator gives an expert the same mask, however many others are there."""
    kept = []
    for num_experts in (1, 4):
        mixture = Mixture(ExpertBank(replace(SMALL, dropout=0.3), num_experts), None).train()
        nn.init.ones_(mixture.experts.c_proj_bias)
        torch.manual_seed(7)
        kept.append(run(mixture, torch.zeros(2 * num_experts, 5, 16), way) != 0)
    assert kept[0].any() and not kept[0].all()
    assert all(torch.equal(part, kept[0]) for part in kept[1].split(2))


def test_dropout_is_active_only_in_training():
    model, segment = make_model(), random_segment(2, 5)
    assert torch.equal(model(segment), model(segment))
    model.train()
    assert not torch.equal(model(segment), model(segment))
