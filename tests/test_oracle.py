"""Experts that are chosen row by row, and the oracle that chooses them."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import SYNTHETIC_TASKS
from random_agents import MODEL, perturbed

import m3dt
from m3dt.config import ComputeConfig, EvaluationConfig, LoaderConfig, MoEConfig
from m3dt.data import DatasetStore, TaskContext
from m3dt.evaluation import AgentPolicy, ExpertsPolicy
from m3dt.evaluation.sessions import EpisodeGroup
from m3dt.models import PromptDT, add_mixtures, fast
from m3dt.models.fast import EncodedPrompt
from m3dt.models.fast.chosen_experts import run_gathered, run_row_by_row
from m3dt.models.plain import ExpertBank
from m3dt.models.routing import Selection
from m3dt.runs.entries import Entry
from m3dt.runs.registry import Registry
from m3dt.tasks import get_task
from m3dt.utils.errors import UserError
from m3dt.utils.processes import single_threaded

RULES = EvaluationConfig(batch_size=7, tile=2)


def save_expert(registry, backbone, kind, name, tasks):
    model = PromptDT(MODEL)
    moe = MoEConfig(1, kind)
    add_mixtures(model, 1, routed=False, moe=moe)
    weights = {
        f"{layer}.{key}": tensor
        for layer, mixture in enumerate(perturbed(model).mixtures)
        for key, tensor in mixture.experts.weights_of(0).items()
    }
    settings, parents = {"moe": asdict(moe)}, {backbone.key: backbone.hash}
    registry.save(Entry("expert", name, settings, parents, "", 0, 5, {}, list(tasks)), weights)


def make_run(synthetic, folder, kind="ffn"):
    """Save a backbone and an expert per task, in another order than the tasks'."""
    torch.manual_seed(0)
    registry = Registry(folder)
    store = DatasetStore.open(synthetic, SYNTHETIC_TASKS)
    context = TaskContext.from_store(store, LoaderConfig(), MODEL)
    entry = Entry(
        "backbone", "main", {"model": asdict(MODEL)}, {}, "", 0, 5, {}, list(SYNTHETIC_TASKS)
    )
    weights = perturbed(PromptDT(MODEL)).state_dict()
    backbone = registry.save(entry, weights, tasks=context.tensors())
    for number, task in enumerate(SYNTHETIC_TASKS[::-1]):
        save_expert(registry, backbone, kind, str(number), [task])
    return folder


@pytest.fixture(scope="module", params=["ffn", "trunk"])
def run(request, synthetic, tmp_path_factory):
    return make_run(synthetic, tmp_path_factory.mktemp(request.param) / "run", request.param)


def observations(rng, task, size):
    return rng.normal(size=(size, get_task(task).state_dim)).astype(np.float32)


def test_one_pass_equals_each_experts_own_model(run):
    """Rows of three experts share passes; each acts as the backbone with its expert alone.

    Rounding differs, because products of one token and of many add up in different orders.
    """
    oracle = ExpertsPolicy(run, RULES)
    owner = {entry.tasks[0]: entry.name for entry in Registry(run).entries()[1:]}
    alone = {t: AgentPolicy(m3dt.load(run, "expert", owner[t]), RULES) for t in SYNTHETIC_TASKS}
    groups = [EpisodeGroup(task, (0, 1)) for task in SYNTHETIC_TASKS]
    assert len({oracle.batch_key(group.task) for group in groups}) == 1
    together = [oracle.begin(group, 0) for group in groups]
    twins = [alone[group.task].begin(group, 0) for group in groups]
    rng = np.random.default_rng(0)
    for t in range(6):
        for group, session, twin in zip(groups, together, twins, strict=True):
            seen = observations(rng, group.task, 2)
            for each in (session, twin):
                each.observe(seen, np.ones(2) if t else None)
        expected = [alone[g.task].act([s])[0] for g, s in zip(groups, twins, strict=True)]
        for chosen, own in zip(oracle.act(together), expected, strict=True):
            np.testing.assert_allclose(chosen, own, rtol=0, atol=2e-6)


def test_the_choice_of_the_expert_matters(run, monkeypatch):
    """Otherwise the tests here would pass with any choice."""
    oracle = ExpertsPolicy(run, RULES)
    group = EpisodeGroup(SYNTHETIC_TASKS[0], (0, 1))
    seen = observations(np.random.default_rng(0), group.task, 2)
    actions = []
    for expert in range(3):
        monkeypatch.setattr(oracle.chooser, "numbers", dict.fromkeys(SYNTHETIC_TASKS, expert))
        session = oracle.begin(group, 0)
        session.observe(seen, None)
        actions += oracle.act([session])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(actions[one] - actions[other]).max() > 1e-3


def test_a_row_does_not_depend_on_the_other_rows_experts(run):
    policy = ExpertsPolicy(run, RULES)
    groups = [EpisodeGroup(task, (e,)) for e, task in enumerate(SYNTHETIC_TASKS * 2)]
    rng = np.random.default_rng(1)
    with single_threaded():
        together, alone = ([policy.begin(group, 0) for group in groups] for _ in range(2))
        for t in range(6):
            for group, *pair in zip(groups, together, alone, strict=True):
                seen = observations(rng, group.task, 1)
                for session in pair:
                    session.observe(seen, np.ones(1) if t else None)
            order = rng.permutation(len(groups))
            for i, chosen in zip(order, policy.act([together[i] for i in order]), strict=True):
                np.testing.assert_array_equal(chosen, policy.act([alone[i]])[0])


@pytest.mark.parametrize("run_chosen", [run_row_by_row, run_gathered])
@pytest.mark.parametrize("K", [1, 3])
def test_chosen_experts_equal_the_plain_bank(run_chosen, K):
    """Each row gets the weighted sum of its own experts; some weights are 0."""
    torch.manual_seed(0)
    bank = perturbed(ExpertBank(MODEL, 4)).eval()
    x, numbers = torch.randn(5, 6, 16), torch.stack([torch.randperm(4)[:K] for _ in range(5)])
    weights = torch.rand(5, K) * (torch.arange(K) < 2)
    with torch.no_grad():
        rows = zip(x, numbers, weights, strict=True)
        expected = torch.stack(
            [
                sum(w * bank(e, row) for e, w in zip(own, shares, strict=True))
                for row, own, shares in rows
            ]
        )
        torch.testing.assert_close(run_chosen(bank, x, numbers, weights), expected)


def test_the_code_for_devices_reads_nothing_back(run):
    """On torch's meta device, a read of a value or a tensor left on the CPU raises."""
    oracle = ExpertsPolicy(run, RULES)
    model, prompts = oracle.agent.model.to("meta"), oracle.agent.context.prompts
    prompt = type(prompts)(*(tensor[0].to("meta") for tensor in prompts))
    rows = torch.zeros(len(prompt.states), dtype=torch.int64, device="meta")
    with torch.inference_mode():
        each = rows[:, None, None].expand(-1, len(model.mixtures), 1)
        chosen = Selection(each, torch.ones(each.shape, device="meta"))
        encoded = fast.encode_prompt(model, prompt, rows, ComputeConfig(), chosen)
        assert fast.act(model, prompt, encoded, ComputeConfig()).shape == (len(rows), 8)


def test_encoded_prompts_keep_their_fields_together():
    """Rows that are joined and taken keep keys, values, mask, task and experts."""

    def prompt(*numbers):
        rows = torch.tensor(numbers)
        keys = rows[:, None, None, None] + torch.zeros(1, 2, 3, 4)
        chosen = Selection(10 * rows[:, None, None], rows[:, None, None] / 2)
        return EncodedPrompt([(keys, -keys)], rows[:, None] % 2 == torch.arange(2), rows, chosen)

    taken = EncodedPrompt.join([prompt(1, 2), prompt(3), prompt(4, 5)]).take(torch.tensor([4, 0]))
    expected = prompt(5, 1)
    assert torch.equal(taken.key_values[0][0], expected.key_values[0][0])
    assert torch.equal(taken.key_values[0][1], expected.key_values[0][1])
    assert taken.valid.tolist() == [[False, True]] * 2
    assert taken.task_index.tolist() == [5, 1]
    assert [t.flatten().tolist() for t in taken.selection] == [[50, 10], [2.5, 0.5]]
    without = EncodedPrompt(None, None, torch.tensor([7]))
    assert EncodedPrompt.join([without, without]).take(torch.tensor([1]))[:2] == (None, None)
    assert EncodedPrompt.join([without, without]).selection is None


def test_the_oracle_counts_what_acts(run):
    assert ExpertsPolicy(run).num_parameters() == m3dt.load(run, "expert").model.num_parameters()


def test_the_oracle_refuses_what_it_cannot_choose(synthetic, tmp_path):
    run = make_run(synthetic, tmp_path / "run")
    registry = Registry(run)
    backbone = registry.get("backbone", "main")
    with pytest.raises(UserError, match="no expert was trained on push-v2"):
        ExpertsPolicy(run).check("push-v2")
    save_expert(registry, backbone, "trunk", "3", ["push-v2"])
    with pytest.raises(UserError, match="expert/3 has moe.expert=trunk, but expert/0 has moe.exp"):
        ExpertsPolicy(run)
    save_expert(registry, backbone, "ffn", "3", ["push-v2", SYNTHETIC_TASKS[0]])
    with pytest.raises(UserError, match=f"{SYNTHETIC_TASKS[0]} belongs to several experts"):
        ExpertsPolicy(run)
    save_expert(registry, backbone, "ffn", "3", ["push-v2"])
    registry.save(backbone, PromptDT(MODEL).state_dict())
    with pytest.raises(UserError, match="was trained on another backbone/main"):
        ExpertsPolicy(run)
    with pytest.raises(UserError, match="has no experts for 'oracle'"):
        ExpertsPolicy(tmp_path / "nothing")
