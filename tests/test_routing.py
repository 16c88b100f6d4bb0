"""Which experts act: gates chosen once per episode, against plain and naive forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SYNTHETIC_TASKS
from random_agents import MODEL, perturbed
from test_oracle import RULES, make_run, observations

import m3dt
from m3dt.config import ComputeConfig, EvaluationConfig, LoaderConfig, ModelConfig, MoEConfig
from m3dt.data import DatasetStore
from m3dt.data.sampler import TaskSampler
from m3dt.evaluation import AgentPolicy, ExpertsPolicy
from m3dt.evaluation.sessions import EpisodeGroup
from m3dt.models import PromptDT, add_mixtures, fast
from m3dt.models.plain import causal_mask, token_mask
from m3dt.models.routing import (
    GivenGates,
    LargestGates,
    PromptRouter,
    Selection,
    dense_gates,
    mean_gates,
    prompt_features,
    select,
    watched_gates,
    with_routers,
)
from m3dt.runs import Registry
from m3dt.runs.entries import Entry
from m3dt.utils.errors import UserError
from m3dt.utils.processes import single_threaded

COMPUTE = ComputeConfig()
E = 3


@pytest.fixture(scope="module")
def run(synthetic, tmp_path_factory):
    """A backbone, an expert per task, a token router and a prompt router, with random weights."""
    folder = make_run(synthetic, tmp_path_factory.mktemp("routing") / "run")
    registry = Registry(folder)
    backbone, *experts = registry.entries()
    parents = {entry.key: entry.hash for entry in (backbone, *experts)}
    torch.manual_seed(3)
    model = PromptDT(MODEL)
    add_mixtures(model, E, routed=True)
    token = {
        f"{layer}.router.{name}": 3 * tensor
        for layer, mixture in enumerate(model.mixtures)
        for name, tensor in perturbed(mixture.router).state_dict().items()
    }
    moe = {"moe": vars(MoEConfig(E))}
    tasks = list(SYNTHETIC_TASKS)
    registry.save(Entry("router", "main", moe, parents, "", 0, 5, {}, tasks), token)
    by_prompt = {"moe": vars(MoEConfig(E, router="prompt")), "prompt_router": {"hidden": 8}}
    weights = perturbed(PromptRouter(ModelConfig(), E, 8)).state_dict()
    registry.save(Entry("router", "prompt", by_prompt, parents, "", 0, 5, {}, tasks), weights)
    return folder


def prompts_of(agent, task):
    index = agent.context.index(task)
    return type(agent.context.prompts)(*(tensor[index] for tensor in agent.context.prompts))


def test_features_equal_a_loop_over_raw_steps(synthetic):
    """Read from the files, without the preparation that they undo."""
    store = DatasetStore.open(synthetic, SYNTHETIC_TASKS).tasks[1]
    sampler = TaskSampler(store, LoaderConfig(), ModelConfig())
    prompt = sampler.prompts(np.array([0, 1]), 5).segment()
    normalization = sampler.prompt_inputs.normalization
    mean, std = (torch.from_numpy(x).expand(2, -1) for x in (normalization.mean, normalization.std))
    found = prompt_features(prompt, mean, std)
    for row, trajectory in enumerate((len(store.episode_ends) - 2, len(store.episode_ends) - 1)):
        end = store.episode_ends[trajectory]
        start = max(end - 1 - 5, store.episode_starts[trajectory])
        steps = []
        for t in range(start, min(start + 5, end)):
            raw = np.zeros(39)
            raw[: store.spec.state_dim] = store.observations[t]
            normal = (raw - normalization.mean) / normalization.std
            action = np.zeros(8)
            action[: store.spec.action_dim] = store.actions[t]
            last = t == min(start + 5, end) - 1
            reward = 0.0 if last else store.rewards[t] / store.spec.return_scale
            steps.append(np.concatenate([raw, normal, action, [reward]]))
        expected = np.concatenate([np.mean(steps, axis=0), np.std(steps, axis=0)])
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=2e-5)


def test_features_ignore_padding(synthetic):
    store = DatasetStore.open(synthetic, SYNTHETIC_TASKS).tasks[0]
    sampler = TaskSampler(store, LoaderConfig(), ModelConfig())
    short = sampler.segments(np.array([3]), store.episode_starts[[3]], 3, sampler.prompt_inputs)
    long = sampler.segments(np.array([3]), store.episode_starts[[3]], 9, sampler.prompt_inputs)
    statistics = torch.rand(1, 39), 1 + torch.rand(1, 39)
    features = [prompt_features(rows.segment(), *statistics) for rows in (short, long)]
    torch.testing.assert_close(*features)


def test_select():
    gates = torch.tensor([[0.05, 0.6, 0.35], [0.01, 0.04, 0.95]])[:, None]
    everything = select(gates, "all")
    assert everything.experts is None and torch.equal(everything.weights, gates)
    assert select(gates, "3").experts is None
    one = select(gates, "1")
    assert one.experts.tolist() == [[[1]], [[2]]] and one.weights.tolist() == [[[1.0]], [[1.0]]]
    two = select(gates, "2")
    assert two.experts.tolist() == [[[1, 2]], [[2, 1]]]
    torch.testing.assert_close(two.weights[0, 0], torch.tensor([0.6, 0.35]) / 0.95)
    certain = select(gates, "auto")  # the first needs two to reach 0.9, the second one
    assert certain.experts.tolist() == [[[1, 2, 0]], [[2, 1, 0]]]
    assert certain.weights[1, 0].tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(certain.weights[0, 0], torch.tensor([0.6, 0.35, 0]) / 0.95)
    flat = select(torch.full((1, 1, 40), 1 / 40), "auto")
    assert flat.weights.tolist() == [[[0.25] * 4]]


def test_largest_gates_equal_a_sort():
    torch.manual_seed(0)
    gates = torch.rand(5, 7, 4).softmax(dim=-1)
    kept = LargestGates(torch.nn.Identity(), 2)(gates)
    for row, own in zip(gates.flatten(0, 1), kept.flatten(0, 1), strict=True):
        first, second = sorted(range(4), key=lambda e: -row[e])[:2]
        expected = torch.zeros(4)
        total = row[first] + row[second]
        expected[first], expected[second] = row[first] / total, row[second] / total
        torch.testing.assert_close(own, expected)


def test_gates_of_a_prompt_equal_a_loop_over_its_tokens(run):
    """Each token's gates by the plain model, run on the tokens up to it."""
    agent = m3dt.load(run, "router", "main")
    model, prompt = agent.model, prompts_of(agent, SYNTHETIC_TASKS[0])
    found = fast.prompt_gates(model, prompt, COMPUTE)
    x, valid = model.prompt_embed(prompt), token_mask(prompt)
    assert valid.all()
    gates = []
    for n in range(1, x.shape[1] + 1):
        h, own = x[:, :n], []
        for block in model.transformer.h:
            after = h + block.attn(block.ln_1(h), causal_mask(valid[:, :n]))
            own.append(block.mixture.router(block.ln_2(after))[:, -1])
            h = block(h, causal_mask(valid[:, :n]))
        gates.append(torch.stack(own, dim=1))
    torch.testing.assert_close(found, torch.stack(gates).mean(dim=0))


def test_padding_counts_for_no_gates(run):
    agent = m3dt.load(run, "router", "main")
    prompt = prompts_of(agent, SYNTHETIC_TASKS[0])
    mask = prompt.attention_mask.clone()
    mask[:, 0] = 0
    with watched_gates(agent.model) as gates:
        agent.model(prompt)
    expected = torch.stack([g[:, 3:].mean(dim=1) for g in gates], dim=1)
    torch.testing.assert_close(mean_gates(gates, prompt._replace(attention_mask=mask)), expected)


@pytest.mark.parametrize("experts", ["all", "1", "2", "auto"])
def test_held_gates_equal_the_plain_model_with_these_gates(run, experts):
    """Encoded prompt, cached keys and chosen experts, against one pass of the plain model."""
    torch.manual_seed(0)
    agent = m3dt.load(run, "router", "main")
    prompt = prompts_of(agent, SYNTHETIC_TASKS[1])
    segment = prompt._replace(states=torch.randn_like(prompt.states))
    gates = torch.rand(2, 1, E).softmax(dim=-1).expand(-1, len(agent.model.mixtures), -1)
    selection = select(gates, experts)
    encoded = fast.encode_prompt(agent.model, prompt, None, COMPUTE, selection)
    found = fast.act(agent.model, segment, encoded, COMPUTE)
    dense = gates if selection.experts is None else dense_gates(*selection, E)
    plain = with_routers(agent.model, [GivenGates(g) for g in dense.unbind(1)])
    torch.testing.assert_close(found, plain(segment, prompt)[:, -1], rtol=0, atol=2e-6)
    assert not isinstance(agent.model.mixtures[0].router, GivenGates)  # the copy alone changed


def played(policy, steps=5, groups=None):
    """Return the actions of a policy on random observations: (groups, episodes, A) per step."""
    groups = groups or [EpisodeGroup(task, (0, 1)) for task in SYNTHETIC_TASKS]
    sessions = [policy.begin(group, 0) for group in groups]
    rng, actions = np.random.default_rng(0), []
    for t in range(steps):
        for group, session in zip(groups, sessions, strict=True):
            size = len(group.episodes)
            session.observe(observations(rng, group.task, size), np.ones(size) if t else None)
        actions.append(policy.act(sessions))
    return actions


def difference(one, other):
    """Return the largest difference between two results of `played`."""
    pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
    return max(np.abs(x - y).max() for x, y in pairs)


def test_a_prompt_router_acts_with_the_experts_it_chooses(run, monkeypatch):
    """Certain of another group's expert, it acts as that one does alone."""
    agent = m3dt.load(run, "router", "prompt")
    assert agent.method == "M3DT, by prompt"
    monkeypatch.setattr(PromptRouter, "forward", lambda self, f: torch.eye(E)[1].expand(len(f), -1))
    alone = AgentPolicy(m3dt.load(run, "expert", "1"), RULES)
    assert difference(played(AgentPolicy(agent, RULES)), played(alone)) < 3e-6
    other = AgentPolicy(m3dt.load(run, "expert", "0"), RULES)
    assert difference(played(alone), played(other)) > 1e-3


def test_predict_equals_acting(run):
    """One pass of the plain model against the session's cached prompt and chosen experts."""
    agent = m3dt.load(run, "router", "prompt")
    task = SYNTHETIC_TASKS[2]
    policy = AgentPolicy(agent, RULES)
    session = policy.begin(EpisodeGroup(task, (0, 1)), 0)
    session.observe(observations(np.random.default_rng(0), task, 2), None)
    expected = agent.predict(session.window().segment(), prompts_of(agent, task), task)[:, -1]
    (found,) = policy.act([session])
    np.testing.assert_allclose(found, expected[:, : found.shape[1]], rtol=0, atol=3e-6)
    with pytest.raises(UserError, match="router/prompt needs the name of the task"):
        agent.predict(session.window().segment(), prompts_of(agent, task))


def test_a_row_does_not_depend_on_its_company(run):
    policy = AgentPolicy(m3dt.load(run, "router", "prompt"), RULES)
    groups = [EpisodeGroup(task, (e,)) for e, task in enumerate(SYNTHETIC_TASKS * 2)]
    with single_threaded():
        together = played(policy, groups=groups)
        sessions, rng = [policy.begin(group, 0) for group in groups], np.random.default_rng(0)
        for t, expected in enumerate(together):
            for group, session, own in zip(groups, sessions, expected, strict=True):
                session.observe(observations(rng, group.task, 1), np.ones(1) if t else None)
                np.testing.assert_array_equal(policy.act([session])[0], own)


def test_episode_gates_change_what_a_token_router_does(run):
    agent = m3dt.load(run, "router", "main")
    token = AgentPolicy(agent, RULES)
    held = AgentPolicy(agent, replace(RULES, gates="episode"))
    assert token.chooser is None and held.chooser.experts == "all"
    assert difference(played(token), played(held)) > 1e-4
    fixed = [torch.rand(E).softmax(0) for _ in agent.model.mixtures]
    constant = [GivenGates(gates.expand(RULES.batch_size, -1)) for gates in fixed]
    same = replace(agent, model=with_routers(agent.model, constant))
    session = AgentPolicy(same, replace(RULES, gates="episode", experts="2"))
    chosen = session.begin(EpisodeGroup(SYNTHETIC_TASKS[0], tuple(range(7))), 0).prompt.selection
    expected = select(torch.stack(fixed).expand(7, -1, -1), "2")
    assert torch.equal(chosen.experts, expected.experts)
    torch.testing.assert_close(chosen.weights, expected.weights)


def test_fewer_experts_per_token(run):
    """`evaluation.experts` of a token router keeps the largest gates of each token."""
    agent = m3dt.load(run, "router", "main")
    fewer = AgentPolicy(agent, replace(RULES, experts="1"))
    largest = [LargestGates(mixture.router, 1) for mixture in agent.model.mixtures]
    plain = with_routers(agent.model, largest)
    task = SYNTHETIC_TASKS[0]
    session = fewer.begin(EpisodeGroup(task, (0, 1)), 0)
    session.observe(observations(np.random.default_rng(0), task, 2), None)
    expected = plain(session.window().segment(), prompts_of(agent, task))[:, -1]
    (found,) = fewer.act([session])
    np.testing.assert_allclose(found, expected[:, : found.shape[1]], rtol=0, atol=3e-6)


def test_rules_for_experts(run):
    """Even gates are the mean of all experts; chance is keyed by task and episode."""
    even = ExpertsPolicy(run, RULES, rule="even")
    gates = even.chooser.gates(even._runner, None, SYNTHETIC_TASKS[0], (0, 1))
    torch.testing.assert_close(gates, torch.full((2, 1, E), 1 / E))
    chance = ExpertsPolicy(run, RULES, rule="random-expert")
    both = chance.chooser.gates(chance._runner, None, SYNTHETIC_TASKS[0], tuple(range(50)))
    again = chance.chooser.gates(chance._runner, None, SYNTHETIC_TASKS[0], (7, 3))
    assert torch.equal(both[[7, 3]], again)
    assert (both.sum(dim=0) > 5).all() and torch.equal(both.sum(dim=-1), torch.ones(50, 1))


def test_what_cannot_be_is_refused(run, tmp_path, synthetic):
    agent = m3dt.load(run, "router", "prompt")
    with pytest.raises(UserError, match="gates=token: router/prompt chooses by the prompt"):
        AgentPolicy(agent, EvaluationConfig(gates="token"))
    for name in ("prompt", "main"):
        routed = m3dt.load(run, "router", name)
        assert AgentPolicy(routed, EvaluationConfig(experts=f"{E}"))
        with pytest.raises(UserError, match=f"experts=4: router/{name} chooses among {E} experts"):
            AgentPolicy(routed, EvaluationConfig(experts="4"))
    big = make_run(synthetic, tmp_path / "big", "trunk")
    with pytest.raises(UserError, match="of big experts"):
        ExpertsPolicy(big, RULES, rule="even")
    with pytest.raises(ValueError, match="is not one of auto, all, a number"):
        EvaluationConfig(experts="0")
    with pytest.raises(ValueError, match="does not go with"):
        MoEConfig(4, top_k=2, router="prompt")


def test_the_code_for_devices_reads_nothing_back(run):
    """On torch's meta device, a read of a value or a tensor left on the CPU raises."""
    agent = m3dt.load(run, "router", "prompt")
    model = agent.model.to("meta")
    prompt = type(agent.context.prompts)(
        *(tensor[0].to("meta") for tensor in agent.context.prompts)
    )
    with torch.inference_mode():
        statistics = torch.ones(2, 39, device="meta"), torch.ones(2, 39, device="meta")
        gates = model.prompt_router(prompt_features(prompt, *statistics))[:, None]
        selection = select(gates.expand(-1, len(model.mixtures), -1), "auto")
        encoded = fast.encode_prompt(model, prompt, None, COMPUTE, selection)
        assert fast.act(model, prompt, encoded, COMPUTE).shape == (2, 8)


def test_selections_without_numbers_join():
    parts = [Selection(None, torch.ones(2, 1, 3)), Selection(None, torch.zeros(1, 1, 3))]
    joined = Selection.join(parts)
    assert joined.experts is None and joined.take(torch.tensor([2])).weights.sum() == 0
