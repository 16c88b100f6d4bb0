"""Loggers by class path, hyper-parameters, the profiler, and values that callbacks may watch."""

import csv
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from quick_run import call
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainings import SLOW, fit, training

from m3dt.callbacks import GradientConflictCallback
from m3dt.runs import Registry
from m3dt.training.loggers import build_loggers

CSV = "loggers.csv={class: lightning.pytorch.loggers.CSVLogger}"
EARLY = "callbacks.early.class=lightning.pytorch.callbacks.EarlyStopping"
VALIDATED = ("loader.validation_trajectories=1", "stage1.validate_every=20")


@pytest.fixture(scope="module")
def logged(data, tmp_path_factory):
    """A backbone whose training was logged, profiled and stopped by EarlyStopping."""
    run = tmp_path_factory.mktemp("logged") / "run"
    early = (EARLY, "callbacks.early.monitor=conflict/mean", "callbacks.early.stages=[stage1]")
    early += ("callbacks.early.min_delta=1e9", "callbacks.early.patience=2")
    assert call("stage1", run, data, CSV, "trainer.profiler=simple", *VALIDATED, *early) == 0
    return run


def test_early_stopping_watches_the_conflict(logged):
    """It is never better: the first validation sets the best, two more end the patience."""
    entry = Registry(logged).get("backbone", "main")
    assert entry.step == 60
    assert entry.settings["callbacks"]["early"]["monitor"] == "conflict/mean"


def test_csv_holds_what_tensorboard_holds(logged):
    (path,) = logged.glob("logs/stage1/csv/*/*/metrics.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    events = EventAccumulator(str(logged / "logs/stage1")).Reload()
    names = events.Tags()["scalars"]
    assert {"train/loss", "conflict/mean", "conflict/error", "val/loss"} <= set(names)
    for name in names:
        found = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        wanted = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in wanted], name
        assert [v for _, v in found] == pytest.approx([v for _, v in wanted], rel=1e-6), name


def test_every_logger_has_the_hyper_parameters(logged):
    files = [*logged.glob("logs/stage1/csv/*/*/hparams.yaml"), logged / "logs/stage1/hparams.yaml"]
    assert len(files) == 2
    for file in files:
        assert yaml.safe_load(file.read_text()) == yaml.safe_load(
            (logged / "config.yaml").read_text()
        )


def test_profiler_writes_its_report(logged):
    report = (logged / "logs/stage1/fit-profile.txt").read_text()
    assert "FIT Profiler Report" in report and "run_training_batch" in report


def test_hyper_parameters_page_has_no_row_without_scores(logged):
    events = EventAccumulator(str(logged / "logs/stage1")).Reload()
    assert "_hparams_/experiment" not in events.summary_metadata


@pytest.mark.parametrize(
    ("logger", "package"), [("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow")]
)
def test_logger_without_its_package_names_it(data, tmp_path, capsys, logger, package):
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    key = f"loggers.own.class=lightning.pytorch.loggers.{logger}"
    assert call("stage1", tmp_path / "run", data, key) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"m3dt: override '{key}': {key} needs a package: ")
    assert f"pip install -U '{package}" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{flush: 3}", "loggers.own needs 'class', the dotted path of a logger"),
        ("3", "loggers.own=3 must be a mapping of keys"),
        ("{class: m3dt.config.Config}", "is not a Lightning logger"),
        (
            "{class: lightning.pytorch.loggers.CSVLogger, flush_logs_every: 3}",
            "unknown key 'loggers.own.flush_logs_every'. Did you mean "
            "'loggers.own.flush_logs_every_n_steps'?",
        ),
    ],
)
def test_logger_that_does_not_fit_is_refused(data, tmp_path, capsys, given, message):
    assert call("stage1", tmp_path / "run", data, f"loggers.own={given}") == 2
    assert message in capsys.readouterr().err


def test_own_folder_and_a_logger_that_is_switched_off(tiny_config, tmp_path):
    more = (CSV, f"loggers.csv.save_dir={tmp_path / 'here'}", "loggers.off=null")
    _, own = build_loggers(tiny_config(f"run={tmp_path}", *more), "stage1", 0)
    assert own.save_dir == str(tmp_path / "here")


def test_early_stopping_without_validation_is_refused(data, tmp_path, capsys):
    early = (EARLY, "callbacks.early.monitor=conflict/mean")
    assert call("stage1", tmp_path / "run", data, *early) == 2
    assert "EarlyStopping(monitor=conflict/mean) acts after validations" in capsys.readouterr().err


def test_watched_values_are_the_newest_record(synthetic, tmp_path):
    stage, data = training("stage 1", synthetic)
    conflict = GradientConflictCallback(every_n_steps=4, stop=False, batch_size=4, probes=2)
    best = ModelCheckpoint(
        tmp_path, "{step}", monitor="conflict/mean", every_n_train_steps=4, save_top_k=1
    )
    trainer = fit(stage, data, [conflict, best], enable_checkpointing=True)
    records = conflict.history
    assert [record["step"] for record in records] == [0, 4, 8, 12]
    watched = trainer.callback_metrics
    for name in ("mean", "error", "smoothed"):
        assert watched[f"conflict/{name}"].item() == pytest.approx(records[-1][name], rel=1e-6)
    lowest = min(records[1:], key=lambda record: record["mean"])
    assert best.best_model_path == str(tmp_path / f"step={lowest['step']}.ckpt")
    assert best.best_model_score.item() == pytest.approx(lowest["mean"], rel=1e-6)


def test_resumed_training_can_watch_the_last_record(synthetic):
    stage, data = training("stage 1", synthetic)
    stage.config = replace(SLOW, max_steps=2)
    first = GradientConflictCallback(every_n_steps=2, stop=False, batch_size=4, probes=2)
    fit(stage, data, [first], steps=2)
    resumed = GradientConflictCallback(every_n_steps=100, stop=False, batch_size=4, probes=2)
    resumed.load_state_dict(first.state_dict())
    stage, data = training("stage 1", synthetic)
    never_better = EarlyStopping("conflict/mean", min_delta=1e9)
    trainer = fit(stage, data, [resumed, never_better], steps=1)
    watched = trainer.callback_metrics["conflict/mean"]
    assert torch.equal(watched, torch.tensor(first.history[-1]["mean"]))
