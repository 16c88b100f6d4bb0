"""What each command does: a few lines that call the rooms behind it.

Imports are inside the functions: `m3dt --help` should not wait for torch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from m3dt.utils.errors import UserError


def collect(options: argparse.Namespace, console: Console) -> None:
    """Record trajectories in the simulators."""
    from m3dt.config import load_config
    from m3dt.data.collect import collect
    from m3dt.tasks import tasks_of
    from m3dt.training import build_callbacks

    config = load_config(options.conf, options.overrides)
    build_callbacks(config, "stage1")  # a mistake in them should not wait for the data
    collect(config.data, tasks_of(config), config.collect, console)


def import_data(options: argparse.Namespace, console: Console) -> None:
    """Add a dataset of another project to ours."""
    from m3dt.data.importers import import_dataset

    names = options.tasks.split(",") if options.tasks else []
    import_dataset(options.source, options.data, options.format, names, console)
    console.print(f"{options.data}: check it with `m3dt verify {options.data}`.")


def export(options: argparse.Namespace, console: Console) -> None:
    """Write a dataset for Minari."""
    from m3dt.data.minari_export import export_minari

    names = options.tasks.split(",") if options.tasks else []
    tasks = export_minari(options.data, options.target, names)
    console.print(
        f"{len(tasks)} tasks written. Read them with MINARI_DATASETS_PATH={options.target} set."
    )


def tasks(options: argparse.Namespace, console: Console) -> None:
    """List the tasks of a suite."""
    from m3dt.cli.listings import show_tasks

    show_tasks(options.suite, options.seed, console)


def describe(options: argparse.Namespace, console: Console) -> None:
    """Show a dataset beside the original one."""
    from m3dt.cli.listings import show_dataset

    show_dataset(options.data, options.json, console)


def verify(options: argparse.Namespace, console: Console) -> None:
    """Check every file of a dataset."""
    from m3dt.data.verify import verify
    from m3dt.utils.files import write_json

    report = verify(options.folder)
    if options.json:
        write_json(options.json, report)
    for problem in report["problems"]:
        console.print(f"  [red]{problem}[/]")
    if report["problems"]:
        raise UserError(
            f"{options.folder}: {len(report['problems'])} problems. Delete the files named and "
            "run `m3dt collect` again."
        )
    console.print(
        f"{options.folder}: {report['tasks']} tasks, {report['trajectories']} trajectories, "
        f"{report['steps']} steps, all sound."
    )


def train(options: argparse.Namespace, console: Console) -> None:
    """Run a training stage, or all of a method."""
    from m3dt.config import load_config

    config = load_config(options.conf, options.overrides)
    from m3dt.training import train

    train(config, options.step, console)


def evaluate(options: argparse.Namespace, console: Console) -> None:
    """Roll models out in the simulators."""
    from m3dt.cli.report import evaluate_run
    from m3dt.config import load_config

    config = load_config(options.conf, options.overrides)
    names = options.models.split(",") if options.models else []
    films = options.film.split(",") if options.film else []
    evaluate_run(config, names, options.json, console, films)


def study(options: argparse.Namespace, console: Console) -> None:
    """Train and evaluate a grid of settings."""
    from m3dt.study import load_study, run_study

    study = load_study(options.file, options.overrides)
    file = options.csv or Path("results") / f"{options.file.stem}.csv"
    run_study(study, file, options.shard, options.where, console)


def figures(options: argparse.Namespace, console: Console) -> None:
    """Draw the figures and tables of a study."""
    from m3dt.study import write_pages

    for path in write_pages(options.file, options.out):
        console.print(f"  {path}")


def import_checkpoint(options: argparse.Namespace, console: Console) -> None:
    """Register the authors' checkpoints."""
    from m3dt.checkpoints import import_checkpoint

    # With --experts, overrides that follow are taken for files.
    overrides = [*options.overrides, *(str(p) for p in options.experts if "=" in str(p))]
    experts = [path for path in options.experts if "=" not in str(path)]
    overrides.append(f"run={options.run}")
    import_checkpoint(options.conf, overrides, options.backbone, experts, options.moe, console)


def export_checkpoint(options: argparse.Namespace, console: Console) -> None:
    """Write a run as the authors' files."""
    from m3dt.checkpoints import export_checkpoint

    export_checkpoint(options.run, options.target, console)


def behaviour(options: argparse.Namespace, console: Console) -> None:
    """Train or measure behaviour policies."""
    if options.action == "measure":
        from m3dt.behaviour.measure import measure_and_show

        library = options.library or ""
        measure_and_show(options.tasks, options.episodes, library, options.csv, console)
        return
    if not options.tasks:
        raise UserError("which tasks shall be trained? m3dt behaviour train TASK...")
    try:
        from m3dt.behaviour.learning.ppo import train_and_pack
    except ModuleNotFoundError as error:
        if error.name != "stable_baselines3":
            raise
        raise UserError(
            "training behaviour policies needs stable-baselines3: pip install 'm3dt[collect]'"
        ) from None
    library = options.library or options.folder
    train_and_pack(options.tasks, options.folder, library, options.seed, console)


def registry(options: argparse.Namespace, console: Console) -> None:
    """List the models of a run."""
    from m3dt.cli.report import show_registry

    show_registry(options.run, options.json, console)


def doctor(options: argparse.Namespace, console: Console) -> None:
    """Check the installation, the machine, the data and the run."""
    from m3dt.cli.doctor import doctor
    from m3dt.config import load_config

    doctor(load_config(options.conf, options.overrides), console)


def bench(options: argparse.Namespace, console: Console) -> None:
    """Measure time and memory."""
    from m3dt.bench import ROWS, bench
    from m3dt.utils.files import write_json

    rows = options.rows.split(",")
    if not set(rows) <= set(ROWS):
        raise UserError(f"--rows {options.rows}: choose among {', '.join(ROWS)}")
    result = bench(rows, options.trajectories, console)
    if options.json:
        write_json(options.json, result)
