"""Figures of a dataset: returns, scales and coverage of states, frames of tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from m3dt.data.statistics import CONSTANT, Scale
from m3dt.plots.palette import color_of
from m3dt.tasks import DOMAINS, domains_of, get_task
from m3dt.utils.counts import counted

_FRAME_INCHES = 1.35
_FLOOR = 1e-3  # smaller deviations are drawn here


def return_figure(description: Mapping[str, Any]) -> Figure:
    """Draw each task's episode returns: range, quartiles and median, one panel per domain.

    Args:
        description: The tasks of a dataset, as written by `m3dt describe --json`.
    """
    domains = domains_of(description)
    groups = {d: [t for t in description if get_task(t).domain == d] for d in domains}
    tallest = max(map(len, groups.values()))
    figure = Figure(figsize=(4.2 * len(groups), 1.2 + 0.16 * tallest), layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, (domain, tasks) in zip(panels, groups.items(), strict=True):
        quartiles = np.array([description[task]["return_quartiles"] for task in tasks])
        rows = np.arange(len(tasks))
        axes.hlines(rows, quartiles[:, 0], quartiles[:, 4], color=color_of(domain), linewidth=1)
        axes.hlines(rows, quartiles[:, 1], quartiles[:, 3], color=color_of(domain), linewidth=5)
        axes.plot(quartiles[:, 2], rows, "o", color="white", markersize=3, zorder=3)
        if domain in DOMAINS:
            axes.axvline(get_task(tasks[0]).target_return, color="0.5", linestyle=":", linewidth=1)
        axes.set_yticks(rows, tasks, fontsize=6)
        axes.set_ylim(tallest - 0.5, -0.5)
        axes.set_title(f"{domain}: {counted(len(tasks), 'task')}", fontsize=10)
        dotted = " (dotted: the paper's target)" if domain in DOMAINS else ""
        axes.set_xlabel(f"episode return{dotted}", fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def scale_figure(scales: Sequence[Scale], factor: float = 3.0) -> Figure:
    """Draw the standard deviation of each state dimension against the original dataset's."""
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.add_subplot()
    line = np.array([_FLOOR, 30.0])
    axes.fill_between(line, line / factor, line * factor, color="0.93", label=f"factor {factor:g}")
    axes.plot(line, line, color="0.6", linewidth=0.8)
    for domain, own in _by_domain(scales).items():
        x = [max(s.original_std, _FLOOR) for s in own]
        y = [max(s.std, _FLOOR) for s in own]
        label = f"{domain} ({len(own)})"
        axes.scatter(x, y, s=7, alpha=0.6, color=color_of(domain), label=label, linewidths=0)
    axes.set(xscale="log", yscale="log", xlim=line, ylim=line)
    axes.set_xlabel("standard deviation in the original dataset")
    axes.set_ylabel("standard deviation here")
    axes.legend(fontsize=8, loc="upper left")
    return figure


def coverage_figure(scales: Sequence[Scale]) -> Figure:
    """Draw how much of the original states' range ours cover, for dimensions that vary there."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for domain, own in _by_domain(scales).items():
        values = np.sort([s.coverage for s in own if s.original_std > CONSTANT])
        share = 1 - np.arange(len(values)) / len(values)
        label = f"{domain} ({len(values)})"
        axes.step(values, share, where="post", color=color_of(domain), label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_xlabel("share of the original's mean +- 2 deviations inside our 99 % range")
    axes.set_ylabel("share of state dimensions")
    axes.legend(fontsize=8, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def frame_sheet(frames: Mapping[str, np.ndarray], columns: int = 8) -> Figure:
    """Draw named images, (height, width, 3) each, in a grid."""
    rows = -(-len(frames) // columns)
    figure = Figure(figsize=(_FRAME_INCHES * columns, _FRAME_INCHES * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, (name, frame) in zip(grid, frames.items(), strict=False):
        axes.imshow(frame)
        axes.set_title(name, fontsize=6, pad=2)
    return figure


def _by_domain(scales: Sequence[Scale]) -> dict[str, list[Scale]]:
    domains = domains_of(scale.task for scale in scales)
    return {d: [s for s in scales if get_task(s.task).domain == d] for d in domains}
