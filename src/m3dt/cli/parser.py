"""The commands, their options and their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from m3dt.cli import commands
from m3dt.version import __version__

Command = Callable[[argparse.Namespace, Console], None]
_Parser = argparse.ArgumentParser


def _natural(word: str, lowest: int = 0) -> int:
    number = int(word)
    if number < lowest:
        raise argparse.ArgumentTypeError(f"{word} must be {lowest} or more")
    return number


def _positive(word: str) -> int:
    return _natural(word, lowest=1)


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(prog="m3dt", description="Massive multi-task offline RL.")
    parser.add_argument("--version", action="version", version=f"m3dt {__version__}")
    groups = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str, configured: bool = True) -> _Parser:
        sub = groups.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        if configured:
            sub.add_argument(
                "--conf", default="quickstart", metavar="NAME", help="a file of conf/, or a path"
            )
            sub.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides")
        return sub

    add("collect", commands.collect, "record trajectories in the simulators")
    importing = add(
        "import", commands.import_data, "add a dataset of another project to ours", False
    )
    importing.add_argument("source", type=Path, metavar="SOURCE")
    importing.add_argument("data", type=Path, metavar="DATA", help="our dataset's folder")
    importing.add_argument(
        "--format",
        required=True,
        choices=("npz", "tdmpc2", "promptdt", "minari"),
        help="npz: the M3DT authors'; tdmpc2: .pt chunks; promptdt: .pkl lists",
    )
    exporting = add("export", commands.export, "write a dataset for Minari", configured=False)
    exporting.add_argument("data", type=Path, metavar="DATA", help="our dataset's folder")
    exporting.add_argument("target", type=Path, metavar="TARGET", help="Minari's root folder")
    for command in (importing, exporting):
        command.add_argument("--tasks", default="", metavar="LIST", help="comma-separated")
    describing = add("describe", commands.describe, "show a dataset beside the original one", False)
    describing.add_argument("data", type=Path, metavar="DATA")
    describing.add_argument("--json", type=Path, metavar="FILE", help="write it for a notebook")
    verify = add("verify", commands.verify, "check every file of a dataset", configured=False)
    verify.add_argument("folder", type=Path, metavar="DATA")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    for step, text in (
        ("stage1", "train the backbone until its gradient conflict has peaked"),
        ("group", "divide the tasks among the experts"),
        ("stage2", "train the experts on their task groups"),
        ("stage3", "train the router"),
        ("train", "train a method from beginning to end: method=NAME"),
    ):
        add(step, commands.train, text).set_defaults(step=step)
    evaluate = add("evaluate", commands.evaluate, "roll models out in the simulators")
    evaluate.add_argument(
        "--models",
        metavar="LIST",
        help="comma-separated: random, backbone, router, oracle, expert:K, baseline:METHOD; "
        "default: the method's model, as far as it is trained",
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    evaluate.add_argument(
        "--film", default="", metavar="TASKS", help="tasks whose episodes become pictures"
    )
    study = add("study", commands.study, "train and evaluate a grid of settings", configured=False)
    study.add_argument("file", type=Path, metavar="FILE", help="of conf/study/")
    study.add_argument("overrides", nargs="*", metavar="key=value", help="for every cell")
    study.add_argument(
        "--csv", type=Path, metavar="FILE", help="results; default results/<name of the study>.csv"
    )
    study.add_argument(
        "--shard", default="0/1", metavar="I/N", help="the I-th of N parts of the cells"
    )
    study.add_argument("--where", default="", metavar="KEY=VALUE", help="such cells alone")
    figures = add("figures", commands.figures, "draw a study's figures and tables", False)
    figures.add_argument(
        "file", type=Path, nargs="?", default=Path("results/lite.csv"), metavar="FILE",
        help="results of m3dt study",
    )  # fmt: skip
    figures.add_argument(
        "--out", type=Path, default=Path("results"), metavar="FOLDER", help="Markdown, PNG below"
    )
    loading = add(
        "import-checkpoint", commands.import_checkpoint, "register the authors' checkpoints"
    )
    loading.set_defaults(conf="mt160")
    loading.add_argument("--run", type=Path, required=True, metavar="RUN", help="a new run")
    loading.add_argument("--backbone", type=Path, required=True, metavar="FILE")
    loading.add_argument("--experts", type=Path, nargs="+", default=[], metavar="FILE")
    loading.add_argument("--moe", type=Path, metavar="FILE")
    saving = add("export-checkpoint", commands.export_checkpoint, "write the authors' files", False)
    saving.add_argument("--run", type=Path, required=True, metavar="RUN")
    saving.add_argument("--target", type=Path, required=True, metavar="DIR")
    tasks = add("tasks", commands.tasks, "list the tasks of a suite", configured=False)
    tasks.add_argument("suite", nargs="?", default="mt160", help="mtN or quickstart; default mt160")
    tasks.add_argument("--seed", type=_natural, default=0, help="which subset of that size")
    behaviour = add("behaviour", commands.behaviour, "train or measure behaviour policies", False)
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
    registry = add("registry", commands.registry, "list the models of a run", configured=False)
    registry.add_argument("run", type=Path, metavar="RUN")
    registry.add_argument("--json", type=Path, metavar="FILE", help="write the entries as JSON")
    add("doctor", commands.doctor, "say what is missing or broken, and what mends it")
    bench = add("bench", commands.bench, "time training steps, data and acting", configured=False)
    bench.add_argument(
        "--rows",
        default="stages,data,acting,scaling",
        metavar="LIST",
        help="stages, data, acting, scaling, methods",
    )
    bench.add_argument(
        "--trajectories", type=int, default=200, metavar="N", help="per task, on disk, row data"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    return parser
