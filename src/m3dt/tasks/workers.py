"""Processes that step environments."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any

import numpy as np

from m3dt.utils.errors import RunError
from m3dt.utils.processes import end_with_parent

# Environments a worker keeps for reuse; a Meta-World one takes about 20 MB.
_POOL = 50


@dataclass(frozen=True)
class Transition:
    """What the environments of a tile answered.

    Attributes:
        tile: Number of the tile.
        observations: (R, S).
        rewards: (R,), 0 for episodes that had ended before; None after a reset.
        successes: (R,) of bool, None after a reset.
        played: (R,) of bool, whether an episode took this step; None after a reset.
        done: Whether all episodes have ended.
    """

    tile: int
    observations: np.ndarray
    rewards: np.ndarray | None = None
    successes: np.ndarray | None = None
    played: np.ndarray | None = None
    done: bool = False


@dataclass(frozen=True)
class Failure:
    """What went wrong with a tile, or with all tiles of a worker that died.

    Attributes:
        tile: Number of the tile; None for all of the worker's.
        message: A traceback, or the worker's exit code.
    """

    tile: int | None
    message: str


class WorkerPool:
    """Steps tiles of environments in processes; answers come back as they are ready.

    A worker that dies is replaced by a fresh one, but for one that cannot even start: the next one
    could not either.
    """

    def __init__(self, num_workers: int) -> None:
        self.connections: list[Connection] = []
        self.locks: list[threading.Lock] = []  # a connection takes one sender at a time
        self.processes: list[SpawnProcess] = []
        self._started: set[int] = set()
        for _ in range(num_workers):
            connection, process = _start()
            self.connections.append(connection)
            self.locks.append(threading.Lock())
            self.processes.append(process)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.terminate()
            process.join()

    def reset(self, worker: int, tile: int, task: str, seeds: Sequence[int]) -> None:
        """Start a tile's episodes on a worker."""
        self._send(worker, ("reset", tile, task, list(seeds)))

    def step(self, worker: int, tile: int, actions: np.ndarray) -> None:
        """Step a tile's environments."""
        self._send(worker, ("step", tile, actions))

    def _send(self, worker: int, command: tuple[Any, ...]) -> None:
        with self.locks[worker]:
            # Where the worker has died, `receive` says so.
            with suppress(OSError):
                self.connections[worker].send(command)

    def receive(self, timeout: float | None = None) -> list[tuple[int, Transition | Failure]]:
        """Wait for answers, about `timeout` seconds; return each with its worker's number.

        Raises:
            RunError: A worker failed before it could take commands.
        """
        answers: list[tuple[int, Transition | Failure]] = []
        while not answers:
            finished = wait(self.connections, timeout)
            if not finished:
                break
            for connection in finished:
                assert isinstance(connection, Connection)
                worker = self.connections.index(connection)
                answer: Transition | Failure | None
                try:
                    answer = connection.recv()
                except (EOFError, OSError):  # also in the middle of a message
                    answer = Failure(None, self._replace(worker))
                if answer is None:
                    self._started.add(worker)
                else:
                    answers.append((worker, answer))
        return answers

    def _replace(self, worker: int) -> str:
        """Start a fresh worker in the place of one that died, and say how it died."""
        process = self.processes[worker]
        process.join()
        if worker not in self._started and (process.exitcode or 0) > 0:
            raise RunError(
                f"evaluation worker {worker} cannot start, exit code {process.exitcode}; its "
                "message is above. A script of yours that evaluates must do so under "
                '`if __name__ == "__main__":`, since each worker imports it.'
            ) from None
        self._started.discard(worker)
        with self.locks[worker]:
            self.connections[worker].close()
            self.connections[worker], self.processes[worker] = _start()
        return f"evaluation worker {worker} died, exit code {process.exitcode}"


def _start() -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return ours, process


class _Tile:
    """Episodes of one task, stepped together; those that end early wait for the others."""

    def __init__(self, number: int, task: str, envs: list[Any]) -> None:
        self.number, self.task, self.envs = number, task, envs
        self._playing = np.ones(len(envs), bool)

    def reset(self, seeds: Sequence[int]) -> Transition:
        pairs = zip(self.envs, seeds, strict=True)
        self._observations = np.stack([env.reset(seed=seed)[0] for env, seed in pairs])
        return Transition(self.number, self._observations)

    def step(self, actions: np.ndarray) -> Transition:
        played = self._playing.copy()
        rewards, successes = np.zeros(len(self.envs)), np.zeros(len(self.envs), bool)
        for i in np.flatnonzero(played):
            observation, rewards[i], terminated, truncated, info = self.envs[i].step(actions[i])
            self._observations[i] = observation
            successes[i] = info["success"]
            self._playing[i] = not (terminated or truncated)
        done = not self._playing.any()
        observations = self._observations.copy()
        return Transition(self.number, observations, rewards, successes, played, done)


def _serve(connection: Connection) -> None:
    """Answer commands until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    end_with_parent()
    with suppress(OSError):  # the evaluation is over already
        connection.send(None)  # it has started
    environments: list[tuple[str, Any]] = []  # free ones, the most recently used last
    running: dict[int, _Tile] = {}
    while True:
        try:
            command, number, *arguments = connection.recv()
        except (EOFError, OSError):
            return  # the evaluation is over
        try:
            if command == "reset":
                task, seeds = arguments
                tile = _Tile(number, task, [_take(environments, task) for _ in seeds])
                running[number] = tile
                connection.send(tile.reset(seeds))
            elif number in running:  # else it failed, and this step had been on its way
                transition = running[number].step(arguments[0])
                connection.send(transition)
                if transition.done:
                    tile = running.pop(number)
                    environments += [(tile.task, env) for env in tile.envs]
                    del environments[:-_POOL]
        except BrokenPipeError:
            return
        except Exception:
            running.pop(number, None)  # its environments may be in any state
            connection.send(Failure(number, traceback.format_exc()))


def _take(environments: list[tuple[str, Any]], task: str) -> Any:
    """Take a free environment of a task out of the list, or build one."""
    for i, (name, env) in enumerate(environments):
        if name == task:
            del environments[i]
            return env
    from m3dt.tasks import make_env  # loads the simulator, in the worker alone

    return make_env(task)
