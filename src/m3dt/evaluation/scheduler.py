"""Play tiles of episodes: workers step some while the policy serves others together.

Letters: R episodes of a tile.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from m3dt.evaluation.policies import Policy
from m3dt.evaluation.scores import Episode
from m3dt.evaluation.sessions import Session, Tile
from m3dt.tasks.workers import Failure, Transition, WorkerPool
from m3dt.utils.errors import RunError
from m3dt.utils.processes import single_threaded_pool

# While some tiles are served, others are stepped, and others wait to be served together.
_TILES_PER_WORKER = 3
_BATCHES = 3
_ATTEMPTS = 2


@dataclass
class _Running:
    tile: Tile
    worker: int
    alone: bool  # on its worker
    company: Hashable  # with which tiles it may be served
    session: Session
    returns: np.ndarray  # (R,)
    successes: np.ndarray  # (R,) of bool
    steps: np.ndarray  # (R,)
    stepping: bool = True  # else the policy has its answer

    def account(self, answer: Transition) -> None:
        if answer.rewards is not None:
            assert answer.successes is not None and answer.played is not None
            self.returns += answer.rewards
            self.successes |= answer.successes
            self.steps += answer.played

    def episodes(self) -> list[Episode]:
        columns = (self.tile.episodes, self.returns, self.successes, self.steps)
        return [
            Episode(self.tile.task, number, float(total), bool(success), int(steps))
            for number, total, success, steps in zip(*columns, strict=True)
        ]


def play(
    pool: WorkerPool, policy: Policy[Any], tiles: Sequence[Tile], seed: int
) -> Iterator[tuple[Tile, list[Episode]]]:
    """Play tiles and yield each with its episodes as it ends.

    Tiles of one company are served together, as many as fill a batch of the policy, or as there are
    when none of them is being stepped.

    A tile whose environment raises, or whose worker dies, is played again from its seeds. After a
    death, the tiles of that worker are played one at a time, so that it is seen which kills.

    Raises:
        RunError: Tiles failed again; all others have been yielded.
    """
    waiting = list(tiles)[::-1]
    running: dict[int, _Running] = {}  # by attempt, so that late answers of a failed one are known
    ready: list[int] = []  # attempts that have observed, in the order of their answers
    attempts: Counter[Tile] = Counter()
    failed: dict[Tile, str] = {}
    numbers = itertools.count()
    suspects: list[Tile] = []  # one of them has killed a worker; each is played alone
    widest = max((len(tile.episodes) for tile in tiles), default=1)
    wanted = -(-_BATCHES * policy.batch_size // (widest * len(pool.connections)))
    per_worker = max(_TILES_PER_WORKER, wanted)

    def start(worker: int) -> None:
        mine = [now for now in running.values() if now.worker == worker]
        if any(now.alone for now in mine) or len(mine) == per_worker:
            return
        if suspects and not mine:
            begin(worker, suspects.pop(), alone=True)
        elif waiting and not suspects:
            begin(worker, waiting.pop(), alone=False)

    def begin(worker: int, tile: Tile, alone: bool) -> None:
        number, R = next(numbers), len(tile.episodes)
        zeros = (np.zeros(R), np.zeros(R, bool), np.zeros(R, int))
        company, session = policy.company(tile.task), policy.begin(tile, seed)
        running[number] = _Running(tile, worker, alone, company, session, *zeros)
        pool.reset(worker, number, tile.task, tile.seeds(seed))

    def fill() -> None:
        for _ in range(per_worker):
            for worker in range(len(pool.connections)):
                start(worker)

    def batches() -> Iterator[list[int]]:
        """Take out of `ready` what is to be served now."""
        companies: dict[Hashable, list[int]] = {}
        for number in ready:
            if number in running:  # else it has failed
                companies.setdefault(running[number].company, []).append(number)
        ready.clear()
        for company, rest in companies.items():
            others = [now for now in running.values() if now.company == company]
            while rest:
                batch: list[int] = []
                rows = 0
                while rest and (not batch or rows + size(rest[0]) <= policy.batch_size):
                    rows += size(rest[0])
                    batch.append(rest.pop(0))
                if rows + widest > policy.batch_size or not any(now.stepping for now in others):
                    yield batch
                else:
                    ready.extend(batch)

    def size(number: int) -> int:
        return len(running[number].tile.episodes)

    def serve(batch: list[tuple[int, _Running]]) -> None:
        actions = policy.act([now.session for _, now in batch])
        for (number, now), chosen in zip(batch, actions, strict=True):
            now.stepping = True
            pool.step(now.worker, number, chosen)

    def again(worker: int, failure: Failure) -> None:
        died = failure.tile is None
        mine = [number for number, now in running.items() if now.worker == worker]
        lost = [number for number in mine if died or number == failure.tile]
        for number in lost:
            now = running.pop(number)
            if died and len(lost) > 1:
                suspects.append(now.tile)  # nobody knows yet which of them it was
                continue
            attempts[now.tile] += 1
            if attempts[now.tile] == _ATTEMPTS:
                failed[now.tile] = failure.message
            elif died:
                suspects.append(now.tile)
            else:
                waiting.append(now.tile)

    with single_threaded_pool(policy.num_threads) as threads:
        serving: list[Future[None]] = []
        fill()
        while running:
            # The pause bounds how late an exception of the policy is seen.
            for worker, answer in pool.receive(timeout=1.0):
                if isinstance(answer, Failure):
                    again(worker, answer)
                    fill()
                    continue
                now = running.get(answer.tile)
                if now is None:
                    continue
                now.account(answer)
                if answer.done:
                    del running[answer.tile]
                    fill()
                    yield now.tile, now.episodes()
                else:
                    now.session.observe(answer.observations, answer.rewards)
                    now.stepping = False
                    ready.append(answer.tile)
            for batch in batches():
                served = [(number, running[number]) for number in batch]
                serving.append(threads.submit(serve, served))
            for future in [f for f in serving if f.done()]:
                serving.remove(future)
                future.result()  # raises what the policy raised
    if failed:
        tasks = ", ".join(dict.fromkeys(tile.task for tile in failed))
        reason = next(iter(failed.values())).strip()
        raise RunError(
            f"evaluation failed twice in {tasks}. The other episodes are kept, "
            f"and the same command goes on with these. One reason of {len(failed)}:\n{reason}"
        )
