"""Long commands: what their processes hold is sampled, and signals end them at random moments."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from quick_run import helpers_found, listening, wait_for

CODES = {
    signal.SIGKILL: -signal.SIGKILL,
    signal.SIGTERM: 143,
    signal.SIGINT: 130,
    signal.SIGHUP: 129,
}


class Sample(NamedTuple):
    """What a tree of processes holds at a moment."""

    memory: int  # resident bytes that are no pages of files, summed over processes
    descriptors: int  # open ones, summed over processes
    disk: int  # bytes of the files in a folder


def tree(root):
    """Return the numbers of a process and of all processes below it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [root]
    for above in found:
        found += [number for number, parent in parents.items() if parent == above]
    return found


def sample(root, folder):
    memory = descriptors = disk = 0
    for number in tree(root):
        with suppress(OSError):
            status = Path(f"/proc/{number}/status").read_text()
            found = re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", status, re.M)
            memory += 1024 * sum(map(int, found))
            descriptors += len(os.listdir(f"/proc/{number}/fd"))
    for path in folder.rglob("*"):
        with suppress(OSError):
            disk += path.stat().st_size
    return Sample(memory, descriptors, disk)


class Command:
    """A running command, whose output goes to a file."""

    def __init__(self, words, output):
        self.output = output
        with output.open("w") as file:
            self.process = subprocess.Popen(
                words,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=helpers_found(),
                preexec_fn=listening,
            )

    def finish(self, folder, while_running=bool, every=0.5):
        """Wait for its success, and return samples of it and of a folder.

        Args:
            folder: Whose size is sampled.
            while_running: Samples are taken where this returns true.
            every: Seconds between samples.
        """
        samples = []
        while self.process.poll() is None:
            if while_running():
                samples.append(sample(self.process.pid, folder))
            time.sleep(every)
        assert self.process.returncode == 0, self.output.read_text()[-3000:]
        return samples

    def interrupt(self, number, condition, delay):
        """Send a signal some seconds after a condition holds, and see all its processes end.

        The command must have taken over its signals by then, as it does before its imports.
        """
        wait_for(self._has_handlers)
        wait_for(lambda: self.process.poll() is not None or condition(), seconds=1200)
        time.sleep(delay)
        assert self.process.poll() is None, f"ended too early: {self.output.read_text()[-3000:]}"
        below = tree(self.process.pid)[1:]
        self.process.send_signal(number)
        self.process.wait(120)
        output = self.output.read_text()
        assert self.process.returncode == CODES[number], output[-3000:]
        assert "Traceback" not in output, output
        wait_for(lambda: not any(map(_lives, below)))

    def _has_handlers(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = int(re.search(r"^SigCgt:\s+(\w+)$", status, re.M)[1], 16)
        return all(caught & 1 << (n - 1) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def _lives(number):
    """Return whether a process runs; its zombie does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Interruption(NamedTuple):
    """A signal and its moment."""

    number: int
    progress: float  # after which it is due
    early: bool  # whether it comes while the command starts, or once it works
    delay: float  # seconds that pass then


def interruptions(count, until, longest, rng):
    """Return interruptions in the order of their progress, which is at most `until`.

    Half of the signals are SIGKILL. A quarter comes early. `longest` limits the delay.
    """
    gentle = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    numbers = [signal.SIGKILL if i % 2 else gentle[i // 2 % 3] for i in range(count)]
    rng.shuffle(numbers)
    due = sorted(rng.uniform(0, until) for _ in range(count))
    return [
        Interruption(number, progress, rng.random() < 0.25, rng.uniform(0, longest))
        for number, progress in zip(numbers, due, strict=True)
    ]


def growth(values):
    """Return the medians of the third and of the last quarter of a series."""
    size = len(values) // 4
    assert size >= 5, "too short a stretch"
    return median(values[-2 * size : -size]), median(values[-size:])
