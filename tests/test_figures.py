"""Figures are drawn from arrays; what they show is read back from the axes."""

import numpy as np
import pytest

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
