"""CPUs and memory there are, and pools whose workers end with their parent and after an error."""

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from m3dt.utils.ending_signals import ENDING
from m3dt.utils.errors import RunError, UserError

_STANDARD_INPUT = "<stdin>"  # the file of a script that Python reads from there


def num_workers(requested: int = 0) -> int:
    """Return the requested number of workers, or one per available CPU where it is 0."""
    return requested or available_cpus()


def available_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may use: by its affinity and its control groups' quotas.

    Args:
        root: Where the system's folders `proc` and `sys` are.
    """
    if hasattr(os, "sched_getaffinity"):  # Linux
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    quotas = (quota for folder in _control_groups(root, "cpu") for quota in _quota(folder))
    return max(1, math.ceil(min([allowed, *quotas])))


def available_memory(root: Path = Path("/")) -> int:
    """Return how many bytes this process may use: all memory, or its control groups' limits.

    Args:
        root: Where the system's folders `proc` and `sys` are.
    """
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    groups = _control_groups(root, "memory")
    return min([installed, *(limit for folder in groups for limit in _memory_limit(folder))])


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups and of those around them."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            # Version 1 has a tree per controller; version 2 has one, without a controller's name.
            tree = root / "sys/fs/cgroup" / (controller if controllers else "")
            group = tree / name.lstrip("/")
            for folder in (group, *group.parents):
                yield folder
                if folder == tree:
                    break


def _memory_limit(folder: Path) -> list[int]:
    for name in ("memory.max", "memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or no limit: "max"
            return [int((folder / name).read_text())]
    return []


def _quota(folder: Path) -> list[float]:
    with suppress(OSError, ValueError):  # no such file, or no limit: "max 100000"
        time, period = map(int, (folder / "cpu.max").read_text().split())
        return [time / period]
    with suppress(OSError, ValueError):
        time, period = (int((folder / f"cpu.cfs_{n}_us").read_text()) for n in ("quota", "period"))
        return [time / period] if time > 0 else []
    return []


@contextmanager
def signals_held(*numbers: signal.Signals) -> Iterator[None]:
    """Hold signals back from this thread for a moment; they arrive afterwards.

    Processes that start meanwhile hold them back for good, also while they import modules.

    Args:
        numbers: By default all that ask a process to end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers or ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _QuietProcess(SpawnProcess):
    """A spawned process without Ctrl-C, which is for the parent, from its first instruction."""

    def start(self) -> None:
        resource_tracker.ensure_running()  # it starts with the first process, and lets Ctrl-C in
        with signals_held(signal.SIGINT):
            super().start()


class _QuietSpawn(SpawnContext):
    Process = _QuietProcess


SPAWN = _QuietSpawn()
"""Spawns the processes of pools; Ctrl-C never reaches them, and `terminate` does."""


@contextmanager
def no_children_left() -> Iterator[None]:
    """Kill what child processes of `multiprocessing` outlive the block that started them.

    At the exit of Python, `multiprocessing` sends them SIGTERM and waits; a child that holds
    signals back would be waited for without end.
    """
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        left = set(multiprocessing.active_children()) - before
        with _deaths_unseen():
            for process in left:
                process.kill()
            for process in left:
                process.join()


@contextmanager
def _deaths_unseen() -> Iterator[None]:
    """Call no handler of SIGCHLD: torch's raises an error where a worker of a loader was killed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


@contextmanager
def process_pool(
    workers: int, initializer: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of spawned processes; on an error, cancel its tasks and end its processes.

    The initializer is called once in each process; it and its arguments must be picklable.

    Raises:
        RunError: One of the processes died.
    """
    check_may_start_processes()
    pool = ProcessPoolExecutor(workers, SPAWN, _initialize, (initializer, arguments))
    try:
        yield pool
    except BaseException as error:
        running = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise RunError(
                "a worker process died, perhaps for lack of memory. Start the same command again. "
                "A collection keeps its finished tasks; fewer collect.workers need less memory."
            ) from None
        raise
    pool.shutdown()


def _initialize(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    if initializer is not None:
        initializer(*arguments)


def check_may_start_processes() -> None:
    """Check that this process may have child processes of `multiprocessing`.

    Raises:
        UserError: It is a daemonic process, such as a worker of `multiprocessing.Pool`, or runs a
            script that its children cannot import.
    """
    if multiprocessing.current_process().daemon:
        raise UserError(
            "simulations run in processes of their own, which a worker of multiprocessing.Pool "
            "cannot start. Evaluate in the main process, or in a worker of "
            "concurrent.futures.ProcessPoolExecutor."
        )
    if getattr(sys.modules["__main__"], "__file__", None) == _STANDARD_INPUT:
        raise UserError(
            "simulations run in processes of their own, which import the script that starts them, "
            "but this one comes from standard input. Write the script to a file and run "
            "`python FILE`."
        )


def end_with_parent() -> None:
    """End this process when its parent ends, even by `kill -9`."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def quiet_writers() -> Iterator[None]:
    """Print no traceback when a thread cannot write a file.

    Use it for threads that pass the error on: TensorBoard's raises it again at the next event.
    """
    previous = threading.excepthook

    def hook(raised: threading.ExceptHookArgs) -> None:
        if not isinstance(raised.exc_value, OSError):
            previous(raised)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous


@contextmanager
def single_threaded() -> Iterator[None]:
    """Run each torch operation on one thread.

    Small matrix products gain little from more threads, and the last bits of their results depend
    on the number.
    """
    with _torch_threads(1):
        yield


@contextmanager
def threads_within_quota() -> Iterator[None]:
    """Run each torch operation on no more threads than the process has CPUs.

    Torch counts the CPUs of the affinity but does not know a control group's quota, beyond which
    all threads are stopped for a while. OMP_NUM_THREADS takes precedence.
    """
    import torch  # imported here: simulation workers never load it

    allowed = available_cpus()
    if "OMP_NUM_THREADS" in os.environ or torch.get_num_threads() <= allowed:
        yield
        return
    with _torch_threads(allowed):
        yield


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    import torch  # imported here: simulation workers never load it

    threads = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def single_threaded_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a thread pool; in it and in the caller, each torch operation runs on one thread.

    A new thread starts with the process's initial number of torch threads and adopts a number set
    elsewhere only after its first products, whose last bits would differ. The initializer sets it.
    """
    import torch  # imported here: simulation workers never load it

    with (
        single_threaded(),
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        yield pool
