"""Configuration: every shipped file loads, every mistake is named."""

import pytest

from m3dt.config import Config, load_config, save_config, shipped_confs
from m3dt.tasks import suite
from m3dt.training import build_callbacks
from m3dt.utils.errors import UserError


@pytest.mark.parametrize("name", sorted(shipped_confs()))
def test_every_shipped_conf_loads(name):
    config = load_config(name)
    assert config.conf == name
    assert config.run == f"runs/{name}"
    assert len(suite(config.suite, config.suite_seed)) >= config.moe.num_experts or name == "base"
    assert [len(build_callbacks(config, f"stage{i}")) for i in (1, 2, 3)] == [2, 2, 3]
    first_line = shipped_confs()[name].read_text().splitlines()[0]
    assert first_line.startswith("#")


def test_paper_hyperparameters():
    config = load_config("mt160")
    assert (config.model.n_layer, config.model.n_head, config.model.n_embd) == (6, 8, 256)
    assert (config.model.context_length, config.model.prompt_length) == (20, 20)
    assert (config.stage1.max_steps, config.stage2.max_steps) == (400_000, 200_000)
    assert config.stage3.max_steps == 400_000
    assert (config.stage1.learning_rate, config.stage1.weight_decay) == (1e-4, 1e-4)
    assert (config.stage1.warmup_steps, config.stage1.gradient_clip) == (10_000, 0.25)
    assert (config.loader.batch_size, config.loader.sampling) == (16, "one_task")
    assert config.moe.num_experts == 48


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stage1.max_step=5", ["stage1.max_step", "stage1.max_steps"]),
        ("modle.n_layer=5", ["modle", "model"]),
        ("model.n_layer=three", ["three", "model.n_layer"]),
        ("model.n_layer=0", ["model.n_layer", "1 or more"]),
        ("model.n_head=7", ["model.n_head=7"]),
        ("model.residual=offical", ["offical", "official"]),
        ("loader.std_floor=0", ["std_floor"]),
        ("stage2.shard=4/4", ["4/4", "0/4"]),
        ("stage1.learning_rate=-1", ["learning_rate"]),
        ("trainer.precison=32", ["trainer.precison", "precision"]),
        ("trainer.max_steps=3", ["trainer.max_steps"]),
        ("trainer.accumulate_grad_batches=2", ["accumulate_grad_batches"]),
        ("seed=-1", ["seed=-1"]),
        ("stage3.weight_decay=-1", ["weight_decay=-1"]),
        ("no-equals-sign", ["key=value"]),
    ],
)
def test_mistakes_are_named(override, words):
    with pytest.raises(UserError) as error:
        load_config("quickstart", [override])
    for word in words:
        assert word in str(error.value)


def test_unknown_conf_names_the_nearest():
    with pytest.raises(UserError, match="mt160"):
        load_config("mt16")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("callbacks.conflict.every_n_step=5", ["every_n_step", "every_n_steps"]),
        ("callbacks.conflict.class=m3dt.callbacks.Gone", ["m3dt.callbacks.Gone"]),
        ("callbacks.conflict.every_n_steps=0", ["every_n_steps=0"]),
        ("callbacks.conflict.class=m3dt.config.Config", ["no lightning Callback"]),
    ],
)
def test_mistakes_in_callbacks_are_named(override, words):
    with pytest.raises(UserError) as error:
        build_callbacks(load_config("quickstart", [override]), "stage1")
    for word in words:
        assert word in str(error.value)


def test_a_callback_can_be_switched_off():
    config = load_config("quickstart", ["callbacks.conflict=null"])
    names = [type(c).__name__ for c in build_callbacks(config, "stage1")]
    assert names == ["ProgressCallback"]


def test_a_conf_of_ones_own_starts_from_the_base(tmp_path):
    (tmp_path / "mine.yaml").write_text("suite: mt10\nmoe: {num_experts: 3}\n")
    config = load_config(tmp_path / "mine.yaml")
    assert config.run == "runs/mine" and "conflict" in config.callbacks


def test_broken_yaml(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("model: [unclosed")
    with pytest.raises(UserError, match=r"broken\.yaml"):
        load_config(path)


def test_saved_config_is_read_back(tmp_path):
    config = load_config("quickstart", ["stage1.max_steps=7", "run=r", "data=d"])
    save_config(config, tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert isinstance(again, Config)
    again.conf = config.conf
    assert again == config
