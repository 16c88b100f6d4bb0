"""Every method and ablation by name: its settings, and that one command trains it."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from conftest import SYNTHETIC_TASKS
from quick_run import ONE_TASK, QUICK

import m3dt
from m3dt.cli import main
from m3dt.config import BASELINES, METHODS, load_config, save_config
from m3dt.evaluation import ExpertsPolicy
from m3dt.evaluation.agent import Agent
from m3dt.models import PromptDT, add_mixtures
from m3dt.runs.entries import Entry
from m3dt.runs.registry import Registry
from m3dt.utils.errors import UserError

VARIANTS = [m for m in METHODS if m.startswith("m3dt-") and m != "m3dt-end-to-end"]


@pytest.mark.parametrize("method", METHODS)
def test_method_presets_load(method):
    config = load_config("mt160", [f"method={method}"])
    assert config.method == method
    assert load_config("mt160", [f"method={method}", "size=small"]).model.n_embd == 128


@pytest.mark.parametrize(
    ("method", "count"),
    [
        ("promptdt", 173_299_248),
        ("harmodt", 173_299_248),
        ("bc", 173_299_248),
        ("m3dt-gradient", 174_124_624),
    ],
)
def test_large_methods_have_the_papers_parameters(method, count):
    config = load_config("mt160", [f"method={method}", "size=large"])
    with torch.device("meta"):
        model = PromptDT(config.model, 160)
        if method not in BASELINES:
            add_mixtures(model, config.moe.num_experts, routed=True, moe=config.moe)
    assert model.num_parameters() == count


def test_behaviour_cloning_differs_from_prompt_dt_in_what_its_name_says():
    wanted = asdict(load_config("mt160", ["method=promptdt"]))
    wanted["model"]["condition_on_return"] = False
    for method, share in (("bc", 1.0), ("bc-best", 0.1)):
        wanted["method"], wanted["loader"]["best_share"] = method, share
        found = asdict(load_config("mt160", [f"method={method}"]))
        assert {**found, "sources": None} == {**wanted, "sources": None}


def test_a_name_goes_before_files_and_behind_what_stands_beside_it(tmp_path):
    conf = tmp_path / "own.yaml"
    conf.write_text("# own\nloader:\n  sampling: mixed\n")
    assert load_config(conf, ["method=harmodt"]).loader.sampling == "one_task"
    assert load_config(conf, ["method=harmodt", "loader.sampling=mixed"]).loader.sampling == "mixed"
    conf.write_text("# own\nmethod: harmodt\nloader:\n  sampling: mixed\n")
    assert (
        load_config(conf).loader.sampling == "mixed"
    )  # settings in the same file win over the preset
    conf.write_text("# own\ngrouping:\n  method: random\n")
    assert load_config(conf).grouping.method == "random"
    assert load_config(conf, ["method=m3dt-gradient"]).grouping.method == "gradient"


@pytest.mark.parametrize(
    "given",
    [
        ["method=m3dt-top-k", "moe.top_k=2"],
        ["method=promptdt", "size=large", "model.n_embd=512"],
        ["compat=official", "model.residual=paper"],
    ],
)
def test_a_saved_configuration_reads_back_what_it_was(tmp_path, given):
    config = load_config("mt160", given)
    save_config(config, tmp_path / "config.yaml")
    again = load_config(str(tmp_path / "config.yaml"))
    assert replace(again, conf=config.conf) == config


def test_default_runs_are_told_apart():
    runs = {
        load_config("mt160", given).run
        for given in ([], ["method=m3dt-random"], ["size=small"], ["method=mtdt", "size=large"])
    }
    assert runs == {"runs/mt160", "runs/mt160-m3dt-random", "runs/mt160-small", "runs/mt160-large"}


def test_a_task_vector_does_not_go_with_stages():
    with pytest.raises(UserError, match="method=promptdt"):
        load_config("mt160", ["model.task_embedding=12"])
    with pytest.raises(UserError, match="m3dt-top-k"):
        load_config("mt160", ["method=m3dt-topk"])


METHOD_STEPS = [f"{stage}.max_steps=6" for stage in ("stage1", "stage2", "stage3", "baseline")]


def quick(command, data, run, *extra):
    given = [*QUICK, *METHOD_STEPS, "callbacks.conflict=null", f"data={data}", f"run={run}"]
    return main([command, *given, *extra])


@pytest.mark.parametrize("method", BASELINES)
def test_a_baseline_trains_and_acts_by_one_command(data, tmp_path, method, capsys):
    run = tmp_path / "run"
    extra = [f"method={method}", "harmodt.update_every=2"]
    assert quick("train", data, run, *extra) == 0
    entry = Registry(run).get("baseline", method)
    assert entry.step == 6
    capsys.readouterr()
    assert quick("train", data, run, *extra) == 0
    assert "Nothing to do" in capsys.readouterr().out
    agent = m3dt.load(run)
    assert agent.entry == entry
    scores = tmp_path / "scores.json"
    assert quick("evaluate", data, run, ONE_TASK, *extra, "--json", str(scores)) == 0
    (result,) = json.loads(scores.read_text())["models"].values()
    assert result["num_parameters"] == agent.model.num_parameters()
    assert len(result["tasks"]) == 1
    assert quick("stage1", data, run, *extra) == 2
    assert f"method={method} has no stages" in capsys.readouterr().err


def test_a_trained_baseline_is_not_taken_for_another(data, tmp_path, capsys):
    run, cloning = tmp_path / "run", "model.condition_on_return=false"
    assert quick("train", data, run, "method=promptdt") == 0
    for given in (cloning, "loader.best_share=0.5"):
        assert quick("train", data, run, "method=promptdt", given) == 2
        assert given.partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize("method", VARIANTS)
def test_a_variant_takes_what_it_shares_from_another_run(finished_quickly, data, tmp_path, method):
    """The backbone is the same for all; experts where grouping and kind agree."""
    run = tmp_path / "run"
    extra = [f"method={method}", f"reuse={finished_quickly}", "moe.top_k=1"]
    extra = extra if method == "m3dt-top-k" else extra[:2]
    assert quick("train", data, run, *extra) == 0
    here, there = Registry(run), Registry(finished_quickly)
    same = {e.key: e.hash for e in there.entries()}
    shared = {e.key for e in here.entries() if same.get(e.key) == e.hash}
    assert "backbone/main" in shared
    if method in ("m3dt-gradient", "m3dt-top-k", "m3dt-unfrozen-gradient"):
        assert {"grouping/main", "expert/0", "expert/1"} <= shared
    if method in ("m3dt-random", "m3dt-unfrozen-random"):
        assert "expert/0" not in shared
    assert ("router/main" in shared) == (method == "m3dt-gradient")
    agent = m3dt.load(run)
    assert len(agent.model.mixtures) == (1 if method == "m3dt-big-experts" else 2)


@pytest.fixture(scope="module")
def finished_quickly(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    assert quick("train", data, run) == 0
    return run


def test_unfrozen_experts_start_from_stage_2_and_are_the_routers_own(
    finished_quickly, data, tmp_path
):
    run = tmp_path / "run"
    extra = ["method=m3dt-unfrozen-gradient", f"reuse={finished_quickly}"]
    assert quick("train", data, run, *extra, "stage3.learning_rate=1e-9") == 0
    router = m3dt.load(run, "router").model.state_dict()
    frozen = m3dt.load(finished_quickly, "router").model.state_dict()
    name = "transformer.h.0.mixture.experts.c_fc_weight"
    torch.testing.assert_close(router[name], frozen[name], rtol=0, atol=1e-6)
    assert not torch.equal(router[name], frozen[name])  # they moved
    parent = m3dt.load(run, "expert", "0").model.state_dict()[name][0]
    assert torch.equal(parent, frozen[name][0])  # what they started from is kept


def test_the_oracle_has_each_tasks_own_expert(finished_quickly, data, tmp_path):
    policy = ExpertsPolicy(finished_quickly)
    for task in policy.agent.context.tasks:
        assert task in policy.experts[policy.chooser.numbers[task]].tasks
    scores = tmp_path / "scores.json"
    arguments = ["--models", "oracle", "--json", str(scores), ONE_TASK]
    assert quick("evaluate", data, finished_quickly, *arguments) == 0
    assert json.loads(scores.read_text())["models"]["oracle"]["method"] == "oracle"


def test_stage_3_refuses_experts_of_another_kind(finished_quickly, data, tmp_path, capsys):
    for given, words in (
        ("moe.expert=trunk", "moe.expert was ffn, is trunk"),
        ("grouping.method=random", "grouping.method was gradient, is random"),
    ):
        assert quick("stage3", data, finished_quickly, given) == 2
        assert words in capsys.readouterr().err


def test_reuse_says_why_not(finished_quickly, data, tmp_path, capsys):
    assert quick("stage1", data, tmp_path / "run", f"reuse={tmp_path / 'nowhere'}") == 2
    assert "nowhere: holds no models" in capsys.readouterr().err
    other = [f"reuse={finished_quickly}", "stage1.learning_rate=0.5"]
    assert quick("stage1", data, tmp_path / "run", *other) == 0
    assert "stage1.learning_rate was" in capsys.readouterr().out.replace("\n", " ")


def test_method_names():
    def name(kind, settings, title="main"):
        entry = Entry(kind, title, settings, {}, "", 0, 0, {}, list(SYNTHETIC_TASKS))
        return Agent(None, entry, None, "").method

    random = {"grouping": {"method": "random"}}
    assert name("router", {**random, "moe": {"num_experts": 4}}) == "M3DT-Random"
    moe = {"num_experts": 4, "top_k": 2, "training": "unfrozen_experts"}
    assert name("router", {**random, "moe": moe}) == "M3DT-Random, top-2, experts unfrozen"
    assert name("router", {"moe": {"num_experts": 4, "training": "ungrouped"}}) == "M3DT, ungrouped"
    assert name("baseline", {}, "harmodt") == "HarmoDT"
    assert name("baseline", {}, "bc-best") == "BC on the best trajectories"
