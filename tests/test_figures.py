"""Figures are drawn from arrays; what they show is read back from the axes."""

import pkgutil
import subprocess
import sys

import numpy as np
import pytest

from m3dt import plots, study
from m3dt.plots import conflict_curve, heat_map
from m3dt.plots.palette import METHOD_COLORS


@pytest.mark.parametrize("columns", [3, 50])
def test_heat_map_shows_the_matrix(columns):
    values = np.arange(2 * columns, dtype=float).reshape(2, columns)
    names = [str(i) for i in range(columns)]
    figure = heat_map(values, ["a", "b"], names, title="t", x_label="x")
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), values)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert len(labels) <= 12 and [names[int(p)] for p in axes.get_xticks()] == labels
    assert len(axes.texts) == (6 if columns == 3 else 0)


def test_gates_are_coloured_around_even_shares():
    values = np.array([[0.7, 0.1, 0.1, 0.1]])
    figure = heat_map(values, ["a"], list("0123"), "t", "expert", even=0.25, outlined=[2])
    norm, (frame,) = figure.axes[0].images[0].norm, figure.axes[0].patches
    assert (norm.vmin, norm.vcenter, norm.vmax) == (0, 0.25, 0.5)
    assert frame.get_xy() == (1.5, -0.5)


@pytest.mark.parametrize("stopped_at", [None, 20])
def test_a_peak_is_drawn_only_where_training_stopped(stopped_at):
    record = {"mean": 0.5, "error": 0.1, "smoothed": 0.5, "independent": 0.2}
    history = [{"step": step, **record} for step in (0, 10, 20)]
    axes = conflict_curve(history, 10, stopped_at, "why").axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert ("peak: 10" in labels) == (stopped_at is not None)


def test_each_method_has_a_colour_of_its_own():
    assert len(set(METHOD_COLORS.values())) == len(METHOD_COLORS)


def test_importing_figures_reads_no_configuration(tmp_path):
    """A broken configuration in the working folder must not stop commands that need none."""
    (tmp_path / "conf").mkdir()
    for name in ("base", "lite"):
        (tmp_path / "conf" / f"{name}.yaml").write_text("seed: [unclosed\n")
    modules = [
        module.name
        for package in (plots, study)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    assert {"m3dt.plots.tensorboard", "m3dt.study.figures.score_figures"} <= set(modules)
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    ran = subprocess.run(
        [sys.executable, "-c", code, *modules], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
