"""The commands, their arguments and their help."""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from m3dt.cli import commands
from m3dt.cli.names import names_epilog
from m3dt.config import DEFAULT_CONF
from m3dt.utils.paths import user_path
from m3dt.utils.shards import ALL
from m3dt.version import __version__

Argument = tuple[tuple[str, ...], dict[str, Any]]  # names and settings of `add_argument`


@dataclass(frozen=True)
class Command:
    """A command; `defaults` are further defaults of its options."""

    name: str
    run: Callable[[argparse.Namespace, Console], None]
    help: str
    arguments: tuple[Argument, ...]
    defaults: Mapping[str, str | None] = field(default_factory=dict)


class _Parser(argparse.ArgumentParser):
    """A parser whose help lists the names that overrides take, looked up only when it is shown."""

    lists_names = True

    def format_help(self) -> str:
        """Return the help."""
        if self.lists_names:
            self.epilog = names_epilog()
            self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().format_help()


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = _Parser(prog="m3dt", description="Massive multi-task offline RL.")
    parser.add_argument("--version", action="version", version=f"m3dt {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = subparsers.add_parser(command.name, help=command.help, description=command.help)
        sub.lists_names = any("overrides" in names for names, _ in command.arguments)
        for names, settings in command.arguments:
            sub.add_argument(*names, **settings)
        sub.set_defaults(command=command.run, **command.defaults)
    return parser


def _natural(word: str, lowest: int = 0) -> int:
    number = int(word)
    if number < lowest:
        raise argparse.ArgumentTypeError(f"{word} must be {lowest} or more")
    return number


def _positive(word: str) -> int:
    return _natural(word, lowest=1)


def _trajectories(word: str) -> int:
    return _natural(word, lowest=3)  # two are prompts


def _points(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{word} must be a finite number")
    return number


def _words(text: str) -> list[str]:
    words = (word.strip() for word in text.split(","))
    return [word for word in words if word]


def _argument(*names: str, **settings: Any) -> Argument:
    return names, settings


def _path(*names: str, help: str | None = None, **settings: Any) -> Argument:
    return names, {"type": user_path, "help": help, **settings}


_CONFIGURED = (
    _argument("--conf", default=DEFAULT_CONF, metavar="NAME", help="a file of conf/, or a path"),
    _argument("overrides", nargs="*", metavar="key=value", help="overrides by dotted key"),
)
_DATA = _path("data", metavar="DATA", help="folder of our dataset")
_TASKS = _argument("--tasks", type=_words, default="", metavar="LIST",
                   help="comma-separated; default all")  # fmt: skip
_PLUGINS = _argument("--plugins", type=_words, default="", metavar="MODULES",
                     help="comma-separated modules that register tasks of your own")  # fmt: skip
_JSON = _path("--json", metavar="FILE", help="write the result as JSON; - prints it")

COMMANDS = (
    Command("collect", commands.collect, "record trajectories in the simulators", (
        *_CONFIGURED,
        _argument("--shard", default=ALL, metavar="I/N",
                  help="collect part I of N, from 0; others may collect theirs at the same time"),
    )),
    Command("import", commands.import_data, "import a dataset of another project", (
        _path("source", metavar="SOURCE"),
        _DATA,
        _argument("--format", required=True, choices=("npz", "tdmpc2", "promptdt", "minari"),
                  help="npz: the M3DT authors'; tdmpc2: .pt chunks; promptdt: .pkl lists"),
        _TASKS, _PLUGINS,
        _argument("--observation", type=_words, action="extend", default=[], metavar="KEYS",
                  help="of Minari's dictionaries: comma-separated, in this order; default all"),
    )),
    Command("export", commands.export, "export a dataset to Minari", (
        _DATA, _path("target", metavar="TARGET", help="Minari's root folder"), _TASKS, _PLUGINS,
    )),
    Command("describe", commands.describe, "compare a dataset with the original one", (
        _DATA, _JSON, _PLUGINS,
    )),
    Command("verify", commands.verify, "check every file of a dataset", (
        _path("folder", metavar="DATA"), _JSON, _PLUGINS,
    )),
    *(Command(step, commands.train, text, _CONFIGURED, {"step": step}) for step, text in (
        ("stage1", "train the backbone until its gradient conflict peaks"),
        ("group", "assign the tasks to groups, one per expert"),
        ("stage2", "train the experts on their task groups"),
        ("stage3", "train the router"),
        ("train", "train a method from start to finish: method=NAME"),
    )),
    Command("extend", commands.extend, "extend a trained run by new tasks", (
        _path("--run", required=True, metavar="RUN", help="it needs a router by prompts"),
        _argument("--tasks", type=_words, default="", metavar="LIST", help="comma-separated"),
        _argument("--one-by-one", action="store_true", help="an extension for each task, in a row"),
        _argument("overrides", nargs="*", metavar="key=value",
                  help="overrides by dotted key, such as the folder of their data: data=DATA"),
    )),
    Command("evaluate", commands.evaluate, "evaluate models in the simulators", (
        *_CONFIGURED,
        _argument("--models", type=_words, default="", metavar="LIST",
                  help="comma-separated: random, nothing, nearest, backbone, router, router:main, "
                  "router:prompt, oracle, even, random-expert, expert:K, baseline:METHOD; "
                  "router@1 and others are in docs/routing.md; default: the method's furthest "
                  "trained model"),
        _path("--run", metavar="RUN", help="a run, in place of --conf: its own configuration"),
        _path("--prompts", metavar="DATA",
              help="a dataset whose trajectories are the prompts, also of tasks that the run was "
              "not trained on"),
        _JSON,
        _path("--out", metavar="FOLDER", help="where results go; default: the run's folder"),
        _argument("--film", type=_words, default="", metavar="TASKS",
                  help="tasks to write an animation of"),
    ), {"conf": None}),  # so that one that was given is known
    Command("study", commands.study, "train and evaluate a grid of settings", (
        _path("file", metavar="FILE", help="a file of conf/study/"),
        _argument("overrides", nargs="*", metavar="key=value", help="overrides of each cell"),
        _path("--csv", metavar="FILE", help="scores; default results/<name of the study>.csv"),
        _argument("--shard", default=ALL, metavar="I/N", help="run part I of N, from 0"),
        _argument("--where", action="append", default=[], metavar="KEY=VALUE",
                  help="run these cells only; may be given several times"),
        _argument("--dry-run", action="store_true",
                  help="show what is left, in pieces with estimated minutes, and run nothing"),
        _argument("--status", action="store_true",
                  help="show where each cell is, also while jobs run elsewhere, and run nothing"),
        _path("--json", metavar="FILE", help="with --status: write it as JSON; - prints it"),
        _argument("--minutes", type=_positive, metavar="M",
                  help="stop after M minutes, resumably; begin no piece that would not fit"),
        _path("--merge", nargs="+", default=[], metavar="FOLDER",
              help="instead: add the results in these folders to the table"),
    )),
    Command("compare", commands.compare, "compare evaluated models, paired over runs and tasks", (
        _path("sources", nargs="+", metavar="RUN", help="runs of several seeds, or tables"),
        _argument("--models", type=_words, default="", metavar="LIST",
                  help="comma-separated, such as router:prompt,backbone; default all"),
        _argument("--against", required=True, metavar="MODEL",
                  help="what the others are compared with"),
        _argument("--margin", type=_points, default=1.0, metavar="POINTS",
                  help="how much below counts as no worse; default 1"),
        _argument("--tasks", type=_words, default="", metavar="LIST",
                  help="of several evaluations of a model, the one of these tasks; default: the "
                  "newest that most runs have"),
        _argument("--episodes", type=_positive, metavar="N", help="the one of N episodes per task"),
        _argument("--seed", type=_natural, metavar="N", help="the one with evaluation.seed=N"),
        _path("--csv", metavar="FILE",
              help="write the score of each model, run and task; - prints it"),
    )),
    Command("figures", commands.figures, "draw a study's figures and tables", (
        _path("file", nargs="?", default=Path("results/lite.csv"), metavar="FILE",
              help="scores written by m3dt study"),
        _path("--out", default=Path("results"), metavar="FOLDER",
              help="folder for Markdown, and PNG in figures/"),
    )),
    Command("fill", commands.fill, "write results into marked places of Markdown documents", (
        _path("documents", nargs="+", metavar="FILE",
              help="with places such as <!-- result: lite/backbone --><!-- end -->"),
        _path("--results", default=Path("results"), metavar="FOLDER",
              help="where the studies' tables lie; default results"),
    )),
    Command("import-checkpoint", commands.import_checkpoint, "register the authors' checkpoints", (
        *_CONFIGURED,
        _path("--run", required=True, metavar="RUN", help="a new run"),
        _path("--backbone", required=True, metavar="FILE"),
        _path("--experts", nargs="+", default=[], metavar="FILE"),
        _path("--moe", metavar="FILE"),
    ), {"conf": "mt160"}),
    Command("export-checkpoint", commands.export_checkpoint, "export models as authors' files", (
        _path("--run", required=True, metavar="RUN"),
        _path("--target", required=True, metavar="DIR"),
    )),
    Command("config", commands.config, "print the resolved configuration, or list the keys", (
        _argument("--conf", default=DEFAULT_CONF, metavar="NAME",
                  help="a file of conf/, or a path"),
        _argument("overrides", nargs="*", metavar="key=value",
                  help="overrides by dotted key; or `keys [SECTION]`, which lists keys with "
                  "defaults, types and meanings"),
    )),
    Command("tasks", commands.tasks, "list the tasks of a suite", (
        _argument("suite", nargs="?", default="mt160",
                  help="mtN, quickstart, h25, ...; default mt160"),
        _argument("--seed", type=_natural, default=0, help="seed of the subset"),
    )),
    Command("behaviour", commands.behaviour, "train or measure behaviour policies", (
        _argument("action", choices=("train", "measure")),
        _argument("tasks", nargs="*", metavar="TASK", help="measure: default all"),
        _path("--folder", default=Path("runs/behaviour"), metavar="DIR",
              help="trainings, and ladders for collect.policies=DIR; default runs/behaviour"),
        _path("--library", metavar="DIR",
              help="train: write ladders here instead; measure: look here before the package"),
        _argument("--seed", type=_natural, default=0, help="seed of the training"),
        _argument("--episodes", type=_positive, default=10, help="episodes measured per task"),
        _path("--csv", metavar="FILE", help="write the measurements"),
    )),
    Command("registry", commands.registry, "list the models of a run", (
        _path("run", metavar="RUN"), _JSON,
    )),
    Command("doctor", commands.doctor, "report what is broken and how to repair it", _CONFIGURED),
    Command("bench", commands.bench, "time training steps, data and acting", (
        _argument("--rows", type=_words, metavar="LIST",
                  help="stages, data, acting, scaling, methods (all but methods); with --gpu: "
                  "equality, steps, measures, evaluation, devices (all)"),
        _argument("--trajectories", type=_trajectories, default=200, metavar="N",
                  help="trajectories per task of row data"),
        _argument("--device", default="cpu", choices=("cpu", "cuda"),
                  help="where models train and act"),
        _argument("--gpu", action="store_true",
                  help="instead: equality checks and times on a GPU, into results/gpu.json"),
        _argument("--seconds", type=_positive, default=520, metavar="N",
                  help="with --gpu: begin nothing after them"),
        _JSON,
    )),
)  # fmt: skip
