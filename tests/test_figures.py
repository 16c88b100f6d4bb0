"""Figures are drawn from arrays; what they show is read back from the axes."""

import pkgutil
import subprocess
import sys

import numpy as np
import pytest

from m3dt import plots, study
from m3dt.plots import heat_map


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
