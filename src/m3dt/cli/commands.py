"""The commands: each passes its options to the function that does the work.

Imports are inside the functions, so that `m3dt --help` does not wait for torch.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from m3dt.config import DEFAULT_CONF
from m3dt.utils.counts import agreeing, counted
from m3dt.utils.errors import UserError
from m3dt.utils.shards import ALL


def collect(options: argparse.Namespace, console: Console) -> None:
    """Record trajectories in the simulators."""
    from m3dt.data.collect import collect
    from m3dt.tasks import tasks_of
    from m3dt.tasks.experiment import load_experiment
    from m3dt.training import build_callbacks

    config = load_experiment(options.conf, options.overrides)
    build_callbacks(config, "stage1")  # report mistakes in them before recording
    collect(config.data, tasks_of(config), config.collect, console, options.shard)


def _import_plugins(options: argparse.Namespace) -> None:
    """Import the modules that register a user's own tasks."""
    from m3dt.tasks.registration import import_plugins

    import_plugins(options.plugins, "--plugins")


def import_data(options: argparse.Namespace, console: Console) -> None:
    """Import a dataset of another project."""
    from m3dt.data.importers import import_dataset

    _import_plugins(options)
    import_dataset(
        options.source, options.data, options.format, options.tasks, console, options.observation
    )
    console.print(f"{options.data}: check it with `m3dt verify {options.data}`.")


def export(options: argparse.Namespace, console: Console) -> None:
    """Export a dataset to Minari."""
    from m3dt.data.minari_export import export_minari

    _import_plugins(options)
    tasks = export_minari(options.data, options.target, options.tasks)
    console.print(
        f"{counted(len(tasks), 'task')} written. To read {agreeing(len(tasks), 'it', 'them')}, "
        f"set MINARI_DATASETS_PATH={options.target}."
    )


def tasks(options: argparse.Namespace, console: Console) -> None:
    """List the tasks of a suite."""
    from m3dt.cli.listings import print_tasks

    print_tasks(options.suite, options.seed, console)


def describe(options: argparse.Namespace, console: Console) -> None:
    """Compare a dataset with the original one."""
    from m3dt.cli.listings import print_dataset

    _import_plugins(options)
    print_dataset(options.data, options.json, console)


def verify(options: argparse.Namespace, console: Console) -> None:
    """Check every file of a dataset."""
    from m3dt.data.verify import verify
    from m3dt.utils.output_files import check_output, output_json

    _import_plugins(options)
    if options.json:
        check_output(options.json)
    report = verify(options.folder)
    if options.json:
        output_json(options.json, report)
    for style, lines in (("yellow", report["notes"]), ("red", report["problems"])):
        for line in lines:
            console.print(f"  {line}", style=style)
    if report["problems"]:
        problems = counted(len(report["problems"]), "problem")
        remedies = agreeing(len(report["problems"]), "with its remedy", "with their remedies")
        raise UserError(
            f"{options.folder}: {problems}, {remedies} above. Tasks of your own need --plugins."
        )
    console.print(
        f"{options.folder}: {counted(report['tasks'], 'task')}, "
        f"{counted(report['trajectories'], 'trajectory')}, "
        f"{counted(report['steps'], 'step')}, all sound."
    )


def train(options: argparse.Namespace, console: Console) -> None:
    """Train one stage, or a whole method."""
    from m3dt.tasks.experiment import load_experiment

    config = load_experiment(options.conf, options.overrides)
    from m3dt.training import train

    train(config, options.step, console)


def extend(options: argparse.Namespace, console: Console) -> None:
    """Extend a trained run by new tasks."""
    from m3dt.runs.generations import run_config
    from m3dt.runs.shipped import find_run, is_shipped
    from m3dt.tasks.experiment import load_experiment

    if not options.tasks:
        raise UserError("m3dt extend: name the new tasks: --tasks TASK,TASK.")
    if is_shipped(find_run(options.run)):
        raise UserError(
            f"--run {options.run}: an agent of the package does not change. Extend a copy: "
            f'm3dt.runs.shipped.compact_copy("{options.run}", "runs/{options.run}-copy").'
        )
    from m3dt.training.extension import extend

    groups = [[task] for task in options.tasks] if options.one_by_one else [options.tasks]
    for group in groups:
        tasks = f"tasks=[{','.join(map(repr, group))}]"
        extend(load_experiment(run_config(options.run), [*options.overrides, tasks]), console)


def config(options: argparse.Namespace, console: Console) -> None:
    """Print the resolved configuration, or list the keys."""
    from m3dt.cli.config_listing import print_config, print_keys

    if options.overrides[:1] == ["keys"]:
        print_keys(options.overrides[1:], console)
    else:
        print_config(options.conf, options.overrides, console)


def evaluate(options: argparse.Namespace, console: Console) -> None:
    """Evaluate models in the simulators."""
    from m3dt.cli.evaluating import evaluate_run
    from m3dt.tasks.experiment import load_experiment

    conf, out = options.conf or DEFAULT_CONF, options.out
    if options.run and options.conf:
        raise UserError(
            f"m3dt evaluate: --run {options.run} has its own configuration. Leave out --conf, or "
            f"give the folder by an override: --conf {options.conf} run={options.run}."
        )
    if options.run:
        from m3dt.runs.generations import run_config
        from m3dt.runs.shipped import find_run, is_shipped

        run = find_run(options.run)
        conf = run_config(run)
        if is_shipped(run):  # nothing is written into the package
            out = out or Path("runs") / f"shipped-{run.name}"
    more = [f"evaluation.prompts={options.prompts}"] if options.prompts else []
    config = load_experiment(conf, [*options.overrides, *more])
    evaluate_run(config, options.models, options.json, console, options.film, out)


def study(options: argparse.Namespace, console: Console) -> None:
    """Train and evaluate a grid of settings, show what is left of it, or merge its results."""
    from m3dt.study import load_study
    from m3dt.study.merging import merge_tables
    from m3dt.study.pieces import LONGEST_PIECE
    from m3dt.study.runner import run_study, show_pieces
    from m3dt.study.status import show_status

    names = ("--dry-run", "--status", "--minutes", "--merge")
    chosen = [name for name in names if getattr(options, name[2:].replace("-", "_"))]
    if len(chosen) > 1:
        raise UserError(f"m3dt study: give one of {', '.join(chosen[:-1])} and {chosen[-1]}.")
    if options.merge and (options.where or options.shard != ALL):
        raise UserError("m3dt study --merge: takes whole tables. Leave out --where and --shard.")
    if options.json and not options.status:
        raise UserError("m3dt study --json: give --status too, whose result it writes.")
    if options.minutes and options.minutes < LONGEST_PIECE:
        raise UserError(
            f"--minutes {options.minutes:g}: a piece takes up to {LONGEST_PIECE} minutes, so that "
            f"some would never begin. Give {LONGEST_PIECE} or more."
        )
    folders, overrides = _paths_and_overrides(options.merge, options.overrides)
    study = load_study(options.file, overrides)
    file = options.csv or Path("results") / f"{options.file.stem}.csv"
    if folders:
        merge_tables(study, folders, file, console)
    elif options.status:
        show_status(study, file, options.shard, options.where, options.json, console)
    elif options.dry_run:
        show_pieces(study, file, options.shard, options.where, console)
    else:
        run_study(study, file, options.shard, options.where, console, options.minutes)


def _paths_and_overrides(
    paths: Sequence[Path], overrides: Sequence[str]
) -> tuple[list[Path], list[str]]:
    """Take overrides out of a list of paths: argparse counts those that follow it among them.

    A word with `=` is a path where there is one.
    """
    mixed = [path for path in paths if "=" in str(path) and not os.path.exists(path)]
    return [path for path in paths if path not in mixed], [*overrides, *map(str, mixed)]


def compare(options: argparse.Namespace, console: Console) -> None:
    """Compare evaluated models, paired over runs and tasks."""
    from m3dt.runs.evaluations import Conditions
    from m3dt.study.paired import compare

    models, against = options.models, options.against
    tasks = frozenset(options.tasks) if options.tasks else None
    wanted = Conditions(tasks, options.episodes, options.seed)
    compare(options.sources, models, against, options.margin, options.csv, console, wanted)


def figures(options: argparse.Namespace, console: Console) -> None:
    """Draw the figures and tables of a study."""
    from m3dt.study import has_design, write_outputs

    for path in write_outputs(options.file, options.out):
        console.print(f"  {path}")
    if not has_design(options.file.stem):
        console.print(
            f"No study is called '{options.file.stem}' here or in conf/study: its seeds and "
            "numbers of tasks were taken from lite. Name the table after its study to have its own."
        )


def fill(options: argparse.Namespace, console: Console) -> None:
    """Write results of studies into the marked places of documents."""
    from m3dt.study import fill_documents

    changed = fill_documents(options.documents, options.results)
    for path in changed:
        console.print(f"  {path}")
    if not changed:
        console.print("All documents hold these results already.")


def import_checkpoint(options: argparse.Namespace, console: Console) -> None:
    """Register the authors' checkpoints."""
    from m3dt.checkpoints import import_checkpoint

    experts, overrides = _paths_and_overrides(options.experts, options.overrides)
    overrides.append(f"run={options.run}")
    import_checkpoint(options.conf, overrides, options.backbone, experts, options.moe, console)


def export_checkpoint(options: argparse.Namespace, console: Console) -> None:
    """Export a run's models as the authors' files."""
    from m3dt.checkpoints import export_checkpoint
    from m3dt.runs.shipped import find_run

    export_checkpoint(find_run(options.run), options.target, console)


def behaviour(options: argparse.Namespace, console: Console) -> None:
    """Train or measure behaviour policies."""
    if options.action == "measure":
        from m3dt.behaviour.measure import measure_and_show

        library = options.library or ""
        measure_and_show(options.tasks, options.episodes, library, options.csv, console)
        return
    if not options.tasks:
        raise UserError("no tasks to train: m3dt behaviour train TASK...")
    try:
        from m3dt.behaviour.learning.ppo import train_and_pack
    except ModuleNotFoundError as error:
        if error.name != "stable_baselines3":
            raise
        raise UserError(
            "training behaviour policies needs stable-baselines3: "
            "pip install 'm3dt[train-behaviour]'"
        ) from None
    library = options.library or options.folder
    train_and_pack(options.tasks, options.folder, library, options.seed, console)


def registry(options: argparse.Namespace, console: Console) -> None:
    """List the models of a run."""
    from m3dt.cli.registry_table import show_registry

    show_registry(options.run, options.json, console)


def doctor(options: argparse.Namespace, console: Console) -> None:
    """Check the installation, the machine, the data and a run."""
    from m3dt.cli.doctor import doctor
    from m3dt.tasks.experiment import load_experiment

    doctor(load_experiment(options.conf, options.overrides), console)


def bench(options: argparse.Namespace, console: Console) -> None:
    """Benchmark training steps, data and acting, or everything that a GPU can be asked."""
    if options.gpu:
        from m3dt.bench.gpu.gpu_command import bench_gpu
        from m3dt.bench.gpu.parts import ROWS as GPU_ROWS

        rows = _rows(options.rows, GPU_ROWS, GPU_ROWS)
        bench_gpu(rows, options.json, options.seconds, console)
        return
    from m3dt.bench import ROWS, bench
    from m3dt.bench.devices import check_device
    from m3dt.utils.output_files import check_output, output_json

    rows = _rows(options.rows, ROWS, ROWS[:-1])
    if options.json:
        check_output(options.json)
    check_device(options.device)
    result = bench(rows, options.trajectories, console, options.device)
    if options.json:
        output_json(options.json, result)


def _rows(
    asked: Sequence[str] | None, known: Sequence[str], default: Sequence[str]
) -> Sequence[str]:
    """Return the rows of a benchmark that were asked for.

    Raises:
        UserError: One is not known, or there is none.
    """
    if asked is None:
        return default
    if not asked or not set(asked) <= set(known):
        raise UserError(f"--rows {','.join(asked)}: choose among {', '.join(known)}")
    return asked
