"""Look at the installation, the machine, the data and a run, and say what mends what is wrong."""

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

GOOD, NOTE, BAD = "good", "note", "bad"
_LOWEST_FREE = 2**30  # bytes; less does not hold a checkpoint of the large models
_RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
renderer = mujoco.Renderer(model, 8, 8)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        state: `GOOD`, `NOTE` or `BAD`; what is bad keeps commands from working.
        found: What was found.
        remedy: What mends it; empty where nothing need be done.
    """

    what: str
    state: str
    found: str
    remedy: str = ""


def doctor(config: Config, console: Console) -> list[Finding]:
    """Check everything and print a table.

    Raises:
        RunError: Something is bad.
    """
    checks: tuple[Callable[[Config], list[Finding]], ...] = (
        _versions, _devices, _rendering, _disk, _dataset, _registry
    )  # fmt: skip
    findings = [finding for check in checks for finding in check(config)]
    table = Table(title=f"m3dt doctor --conf {config.conf}", title_justify="left")
    for column in ("", "what", "found", "remedy"):
        table.add_column(column, overflow="fold")
    colors = {GOOD: "green", NOTE: "yellow", BAD: "red"}
    for finding in findings:
        mark = f"[{colors[finding.state]}]{finding.state}[/]"
        table.add_row(mark, finding.what, finding.found, finding.remedy)
    console.print(table)
    bad = [finding.what for finding in findings if finding.state == BAD]
    if bad:
        raise RunError(f"{len(bad)} of {len(findings)} checks are bad: {', '.join(bad)}.")
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
        return [Finding("packages", BAD, f"missing: {', '.join(missing)}; {found}", remedy)]
    return [Finding("packages", GOOD, found)]


def _devices(config: Config) -> list[Finding]:
    cores = f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    findings = [Finding("processor", GOOD, cores)]
    precision = str(config.trainer.get("precision", "32-true"))
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        bf16 = torch.cuda.is_bf16_supported()
        found = f"{torch.cuda.device_count()} x {', '.join(sorted(names))}"
        remedy = "" if bf16 or "bf16" not in precision else "trainer.precision=16-mixed"
        state = BAD if remedy else GOOD
        findings.append(Finding("GPU", state, f"{found}, bfloat16: {bf16}", remedy))
        return findings
    wanted = str(config.trainer.get("accelerator", "auto"))
    if wanted in ("gpu", "cuda"):
        remedy = "trainer.accelerator=auto, or install torch for CUDA (README, Installing)"
        findings.append(Finding("GPU", BAD, f"none, but trainer.accelerator={wanted}", remedy))
    else:
        findings.append(Finding("GPU", NOTE, "none: everything runs on the CPU"))
    return findings


def _rendering(config: Config) -> list[Finding]:
    """Try to draw in a process of its own: a wrong driver may end it."""
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
            return [Finding("rendering", GOOD, f"{backend} works", remedy)]
    remedy = "install libegl1 or libosmesa6; only films and pictures need it"
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
            findings.append(Finding(setting, BAD, f"{existing}: not writable", remedy))
        elif free < _LOWEST_FREE:
            findings.append(
                Finding(setting, BAD, found, f"free space, or another {setting}=FOLDER")
            )
        else:
            findings.append(Finding(setting, GOOD, found))
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
        return [Finding("dataset", BAD, str(error), f"m3dt verify {folder}")]
    found = f"{folder}: {len(index.tasks)} tasks"
    if missing:
        return [Finding("dataset", BAD, f"{found}, lacks {', '.join(missing[:5])}", collect)]
    return [Finding("dataset", GOOD, f"{found}; their checksums: m3dt verify {folder}")]


def _registry(config: Config) -> list[Finding]:
    run = Path(config.run)
    if not run.is_dir():
        return [Finding("registry", NOTE, f"{run}: no run yet", f"m3dt train --conf {config.conf}")]
    try:
        entries = Registry(run).entries()
    except UserError as error:
        return [Finding("registry", BAD, str(error), "as it says")]
    kinds = [entry.kind for entry in entries]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    findings = [Finding("registry", GOOD, f"{run}: {counted or 'empty'}, all verified")]
    unfinished = sorted(p.name for p in (run / "checkpoints").glob("*") if p.is_dir())
    if unfinished:
        again = "repeat the command that was interrupted"
        findings.append(Finding("checkpoints", NOTE, f"of {', '.join(unfinished)}", again))
    left = [p for p in run.rglob(f".*{TEMPORARY_SUFFIX}")]
    if left:
        findings.append(
            Finding(
                "leftovers", NOTE, f"{len(left)} of killed processes", "they go with the next run"
            )
        )
    return findings
