"""`m3dt bench --gpu`: every part at a tiny size on the CPU, and what becomes of failures."""

import json
import multiprocessing
import os
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from m3dt.bench.gpu import (
    equality,
    gpu_acting,
    gpu_command,
    gpu_measures,
    gpu_run,
    gpu_steps,
    two_devices,
)
from m3dt.bench.gpu.compared_runs import close_weights, same_weights
from m3dt.bench.gpu.gpu_run import Budget, gpu_bench, run_part
from m3dt.bench.gpu.gpu_table import markdown
from m3dt.bench.gpu.outcomes import Differs, attempt, not_passed, outcome
from m3dt.bench.gpu.parts import Part, all_parts
from m3dt.bench.gpu.site import Site, Sizes
from m3dt.bench.gpu.workloads import Workload
from m3dt.bench.measuring import in_own_process_within
from m3dt.cli import main
from m3dt.data.resident import ResidentData

MODEL = (
    "model.n_layer=1", "model.n_head=2", "model.n_embd=16", "model.context_length=4",
    "model.prompt_length=2",
)  # fmt: skip
TINY = Sizes(
    suite="quickstart",
    trajectories=4,
    length=20,
    model=MODEL,
    stage2=2,
    stage3=((2, 4),),
    seconds=0.05,
    checked_model=MODEL,
    checked_steps=8,
    close_steps=4,
    experts=2,
    probe_batches=1,
    evaluations=((1, 1),),
)
MACHINE = {
    "cpu": "a processor", "device": "a card", "memory_bytes": 2**36, "torch": "2.13", "cuda": "13",
    "threads": 1, "gemm_gflops": {"float32": 5e4, "bfloat16": 7e5},
}  # fmt: skip
QUIET = Console(quiet=True)


@pytest.fixture
def site(tmp_path):
    """A place of work with data, whose checks leave no setting of torch behind."""
    site = Site(tmp_path, "cpu", TINY)
    site.write_data()
    yield site
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def statuses(outcomes):
    return {each["name"]: each["status"] for each in outcomes}


def test_batches_of_the_device_are_compared_with_the_files(site, monkeypatch):
    assert set(statuses(equality.check_batches(site)).values()) == {"ok"}
    gather = ResidentData.gather

    def off_by_a_bit(self, draws):
        batch = gather(self, draws)
        return batch._replace(loss_weight=torch.nextafter(batch.loss_weight, torch.tensor(9.0)))

    monkeypatch.setattr(ResidentData, "gather", off_by_a_bit)
    found = list(equality.check_batches(site))
    assert {each["status"] for each in found} == {"differs"}
    assert all(each["measured"]["different"] == 20 for each in found)


@pytest.mark.parametrize("name", ["stage 2", "MTDT"])
def test_ways_of_training_are_compared(site, name):
    found = statuses(equality.check_ways(site, name, "32-true"))
    assert list(found) == list(equality.names_of_ways(name, "32-true"))
    assert list(found.values()) == ["ok", "not measured", "ok", "ok"]


def test_a_way_that_trains_differently_is_found(site, monkeypatch):
    gather = ResidentData.gather

    def scaled(self, draws):
        batch = gather(self, draws)
        return batch._replace(loss_weight=1.001 * batch.loss_weight)

    monkeypatch.setattr(ResidentData, "gather", scaled)
    plain, graph, *others = equality.check_ways(site, "stage 1", "32-true")
    assert [plain["status"], graph["status"]] == ["ok", "not measured"]
    assert {each["status"] for each in others} == {"differs"}
    assert all(each["measured"]["different"] > 0 for each in others)


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    ["stage 3", *(pytest.param(f"HarmoDT{s}", marks=pytest.mark.slow) for s in ("", " mixed"))],
)
def test_a_kill_is_survived(site, name):
    *_, killed = equality.check_ways(site, name, "bf16-mixed")
    assert killed["name"].endswith("kill and resume = plain steps")
    assert killed["status"] == "ok", killed


def test_an_expert_is_compared_with_itself_among_others(site):
    (found,) = equality.check_company(site)
    assert found["status"] == "ok" and found["measured"]["relative"] < 1e-4


def test_compiled_operations_need_a_gpu(site):
    (found,) = equality.check_compiled(site, "stage 1")
    assert found["status"] == "not measured" and "CUDA" in found["problem"]


def test_weights_are_compared_to_the_bit_and_by_the_way_they_went():
    start = {"a": torch.zeros(10), "b": torch.full((3,), 5.0)}
    expected = {"a": torch.ones(10), "b": torch.full((3,), 5.0)}
    near = {"a": torch.full((10,), 1.05), "b": expected["b"]}
    assert same_weights(expected, dict(expected)) == {"tensors": 2, "different": 0}
    with pytest.raises(Differs) as raised:
        same_weights(near, expected)
    assert raised.value.measured["different"] == 1
    assert raised.value.measured["largest"] == pytest.approx(0.05)
    assert close_weights(near, expected, start)["relative"] == pytest.approx(0.05)
    for other in (start, {"a": near["a"]}, {**near, "a": torch.full((10,), float("nan"))}):
        with pytest.raises(Differs):
            close_weights(other, expected, start)


@pytest.mark.parametrize("workload", [Workload(1, 0, 32), Workload(2, 2), Workload(3, 2, 4)])
def test_steps_are_timed(site, workload):
    known = site.knowing(MACHINE)
    plain, eager, graph = gpu_steps.measure_steps(known, workload, ("plain", "eager", "graph"))
    assert [each["status"] for each in (plain, eager, graph)] == ["ok", "ok", "not measured"]
    assert 0 < eager["measured"]["flops"] < plain["measured"]["flops"]
    for measured in (plain["measured"], eager["measured"]):
        seconds = measured["seconds_per_step"]
        segments = workload.batch_size * (2 if workload.stage == 2 else 1)
        assert measured["segments_per_second"] == pytest.approx(segments / seconds)
        assert measured["utilization"] == pytest.approx(measured["flops"] / seconds / 7e14)


def test_the_stopwatch_leaves_out_set_up_and_warm_up(monkeypatch):
    """Set-up takes 10 s, warm-up steps 1 s each, later ones 0.1 s, in chunks of 5."""
    now = [100.0]
    monkeypatch.setattr(gpu_steps.time, "perf_counter", lambda: now[0])
    watch, trainer = gpu_steps.Stopwatch(4.0), SimpleNamespace(global_step=0, should_stop=False)
    watch.on_train_start(trainer, None)
    for steps, seconds in [(1, 10.0), (1, 1.0), (3, 3.0), *[(5, 0.5)] * 50]:
        trainer.global_step += steps
        now[0] += seconds
        watch.on_train_batch_end(trainer, None)
        if trainer.should_stop:
            break
    assert watch.measured() == pytest.approx(
        {"seconds_per_step": 0.1, "timed_steps": 40, "setup_seconds": 10.0}
    )


def test_grouping_and_conflict_are_timed(site):
    grouping, conflict = gpu_measures.measure_measures(site)
    for each in (grouping, conflict):
        assert each["status"] == "ok", each
        assert each["measured"]["seconds"] > 0 and each["measured"]["tasks"] == 12


@pytest.mark.long
def test_models_act(site):
    found = list(gpu_acting.measure_acting(site, 1, 1))
    assert [each["status"] for each in found] == ["ok", "ok"], found
    assert all(each["measured"]["env_steps_per_second"] > 0 for each in found)


@pytest.mark.slow  # tests/test_ddp.py compares processes in each `make test`
def test_two_processes_train_like_one(site):
    (found,) = two_devices.check_two_devices(site)
    assert found["status"] == "ok", found
    assert found["measured"]["relative"] < 1e-3


def part_of(function, names=("a", "b", "c"), limit=60):
    return Part("part", names, function, (), limit)


def here(limit, function, *arguments):
    return function(*arguments)


def two_of_three(site):
    yield outcome("part", "a", "ok", {"seconds": 1.0})
    yield attempt("part", "b", partial(int, "no number"))
    raise RuntimeError("the end")


def crash(site):
    yield outcome("part", "a", "ok")
    os._exit(3)


def take_too_long(site):
    yield outcome("part", "a", "ok")
    raise TimeoutError  # as the caller sees it


def test_what_fails_is_an_outcome_and_the_rest_goes_on(tmp_path):
    found = run_part(Site(tmp_path, "cpu"), part_of(two_of_three), Budget(100), here)
    assert statuses(found) == {"a": "ok", "b": "failed", "c": "failed"}
    assert "invalid literal" in found[1]["problem"] and "ValueError" in found[1]["traceback"]
    assert found[2]["problem"] == "RuntimeError: the end"
    assert not_passed(found) == ["part: b", "part: c"]


def test_a_process_that_dies_keeps_what_it_measured(tmp_path):
    found = run_part(Site(tmp_path, "cpu"), part_of(crash), Budget(100))
    assert statuses(found) == {"a": "ok", "b": "failed", "c": "not measured"}
    assert found[2]["problem"] == "not reached"


@pytest.mark.parametrize(
    ("limit", "budget", "status", "problem"),
    [(20, 100, "failed", "stopped after 20 s"), (90, 20, "not measured", "no time left")],
)
def test_a_part_that_takes_too_long_is_stopped(tmp_path, limit, budget, status, problem):
    part = part_of(take_too_long, limit=limit)
    found = run_part(Site(tmp_path, "cpu"), part, Budget(budget), here)
    assert statuses(found) == {"a": "ok", "b": status, "c": "not measured"}
    assert found[1]["problem"] == problem


def test_a_process_is_killed_at_its_limit():
    with pytest.raises(TimeoutError):
        in_own_process_within(1.0, time.sleep, 600)
    deadline = time.monotonic() + 30
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def test_nothing_begins_after_the_budget(tmp_path, monkeypatch):
    """Each part takes 100 s of a clock that the parts move; the third one does not begin."""
    clock, begun = [0.0], []

    def call(limit, function, *arguments):
        if function is gpu_run.write_outcomes:
            begun.append((arguments[0].names[0], limit))
            clock[0] += 100
            return function(*arguments)
        return MACHINE

    def done(name):
        return Part("part", (name,), lambda site: iter([outcome("part", name, "ok")]), (), 150)

    parts = [done("first"), done("second"), done("third")]
    monkeypatch.setattr(gpu_run, "all_parts", lambda sizes, rows: parts)
    monkeypatch.setattr(gpu_run, "in_own_process_within", call)
    file = tmp_path / "gpu.json"
    budget = Budget(180, lambda: clock[0])
    result = gpu_bench("cpu", TINY, budget, QUIET, file)
    assert statuses(result["outcomes"]) == {
        "first": "ok", "second": "ok", "third": "not measured"
    }  # fmt: skip
    assert begun == [("first", 150), ("second", 80)]
    assert result["outcomes"][2]["problem"] == "no time left"
    assert json.loads(file.read_text()) == result
    assert result["machine"] == MACHINE and result["seconds"] == 200


def test_a_machine_that_cannot_be_measured_stops_nothing(tmp_path, monkeypatch):
    def call(limit, function, *arguments):
        if function is not gpu_run.write_outcomes:
            raise RuntimeError("no peak")
        return function(*arguments)

    parts = [Part("part", ("a",), lambda site: iter([outcome("part", "a", "ok")]))]
    monkeypatch.setattr(gpu_run, "all_parts", lambda sizes, rows: parts)
    monkeypatch.setattr(gpu_run, "in_own_process_within", call)
    result = gpu_bench("cpu", TINY, Budget(100), QUIET)
    assert [each["status"] for each in result["outcomes"]] == ["failed", "ok"]
    assert result["machine"] is None


def test_without_a_gpu_the_command_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--gpu"]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["bench", "--gpu", "--json", "gpu.json"]) == 2
    result = json.loads((tmp_path / "gpu.json").read_text())
    names = [name for part in all_parts(Sizes()) for name in part.names]
    assert [each["name"] for each in result["outcomes"]] == names
    assert {each["status"] for each in result["outcomes"]} == {"not measured"}
    assert main(["bench", "--gpu", "--rows", "steps,devices", "--json", "gpu.json"]) == 2
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert {each["part"] for each in result["outcomes"]} == {"steps", "devices"}
    assert main(["bench", "--gpu", "--rows", "stages"]) == 2
    assert "choose among equality, steps, measures" in capsys.readouterr().err
    assert main(["bench", "--device", "cuda"]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_the_command_writes_the_result_and_names_what_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = [outcome("steps", "stage 1, batch 16, graph", "failed", problem="out of memory")]
    result = {"machine": MACHINE, "seconds": 1.0, "outcomes": found}
    monkeypatch.setattr(gpu_command, "gpu_bench", lambda *arguments: result)
    assert main(["bench", "--gpu"]) == 1
    shown = capsys.readouterr()
    assert "steps: stage 1, batch 16, graph" in shown.err and "| failed |" in shown.out


def test_names_are_unique_and_the_most_important_parts_come_first():
    parts = all_parts(Sizes())
    names = [(part.name, name) for part in parts for name in part.names]
    assert len(set(names)) == len(names)
    order = list(dict.fromkeys(part.name for part in parts))
    assert order == ["equality", "steps", "measures", "evaluation", "devices"]


def test_results_become_tables():
    time_of = {
        "seconds_per_step": 0.0015, "segments_per_second": 10_666.7, "peak_bytes": 2**31,
        "utilization": 0.25, "setup_seconds": 18.0, "timed_steps": 500,
    }  # fmt: skip
    slow = {**time_of, "seconds_per_step": 0.02}
    outcomes = [
        outcome("equality", "stage 1, 32-true: graph = plain steps", "ok", {"different": 0}),
        outcome("equality", "MTDT, 32-true: graph = plain steps", "differs", problem="far"),
        outcome("steps", "stage 1, batch 16, eager", "ok", slow),
        outcome("steps", "stage 1, batch 16, graph", "failed", problem="no memory"),
        outcome("steps", "stage 1, batch 16, compiled", "ok", time_of),
        outcome("measures", "all tasks grouped by gradients", "ok", {"seconds": 9.5}),
    ]
    lines = markdown({"machine": MACHINE, "seconds": 300.0, "outcomes": outcomes}).splitlines()
    assert lines[0].startswith("a card, 64 GiB") and "700 in bfloat16" in lines[0]
    row = "| stage 1, batch 16 |  | 20.00 | failed | 1.50 | 10,667 | 2.0 | 25% | 18.0 |"
    assert row in lines
    assert "| graph = plain steps | 1 of 2; MTDT, 32-true: differs: far |" in lines
    assert "| all tasks grouped by gradients | 9.50 s |" in lines
