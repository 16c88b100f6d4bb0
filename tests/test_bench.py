"""Benchmarks: the JSON, the rows, and the counts of operations."""

import json

import pytest
import torch

from m3dt.bench import benchmark, growth, steps
from m3dt.bench.steps import Training
from m3dt.cli import main
from m3dt.models.fast.frozen_experts import MixFrozenExperts

ROW = {
    "name", "config", "median_seconds", "samples_per_second", "model_flops", "utilization",
    "peak_bytes", "note",
}  # fmt: skip
PEAKS = {"float32": 100.0, "bfloat16": 50.0}


@pytest.fixture
def same_threads():
    """Restore the number of threads; rows are measured on one thread."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.long
def test_bench_writes_the_documented_json(tmp_path, capsys):
    file = tmp_path / "bench.json"
    threads = torch.get_num_threads()
    assert main(["bench", "--rows", "data", "--trajectories", "3", "--json", str(file)]) == 0
    assert torch.get_num_threads() == threads
    result = json.loads(file.read_text())
    assert set(result["machine"]["gemm_gflops"]) == {"float32", "bfloat16"}
    (row,) = result["rows"]
    assert set(row) >= ROW
    assert row["median_seconds"] > 0 and row["config"]["num_tasks"] == 160
    shown = capsys.readouterr().out
    assert "opened in" in shown and "GFLOP/s in float32" in shown


def test_unknown_row_is_refused(capsys):
    assert main(["bench", "--rows", "stage9"]) == 2
    assert "stages, data" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["float32", "bf16-mixed"])
@pytest.mark.parametrize("stage, num_experts", [(1, 0), (2, 1), (3, 3)])
def test_a_stage_is_timed_against_the_plain_method(same_threads, stage, num_experts, precision):
    training = Training(f"stage{stage}", stage, num_experts, 1, precision, n_embd=16)
    row = steps.measure_training(training, PEAKS)
    assert set(row) >= ROW
    assert 0 < row["performed_flops"] < row["model_flops"]  # the purpose of the shortcuts
    assert row["ratio"] == pytest.approx(row["plain_seconds"] / row["median_seconds"])
    peak = PEAKS["float32" if precision == "float32" else "bfloat16"]
    expected = row["performed_flops"] / row["median_seconds"] / 1e9 / peak
    assert row["utilization"] == pytest.approx(expected)
    assert benchmark._table([row]).row_count == 1


def test_counted_products_are_those_of_the_experts():
    """2 x tokens x width x hidden, for each of two products, and again for the gradient of x."""
    L, D, E, hidden = 7, 16, 3, 64
    weights = (
        torch.randn(E, D, hidden), torch.randn(E, hidden), torch.randn(E, hidden, D),
        torch.randn(E, D),
    )  # fmt: skip
    gates = torch.rand(L, E, requires_grad=True)
    for wants, passes in ((True, 2), (False, 1)):
        x = torch.randn(L, D, requires_grad=wants)
        counted = steps.count_flops(
            lambda x=x: MixFrozenExperts.apply(x, gates, *weights).sum().backward()
        )
        assert counted == passes * 2 * 2 * L * D * hidden * E


@pytest.mark.long
def test_acting_and_scaling_rows(same_threads):
    row = steps.act(2, 3, PEAKS["float32"], True)
    assert set(row) >= ROW and row["config"]["environments"] == 3
    assert row["ratio"] == pytest.approx(row["plain_seconds"] / row["median_seconds"])
    assert row["performed_flops"] < row["model_flops"]
    assert set(growth.grouping_row(8)) >= ROW


@pytest.mark.slow  # of the paper's size
def test_ranks_share_a_step():
    row = growth.ranks_row(2)
    assert set(row) >= ROW and row["median_seconds"] > 0
