"""The command line. Each command is a few lines that call the rooms behind it."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from m3dt.console import make_console
from m3dt.errors import RunError, UserError
from m3dt.version import __version__

# Folders that cannot be written, full disks: told in a line, without a traceback.
_NOT_OUR_FAULT = {
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EISDIR, errno.ENOSPC, errno.ENOTDIR,
    errno.EPERM, errno.EROFS
}  # fmt: skip

Command = Callable[[argparse.Namespace, Console], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 2 the user's input is wrong, 1 the rest."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse gives up on overrides that follow an option; here they may stand anywhere.
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    # Libraries that announce themselves on import would drown our own words.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        options.command(options, make_console())
    except UserError as error:
        print(f"m3dt: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"m3dt: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in _NOT_OUR_FAULT:
            raise
        print(f"m3dt: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "m3dt: interrupted; nothing is half-written, and the same command goes on.",
            file=sys.stderr,
        )
        return 130
    return 0


def _natural(word: str, lowest: int = 0) -> int:
    number = int(word)
    if number < lowest:
        raise argparse.ArgumentTypeError(f"{word} must be {lowest} or more")
    return number


def _positive(word: str) -> int:
    return _natural(word, lowest=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="m3dt", description="Massive multi-task offline RL.")
    parser.add_argument("--version", action="version", version=f"m3dt {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str, configured: bool = True) -> _Parser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        if configured:
            sub.add_argument(
                "--conf", default="quickstart", metavar="NAME", help="a file of conf/, or a path"
            )
            sub.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides")
        return sub

    add("collect", _collect, "record trajectories in the simulators")
    importing = add("import", _import, "add a dataset of another project to ours", False)
    importing.add_argument("source", type=Path, metavar="SOURCE")
    importing.add_argument("data", type=Path, metavar="DATA", help="our dataset's folder")
    importing.add_argument(
        "--format",
        required=True,
        choices=("npz", "tdmpc2", "promptdt", "minari"),
        help="npz: the M3DT authors'; tdmpc2: .pt chunks; promptdt: .pkl lists",
    )
    exporting = add("export", _export, "write a dataset for Minari", configured=False)
    exporting.add_argument("data", type=Path, metavar="DATA", help="our dataset's folder")
    exporting.add_argument("target", type=Path, metavar="TARGET", help="Minari's root folder")
    for command in (importing, exporting):
        command.add_argument("--tasks", default="", metavar="LIST", help="comma-separated")
    describing = add("describe", _describe, "show a dataset beside the original one", False)
    describing.add_argument("data", type=Path, metavar="DATA")
    describing.add_argument("--json", type=Path, metavar="FILE", help="write it for a notebook")
    verify = add("verify", _verify, "check every file of a dataset", configured=False)
    verify.add_argument("folder", type=Path, metavar="DATA")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    for step, text in (
        ("stage1", "train the backbone until its gradient conflict has peaked"),
        ("group", "divide the tasks among the experts"),
        ("stage2", "train the experts on their task groups"),
        ("stage3", "train the router"),
    ):
        add(step, _train, text).set_defaults(step=step)
    evaluate = add("evaluate", _evaluate, "roll models out in the simulators")
    evaluate.add_argument(
        "--models",
        metavar="LIST",
        help="comma-separated: random, backbone, router, expert:K; default the furthest trained",
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    tasks = add("tasks", _tasks, "list the tasks of a suite", configured=False)
    tasks.add_argument("suite", nargs="?", default="mt160", help="mtN or quickstart; default mt160")
    tasks.add_argument("--seed", type=_natural, default=0, help="which subset of that size")
    behaviour = add("behaviour", _behaviour, "train or measure behaviour policies", False)
    behaviour.add_argument("action", choices=("train", "measure"))
    behaviour.add_argument("tasks", nargs="*", metavar="TASK", help="tasks; measure: default all")
    behaviour.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/behaviour"),
        metavar="DIR",
        help="trainings, and ladders for collect.policies=DIR; default runs/behaviour",
    )
    behaviour.add_argument(
        "--library",
        type=Path,
        metavar="DIR",
        help="train: put ladders here instead; measure: look here before the package's",
    )
    behaviour.add_argument("--seed", type=_natural, default=0, help="of a training")
    behaviour.add_argument("--episodes", type=_positive, default=10, help="per task, measured")
    behaviour.add_argument("--csv", type=Path, metavar="FILE", help="write what was measured")
    registry = add("registry", _registry, "list the models of a run", configured=False)
    registry.add_argument("run", type=Path, metavar="RUN")
    registry.add_argument("--json", type=Path, metavar="FILE", help="write the entries as JSON")
    bench = add("bench", _bench, "time training steps and the data pipeline", configured=False)
    bench.add_argument("--rows", default="stage1,data", metavar="LIST", help="stage1, data")
    bench.add_argument(
        "--trajectories", type=int, default=2000, metavar="N", help="per task, on disk, row data"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    return parser


_Parser = argparse.ArgumentParser


def _collect(options: argparse.Namespace, console: Console) -> None:
    from m3dt.config import load_config
    from m3dt.data.collect import collect
    from m3dt.fitting import build_callbacks
    from m3dt.tasks import tasks_of

    config = load_config(options.conf, options.overrides)
    build_callbacks(config, "stage1")  # a mistake in them should not wait for the data
    collect(config.data, tasks_of(config), config.collect, console)


def _import(options: argparse.Namespace, console: Console) -> None:
    from m3dt.data.importers import import_dataset

    names = options.tasks.split(",") if options.tasks else []
    import_dataset(options.source, options.data, options.format, names, console)
    console.print(f"{options.data}: check it with `m3dt verify {options.data}`.")


def _export(options: argparse.Namespace, console: Console) -> None:
    from m3dt.data.export import export_minari

    names = options.tasks.split(",") if options.tasks else []
    tasks = export_minari(options.data, options.target, names)
    console.print(
        f"{len(tasks)} tasks written. Read them with MINARI_DATASETS_PATH={options.target} set."
    )


def _tasks(options: argparse.Namespace, console: Console) -> None:
    from m3dt.tables import show_tasks

    show_tasks(options.suite, options.seed, console)


def _describe(options: argparse.Namespace, console: Console) -> None:
    from m3dt.tables import show_dataset

    show_dataset(options.data, options.json, console)


def _verify(options: argparse.Namespace, console: Console) -> None:
    from m3dt.data.verify import verify
    from m3dt.files import write_json

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


def _train(options: argparse.Namespace, console: Console) -> None:
    from m3dt.config import load_config

    config = load_config(options.conf, options.overrides)
    from m3dt import pipeline
    from m3dt.run import Run

    steps = {
        "stage1": pipeline.stage1,
        "group": pipeline.group,
        "stage2": pipeline.stage2,
        "stage3": pipeline.stage3,
    }
    steps[options.step](Run(config, console))


def _evaluate(options: argparse.Namespace, console: Console) -> None:
    from m3dt.config import load_config
    from m3dt.report import evaluate_run

    config = load_config(options.conf, options.overrides)
    names = options.models.split(",") if options.models else []
    evaluate_run(config, names, options.json, console)


def _behaviour(options: argparse.Namespace, console: Console) -> None:
    if options.action == "measure":
        from m3dt.behaviour.measure import measure_and_show

        library = options.library or ""
        measure_and_show(options.tasks, options.episodes, library, options.csv, console)
        return
    if not options.tasks:
        raise UserError("which tasks shall be trained? m3dt behaviour train TASK...")
    try:
        from m3dt.behaviour.training.command import train_and_pack
    except ModuleNotFoundError as error:
        if error.name != "stable_baselines3":
            raise
        raise UserError(
            "training behaviour policies needs stable-baselines3: pip install 'm3dt[collect]'"
        ) from None
    library = options.library or options.folder
    train_and_pack(options.tasks, options.folder, library, options.seed, console)


def _registry(options: argparse.Namespace, console: Console) -> None:
    from m3dt.report import show_registry

    show_registry(options.run, options.json, console)


def _bench(options: argparse.Namespace, console: Console) -> None:
    from m3dt.bench import bench
    from m3dt.files import write_json

    rows = options.rows.split(",")
    if not set(rows) <= {"stage1", "data"}:
        raise UserError(f"--rows {options.rows}: choose among stage1, data")
    result = bench(rows, options.trajectories, console)
    if options.json:
        write_json(options.json, result)
