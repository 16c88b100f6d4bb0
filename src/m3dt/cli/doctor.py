"""Check the installation, the machine, the data and a run, and report remedies."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from m3dt.config import Config
from m3dt.data.format import INDEX, DatasetIndex
from m3dt.data.store import DatasetStore
from m3dt.runs.registry import Registry
from m3dt.tasks import SIMULATORS, tasks_of
from m3dt.utils.errors import RunError, UserError
from m3dt.utils.files import TEMPORARY_SUFFIX, free_space

OK, NOTE, FAILED = "ok", "note", "failed"
_COLORS = {OK: "green", NOTE: "yellow", FAILED: "red"}
_LOWEST_FREE = 2**30  # bytes; a checkpoint of the large models needs more
_RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
renderer = mujoco.Renderer(model, 8, 8)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
"""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: Name of the check.
        status: `OK`, `NOTE` or `FAILED`; some commands cannot work where a check failed.
        found: What was found.
        remedy: How to repair it; empty if there is nothing to do.
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
    checks: tuple[Callable[[Config], list[Finding]], ...] = (
        _versions, _devices, _rendering, _disk, _dataset, _registry
    )  # fmt: skip
    findings = [finding for check in checks for finding in check(config)]
    table = Table(title=f"m3dt doctor --conf {config.conf}", title_justify="left")
    for column in ("", "check", "found", "remedy"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        status = f"[{_COLORS[finding.status]}]{finding.status}[/]"
        table.add_row(status, finding.check, finding.found, finding.remedy)
    console.print(table)
    failed = [finding.check for finding in findings if finding.status == FAILED]
    if failed:
        raise RunError(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}.")
    return findings


def _versions(config: Config) -> list[Finding]:
    names = ("m3dt", "torch", "lightning", *SIMULATORS)
    known, missing = [], []
    for name in names:
        try:
            known.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    found = ", ".join([f"Python {platform.python_version()}", *known])
    if missing:
        remedy = f"pip install {' '.join(missing)}"
        return [Finding("packages", FAILED, f"missing: {', '.join(missing)}; {found}", remedy)]
    return [Finding("packages", OK, found)]


def _devices(config: Config) -> list[Finding]:
    cores = f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    return [Finding("processor", OK, cores), _gpu(config)]


def _gpu(config: Config) -> Finding:
    precision = str(config.trainer.get("precision", "32-true"))
    accelerator = str(config.trainer.get("accelerator", "auto"))
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        bf16 = torch.cuda.is_bf16_supported()
        found = f"{torch.cuda.device_count()} x {', '.join(sorted(names))}, bfloat16: {bf16}"
        if not bf16 and "bf16" in precision:
            return Finding("GPU", FAILED, found, "trainer.precision=16-mixed")
        return Finding("GPU", OK, found)
    if accelerator in ("gpu", "cuda"):
        remedy = "trainer.accelerator=auto, or install torch for CUDA (README, Installing)"
        return Finding("GPU", FAILED, f"none, but trainer.accelerator={accelerator}", remedy)
    return Finding("GPU", NOTE, "none: everything runs on the CPU")


def _rendering(config: Config) -> list[Finding]:
    """Render a picture in a process of its own, which a wrong driver may crash."""
    chosen = (os.environ.get("MUJOCO_GL") or "disable").lower()
    for backend in [chosen] if chosen not in ("disable", "disabled", "off") else ["egl", "osmesa"]:
        command = [sys.executable, "-c", _RENDER]
        environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
        try:
            drawn = subprocess.run(command, env=environment, capture_output=True, timeout=60)
        except subprocess.TimeoutExpired:
            continue
        if drawn.returncode == 0:
            remedy = "" if backend == chosen else f"MUJOCO_GL={backend} before a command"
            return [Finding("rendering", OK, f"{backend} works", remedy)]
    remedy = "install libegl1 or libosmesa6; only films and pictures need them"
    return [Finding("rendering", NOTE, "no back end works", remedy)]


def _disk(config: Config) -> list[Finding]:
    findings = []
    for setting in ("data", "run"):
        folder = Path(getattr(config, setting)).absolute()
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        free = free_space(existing)
        found = f"{existing}: {free / 2**30:.1f} GiB free"
        if not os.access(existing, os.W_OK | os.X_OK):
            remedy = f"another {setting}=FOLDER"
            findings.append(Finding(setting, FAILED, f"{existing}: not writable", remedy))
        elif free < _LOWEST_FREE:
            remedy = f"free space, or another {setting}=FOLDER"
            findings.append(Finding(setting, FAILED, found, remedy))
        else:
            findings.append(Finding(setting, OK, found))
    return findings


def _dataset(config: Config) -> list[Finding]:
    folder, collect = Path(config.data), f"m3dt collect --conf {config.conf}"
    if not (folder / INDEX).is_file():
        return [Finding("dataset", NOTE, f"{folder}: none yet", collect)]
    tasks = tasks_of(config)
    try:
        index = DatasetIndex.read(folder)
        missing = [task for task in tasks if task not in index.tasks]
        DatasetStore.open(folder, [task for task in tasks if task in index.tasks])
    except UserError as error:
        return [Finding("dataset", FAILED, str(error), f"m3dt verify {folder}")]
    found = f"{folder}: {len(index.tasks)} tasks"
    if missing:
        return [Finding("dataset", FAILED, f"{found}, lacks {', '.join(missing[:5])}", collect)]
    return [Finding("dataset", OK, f"{found}; their checksums: m3dt verify {folder}")]


def _registry(config: Config) -> list[Finding]:
    run = Path(config.run)
    if not run.is_dir():
        return [Finding("registry", NOTE, f"{run}: no run yet", f"m3dt train --conf {config.conf}")]
    try:
        entries = Registry(run).entries()
    except UserError as error:
        return [Finding("registry", FAILED, str(error), "follow the message")]
    kinds = [entry.kind for entry in entries]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    findings = [Finding("registry", OK, f"{run}: {counted or 'empty'}, all verified")]
    unfinished = sorted(p.name for p in (run / "checkpoints").glob("*") if p.is_dir())
    if unfinished:
        again = "repeat the interrupted command"
        findings.append(Finding("checkpoints", NOTE, f"unfinished: {', '.join(unfinished)}", again))
    left = [p for p in run.rglob(f".*{TEMPORARY_SUFFIX}")]
    if left:
        found, remedy = f"{len(left)} files of killed processes", "the next command deletes them"
        findings.append(Finding("leftovers", NOTE, found, remedy))
    return findings
