"""The parts that methods are made of: what trains, what stays to the bit, and what they compute."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY
from test_stages import FAST, MODEL, copy_of, data_for, fresh_model, train

from m3dt.bench.method_costs import TRAININGS, stage_of
from m3dt.bench.steps import random_batch, training_step
from m3dt.config import (
    METHODS,
    ComputeConfig,
    ModelConfig,
    MoEConfig,
    load_config,
)
from m3dt.data import Draws, TaskStream
from m3dt.models import PromptDT, add_mixtures, capturable, fast, make_model
from m3dt.models.plain import Router
from m3dt.models.variants.top_k import TopKRouter
from m3dt.stages import BaselineStage, ExpertStage, RouterStage

FASTEST = ComputeConfig()


def numel(module):
    return sum(parameter.numel() for parameter in module.parameters())


def changed(stage, before):
    """Return the names of the tensors that training changed, to the bit."""
    after = stage.model.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}


@pytest.mark.parametrize("expert", ["ffn", "trunk"])
@pytest.mark.parametrize("train_experts", [False, True])
def test_what_stage_3_moves(synthetic, expert, train_experts):
    model = fresh_model()
    add_mixtures(model, 2, routed=True, moe=MoEConfig(2, expert))
    stage = RouterStage(model, FAST, 0, train_experts)
    before = copy_of(model)
    train(stage, data_for(synthetic, 3))
    moved = changed(stage, before)
    routers = {n for n in before if ".router." in n}
    experts = {n for n in before if ".experts." in n}
    assert routers and experts
    assert moved == (routers | experts if train_experts else routers)


@pytest.mark.parametrize("expert", ["ffn", "trunk"])
def test_what_stage_2_moves(synthetic, expert):
    model = fresh_model()
    add_mixtures(model, 2, routed=False, moe=MoEConfig(2, expert))
    stage = ExpertStage(model, FAST, 0, [0, 1])
    before = copy_of(model)
    data = data_for(synthetic, 2, streams=[TaskStream(0, (0, 2)), TaskStream(1, (1, 2))])
    train(stage, data)
    assert changed(stage, before) == {n for n in before if ".experts." in n}


def test_end_to_end_moves_everything_with_a_loss(synthetic):
    model = fresh_model(2, routed=True)
    stage = BaselineStage(model, FAST, 0)
    before = copy_of(model)
    train(stage, data_for(synthetic, 0))
    unused = {n for n in before if n.startswith(("transformer.wte", "predict_state", "predict_re"))}
    assert set(before) - changed(stage, before) == unused


@pytest.mark.parametrize("frozen_dropout", [False, True])
def test_dropout_in_frozen_parts_is_a_choice(synthetic, frozen_dropout):
    """On, it changes the modes of frozen modules, and still nothing but the routers moves."""
    model = fresh_model(2, routed=True)
    config = replace(FAST, frozen_dropout=frozen_dropout)
    stage = RouterStage(model, config, 0)
    assert model.transformer.h[0].attn.training == frozen_dropout
    assert model.mixtures[0].experts.training == frozen_dropout
    assert model.mixtures[0].router.training
    before = copy_of(model)
    train(stage, data_for(synthetic, 3))
    assert changed(stage, before) == {n for n in before if ".router." in n}


@pytest.mark.parametrize("fewer", [(0, 1), (1,)])
def test_a_big_expert_alone_equals_one_among_others(synthetic, one_thread, fewer):
    """Weights after training, dropout included, depend to the bit on the expert's number alone."""
    results = []
    for numbers in ((0, 1, 2), fewer):
        model = fresh_model()
        add_mixtures(model, len(numbers), routed=False, moe=MoEConfig(len(numbers), "trunk"))
        stage = ExpertStage(model, FAST, 0, numbers)
        train(stage, data_for(synthetic, 2, streams=[TaskStream(k, (k,)) for k in numbers]))
        results.append(stage.expert_weights()[1])
    assert all(torch.equal(results[1][name], tensor) for name, tensor in results[0].items())


@pytest.mark.parametrize("shortcuts", ["on", "off"])
@pytest.mark.parametrize("routed", [False, True])
def test_big_experts_draw_the_same_dropout(synthetic, one_thread, shortcuts, routed):
    """Two with the same weights, on the same rows, drop the same units."""
    model = fresh_model()
    add_mixtures(model, 2, routed, MoEConfig(2, "trunk"))
    experts = model.big_experts.experts
    experts.load_expert(1, experts.weights_of(0))
    stage = BaselineStage(model, FAST, 0)
    stage.set_compute(ComputeConfig(shortcuts=shortcuts))
    data = data_for(synthetic, 1)
    batch = data.gather(Draws.join([data.draws(0).with_own_prompts()] * 2))
    outputs = []
    for trunk in experts.trunks:
        trunk.ln_f.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    for dropping in (False, True):
        model.eval()
        experts.train(dropping)
        assert capturable(model) != dropping
        stage.predictions(batch)
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[2], outputs[3])
    assert not torch.equal(outputs[0], outputs[2])


def test_big_experts_with_an_encoded_prompt_equal_one_sequence(synthetic):
    batch = data_for(synthetic, 1).batch(0)
    model = fresh_model()
    add_mixtures(model, 3, routed=True, moe=MoEConfig(3, "trunk"))
    model.eval()
    with torch.no_grad():
        whole = model(batch.segment, batch.row_prompts())[:, -1]
        prompt = fast.encode_prompt(model, batch.row_prompts(), None, FASTEST)
        encoded = fast.act(model, batch.segment, prompt, FASTEST)
    torch.testing.assert_close(encoded, whole)


def test_big_experts_are_a_weighted_sum_of_trunks(synthetic):
    batch = data_for(synthetic, 1).batch(0)
    model = fresh_model()
    add_mixtures(model, 2, routed=True, moe=MoEConfig(2, "trunk"))
    model.eval()
    seen = {}

    def keep(name):
        return lambda module, inputs, output: seen.__setitem__(name, (inputs, output))

    model.transformer.register_forward_hook(keep("backbone"))
    for e, trunk in enumerate(model.big_experts.experts.trunks):
        trunk.register_forward_hook(keep(e))
    model.predict_action.register_forward_pre_hook(lambda m, i: seen.__setitem__("head", i[0]))
    with torch.no_grad():
        model(batch.segment, batch.row_prompts())
        hidden = seen["backbone"][1]
        assert all(torch.equal(seen[e][0][0], seen["backbone"][0][0]) for e in range(2))
        gates = model.big_experts.router(hidden)
        mixed = hidden + sum(gates[..., e : e + 1] * seen[e][1] for e in range(2))
        expected = mixed[:, -18:]  # the segment's tokens
    states = expected.unflatten(1, (-1, 3))[:, :, 1]  # actions are read at state tokens
    torch.testing.assert_close(seen["head"], states)


def test_big_experts_are_as_large_as_a_trunk():
    config = ModelConfig()
    model = PromptDT(config)
    add_mixtures(model, 1, routed=False, moe=MoEConfig(1, "trunk"))
    trunk = sum(p.numel() for p in model.transformer.parameters()) - 256  # without the token table
    assert sum(p.numel() for p in model.big_experts.parameters()) == trunk


def test_top_k_router():
    torch.manual_seed(0)
    router = TopKRouter(MODEL, 6, top_k=2)
    x = torch.randn(50, 16) * 30
    router.eval()
    gates = router(x)
    assert ((gates > 0).sum(dim=1) == 2).all()
    torch.testing.assert_close(gates.sum(dim=1), torch.ones(50))
    assert torch.equal(gates, router(x))  # no noise in evaluation
    dense = Router(MODEL, 6)
    dense.load_state_dict(router.state_dict(), strict=False)
    top = dense(x).topk(2, dim=1)
    chosen = torch.zeros(50, 6).scatter(1, top.indices, top.values)
    torch.testing.assert_close(gates, chosen / chosen.sum(dim=1, keepdim=True))  # renormalised
    router.train()
    assert not torch.equal(router(x), router(x))
    router.eval()
    for parameter in router.layers[-1].parameters():
        torch.nn.init.zeros_(parameter)  # all scores equal
    assert ((router(x) > 0).sum(dim=1) == 2).all()


def test_mtdt_tells_tasks_apart_by_a_vector(synthetic):
    batch = data_for(synthetic, 1, sampling="mixed").batch(0)
    torch.manual_seed(0)
    config = ModelConfig(**{**vars(MODEL), "task_embedding": 12})
    model = make_model(config, num_tasks=3).eval()
    assert model.embed.state.weight.shape == (16, 39 + 12)
    assert not any(name.startswith("prompt") for name, _ in model.named_parameters())
    zeros = torch.zeros(6, dtype=torch.long)
    with torch.no_grad():
        one, other = (model(batch.segment, None, zeros + k) for k in (0, 1))
        again = model(batch.segment, batch.row_prompts(), zeros)  # a prompt says nothing
        prompt = fast.encode_prompt(model, batch.row_prompts(), zeros, FASTEST)
        cached = fast.act(model, batch.segment, prompt, FASTEST)
        # By hand: the vector is appended to every state.
        vector = model.task_embed.weight[0].expand(*batch.segment.states.shape[:2], 12)
        states = torch.cat((batch.segment.states, vector), dim=2)
        expected = model.embed.state(states)
    got = []
    model.embed.state.register_forward_hook(lambda m, i, o: got.append(o))
    model(batch.segment, None, zeros)
    assert torch.equal(got[0], expected)
    assert torch.equal(one, again) and not torch.equal(one, other)
    torch.testing.assert_close(cached, one[:, -1])


@pytest.mark.parametrize(("attention", "mlp"), [(32, 0), (0, 96)])
def test_one_part_may_be_widened_alone(synthetic, attention, mlp):
    batch = data_for(synthetic, 1).batch(0)
    widened = ModelConfig(**{**vars(MODEL), "attention_width": attention, "mlp_width": mlp})
    model = PromptDT(widened)
    block, plain = model.transformer.h[0], PromptDT(MODEL).transformer.h[0]
    attention, mlp = attention or 16, mlp or 64
    assert numel(block.attn) == (16 + 1) * 3 * attention + (attention + 1) * 16
    assert numel(block.mlp) == (16 + 1) * mlp + (mlp + 1) * 16
    assert numel(block.ln_1) == numel(plain.ln_1)
    assert model(batch.segment, batch.row_prompts()).shape == (6, 6, 8)


@pytest.mark.parametrize(("name", "method", "part", "num_tasks"), TRAININGS)
def test_every_training_of_the_benchmark_steps(name, method, part, num_tasks):
    """At a tiny size; `m3dt bench --rows methods` takes the real ones."""
    config = load_config("mt160", [*TINY, f"method={method}", "moe.num_experts=5"])
    stage = stage_of(config, part)
    before = copy_of(stage.model)
    training_step(stage, random_batch(8, 4, 2, num_tasks=num_tasks))()
    assert changed(stage, before)
    assert changed(stage, before) <= set(stage.trainable())


def test_the_benchmark_has_every_method():
    grouped = {method.replace("random", "gradient") for method in METHODS}
    left_out = grouped - {method for _, method, *_ in TRAININGS}
    assert left_out == {"m3dt-unfrozen-gradient", "bc", "bc-best"}  # they cost what others do
