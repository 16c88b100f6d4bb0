"""Schedule rollouts: workers step some groups of episodes while the policy acts for others."""

import itertools
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from m3dt.evaluation.policies import Policy
from m3dt.evaluation.scores import Episode
from m3dt.evaluation.sessions import EpisodeGroup, Session, check_finite
from m3dt.tasks import TaskSpec
from m3dt.tasks.workers import Failure, Transition, WorkerPool
from m3dt.utils.errors import RunError, UserError
from m3dt.utils.processes import single_threaded_pool

# Enough groups per worker that some are stepped, some wait for a full batch, and some are in one.
_GROUPS_PER_WORKER = 3
_BATCHES = 3
_MAX_ATTEMPTS = 2


@dataclass
class _Attempt:
    """A group that is running."""

    number: int  # tells late answers of a failed attempt apart
    group: EpisodeGroup
    worker: int  # number of the worker that steps it
    alone: bool  # whether the worker must run no other group
    batch_key: Hashable  # attempts with the same key may share a forward pass
    session: Session
    returns: np.ndarray  # (episodes,), like the next two: the outcome so far
    successes: np.ndarray
    env_steps: np.ndarray
    step: int = -1  # number of the newest observation
    stepping: bool = True  # by its worker; otherwise the policy has its observation

    def add(self, transition: Transition) -> None:
        """Add the outcome of a step.

        Raises:
            RunError: A reward or an observation is not finite.
        """
        self.step += 1
        check_finite("an observation", transition.observations, self.group, self.step)
        if transition.rewards is not None:
            assert transition.successes is not None and transition.played is not None
            check_finite("the reward", transition.rewards, self.group, self.step - 1)
            self.returns += transition.rewards
            self.successes |= transition.successes
            self.env_steps += transition.played

    def episodes(self, spec: TaskSpec) -> list[Episode]:
        """Return the finished episodes, scored by the task's specification."""
        columns = (self.group.episodes, self.returns, self.successes, self.env_steps)
        return [
            Episode.of(spec, number, float(total), bool(success), int(steps))
            for number, total, success, steps in zip(*columns, strict=True)
        ]


class RolloutScheduler:
    """Plays groups of episodes to their end.

    Groups with the same batch key share a call of the policy: as many as fill a batch, or all that
    have observed once no worker steps another one.

    A group is played again, from its seeds, if an environment raises or its worker dies. After a
    death, the groups of that worker are played one at a time, to find the one that kills.
    """

    def __init__(
        self, pool: WorkerPool, policy: Policy[Any], groups: Sequence[EpisodeGroup], seed: int
    ) -> None:
        self.pool = pool
        self.policy = policy
        self.seed = seed
        self.waiting = list(groups)[::-1]  # groups that have not started, the next one last
        # Groups of a worker that died; each is played alone, before any that waits.
        self.suspects: list[EpisodeGroup] = []
        self.running: dict[int, _Attempt] = {}  # by number
        self.ready: list[_Attempt] = []  # they have observed, in the order of their answers
        self.failures: Counter[EpisodeGroup] = Counter()
        self.failed: dict[EpisodeGroup, str] = {}  # they failed too often; the last reason
        self._numbers = itertools.count()
        self._largest = max((len(group.episodes) for group in groups), default=1)
        episodes_at_once = self._largest * len(pool.connections)
        wanted = -(-_BATCHES * policy.batch_size // episodes_at_once)
        self._per_worker = max(_GROUPS_PER_WORKER, wanted)

    def run(self) -> Iterator[tuple[EpisodeGroup, list[Episode]]]:
        """Yield each group with its episodes as it finishes.

        Raises:
            RunError: Some groups failed twice; all others have been yielded. Or a reward, an
                observation or an action is not finite.
            UserError: An environment of the user's own cannot be used.
        """
        with single_threaded_pool(self.policy.num_threads) as threads:
            acting: list[Future[None]] = []
            self._start_groups()
            while self.running:
                # The timeout bounds how late an exception of the policy is noticed.
                for worker, answer in self.pool.receive(timeout=1.0):
                    if isinstance(answer, Failure):
                        self._handle_failure(worker, answer)
                    elif finished := self._handle_transition(answer):
                        spec = self.policy.spec(finished.group.task)
                        yield finished.group, finished.episodes(spec)
                acting += [threads.submit(self._act, batch) for batch in self._take_batches()]
                acting = _drop_finished(acting)
        if self.failed:
            raise self._error()

    def _start_groups(self) -> None:
        """Start groups on the workers in turn, until they are busy or none is left."""
        if not (self.waiting or self.suspects):
            return
        load = Counter(attempt.worker for attempt in self.running.values())
        closed = {attempt.worker for attempt in self.running.values() if attempt.alone}
        for _ in range(self._per_worker):
            for worker in range(len(self.pool.connections)):
                if worker in closed or load[worker] == self._per_worker:
                    continue
                if self.suspects and not load[worker]:
                    self._start(self.suspects.pop(), worker, alone=True)
                    closed.add(worker)
                elif self.waiting and not self.suspects:
                    self._start(self.waiting.pop(), worker, alone=False)
                    load[worker] += 1

    def _start(self, group: EpisodeGroup, worker: int, alone: bool) -> None:
        number, size = next(self._numbers), len(group.episodes)
        self.running[number] = _Attempt(
            number,
            group,
            worker,
            alone,
            batch_key=self.policy.batch_key(group.task),
            session=self.policy.begin(group, self.seed),
            returns=np.zeros(size),
            successes=np.zeros(size, bool),
            env_steps=np.zeros(size, int),
        )
        self.pool.reset(worker, number, group.task, group.seeds(self.seed))

    def _handle_transition(self, transition: Transition) -> _Attempt | None:
        """Record a step; return the attempt if it has finished."""
        attempt = self.running.get(transition.attempt)
        if attempt is None:
            return None
        attempt.add(transition)
        if transition.done:
            del self.running[attempt.number]
            self._start_groups()
            return attempt
        attempt.session.observe(transition.observations, transition.rewards)
        attempt.stepping = False
        self.ready.append(attempt)
        return None

    def _handle_failure(self, worker: int, failure: Failure) -> None:
        """End the attempts that failed, and plan how their groups are played again."""
        died = failure.attempt is None
        on_worker = [a for a in self.running.values() if a.worker == worker]
        lost = [a for a in on_worker if died or a.number == failure.attempt]
        if failure.by_user and lost:
            raise UserError(failure.message)
        for attempt in lost:
            del self.running[attempt.number]
            if died and len(lost) > 1:
                self.suspects.append(attempt.group)  # any of them may have killed the worker
            else:
                self._count_failure(attempt.group, failure)
        self._start_groups()

    def _count_failure(self, group: EpisodeGroup, failure: Failure) -> None:
        self.failures[group] += 1
        if self.failures[group] == _MAX_ATTEMPTS:
            self.failed[group] = failure.message
        elif failure.attempt is None:
            self.suspects.append(group)
        else:
            self.waiting.append(group)

    def _take_batches(self) -> list[list[_Attempt]]:
        """Take out of `ready` the batches that the policy should act for now."""
        by_key: dict[Hashable, list[_Attempt]] = {}
        for attempt in self.ready:
            if attempt.number in self.running:  # otherwise it has failed
                by_key.setdefault(attempt.batch_key, []).append(attempt)
        self.ready = []
        batches = []
        stepping = {a.batch_key for a in self.running.values() if a.stepping} if by_key else set()
        for key, attempts in by_key.items():
            more = key in stepping
            for batch, num_episodes in _split(attempts, self.policy.batch_size):
                if more and num_episodes + self._largest <= self.policy.batch_size:
                    self.ready += batch
                else:
                    batches.append(batch)
        return batches

    def _act(self, batch: Sequence[_Attempt]) -> None:
        actions = self.policy.act([attempt.session for attempt in batch])
        for attempt, chosen in zip(batch, actions, strict=True):
            check_finite("the action", chosen, attempt.group, attempt.step)
            attempt.stepping = True
            self.pool.step(attempt.worker, attempt.number, chosen)

    def _error(self) -> RunError:
        tasks = ", ".join(dict.fromkeys(group.task for group in self.failed))
        reason = next(iter(self.failed.values())).strip()
        return RunError(
            f"evaluation failed twice in {tasks}. The other episodes are kept; the same command "
            f"plays only these again. The first of {len(self.failed)} reasons:\n{reason}"
        )


def _split(attempts: Sequence[_Attempt], batch_size: int) -> Iterator[tuple[list[_Attempt], int]]:
    """Cut attempts into batches of at most `batch_size` episodes; yield each with its number."""
    batch: list[_Attempt] = []
    num_episodes = 0
    for attempt in attempts:
        size = len(attempt.group.episodes)
        if batch and num_episodes + size > batch_size:
            yield batch, num_episodes
            batch, num_episodes = [], 0
        batch.append(attempt)
        num_episodes += size
    yield batch, num_episodes


def _drop_finished(futures: Sequence[Future[None]]) -> list[Future[None]]:
    """Return the futures that still run; raise what the others raised."""
    running = []
    for future in futures:
        if future.done():
            future.result()
        else:
            running.append(future)
    return running
