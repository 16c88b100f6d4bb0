"""How many CPUs and how much memory a process may use, and how many threads torch takes of them."""

import math
import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch

from m3dt.utils import processes
from m3dt.utils.errors import RunError
from m3dt.utils.processes import (
    SPAWN,
    available_cpus,
    available_memory,
    no_children_left,
    num_workers,
    process_pool,
    signals_held,
    threads_within_quota,
)


def system(root, groups, files):
    """Write a system's list of this process's control groups, and files below sys/fs/cgroup."""
    files = {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.fixture
def eight(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))


V2, V1 = "0::/jobs/7\n", "5:cpuset:/other\n4:cpu,cpuacct:/jobs/7\n0::/\n"
V1_PERIOD = {f"cpu/{g}cpu.cfs_period_us": "100000\n" for g in ("", "jobs/", "jobs/7/")}


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (V2, {}, 8),
        (V2, {"jobs/7/cpu.max": "max 100000\n"}, 8),
        (V2, {"jobs/7/cpu.max": "200000 100000\n"}, 2),
        (V2, {"jobs/7/cpu.max": "250000 100000\n"}, 3),
        (V2, {"jobs/7/cpu.max": "50000 100000\n"}, 1),
        (V2, {"jobs/7/cpu.max": "1600000 100000\n"}, 8),
        (V2, {"jobs/7/cpu.max": "400000 100000\n", "jobs/cpu.max": "300000 100000\n"}, 3),
        (V2, {"cpu.max": "400000 100000\n"}, 4),  # in a container, whose path is the host's
        (V1, {**V1_PERIOD, "cpu/jobs/7/cpu.cfs_quota_us": "-1\n"}, 8),
        (V1, {**V1_PERIOD, "cpu/jobs/7/cpu.cfs_quota_us": "200000\n"}, 2),
        (V1, {**V1_PERIOD, "cpu/cpu.cfs_quota_us": "600000\n"}, 6),
        (V1, {**V1_PERIOD, "cpuset/other/cpu.cfs_quota_us": "100000\n"}, 8),
    ],
)
def test_available_cpus_follow_the_quota(eight, tmp_path, groups, files, expected):
    assert available_cpus(system(tmp_path, groups, files)) == expected


def test_available_cpus_follow_the_affinity(monkeypatch, tmp_path):
    """Where there are no control groups, too, and systems without affinity."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 6})
    assert available_cpus(tmp_path) == 3
    quota = system(tmp_path / "v2", V2, {"jobs/cpu.max": "5000000 100000\n"})
    assert available_cpus(quota) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cpus(tmp_path) == 64 and available_cpus(quota) == 50


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (V2, {}, 2**34),
        (V2, {"jobs/7/memory.max": "max\n"}, 2**34),
        (V2, {"jobs/7/memory.max": "max\n", "jobs/memory.max": "4096\n"}, 4096),
        (V2, {"memory.max": f"{2**40}\n"}, 2**34),
        ("4:memory:/jobs/7\n", {"memory/jobs/memory.limit_in_bytes": "4096\n"}, 4096),
        ("4:cpu:/jobs/7\n", {"cpu/jobs/memory.limit_in_bytes": "4096\n"}, 2**34),
    ],
)
def test_available_memory_follows_the_limits(monkeypatch, tmp_path, groups, files, expected):
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 2**12, "SC_PHYS_PAGES": 2**22}.get)
    assert available_memory(system(tmp_path, groups, files)) == expected


def test_workers_and_threads_follow_the_available_cpus(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = torch.get_num_threads()
    for cpus in (1, math.inf):
        monkeypatch.setattr(processes, "available_cpus", lambda cpus=cpus: cpus)
        assert num_workers() == cpus and num_workers(3) == 3
        torch.set_num_threads(2)
        with threads_within_quota():
            assert torch.get_num_threads() == min(2, cpus)
        assert torch.get_num_threads() == 2
    monkeypatch.setattr(processes, "available_cpus", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with threads_within_quota():
        assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)


def test_children_that_hold_signals_back_are_not_waited_for():
    with no_children_left():
        with signals_held():
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
            child.start()
        child.terminate()
        child.join(0.1)
        assert child.is_alive()
    assert child.exitcode == -signal.SIGKILL


def test_spawned_processes_never_see_ctrl_c():
    """From their first instruction: a traceback of an import would reach the terminal."""
    child = SPAWN.Process(target=time.sleep, args=(600,))
    child.start()
    os.kill(child.pid, signal.SIGINT)
    child.join(0.3)
    assert child.is_alive()
    child.terminate()
    child.join(10)
    assert child.exitcode == -signal.SIGTERM


def test_held_signals_arrive_afterwards():
    received = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: received.append(number))
    try:
        with signals_held():
            signal.pthread_kill(threading.get_ident(), signal.SIGHUP)  # others do not hold it
            assert received == []
        assert received == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_worker_of_a_pool_that_dies_is_told_the_remedy():
    with pytest.raises(RunError, match=r"a worker process died.*same command.*collect\.workers"):
        with process_pool(1) as pool:
            pool.submit(os._exit, 9).result()
