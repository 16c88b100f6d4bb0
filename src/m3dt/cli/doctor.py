"""Check the installation, the machine, the data and a run, and report remedies."""

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3dt.config import Config
from m3dt.data.format import INDEX, DatasetIndex
from m3dt.data.remedies import collecting_like
from m3dt.data.store import DatasetStore
from m3dt.runs.registry import Registry
from m3dt.tasks import SIMULATORS, tasks_of
from m3dt.tasks.rendering import OFF, can_render, chosen_backend
from m3dt.training.resume import interrupted_stages
from m3dt.utils.counts import counted
from m3dt.utils.errors import RunError, UserError
from m3dt.utils.files import TEMPORARY_SUFFIX, free_space
from m3dt.utils.processes import available_cpus, threads_within_quota
from m3dt.utils.shell import quoted
from m3dt.version import version_of

OK, NOTE, FAILED = "ok", "note", "failed"
_COLORS = {OK: "green", NOTE: "yellow", FAILED: "red"}
_LOWEST_FREE = 2**30  # bytes; a checkpoint of the large models needs more


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was found, and how to repair it if there is something to do.

    `status` is `OK`, `NOTE` or `FAILED`; some commands cannot work where a check failed.
    """

    check: str
    status: str
    found: str
    remedy: str = ""


def doctor(config: Config, console: Console) -> list[Finding]:
    """Run all checks and print a table.

    Raises:
        RunError: A check failed.
    """
    checks: tuple[Callable[[Config], Iterator[Finding]], ...] = (
        _versions, _devices, _rendering, _disk, _dataset, _registry
    )  # fmt: skip
    findings = [finding for check in checks for finding in check(config)]
    table = Table(title=f"m3dt doctor {config.option}", title_justify="left")
    for column in ("", "check", "found", "remedy"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        status = Text(finding.status, style=_COLORS[finding.status])
        table.add_row(status, finding.check, finding.found, finding.remedy)
    console.print(table)
    failed = [finding.check for finding in findings if finding.status == FAILED]
    if failed:
        raise RunError(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}.")
    return findings


def _versions(config: Config) -> Iterator[Finding]:
    known, missing = [f"Python {platform.python_version()}"], []
    for name in ("m3dt", "torch", "lightning", *SIMULATORS):
        try:
            known.append(f"{name} {version_of(name)}")
        except PackageNotFoundError:
            missing.append(name)
    found = ", ".join(known)
    if missing:
        remedy = f"pip install {' '.join(missing)}"
        yield Finding("packages", FAILED, f"missing: {', '.join(missing)}; {found}", remedy)
    else:
        yield Finding("packages", OK, found)


def _devices(config: Config) -> Iterator[Finding]:
    with threads_within_quota():
        threads = torch.get_num_threads()
    usable = f"{available_cpus()} of {os.cpu_count()} CPUs are available"
    yield Finding("processor", OK, f"{usable}, torch trains on {threads} threads")
    accelerator = str(config.trainer.get("accelerator", "auto"))
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        bf16 = torch.cuda.is_bf16_supported()
        found = f"{torch.cuda.device_count()} x {', '.join(sorted(names))}, bfloat16: {bf16}"
        if not bf16 and "bf16" in str(config.trainer.get("precision", "32-true")):
            yield Finding("GPU", FAILED, found, "trainer.precision=16-mixed")
        else:
            yield Finding("GPU", OK, found)
    elif accelerator in ("gpu", "cuda"):
        remedy = "trainer.accelerator=auto, or install torch for CUDA (docs/install.md)"
        yield Finding("GPU", FAILED, f"none, but trainer.accelerator={accelerator}", remedy)
    else:
        yield Finding("GPU", NOTE, "none: everything runs on the CPU")


def _rendering(config: Config) -> Iterator[Finding]:
    chosen = chosen_backend()
    for backend in [chosen] if chosen not in OFF else ["egl", "osmesa"]:
        if can_render(backend):
            remedy = "" if backend == chosen else f"MUJOCO_GL={backend} before a command"
            yield Finding("rendering", OK, f"{backend} works", remedy)
            return
    remedy = "install libegl1 or libosmesa6; only films and pictures need them"
    yield Finding("rendering", NOTE, "no back end works", remedy)


def _disk(config: Config) -> Iterator[Finding]:
    for setting in ("data", "run"):
        folder = Path(getattr(config, setting)).absolute()
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        free = free_space(existing)
        found, other = f"{existing}: {free / 2**30:.1f} GiB free", f"another {setting}=FOLDER"
        if not os.access(existing, os.W_OK | os.X_OK):
            yield Finding(setting, FAILED, f"{existing}: not writable", other)
        elif free < _LOWEST_FREE:
            yield Finding(setting, FAILED, found, f"free space, or {other}")
        else:
            yield Finding(setting, OK, found)


def _dataset(config: Config) -> Iterator[Finding]:
    folder, collect = Path(config.data), f"m3dt collect {config.options}"
    if not (folder / INDEX).is_file():
        yield Finding("dataset", NOTE, f"{folder}: none yet", collect)
        return
    tasks = tasks_of(config)
    plugins = ["--plugins", ",".join(config.plugins)] if config.plugins else []
    verify = quoted("m3dt", "verify", folder, *plugins)
    try:
        index = DatasetIndex.read(folder)
        missing = [task for task in tasks if task not in index.tasks]
        DatasetStore.open(folder, [task for task in tasks if task in index.tasks])
    except UserError as error:
        yield Finding("dataset", FAILED, str(error), verify)
        return
    found = f"{folder}: {counted(len(index.tasks), 'task')}"
    if missing:
        lacks = f"{found}, lacks {', '.join(missing[:5])}"
        command, meaning = collecting_like(index, collect)
        remedy = f"{command} ({meaning})" if meaning else command
        yield Finding("dataset", FAILED, lacks, remedy)
    else:
        yield Finding("dataset", OK, f"{found}; their checksums: {verify}")


def _registry(config: Config) -> Iterator[Finding]:
    run = Path(config.run)
    if not run.is_dir():
        yield Finding("registry", NOTE, f"{run}: no run yet", f"m3dt train {config.options}")
        return
    try:
        kinds = [entry.kind for entry in Registry(run).entries()]
    except UserError as error:
        yield Finding("registry", FAILED, str(error), "follow the message")
        return
    listed = ", ".join(counted(kinds.count(kind), kind) for kind in dict.fromkeys(kinds))
    yield Finding("registry", OK, f"{run}: {listed or 'empty'}, all verified")
    unfinished = interrupted_stages(run / "checkpoints")
    if unfinished:
        found, remedy = f"unfinished: {', '.join(unfinished)}", "repeat the interrupted command"
        yield Finding("checkpoints", NOTE, found, remedy)
    left = len(list(run.rglob(f".*{TEMPORARY_SUFFIX}")))
    if left:
        found, remedy = (
            f"{counted(left, 'file')} of killed processes",
            "the next command deletes them",
        )
        yield Finding("leftovers", NOTE, found, remedy)
