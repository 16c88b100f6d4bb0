"""Models and stages of one's own, by class path: trained, registered, loaded, or refused."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples.own_model import RobustStage
from own_classes import Reflex, Same
from quick_run import call
from small_agent import MODEL as ACTING
from test_models import random_segment
from test_stages import MODEL, data_for, fresh_model
from trainings import SLOW, fit

import m3dt
from m3dt.config import ComputeConfig, ModelConfig, MoEConfig
from m3dt.data.inputs import Rows
from m3dt.engine.choices import of_unknown_code
from m3dt.evaluation.passes import PassRunner
from m3dt.models import PromptDT, add_mixtures, is_built_in, make_model
from m3dt.models.routing import select
from m3dt.runs import Registry
from m3dt.stages import BackboneStage, BaselineStage
from m3dt.training.own_classes import recorded_stage_class
from m3dt.utils.errors import UserError

MINE = ("model.class_path=examples.own_model.MovingPromptDT",)
ROBUST = "stage1.class_path=examples.own_model.RobustStage"
SHORT = ("stage1.max_steps=12", "callbacks.conflict=null", "stage1.checkpoint_every=100")


@pytest.fixture(scope="module")
def own_run(data, tmp_path_factory):
    """A backbone of the example's classes."""
    run = tmp_path_factory.mktemp("own") / "run"
    assert call("stage1", run, data, *SHORT, *MINE, ROBUST) == 0
    return run


def test_example_trains_and_acts(own_run):
    entry = Registry(own_run).get("backbone", "main")
    assert entry.settings["model"]["class_path"] == "examples.own_model.MovingPromptDT"
    assert entry.settings["stage1"]["class_path"] == "examples.own_model.RobustStage"
    agent = m3dt.load(own_run)
    assert type(agent.model).__name__ == agent.method == "MovingPromptDT"
    assert agent.model.move.weight.abs().sum() > 0  # it starts at 0
    result = m3dt.evaluate(agent, tasks=["reach-v2"], episodes=1)
    assert result["tasks"]["reach-v2"]["episodes"] == 1


@pytest.mark.long
def test_other_class_is_another_model(own_run, data, capsys):
    for without, key in ((MINE, "stage1"), ((ROBUST,), "model")):
        assert call("stage1", own_run, data, *SHORT, *without) == 2
        message = capsys.readouterr().err
        assert "backbone/main was made with other settings" in message
        assert f"{key}.class_path was examples.own_model." in message


@pytest.mark.long
def test_run_whose_class_is_gone_says_which(own_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "examples.own_model", None)
    with pytest.raises(UserError) as caught:
        m3dt.load(own_run)
    assert str(caught.value).startswith(
        f"{own_run}: backbone/main: model.class_path=examples.own_model.MovingPromptDT cannot be "
        "imported: "
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.class_path=gone.Model", "cannot be imported: no module 'gone' is installed or in"),
        ("model.class_path=own_classes.Sam", "PromptDT. Did you mean 'own_classes.Same'"),
        ("stage1.class_path=own_classes.Same", "is not a stage derived from m3dt.stages.Backbone"),
        ("stage1.class_path=m3dt.stages.BaselineStage", "is not a stage derived from m3dt.stages."),
    ],
)
def test_class_that_does_not_fit_is_refused(tmp_path, capsys, override, message):
    """Before the data, which is not there, and without a run's folder."""
    assert call("stage1", tmp_path / "run", tmp_path / "none", override) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"m3dt: override '{override}': {override} ") and message in error
    assert not (tmp_path / "run").exists()


def test_embedding_of_tasks_asks_for_a_model_that_has_one():
    config = ModelConfig(task_embedding=3, class_path="own_classes.Same")
    with pytest.raises(UserError, match=r"is not a model derived from m3dt\.models\.MTDT"):
        make_model(config, 2)


def test_model_without_blocks_gets_no_experts():
    model = make_model(replace(MODEL, class_path="own_classes.Reflex"))
    assert type(model) is Reflex
    with pytest.raises(UserError, match=r"class_path=own_classes.Reflex has no `transformer.h`"):
        add_mixtures(model, 2, routed=True)


def test_own_forward_pass_is_the_one_that_trains(synthetic):
    """Shortcuts would run the parts of Prompt-DT, which this model does not have."""
    torch.manual_seed(0)
    stage = BaselineStage(Reflex(MODEL), SLOW, 0)
    stage.set_compute(ComputeConfig())
    data = data_for(synthetic, 0)
    batch = data.batch(1)
    expected = torch.tanh(stage.model.layer(batch.segment.states) + batch.task_index[:, None, None])
    assert torch.equal(stage.predictions(batch), expected)
    before = stage.model.layer.weight.clone()
    assert fit(stage, data).global_step == 12
    assert not torch.equal(stage.model.layer.weight, before)


def test_subclass_trains_like_the_plain_model(synthetic):
    weights = []
    for kind, compute in ((Same, ComputeConfig()), (PromptDT, ComputeConfig(shortcuts="off"))):
        model = kind(MODEL)
        model.load_state_dict(fresh_model().state_dict())
        stage = BackboneStage(model, SLOW, 0)
        stage.set_compute(compute)
        fit(stage, data_for(synthetic, 1))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_auto_means_off_for_unknown_code():
    stage = BackboneStage(Same(MODEL), SLOW, 0)
    stage.set_compute(ComputeConfig())
    assert (stage.engine.compute.graph, stage.engine.compute.compile) == ("off", "off")
    asked = of_unknown_code(ComputeConfig(graph="on", compile="on"))
    assert (asked.graph, asked.compile) == ("on", "on")
    own = BackboneStage(fresh_model(), replace(SLOW, class_path="own.Stage"), 0)
    own.set_compute(ComputeConfig())
    assert own.engine.compute.graph == "off"
    assert is_built_in(fresh_model()) and not is_built_in(stage.model)


def test_stage_that_was_recorded_is_the_one_that_groups(own_run):
    entry = Registry(own_run).get("backbone", "main")
    assert recorded_stage_class(entry, "stage1", BackboneStage).__name__ == "RobustStage"
    bare = replace(entry, settings={})
    assert recorded_stage_class(bare, "stage1", BackboneStage) is BackboneStage


def test_robust_stage_equals_hubers_formula(synthetic):
    stage = RobustStage(fresh_model(), SLOW, 0)
    batch = data_for(synthetic, 1).batch(1)
    segment = batch.segment
    stage.eval()
    error = (stage.predictions(batch) - segment.actions).abs().detach().numpy()
    loss = np.where(error < 0.5, error**2 / 2, 0.5 * (error - 0.25))
    real = segment.attention_mask[..., None].numpy() * batch.action_mask[:, None].numpy()
    expected = (loss * real).sum(axis=(1, 2)) * batch.loss_weight.numpy()
    assert stage.row_losses(batch).detach().numpy() == pytest.approx(expected, rel=1e-5)


def of_class(kind, moe, routed):
    torch.manual_seed(3)
    model = PromptDT(ACTING)
    if moe:
        add_mixtures(model, moe.num_experts, routed, moe)
    if kind is not PromptDT:
        own = kind(ACTING)
        if moe:
            add_mixtures(own, moe.num_experts, routed, moe)
        own.load_state_dict(model.state_dict())
        model = own
    return model.eval()


@pytest.mark.parametrize("experts", ["none", "all", "2", "auto"])
@pytest.mark.parametrize("expert", ["ffn", "trunk"])
def test_subclass_acts_like_shortcuts(expert, experts):
    """Without experts, with token routers, and with experts chosen once; big ones choose one."""
    moe = None if experts == "none" else MoEConfig(3, expert=expert)
    prompt, window = random_segment(4, 3, 1), random_segment(4, 4, 2)
    rows = Rows(*(tensor.numpy() for tensor in window))
    found = []
    for kind in (PromptDT, Same):
        model = of_class(kind, moe, routed=True)
        runner = PassRunner(model, batch_size=3)
        selection = None
        if experts in ("2", "auto"):
            gates = runner.prompt_gates(prompt)
            selection = select(gates, "1" if expert == "trunk" else experts)
        found.append(runner.act(rows, runner.encode(prompt, 0, selection)))
        if selection is not None:
            found.append(gates.numpy())
    half = len(found) // 2
    for ours, own in zip(found[:half], found[half:], strict=True):
        assert np.abs(ours - own).max() < 1e-5 and np.abs(ours).max() > 1e-3


def test_own_model_is_told_its_task(own_run):
    agent = m3dt.load(own_run)
    torch.manual_seed(0)
    agent = replace(agent, model=Reflex(agent.model.config).eval())
    segment, prompt = random_segment(2, 4), random_segment(2, 2, 1)
    index = agent.context.index("ant-dir-6")
    expected = torch.tanh(agent.model.layer(segment.states) + index)
    assert torch.equal(agent.predict(segment, prompt, "ant-dir-6"), expected)
    assert index > 0
    policy = m3dt.evaluate(agent, tasks=["reach-v2"], episodes=1)
    assert policy["tasks"]["reach-v2"]["episodes"] == 1


def test_checkpoints_say_how_models_are_loaded(tmp_path):
    with pytest.raises(UserError, match=r"last.ckpt: .*m3dt.load\(run\) loads .*`m3dt stage1`"):
        BackboneStage.load_from_checkpoint(tmp_path / "last.ckpt")
