"""A long training and a long evaluation, interrupted 60 times: nothing is lost, nothing grows.

What could grow is measured in stretches without interruptions: the resident memory (without pages
of files, which the system takes and gives back) and the open descriptors of all processes of a
command; of a training also the CPU time and the size of its checkpoints. The median of a stretch's
last quarter is compared with that of its third. Before that, memory still fills: by 35 MiB in the
first 11,000 steps of a training, after which it stayed within 368 to 376 MiB.
`M3DT_SOAK_MINUTES` (60) is how long the two evaluations take together.
"""

import json
import os
import random
import re
import sys
from contextlib import suppress

import pytest
from quick_run import QUICK
from soaking import Command, growth, interruptions
from test_logs import records

from m3dt.runs import Registry
from m3dt.runs.evaluations import evaluations, newest
from m3dt.training.resume import newest_checkpoint, step_of

MINUTES = float(os.environ.get("M3DT_SOAK_MINUTES", 60))
STEPS, LOG_EVERY, CONFLICT_EVERY, CHECKPOINT_EVERY = 20_000, 20, 500, 250
LONG = (
    f"stage1.max_steps={STEPS}",
    f"stage1.checkpoint_every={CHECKPOINT_EVERY}",
    f"callbacks.conflict.every_n_steps={CONFLICT_EVERY}",
    "callbacks.conflict.min_steps=1000000",
)
OF_TRAINING, OF_EVALUATION = 40, 20  # interruptions
LONGEST_LAST = ("ant-dir-6", "reach-v2", "cup-catch")  # steps of an episode: 200, 500, 1000
TILE = 5
MIB = 2**20

pytestmark = pytest.mark.faults


@pytest.fixture
def tell(capfd):
    """Return a function that prints figures past pytest's capture, also in its workers."""

    def show(what, **figures):
        pairs = {
            name.replace("_", " "): " -> ".join(f"{value:.4g}" for value in values)
            for name, values in figures.items()
        }
        with capfd.disabled():
            told = ", ".join(f"{k} {v}" for k, v in pairs.items())
            print(f"\nsoak, {what}: {told}", file=sys.stderr)

    return show


def processes_grew(samples):
    """Return the growth of memory in MiB and of descriptors, after comparing it with the limits."""
    memory = growth([sample.memory / MIB for sample in samples])
    descriptors = growth([sample.descriptors for sample in samples])
    assert memory[1] <= 1.02 * memory[0] + 4, memory
    assert descriptors[1] <= descriptors[0], descriptors
    return {"MiB_of_memory": memory, "descriptors": descriptors}


def steps_in(folder):
    """Return the steps of the checkpoints in a folder, whole or not."""
    return [step_of(path) for path in folder.glob("step*.ckpt")]


def newest_step(folder):
    """Return the step of the newest whole checkpoint, or 0."""
    path = newest_checkpoint(folder)
    return step_of(path) if path else 0


def files_of(run):
    """Return the names of a run's files except its logs."""
    return {path.relative_to(run) for path in run.rglob("*") if "logs" not in path.parts}


class Training:
    """A training of stage 1 whose checkpoints are timed."""

    def __init__(self, data, run):
        self.data, self.run = data, run
        self.checkpoints, self.logs = run / "checkpoints" / "stage1", run / "logs" / "stage1"
        self.times = run.with_suffix(".times")
        self.lives = 0

    def start(self):
        clock = f"callbacks.clock={{class: moments.CheckpointClock, file: {self.times}}}"
        words = ["stage1", *QUICK, f"data={self.data}", f"run={self.run}", *LONG, clock]
        self.lives += 1
        output = self.run.with_suffix(f".{self.lives}.out")
        return Command([sys.executable, "-m", "m3dt", *words], output)

    def begun(self):
        """Return how many processes have begun to log."""
        return len(list(self.logs.glob("events*")))

    def _goes_on(self):
        """Tell whether a checkpoint was written, and more follow; figures are drawn at the end."""
        return 0 < max(steps_in(self.checkpoints), default=0) < STEPS - CHECKPOINT_EVERY

    def finish(self):
        """Run to the end; return what was printed, and how much grew meanwhile."""
        self.times.unlink(missing_ok=True)
        command = self.start()
        samples = command.finish(self.checkpoints, self._goes_on, every=0.25)
        lines = [line.split() for line in self.times.read_text().splitlines()]
        seconds = growth([float(cpu_seconds) for _, cpu_seconds, _, _ in lines])
        size = growth([float(size) / 1024 for *_, size in lines])
        held = max(sample.disk for sample in samples) / max(float(size) for *_, size in lines)
        assert seconds[1] <= 1.5 * seconds[0], seconds
        assert size[1] <= 1.1 * size[0], size
        assert held < 3.5  # two checkpoints, one in the making, and settings
        grew = processes_grew(samples)
        milliseconds = [1000 * value for value in seconds]
        figures = {**grew, "ms_of_a_checkpoint": milliseconds, "KiB_of_a_checkpoint": size}
        return command.output.read_text(), figures


def test_training_soaks(data, tmp_path, tell):
    """20,000 steps, and the same with 40 interruptions in their first 14,000.

    Each resumes from what the one before has saved; a signal that can be caught loses no step.
    """
    whole, cut = Training(data, tmp_path / "whole"), Training(data, tmp_path / "cut")
    tell(f"{STEPS} steps", **whole.finish()[1])
    saved = 0
    for planned in interruptions(OF_TRAINING, 0.7 * STEPS, 2.0, random.Random(0)):
        begun, command = cut.begun(), cut.start()

        def due(planned=planned, begun=begun):
            works = planned.early or cut.begun() > begun
            return works and max(steps_in(cut.checkpoints), default=0) >= planned.progress

        command.interrupt(planned.number, due, planned.delay)
        output = command.output.read_text()
        resumed = re.search(r"resuming stage1 at step (\d+)", output)
        told = re.search(r"stage1: saved at step (\d+)", output)
        assert resumed is None or int(resumed[1]) == saved
        before, saved = saved, newest_step(cut.checkpoints)
        assert saved >= before and len(steps_in(cut.checkpoints)) <= 2
        assert told is None or int(told[1]) == saved
    output, figures = cut.finish()
    assert f"resuming stage1 at step {saved}\n" in output
    tell(f"from step {saved} after {OF_TRAINING} interruptions", **figures)
    models = [Registry(t.run).get("backbone", "main").hash for t in (whole, cut)]
    assert models[0] == models[1]
    curves = records(cut.logs)
    assert curves == records(whole.logs)
    assert [step for step, _ in curves["train/loss"]] == [*range(LOG_EVERY, STEPS + 1, LOG_EVERY)]
    measured = [*range(0, STEPS + 1, CONFLICT_EVERY)]
    assert [step for step, _ in curves["conflict/mean"]] == measured
    assert files_of(cut.run) == files_of(whole.run)


class Evaluation:
    """Evaluations of a run's router whose results are in one folder."""

    def __init__(self, data, run, out):
        self.data, self.run, self.out = data, run, out
        self.lives = 0

    def start(self, episodes):
        words = ["evaluate", *QUICK, f"data={self.data}", f"run={self.run}", "--models", "router"]
        words += [f"tasks=[{','.join(LONGEST_LAST)}]"]
        words += [f"evaluation.episodes={episodes}", f"evaluation.tile={TILE}"]
        self.lives += 1
        output = self.out.with_suffix(f".{self.lives}.out")
        return Command([sys.executable, "-m", "m3dt", *words, "--out", str(self.out)], output)

    def result(self):
        return newest(evaluations(self.out)[0])["router"].result

    def journals(self):
        return list((self.out / "evaluation").glob("router.*.episodes.jsonl"))

    def groups(self):
        """Return how many groups of episodes are finished."""
        return sum(len(groups_in(path)) for path in self.journals())


def groups_in(journal):
    """Return the episodes of each finished group in a journal."""
    found = []
    for line in journal.read_text().splitlines():
        with suppress(ValueError):  # empty, or cut by a kill
            found.append(json.loads(line)[1])
    return found


def episodes_for(seconds, result):
    """Return how many episodes of each task take some time, from the result of a short evaluation.

    They are a multiple of `TILE`.
    """
    steps = sum(task["env_steps"] / task["episodes"] for task in result["tasks"].values())
    return int(seconds * result["env_steps_per_second"] / steps) // TILE * TILE


def test_evaluation_soaks(finished, data, tmp_path, tell):
    """Episodes for half of the time, and the same with interruptions in their first 80 %.

    They are 20, or fewer in a short time: each waits for a group of episodes, at least.

    Workers keep environments for reuse, so memory grows with each new task: it is measured during
    the last one.
    """
    short, whole, cut = (
        Evaluation(data, finished, tmp_path / n) for n in ("short", "whole", "cut")
    )
    short.start(2 * TILE).finish(short.out)
    episodes = episodes_for(30 * MINUTES, short.result())
    total = len(LONGEST_LAST) * episodes
    before_last = (len(LONGEST_LAST) - 1) * episodes / TILE
    samples = whole.start(episodes).finish(whole.out, lambda: whole.groups() > before_last)
    tell(f"{total} episodes", **processes_grew(samples))
    journal, before = tmp_path / "journal", 0
    count = min(OF_EVALUATION, total // (10 * TILE))
    for planned in interruptions(count, 0.8 * total / TILE, 8.0, random.Random(1)):
        command = cut.start(episodes)
        begun = cut.groups() + (not planned.early)
        goal = max(planned.progress, begun)
        command.interrupt(planned.number, lambda goal=goal: cut.groups() >= goal, planned.delay)
        assert cut.groups() >= before
        before = cut.groups()
        if before and not journal.exists():
            os.link(cut.journals()[0], journal)  # it stays when the evaluation deletes its own
    cut.start(episodes).finish(cut.out)
    played = [(task, n) for group in groups_in(journal) for task, n, *_ in group]
    assert len(played) == len(set(played)) == total
    for key in ("tasks", "score", "ci95", "domains", "episodes"):
        assert cut.result()[key] == whole.result()[key]
    assert not cut.journals()
