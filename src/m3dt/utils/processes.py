"""Processes and threads: workers that neither outlive their parent nor work on after an error."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def process_pool(
    workers: int, initializer: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of spawned processes; on an error, drop what waits and end what runs.

    Args:
        workers: How many processes.
        initializer: Called in each with the arguments; both must be picklable.
        arguments: Of the initializer.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _begin, (initializer, arguments))
    try:
        yield pool
    except BaseException:
        running = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.terminate()
        raise
    pool.shutdown()


def _begin(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    end_with_parent()
    if initializer is not None:
        initializer(*arguments)


def end_with_parent() -> None:
    """End this process when the one that started it is gone, even by `kill -9`."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def quiet_writers() -> Iterator[None]:
    """Print no traceback where a thread cannot write a file.

    For threads that hand the error on: TensorBoard's raises it again at the next event.
    """
    owner = threading.excepthook

    def hook(raised: threading.ExceptHookArgs) -> None:
        if not isinstance(raised.exc_value, OSError):
            owner(raised)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = owner


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep torch's operations to one thread: what calls it runs side by side instead.

    Small matrix products gain little from more, and a result that no thread count can touch is
    worth having.
    """
    import torch  # only where it is needed: workers that simulate do without

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def single_threaded_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads; in each of them, and here, torch's operations keep to one thread.

    A thread begins with as many as the process did, and takes over the number set elsewhere only
    after its first products: those would have other last bits.
    """
    import torch  # only where it is needed: workers that simulate do without

    with (
        single_threaded(),
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        yield pool
