"""The benchmark command: its JSON, on a small dataset."""

import json

import torch

from m3dt.cli import main


def test_bench_writes_the_documented_json(tmp_path, capsys):
    file = tmp_path / "bench.json"
    threads = torch.get_num_threads()
    assert main(["bench", "--rows", "data", "--trajectories", "3", "--json", str(file)]) == 0
    assert torch.get_num_threads() == threads
    result = json.loads(file.read_text())
    assert set(result["machine"]["gemm_gflops"]) == {"float32", "bfloat16"}
    (row,) = result["rows"]
    assert {"name", "config", "median_seconds", "samples_per_second", "model_flops"} <= set(row)
    assert row["median_seconds"] > 0 and row["config"]["num_tasks"] == 160
    assert "opened in" in capsys.readouterr().out


def test_unknown_row_is_refused(capsys):
    assert main(["bench", "--rows", "stage9"]) == 2
    assert "stages, data" in capsys.readouterr().err
