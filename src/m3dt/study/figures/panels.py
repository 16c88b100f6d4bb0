"""Panels of figures: means over seeds with their intervals, single seeds, the paper's numbers."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from m3dt.plots.palette import GREY
from m3dt.study.estimates import NOT_MEASURED, Scores, estimate

_SPREAD = 0.24  # distance between the first and the last of several points with one name
_SHIFT = 4.0  # points by which a curve moves aside
_NOTE = "n: seeds. Bars: 95 % intervals by Student's t. Faint points: single seeds."
_MARGIN = 1.3  # factor between the outer ticks and the ends of an axis
_OF_PAPER = "paper"  # marks lines that are no results of ours
SCORE = "normalized score"
X = TypeVar("X", int, float)
Series = tuple[str, str, Sequence[Scores]]  # label, color, scores for each name


def new_figure(count: int, width: float = 4.8, columns: int = 3) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure and its axes in rows of `columns` panels; unused axes, empty, come last."""
    across, rows = min(count, columns), -(-count // columns)
    figure = Figure(figsize=(width * across, 4.1 * rows), layout="constrained")
    axes: list[Axes] = list(figure.subplots(rows, across, squeeze=False).flat)
    for unused in axes[count:]:
        unused.axis("off")
    for panel in axes[:count]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
    return figure, axes


def draw(
    axes: Axes,
    points: Mapping[X, Scores],
    label: str,
    color: str,
    style: str = "o-",
    shift: int = 0,
) -> None:
    """Draw the means over seeds, and each seed faintly; the legend names points without results.

    `shift` moves the curve aside by a number of small steps, so that it does not hide others.
    """
    found = [(x, scores) for x, scores in sorted(points.items()) if scores]
    missing = [f"{x:,g}" for x, scores in sorted(points.items()) if not scores]
    if missing or not points:
        label += f" ({NOT_MEASURED}{': ' + ', '.join(missing) if found else ''})"
    _means(axes, found, style, color, label, shift)


def name_points(axes: Axes, names: Sequence[str], series: Sequence[Series]) -> None:
    """Draw a point of each series above each name, marked where it was not measured."""
    for number, (label, color, points) in enumerate(series):
        shift = _SPREAD * (number / (len(series) - 1) - 0.5) if len(series) > 1 else 0.0
        found = [(x + shift, scores) for x, scores in enumerate(points) if scores]
        _means(axes, found, "o", color, label)
        above = axes.get_xaxis_transform()
        for missing in [x + shift for x, scores in enumerate(points) if not scores]:
            axes.text(missing, 0.04, NOT_MEASURED, transform=above, fontsize=8, color=color,
                      rotation=90, ha="center", va="bottom")  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)


def draw_paper(axes: Axes, points: Mapping[int, float], label: str) -> None:
    """Draw numbers of the paper."""
    axes.plot(list(points), list(points.values()), "D--", color="0.6", label=label, markersize=4,
              markerfacecolor="white", linewidth=1.1, zorder=1, gid=_OF_PAPER)  # fmt: skip


def finish(
    axes: Axes, title: str, x_label: str, y_label: str, ticks: Sequence[float] = (), paper: str = ""
) -> None:
    """Name a panel's axes and show its legend.

    `ticks` are the values of a logarithmic x axis, empty for a linear one. `paper` is what the
    paper says, shown below the title.
    """
    axes.set_title(title, fontsize=11, loc="left", pad=20 if paper else 6)
    if paper:
        axes.text(0, 1.025, paper, transform=axes.transAxes, fontsize=8.5, color=GREY)
    axes.set_xlabel(x_label, fontsize=10)
    axes.set_ylabel(y_label, fontsize=10)
    if ticks:
        axes.set_xscale("log")
        axes.set_xlim(ticks[0] / _MARGIN, ticks[-1] * _MARGIN)
        axes.set_xticks(list(ticks), [f"{t:,g}" for t in ticks])
        axes.minorticks_off()
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(-0.02, -0.17))


def without_empty(figure: Figure) -> Figure | None:
    """Return a figure without its panels that show no results, None if none shows any."""
    if not any(_has_results(axes) for axes in figure.axes):
        return None
    kept = [axes for axes in figure.axes if _has_results(axes) or _is_legend(axes)]
    columns = len({axes.get_position().x0 for axes in figure.axes})
    if len(kept) == len(figure.axes):
        return figure
    across = min(len(kept), columns)
    rows = -(-len(kept) // across)
    width, height = figure.get_size_inches()
    before = -(-len(figure.axes) // columns)
    for axes in set(figure.axes) - set(kept):
        axes.remove()
    figure.set_size_inches(width / columns * across, height / before * rows)
    grid = figure.add_gridspec(rows, across)
    for place, axes in enumerate(kept):
        axes.set_subplotspec(grid[divmod(place, across)])
    return figure


def _has_results(axes: Axes) -> bool:
    """Tell whether a panel compares results of ours: at two places or more of its x axis.

    The paper's numbers are none of ours.
    """
    lines = [line for line in axes.lines if line.get_gid() != _OF_PAPER]
    places = [np.ravel(np.asarray(line.get_xdata(), float)) for line in lines]
    return len(np.unique(np.concatenate([*places, []]).round(9))) > 1


def _is_legend(axes: Axes) -> bool:
    return not axes.axison and axes.get_legend() is not None


def share_legend(axes: Sequence[Axes], spare: Axes) -> None:
    """Move the legends of several panels into a spare one, each label once."""
    shown: dict[str, Artist] = {}
    for panel in axes:
        handles, labels = panel.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
        if (legend := panel.get_legend()) is not None:
            legend.remove()
    spare.legend(list(shown.values()), list(shown), fontsize=10, frameon=False, loc="center left")


def _means(
    axes: Axes,
    found: Sequence[tuple[float, Scores]],
    style: str,
    color: str,
    label: str,
    shift: int = 0,
) -> None:
    """Draw means with their intervals, and each seed as a faint point."""
    assert axes.figure is not None
    moved = ScaledTranslation(shift * _SHIFT / 72, 0, axes.figure.dpi_scale_trans)
    place = axes.transData + moved
    for seed in sorted({seed for _, scores in found for seed in scores}):
        x, y = zip(*((x, scores[seed]) for x, scores in found if seed in scores), strict=True)
        axes.plot(x, y, "o", color=color, alpha=0.3, markersize=3, transform=place)
    counts = sorted({len(scores) for _, scores in found})
    if counts:
        seeds = f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
        label = f"{label or 'mean'} ({seeds})"
    xs, estimates = [x for x, _ in found], [estimate(scores) for _, scores in found]
    means = [e.mean for e in estimates if e is not None]
    ends = [e.interval or (e.mean, e.mean) for e in estimates if e is not None]
    bars = [[m - low for m, (low, _) in zip(means, ends, strict=True)],
            [high - m for m, (_, high) in zip(means, ends, strict=True)]]  # fmt: skip
    axes.errorbar(xs, means, bars, fmt=style, color=color, label=label, markersize=6,
                  linewidth=1.4, elinewidth=1, capsize=2.5, transform=place)  # fmt: skip
    # Moved artists do not count towards the limits by themselves.
    reached = [(x, y) for x, scores in found for y in scores.values()]
    reached += [(x, y) for x, both in zip(xs, ends, strict=True) for y in both]
    axes.update_datalim(reached or np.empty((0, 2)))
    axes.autoscale_view()


def share_ranges(figure: Figure) -> None:
    """Give panels of a row that show the same quantity the same y range; explain the bars."""
    rows: dict[tuple[float, str], list[Axes]] = {}
    for axes in figure.axes:
        spec = axes.get_subplotspec()
        if spec is not None and axes.axison:
            rows.setdefault((spec.rowspan.start, axes.get_ylabel()), []).append(axes)
    for panels in rows.values():
        lows, highs = zip(*(panel.get_ylim() for panel in panels), strict=True)
        for panel in panels:
            panel.set_ylim(min(lows), max(highs))
    if any(axes.containers for axes in figure.axes):
        figure.supxlabel(_NOTE, fontsize=8, color=GREY, x=0.01, ha="left")
