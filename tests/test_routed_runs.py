"""Routers by prompts and held gates from the command line, on trajectories from simulators."""

import json
import shutil

import numpy as np
import pytest
import torch
from quick_run import ONE_TASK, QUICK, STEPS, TASKS, call, kill_after

import m3dt
from m3dt.data import DatasetStore
from m3dt.runs import Entry, Registry
from m3dt.runs.evaluations import evaluations, newest
from m3dt.stages.gate_measures import measure_gates
from m3dt.utils.errors import UserError

BY_PROMPT = "moe.router=prompt"


def evaluate(*given):
    return call("evaluate", *given, ONE_TASK)


@pytest.fixture(scope="module")
def routed(finished, data, made_once, tmp_path_factory):
    """A run with both routers; copy before changing it."""

    def train(folder):
        shutil.copytree(finished, folder)
        assert call("stage3", folder, data, BY_PROMPT) == 0

    return shutil.copytree(made_once("routed", train), tmp_path_factory.mktemp("routed") / "run")


def test_both_routers_live_in_one_run(routed, finished, data, capsys):
    registry = Registry(routed)
    entry = registry.get("router", "prompt")
    experts = [registry.get("expert", str(k)) for k in range(2)]
    backbone = registry.get("backbone", "main")
    assert entry.parents == {e.key: e.hash for e in (backbone, *experts)}
    assert entry.step == STEPS and entry.tasks == list(TASKS)
    for other in ("router", "main"), ("backbone", "main"):
        assert registry.get(*other).hash == Registry(finished).get(*other).hash
    for extra in ([], [BY_PROMPT]):
        assert call("stage3", routed, data, *extra) == 0
        assert "Nothing to do" in capsys.readouterr().out


def test_it_knows_its_groups(routed):
    """Three tasks of three domains in two groups: no prompt can be mistaken."""
    measured = Registry(routed).get("router", "prompt").metrics["gates"]
    assert measured["accuracy"] == 1.0 and measured["own_gate"] > 0.8
    agent = m3dt.load(routed, "router", "prompt")
    experts = [Registry(routed).get("expert", str(k)) for k in range(2)]
    for task in TASKS:
        index = agent.context.index(task)
        prompts = type(agent.context.prompts)(*(t[index] for t in agent.context.prompts))
        gates = agent.gates(prompts, task)
        own = next(k for k, expert in enumerate(experts) if task in expert.tasks)
        assert (gates.argmax(dim=1) == own).all()


def test_scores_live_beside_each_other(routed, data, capsys):
    """Token gates, held gates and the router by prompts are models of one run."""
    names = ("router", "router@episode", "router@episode-1", "router:prompt", "router:prompt@1")
    assert evaluate(routed, data, "--models", ",".join(names)) == 0
    assert "MFLOP" in capsys.readouterr().out
    flops = {}
    for name in names:
        flops[name] = newest(evaluations(routed)[0])[name].result["flops_per_action"]
    assert flops["router@episode-1"] == flops["router:prompt@1"] <= flops["router:prompt"]
    # All experts, but without the routers' own products.
    assert flops["router:prompt@1"] < flops["router@episode"] < flops["router"]
    for same in (
        ["--models", "router", "evaluation.gates=episode", "evaluation.experts=1"],
        ["--models", "router", BY_PROMPT],
        [BY_PROMPT],
    ):
        assert evaluate(routed, data, *same) == 0
        assert "evaluated before" in capsys.readouterr().out
    for wrong in ("router@", "router@0", "router@token", "router@1-episode", "router@1-2"):
        code = evaluate(routed, data, "--models", wrong)
        assert code == (0 if wrong == "router@" else 2)


def test_the_model_of_a_run_that_has_no_router_by_prompts(finished, data, tmp_path, capsys):
    """The furthest one that is trained; `router` is then the one that is there."""
    run = tmp_path / "run"
    for kinds, extra, expected in (
        (("backbone",), [], "backbone"),
        (("grouping", "expert", "router"), [], "router"),
        ((), ["--models", "router"], "router"),
    ):
        for kind in kinds:
            shutil.copytree(finished / "registry" / kind, run / "registry" / kind)
        assert evaluate(run, data, BY_PROMPT, *extra) == 0
        assert f"({expected})" in capsys.readouterr().out
    shutil.rmtree(run / "registry/router")
    assert evaluate(run, data, BY_PROMPT, "--models", "router") == 2
    assert "no router/prompt in its registry" in capsys.readouterr().err


def test_rules_for_experts_are_models(routed, data, capsys):
    models = "oracle,even,random-expert,backbone"
    assert evaluate(routed, data, "--models", models) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("even", "random-expert"))
    found = {name: one.result for name, one in newest(evaluations(routed)[0]).items()}
    returns = {name: found[name]["tasks"][TASKS[2]]["return_mean"] for name in models.split(",")}
    assert len({returns[name] for name in ("oracle", "even", "backbone")}) == 3
    flops = {name: found[name]["flops_per_action"] for name in models.split(",")}
    assert flops["backbone"] < flops["oracle"] == flops["random-expert"] < flops["even"]


def test_prompts_of_another_dataset(routed, data, tmp_path):
    """Those whose returns are nearest to the one asked for, cut as the agent's own."""
    agent = m3dt.load(routed, "router", "prompt")
    task = TASKS[1]
    store = DatasetStore.open(data, [task])
    (own,) = store.tasks
    returns = own.episode_returns
    wanted = 0.5 * (returns.min() + returns.max())
    first, second = sorted(range(len(returns)), key=lambda i: abs(returns[i] - wanted))[:2]
    other = agent.prompted_by(str(data), 0.5, [task])
    index, P = agent.context.index(task), agent.model.config.prompt_length
    mean, std = agent.context.state_mean[index].numpy(), agent.context.state_std[index].numpy()
    for row, trajectory in enumerate((first, second)):
        last = own.episode_ends[trajectory] - 1
        raw = np.zeros((P, 39), np.float32)
        raw[:, : own.spec.state_dim] = own.observations[last - P : last]
        found = other.task(task).prompts.states[row]
        np.testing.assert_allclose(found, (raw - mean) / std, rtol=1e-5, atol=1e-6)
    before, after = agent.task(TASKS[0]), other.task(TASKS[0])
    assert before.fingerprint() == after.fingerprint() != other.task(task).fingerprint()


def test_scores_with_other_prompts_have_a_name_of_their_own(routed, data, capsys):
    other = [f"evaluation.prompts={data}", "evaluation.prompt_return=0.5"]
    models = ["--models", "backbone,oracle"]
    for again in (False, True):
        assert evaluate(routed, data, *models, *other) == 0
        assert ("evaluated before" in capsys.readouterr().out) == again
    names = {one.model for one in evaluations(routed)[0]}
    assert {"backbone@prompts-0.5", "oracle@prompts-0.5"} <= names
    missing = ["evaluation.prompts=/nowhere"]
    assert evaluate(routed, data, *models, *missing) == 2
    assert "/nowhere" in capsys.readouterr().err


def test_scores_with_another_target_have_a_name_of_their_own(routed, data, capsys):
    """They lie beside each other; those of random actions, which have no target, serve all."""
    models = ["--models", "random,router,oracle"]
    assert evaluate(routed, data, *models) == 0
    chance = {p: p.stat().st_mtime_ns for p in (routed / "evaluation").glob("random[.@]*.json")}
    for scale, stored in ((0.5, False), (0.5, True), (1, True)):
        capsys.readouterr()
        assert evaluate(routed, data, *models, f"evaluation.target_scale={scale}") == 0
        printed = capsys.readouterr().out
        assert ("evaluated before" in printed) == stored
        assert ("@target-0.5" in printed) == (scale != 1)
    names = {one.model for one in evaluations(routed)[0]}
    assert {"router@target-0.5", "oracle@target-0.5"} <= names
    assert "random@target-0.5" not in names
    after = {p: p.stat().st_mtime_ns for p in (routed / "evaluation").glob("random[.@]*.json")}
    assert after == chance


def test_a_width_beyond_memory_is_compared_before_it_is_allocated(routed, tmp_path):
    run = shutil.copytree(routed, tmp_path / "run")
    path = run / "registry/router/prompt/entry.json"
    content = json.loads(path.read_text())
    content["settings"]["prompt_router"]["hidden"] = 10**12
    path.write_text(json.dumps(vars(Entry(**content).sealed())))
    with pytest.raises(UserError, match="layers.0.weight"):
        m3dt.load(run, "router", "prompt")


def test_killed_and_resumed_equals_uninterrupted(routed, finished, data, tmp_path):
    """kill -9 after a checkpoint; the same command ends in the same bits."""
    run = shutil.copytree(finished, tmp_path / "run")
    words = ["stage3", *QUICK, f"data={data}", f"run={run}", BY_PROMPT]
    kill_after(words, lambda: list((run / "checkpoints").rglob("step*.ckpt")))
    assert not Registry(run).has("router", "prompt")
    assert call("stage3", run, data, BY_PROMPT) == 0
    assert (
        Registry(run).get("router", "prompt").hash == Registry(routed).get("router", "prompt").hash
    )


def test_callbacks_that_measure_actions_pass_it_over(routed, finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    rollouts = "callbacks.rollouts={class: m3dt.callbacks.RolloutCallback, every_n_steps: 40}"
    assert call("stage3", run, data, BY_PROMPT, rollouts) == 0
    entries = [Registry(r).get("router", "prompt") for r in (run, routed)]
    assert entries[0].hash == entries[1].hash and "rollouts" not in entries[0].metrics


def test_measures_of_gates():
    gates = torch.tensor(
        [[[1.0, 0.0], [1.0, 0.0]], [[0.5, 0.5], [0.25, 0.75]], [[0.0, 1.0], [1.0, 0.0]]]
    )
    measured = measure_gates(gates, [0, 1, 1])
    assert measured["accuracy"] == pytest.approx(4 / 6)  # of two equal gates the first counts
    assert measured["own_gate"] == pytest.approx((1 + 1 + 0.5 + 0.75 + 1 + 0) / 6)
    assert measured["agreement"] == pytest.approx(1 - (0 + 0.25 + 1) / 3)
    assert measured["confusion"] == [[1.0, 0.0], [0.4375, 0.5625]]
    even = measure_gates(torch.full((3, 2, 4), 0.25), [0, 1, 2])
    assert even["entropy"] == pytest.approx(1) and even["confusion"][3] == [0, 0, 0, 0]
