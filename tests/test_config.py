"""Configuration: every shipped file loads, every mistake is named."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_dataset
from omegaconf import OmegaConf

import m3dt
from m3dt.behaviour import Library
from m3dt.cli import main
from m3dt.cli.parser import make_parser
from m3dt.config import (
    Config,
    FrozenStageConfig,
    StageConfig,
    find_study,
    load_config,
    save_config,
    shipped_confs,
)
from m3dt.config.fields import Section, settings_of
from m3dt.data import DatasetStore
from m3dt.runs.registry import Registry
from m3dt.tasks import suite
from m3dt.training import build_callbacks
from m3dt.utils.errors import UserError

CONF = Path(__file__).resolve().parents[1] / "conf"


def error_of(conf, overrides=()):
    with pytest.raises(UserError) as error:
        build_callbacks(load_config(conf, overrides), "stage1")
    return str(error.value)


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
    assert (config.stage3.max_steps, config.baseline.max_steps) == (400_000, 1_000_000)
    assert (config.stage1.learning_rate, config.stage1.weight_decay) == (1e-4, 1e-4)
    assert (config.stage1.warmup_steps, config.stage1.gradient_clip) == (10_000, 0.25)
    assert (config.loader.batch_size, config.loader.sampling) == (16, "one_task")
    assert config.moe.num_experts == 48


def test_what_a_file_says_is_read_again_when_it_changes(tmp_path, monkeypatch):
    """The file itself, or a variable that it names; and no configuration changes another."""
    path = tmp_path / "own.yaml"
    path.write_text("suite: mt10\nseed: 1\nsize: ${oc.env:OWN_SIZE}\n")
    monkeypatch.setenv("OWN_SIZE", "small")
    first = load_config(path)
    first.stage1.max_steps, first.trainer["devices"] = 7, 3
    second = load_config(path, ["seed=5"])
    assert (second.seed, second.stage1.max_steps) == (5, load_config("mt10").stage1.max_steps)
    assert second.trainer["devices"] == 1 and second.sources.of("suite") == str(path)
    monkeypatch.setenv("OWN_SIZE", "default")
    assert load_config(path).model.n_embd == 2 * second.model.n_embd
    path.write_text("suite: mt10\nseed: 2\nsize: default\n")
    assert load_config(path).seed == 2


def test_every_stage_has_the_settings_that_it_reads():
    assert type(Config().stage1) is type(Config().baseline) is StageConfig
    assert type(Config().stage3) is FrozenStageConfig
    common = settings_of(Config().stage1).keys()
    assert settings_of(Config().stage3).keys() - common == {"frozen_dropout"}
    assert settings_of(Config().stage2).keys() - common == {"frozen_dropout", "shard"}
    assert load_config("quickstart", ["stage2.shard=3/4"]).stage2.shard_numbers() == (3, 4)


# Override, and what the message says after its source; one or more of every section.
MISTAKES = [
    ("modle=5", "unknown key 'modle'. Did you mean 'model'?"),
    ("n_layer=5", "unknown key 'n_layer'. Did you mean 'model.n_layer'?"),
    ("seed=-1", "seed=-1 must be 0 or more"),
    ("seed=many", "seed=many must be a whole number"),
    ("suite_seed=1.5", "suite_seed=1.5 must be a whole number"),
    ("force=perhaps", "force=perhaps must be true or false"),
    ("tasks=3", 'tasks=3 must be a list, such as "tasks=[3]"'),
    ("tasks={a: 1}", "tasks={'a': 1} must be a list"),
    ("method=promptd", "method=promptd is not one of ... Did you mean 'promptdt'?"),
    ("size=lage", "size=lage is not one of default, small, large. Did you mean 'large'?"),
    ("compat=offical", "compat=offical is not one of none, official. Did you mean 'official'?"),
    ("sources=3", "unknown key 'sources'. ..."),
    ("model=3", "model=3 must be a mapping of keys"),
    ("model.n_layer=three", "model.n_layer=three must be a whole number"),
    ("model.n_layer=0", "model.n_layer=0 must be 1 or more"),
    ("model.n_head=7", "model.n_embd=64 is not a multiple of model.n_head=7"),
    ("model.dropout=1", "model.dropout=1.0 must be 0 or more and less than 1"),
    ("model.timestep_std=.inf", "model.timestep_std=inf must be a finite number"),
    ("model.residual=offical", "model.residual=offical is not one of ... Did you mean 'official'?"),
    ("model.task_embedding=12", "model.task_embedding=12 does not go with method=m3dt-gradient..."),
    ("model.n_embd=1000000", "model.n_layer=3, model.n_embd=1000000: 3.6e+13 weights are more ..."),
    ("model.n_layer=1e30", "model.n_layer=1000000000000000019884624838656 must be less than 2^63"),
    ("moe.num_expert=3", "unknown key 'moe.num_expert'. Did you mean 'moe.num_experts'?"),
    ("moe.top_k=7", "moe.top_k=7 is more than moe.num_experts=6"),
    ("collect.trajectories=3", "collect.trajectories=3 must be 4 or more"),
    ("collect.worker=3", "unknown key 'collect.worker'. Did you mean 'collect.workers'?"),
    ("loader.std_floor=0", "loader.std_floor=0.0 must be more than 0"),
    ("loader.std_floor=.inf", "loader.std_floor=inf must be a finite number"),
    ("loader.sampling=mixd", "loader.sampling=mixd is not one of ... Did you mean 'mixed'?"),
    ("stage1.max_step=5", "unknown key 'stage1.max_step'. Did you mean 'stage1.max_steps'?"),
    ("stage1.learning_rate=-1", "stage1.learning_rate=-1.0 must be more than 0"),
    ("stage1.learning_rate=fast", "stage1.learning_rate=fast must be a number"),
    ("stage1.shard=0/4", "unknown key 'stage1.shard'. Did you mean 'stage2.shard'?"),
    ("stage1.frozen_dropout=true", "unknown key 'stage1.frozen_dropout'. ....frozen_dropout'?"),
    ("stage2.max_steps=0", "stage2.max_steps=0 must be 1 or more"),
    ("stage2.shard=4/4", "stage2.shard=4/4 must read i/n with 0 <= i < n, such as 0/4"),
    ("stage3.weight_decay=-1", "stage3.weight_decay=-1.0 must be 0 or more"),
    ("stage3.shard=0/4", "unknown key 'stage3.shard'. Did you mean 'stage2.shard'?"),
    ("baseline.decay=cosin", "baseline.decay=cosin is not one of ... Did you mean 'cosine'?"),
    ("baseline.shard=0/4", "unknown key 'baseline.shard'. Did you mean 'stage2.shard'?"),
    ("grouping.memory_gb=-1", "grouping.memory_gb=-1.0 must be 0 or more"),
    ("grouping.restart=1", "unknown key 'grouping.restart'. Did you mean 'grouping.restarts'?"),
    ("harmodt.gamma=nan", "harmodt.gamma=nan must be a finite number"),
    ("harmodt.importance=weigth", "harmodt.importance=weigth ... Did you mean 'weight'?"),
    ("evaluation.batch_size=5", "evaluation.tile=10 is more than evaluation.batch_size=5"),
    ("evaluation.target=papr", "evaluation.target=papr is not one of ... Did you mean 'paper'?"),
    ("evaluation.target_scale=0", "evaluation.target_scale=0.0 must be more than 0"),
    ("compute.experts=togther", "compute.experts=togther is not one of ... 'together'?"),
    ("trainer.precison=32", "unknown key 'trainer.precison'. Did you mean 'trainer.precision'?"),
    ("trainer.max_steps=3", "'trainer.max_steps' follows from other settings ..."),
    ("trainer.overfit_batches=1", "'trainer.overfit_batches' follows from other settings ..."),
    ("trainer.accumulate_grad_batches=2", "'trainer.accumulate_grad_batches' follows from ..."),
    (
        "callbacks.conflict.every_n_step=5",
        "unknown key 'callbacks.conflict.every_n_step'. Did you mean "
        "'callbacks.conflict.every_n_steps'?",
    ),
    (
        "callbacks.conflct.every_n_steps=5",
        "callbacks.conflct needs 'class', ... Did you mean 'callbacks.conflict'?",
    ),
    (
        "callbacks.progress.class=m3dt.callbacks.ProgresCallback",
        "callbacks.progress.class=m3dt.callbacks.ProgresCallback is not a Lightning callback. "
        "Did you mean 'm3dt.callbacks.ProgressCallback'?",
    ),
    (
        "callbacks.conflict.class=m3dt.config.Config",
        "callbacks.conflict.class=m3dt.config.Config is not a Lightning callback.",
    ),
    ("callbacks.conflict.class=gone.Gone", "callbacks.conflict.class=gone.Gone cannot be ..."),
    ("callbacks.conflict.every_n_steps=0", "callbacks.conflict.every_n_steps=0 must be 1 or more"),
    ("callbacks.conflict.stages=stage1", "callbacks.conflict.stages=stage1 must be a list, ..."),
    (
        "callbacks.conflict.stages=[stage_1]",
        "callbacks.conflict.stages=['stage_1']: stage_1 is not one of ... Did you mean 'stage1'?",
    ),
    ("prompt_router.hidden=0", "prompt_router.hidden=0 must be 1 or more"),
    ("evaluation.experts=0", "evaluation.experts=0 is not one of auto, all, a number."),
    ("callbacks.conflict=3", "callbacks.conflict=3 must be a mapping of keys"),
    ("callbacks.conflict.every_n_steps=abc", "callbacks.conflict.every_n_steps=abc must be of ..."),
    ("callbacks.progress.every_n_seconds=abc", "callbacks.progress.every_n_seconds=abc ..."),
    ("callbacks.conflict.batch_size=0", "callbacks.conflict.batch_size=0 must be 1 or more"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "problem"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_mistakes_are_named(override, problem, tmp_path):
    """Key, value and nearest name, after the source: once an override, once a file."""
    pattern = ".*".join(map(re.escape, problem.split("...")))
    found = error_of("quickstart", [override])
    assert re.fullmatch(re.escape(f"override '{override}': ") + pattern, found)
    own = tmp_path / "own.yaml"
    given = OmegaConf.from_dotlist([override])
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(CONF / "quickstart.yaml"), given), own)
    assert re.fullmatch(re.escape(f"{own}: ") + pattern, error_of(own))


def test_mistakes_are_named_in_every_section():
    named = {override.partition("=")[0].partition(".")[0] for override, _ in MISTAKES}
    sections = {n for n in settings_of(Config()) if isinstance(getattr(Config(), n), Section)}
    assert {*sections, "trainer", "callbacks"} <= named


def test_the_source_is_the_latest_of_those_that_do_not_go_together(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("model: {n_embd: 240, n_head: 12}\n")
    heads = "model.n_embd=240 is not a multiple of model.n_head=7"
    assert error_of(own, ["model.n_head=7", "seed=1"]) == f"override 'model.n_head=7': {heads}"
    small = "model.n_embd=128 is not a multiple of model.n_head=12"
    assert error_of(own, ["size=small"]) == f"preset size=small: {small}"
    assert error_of(own, ["model.n_embd=3", "model.n_embd=5"]).startswith(
        "override 'model.n_embd=5'"
    )


def test_an_unknown_interpolation_is_named():
    assert error_of("quickstart", ["seed=${gone}"]).startswith("override 'seed=${gone}': seed: ")
    assert "trainer.precision: " in error_of("quickstart", ["trainer.precision=${gone}"])


def test_what_is_no_override():
    assert "key=value" in error_of("quickstart", ["no-equals-sign"])


def test_a_setting_of_another_stage_is_taken():
    """One list of overrides serves several commands."""
    config = load_config("quickstart", ["stage2.max_steps=7"])
    assert len(build_callbacks(config, "stage1")) == 2 and config.stage2.max_steps == 7


@pytest.mark.parametrize(
    ("word", "meant"),
    [("on", "on"), ("off", "off"), ("true", "on"), ("no", "off"), ("auto", "auto")],
)
def test_yaml_booleans_are_on_and_off(tmp_path, word, meant):
    given = load_config("quickstart", [f"compute.share_prompts={word}"])
    (tmp_path / "own.yaml").write_text(f"compute:\n  share_prompts: {word}\n")
    read = load_config(tmp_path / "own.yaml")
    assert given.compute.share_prompts == read.compute.share_prompts == meant
    save_config(read, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml").compute.share_prompts == meant


@pytest.mark.parametrize("written", ["4000", "4e3", "4000.0", "4_000", "'4000'"])
def test_whole_numbers_may_be_written_as_others(tmp_path, written):
    (tmp_path / "own.yaml").write_text(f"stage1: {{max_steps: {written}}}\n")
    for config in (
        load_config(tmp_path / "own.yaml"),
        load_config("quickstart", [f"stage1.max_steps={written}"]),
    ):
        assert config.stage1.max_steps == 4000 and type(config.stage1.max_steps) is int


def test_unknown_conf_names_the_nearest():
    with pytest.raises(UserError, match="mt160"):
        load_config("mt16")


@pytest.mark.parametrize("word", ["off", "010", "1e3", "a #b", "2026-11-01", "a: b: c", "@x", "[a"])
def test_an_override_of_a_text_is_taken_as_it_is_written(tmp_path, word):
    """YAML makes False, 8, 1000.0 and a of the first four."""
    config = load_config("quickstart", [f"suite={word}", f"run={tmp_path}/{word}"])
    assert config.suite == word and config.run == f"{tmp_path}/{word}"
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml").suite == word
    assert load_config("quickstart", ['suite="off"']).suite == "off"  # quotes of YAML


def test_a_bare_boolean_for_a_text_is_refused(tmp_path):
    (tmp_path / "own.yaml").write_text("suite: mt10\nrun: off\n")
    assert "own.yaml: run: YAML reads on, off" in error_of(tmp_path / "own.yaml")


def test_a_callback_can_be_switched_off():
    config = load_config("quickstart", ["callbacks.conflict=null"])
    names = [type(c).__name__ for c in build_callbacks(config, "stage1").values()]
    assert names == ["ProgressCallback"]


def test_a_conf_of_ones_own_starts_from_the_base(tmp_path):
    (tmp_path / "mine.yaml").write_text("suite: mt10\nmoe: {num_experts: 3}\n")
    config = load_config(tmp_path / "mine.yaml")
    assert config.run == "runs/mine" and "conflict" in config.callbacks


def test_remedies_name_the_file_that_was_given(tmp_path, monkeypatch, capsys):
    """Its bare name would be looked for among the shipped experiments."""
    monkeypatch.chdir(tmp_path)
    Path("my own.yaml").write_text("suite: mt10\ndata: none\n")
    assert load_config("quickstart").option == "--conf quickstart"
    config = load_config("./my own.yaml", ["tasks=[reach-v2]", "run=$HOME/x"])
    assert config.option == '--conf "./my own.yaml"'
    assert config.options == f"""{config.option} "tasks=[reach-v2]" 'run=$HOME/x'"""
    assert main(["stage3", "--conf", "./my own.yaml", "run=r"]) == 2
    assert 'Run `m3dt stage1 --conf "./my own.yaml" run=r` first' in capsys.readouterr().err


def test_broken_yaml(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("seed: 0\nmodel: [unclosed\nmoe: 3\n")
    with pytest.raises(UserError, match=r"broken\.yaml: not valid YAML: line 3: "):
        load_config(path)


def test_a_broken_file_disturbs_no_other(tmp_path, monkeypatch):
    """Nothing is read but the base and the configuration that is asked for."""
    (tmp_path / "conf").mkdir()
    for name in ("base.yaml", "quickstart.yaml"):
        shutil.copy(CONF / name, tmp_path / "conf" / name)
    (tmp_path / "conf" / "lite.yaml").write_text("model: [unclosed")
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart").sources["moe.num_experts"] == "conf/quickstart.yaml"
    assert "conf/lite.yaml: not valid YAML" in error_of("lite")
    environment = os.environ | {"PYTHONPATH": str(Path(m3dt.__file__).parents[1])}
    command = [sys.executable, "-m", "m3dt", "stage1", "--conf", "quickstart"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "data/quickstart: no dataset here" in result.stderr
    assert "lite" not in result.stderr + result.stdout


def test_the_base_is_the_packages_own(tmp_path, monkeypatch):
    """Other projects have a conf/base.yaml, too."""
    (tmp_path / "conf").mkdir()
    for name in ("base.yaml", "conf/base.yaml"):
        (tmp_path / name).write_text("defaults: [db: mysql]\n")
    (tmp_path / "exp.yaml").write_text("suite: mt10\n")
    (tmp_path / "conf" / "exp.yaml").write_text("suite: mt10\n")
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "exp", "exp.yaml", "base"):
        assert "conflict" in load_config(name).callbacks


def test_home_folders_are_found(tmp_path, monkeypatch):
    """In files, overrides, options, and what a program asks for; a folder `~` is never made."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("{data: ~/ds, run: ~/r, reuse: ~/o, suite: mt10}\n")
    config = load_config("~/own.yaml", ["collect.policies=~/p"])
    found = (config.data, config.run, config.reuse, config.collect.policies)
    assert found == tuple(f"{tmp_path}/{name}" for name in ("ds", "r", "o", "p"))
    assert make_parser().parse_args(["verify", "~/ds"]).folder == tmp_path / "ds"
    assert Registry("~/r").run == tmp_path / "r"
    write_dataset(tmp_path / "ds", ["reach-v2"])
    assert DatasetStore.open("~/ds", ["reach-v2"]).folder == tmp_path / "ds"
    (tmp_path / "p").mkdir()
    assert Library("~/p").folders[0] == tmp_path / "p"
    with pytest.raises(UserError, match=f"^{tmp_path}/r: holds no trained model"):
        m3dt.load("~/r")


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "{}\n"])
def test_an_empty_configuration_is_named(tmp_path, content):
    path = tmp_path / "own.yaml"
    path.write_text(content)
    assert error_of(path).startswith(f"{path}: is empty")


@pytest.mark.parametrize("made", ["registry", "checkpoints"])
def test_a_run_that_was_moved_is_itself(tmp_path, made):
    """Its own configuration names the folder that it once had."""
    run = tmp_path / "elsewhere"
    (run / made).mkdir(parents=True)
    save_config(load_config("quickstart", ["run=runs/tiny"]), run / "config.yaml")
    assert load_config(run / "config.yaml").run == str(run)
    assert load_config(run / "config.yaml", ["run=other"]).run == "other"
    shutil.copy(run / "config.yaml", tmp_path / "config.yaml")  # the file alone is no run
    assert load_config(tmp_path / "config.yaml").run == "runs/tiny"


@pytest.mark.parametrize("written", ["baselines", "conf/study/baselines.yaml", "baselines.yaml"])
def test_studies_are_found_by_name(tmp_path, monkeypatch, written):
    monkeypatch.chdir(tmp_path)  # an installed package has no conf/ beside it
    assert find_study(Path(written)).read_text() == (CONF / "study/baselines.yaml").read_text()
    with pytest.raises(UserError, match="baseline: no such file. Did you mean 'baselines'"):
        find_study(Path("baseline"))
    with pytest.raises(UserError, match="mine/baselines.yaml: no such file"):
        find_study(Path("mine/baselines.yaml"))


def test_saved_config_is_read_back(tmp_path):
    config = load_config("quickstart", ["stage1.max_steps=7", "run=r", "data=d"])
    save_config(config, tmp_path / "config.yaml")
    assert "sources" not in (tmp_path / "config.yaml").read_text()
    again = load_config(tmp_path / "config.yaml")
    assert isinstance(again, Config)
    again.conf = config.conf
    assert again == config
    assert set(again.sources.values()) >= {str(tmp_path / "config.yaml")}


def test_a_callback_in_place_of_another_is_read_back_without_its_settings(tmp_path):
    """The package's base is not merged into a run's own configuration, which is complete."""
    timer = "lightning.pytorch.callbacks.Timer"
    overrides = ["callbacks.conflict=null", f"callbacks.conflict.class={timer}"]
    config = load_config("quickstart", overrides)
    save_config(config, tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert again.callbacks == config.callbacks
    assert again.callbacks["conflict"] == {"class": "lightning.pytorch.callbacks.Timer"}


def test_a_whole_number_beyond_all_floats_is_refused():
    huge = f"stage1.learning_rate=1{400 * '0'}"
    assert "stage1.learning_rate=inf must be a finite number" in error_of("quickstart", [huge])


def test_a_default_folder_is_written_as_it_is_read_back(tmp_path):
    config = load_config("quickstart", ["suite=''"])
    save_config(config, tmp_path / "own.yaml")
    assert load_config(tmp_path / "own.yaml").data == config.data


@pytest.mark.parametrize("key", ["callbacks", "seed", "suite", "stage1.max_steps", "callbacks.x"])
def test_a_message_holds_the_start_of_a_long_value(tmp_path, key):
    """As of a file of another project."""
    content = [{"a": list(range(100))}]
    for name in reversed(key.split(".")):
        content = {name: content}
    file = tmp_path / "theirs.yaml"
    file.write_text(json.dumps(content))
    message = error_of(file)
    assert message.startswith(f"{file}: {key}=[{{'a': [0, 1, 2") and len(message) < 200
    assert message.endswith(("... must be a mapping of keys", "a whole number", "must be text"))
