"""Datasets compared with the original one: statistics and figures."""

import json
import math

import numpy as np
import pytest
from conftest import SYNTHETIC_TASKS

from m3dt.cli import main
from m3dt.data import DatasetStore
from m3dt.data.statistics import (
    Scale,
    compare_scales,
    describe,
    original_statistics,
    outliers,
)
from m3dt.plots import FigureView, coverage_figure, frame_sheet, return_figure, scale_figure
from m3dt.tasks import TASKS, get_task


def test_description_equals_the_data(synthetic):
    described = describe(synthetic)
    assert list(described) == list(SYNTHETIC_TASKS)
    for store in DatasetStore.open(synthetic, SYNTHETIC_TASKS).tasks:
        task = described[store.spec.name]
        training = store.observations[: store.num_training_steps].astype(np.float64)
        expected = np.stack(
            (
                training.mean(axis=0),
                training.std(axis=0),
                np.quantile(training, 0.005, axis=0),
                np.quantile(training, 0.995, axis=0),
            ),
            axis=1,
        )
        np.testing.assert_allclose(task["states"], expected, rtol=1e-4, atol=1e-6)
        assert task["return_quartiles"][2] == pytest.approx(
            np.median(store.episode_returns), abs=0.01
        )


def test_original_statistics_cover_all_tasks():
    """Dimensions beyond the task's width are zero, and some within it vary."""
    assert set(original_statistics()) == set(TASKS)
    for task, (mean, std) in original_statistics().items():
        width = get_task(task).state_dim
        assert not mean[width:].any() and std[:width].max() > 0.01


def scale(std, original_std, low=-1.0, high=1.0, original_mean=0.0):
    return Scale("walker-walk", 0, 0.0, std, low, high, original_mean, original_std)


@pytest.mark.parametrize(
    ("std", "original", "ratio"),
    [(1.0, 0.5, 2.0), (0.1, 1.0, 0.1), (0.0, 0.0, 1.0), (0.0, 0.002, 1.0), (0.01, 0.0, 2.0)],
)
def test_ratio_ignores_rounding_errors(std, original, ratio):
    assert scale(std, original).ratio == pytest.approx(ratio)


def test_outliers_lie_beyond_the_factor():
    scales = [scale(s, 1.0) for s in (0.2, 0.34, 1.0, 2.9, 3.1)]
    assert [s.std for s in outliers(scales)] == [0.2, 3.1]


@pytest.mark.parametrize(
    ("low", "high", "coverage"),
    [(-3, 3, 1.0), (-1, 1, 0.5), (1, 9, 0.25), (5, 9, 0.0), (-9, -1, 0.25)],
)
def test_coverage_is_the_enclosed_share(low, high, coverage):
    """The original's range is -2 to 2."""
    assert scale(1.0, 1.0, low, high).coverage == pytest.approx(coverage)


def test_describe_command(synthetic, tmp_path, capsys):
    file = tmp_path / "d.json"
    assert main(["describe", str(synthetic), "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    scales = compare_scales(json.loads(file.read_text()))
    assert len(scales) == 39 + 24 + 27
    assert f"{len(outliers(scales))} of 90 state dimensions differ" in printed


def test_figures_draw_every_task_and_dimension(synthetic):
    described = describe(synthetic)
    panels = return_figure(described).axes
    assert [len(a.get_yticks()) for a in panels] == [1, 1, 1]
    scales = compare_scales(described)
    drawn = sum(len(c.get_offsets()) for c in scale_figure(scales).axes[0].collections[1:])
    assert drawn == len(scales)
    assert len(coverage_figure(scales).axes[0].lines) == 3
    assert FigureView(scale_figure(scales))._repr_png_().startswith(b"\x89PNG")
    frames = {f"task {i}": np.zeros((4, 6, 3), np.uint8) for i in range(5)}
    sheet = frame_sheet(frames, columns=2)
    assert sum(len(axes.images) for axes in sheet.axes) == 5
    assert len(sheet.axes) == 2 * math.ceil(5 / 2)
