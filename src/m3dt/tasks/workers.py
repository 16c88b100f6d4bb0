"""Processes that step environments.

Letters: S state dim.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np

from m3dt.tasks import make_env
from m3dt.tasks.envs import TaskEnv
from m3dt.tasks.registration import import_in_worker, plugin_modules
from m3dt.tasks.rendering import check_backend_name
from m3dt.utils.errors import RunError, UserError
from m3dt.utils.processes import SPAWN, check_may_start_processes, end_with_parent

# Environments that a worker keeps for the next groups of the same task. One of Meta-World takes
# tens of megabytes.
_MAX_FREE = 20


@dataclass(frozen=True)
class Transition:
    """A step of a group's environments, or their reset, which has observations only."""

    attempt: int  # number of the attempt at the group
    observations: np.ndarray  # (episodes, S)
    rewards: np.ndarray | None = None  # (episodes,), 0 for those that had ended before
    successes: np.ndarray | None = None  # (episodes,) of bool
    played: np.ndarray | None = None  # (episodes,) of bool, which of them took this step
    done: bool = False  # whether all episodes have ended


@dataclass(frozen=True)
class Failure:
    """The failure of one attempt, or of all attempts on a worker that died."""

    attempt: int | None  # its number; None if the worker died
    message: str  # a traceback, or the worker's exit code
    by_user: bool = False  # whether it is a user's mistake, which another attempt would repeat


class WorkerPool:
    """Steps groups of environments in processes; answers come back as they are ready.

    A worker that dies is replaced. One that cannot even start is not: its successor could not
    start either.

    Raises:
        UserError: This process may not start any.
    """

    def __init__(self, num_workers: int) -> None:
        check_may_start_processes()
        check_backend_name()  # each worker would fail
        pairs = [_start() for _ in range(num_workers)]
        self.connections = [connection for connection, _ in pairs]
        self.locks = [threading.Lock() for _ in pairs]  # a connection takes one sender at a time
        self.processes = [process for _, process in pairs]
        self._started: set[int] = set()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.terminate()
            process.join()

    def reset(self, worker: int, attempt: int, task: str, seeds: Sequence[int]) -> None:
        """Start an episode per seed on a worker."""
        self._send(worker, ("reset", attempt, task, list(seeds)))

    def step(self, worker: int, attempt: int, actions: np.ndarray) -> None:
        """Step an attempt's environments."""
        self._send(worker, ("step", attempt, actions))

    def _send(self, worker: int, command: tuple[Any, ...]) -> None:
        with self.locks[worker], suppress(OSError):  # `receive` reports a worker that has died
            self.connections[worker].send(command)

    def receive(self, timeout: float | None = None) -> list[tuple[int, Transition | Failure]]:
        """Wait about `timeout` seconds for answers; return each with its worker's number.

        Raises:
            RunError: A worker failed before it took commands.
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
        """Replace a worker that died, and return how it died."""
        process = self.processes[worker]
        process.join()
        if worker not in self._started and (process.exitcode or 0) > 0:
            raise RunError(
                f"evaluation worker {worker} cannot start, exit code {process.exitcode}; its "
                "message is above. A script that evaluates must do so under "
                '`if __name__ == "__main__":`, because each worker imports the script.'
            ) from None
        self._started.discard(worker)
        with self.locks[worker]:
            self.connections[worker].close()
            self.connections[worker], self.processes[worker] = _start()
        return f"evaluation worker {worker} died, exit code {process.exitcode}"


def _start() -> tuple[Connection, SpawnProcess]:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(theirs, plugin_modules()), daemon=True)
    process.start()
    theirs.close()
    return ours, process


class GroupEnvironments:
    """The environments of one group, one per episode; early finishers wait for the others."""

    def __init__(self, attempt: int, envs: list[TaskEnv]) -> None:
        self.attempt, self.envs = attempt, envs
        self._playing = np.ones(len(envs), bool)

    def reset(self, seeds: Sequence[int]) -> Transition:
        pairs = zip(self.envs, seeds, strict=True)
        self._observations = np.stack([env.reset(seed=seed)[0] for env, seed in pairs])
        return Transition(self.attempt, self._observations)

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
        return Transition(self.attempt, observations, rewards, successes, played, done)


def _take(free: list[TaskEnv], task: str) -> TaskEnv:
    """Take out a free environment of a task, or make one."""
    for i, env in enumerate(free):
        if env.task_spec.name == task:
            return free.pop(i)
    return make_env(task)


def _serve(connection: Connection, plugins: Sequence[str]) -> None:
    """Answer commands until the other end closes."""
    end_with_parent()
    import_in_worker(plugins)
    with suppress(OSError):  # the evaluation is over already
        connection.send(None)  # the worker has started
    free: list[TaskEnv] = []  # no group uses them at the moment; the most recently used last
    running: dict[int, GroupEnvironments] = {}  # by attempt
    while True:
        try:
            command, attempt, *arguments = connection.recv()
        except (EOFError, OSError):
            return  # the evaluation is over
        try:
            if command == "reset":
                task, seeds = arguments
                envs = [_take(free, task) for _ in seeds]
                running[attempt] = GroupEnvironments(attempt, envs)
                connection.send(running[attempt].reset(seeds))
            elif attempt in running:  # otherwise it failed while this step was on its way
                transition = running[attempt].step(arguments[0])
                connection.send(transition)
                if transition.done:
                    free += running.pop(attempt).envs
                    del free[:-_MAX_FREE]  # the oldest
        except BrokenPipeError:
            return
        except UserError as error:
            running.pop(attempt, None)
            connection.send(Failure(attempt, str(error), by_user=True))
        except Exception:
            running.pop(attempt, None)  # its environments may be in any state
            connection.send(Failure(attempt, traceback.format_exc()))
