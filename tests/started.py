"""Commands of m3dt in processes of their own, without the seconds that loading torch takes.

A server, which has loaded what commands load and has computed nothing, forks for each of them. A
test of what a new process loads, or of its first moments, starts one itself.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from importlib import import_module
from pathlib import Path


class Command:
    """A running command: `m3dt WORDS`.

    Args:
        words: Those after `m3dt`.
        environment: Further variables.
        group: Whether it leads a group of processes of its own.
    """

    def __init__(self, words, environment=None, group=False):
        number, self._file = tempfile.mkstemp(dir=_outputs().name)
        os.close(number)
        given = {**os.environ, **(environment or {})}
        request = {"words": [*map(str, words)], "environment": given, "group": group}
        self.pid = _ask({**request, "output": self._file, "folder": os.getcwd()})
        self.returncode, self._group = None, group

    @property
    def output(self):
        """What it has printed so far, also about errors."""
        return Path(self._file).read_text()

    def poll(self):
        """Return its exit code, negative after a signal, or None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"ended": self.pid})
        return self.returncode

    def wait(self, seconds=300):
        """Return its exit code once it has ended; after some seconds it is killed."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                (os.killpg if self._group else os.kill)(self.pid, signal.SIGKILL)
                raise AssertionError(f"more than {seconds} s: {self.output}")
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)


def ended(words, environment=None, group=False):
    """Run a command to its end and return it."""
    command = Command(words, environment, group)
    command.wait()
    return command


@cache
def _outputs():
    """Return a folder for what commands print; it goes with this process."""
    return tempfile.TemporaryDirectory()


@cache
def _server():
    """Start the server. It ends with its input, when this process does."""
    variables = {**os.environ, "MPLBACKEND": "agg"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, __file__], env=variables, **pipes)


def _ask(request):
    server = _server()
    print(json.dumps(request), file=server.stdin, flush=True)
    answer = server.stdout.readline()
    assert answer, "the server has ended"
    return json.loads(answer)


def _serve():
    """Answer requests; return the request that a new process, the child, has to fulfil."""
    for line in sys.stdin:
        request = json.loads(line)
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                return request
        print(json.dumps(answer), flush=True)
    sys.exit()


def _become(request):
    """Be the command, as a new process would."""
    if request["group"]:
        os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)  # whatever a shell ignores
    signal.signal(signal.SIGINT, signal.default_int_handler)
    streams = os.open(os.devnull, os.O_RDONLY), os.open(request["output"], os.O_WRONLY)
    for own, other in zip((0, 1, 2), (*streams, streams[1]), strict=True):
        os.dup2(other, own)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = ["m3dt", *request["words"]]
    runpy.run_module("m3dt", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for module in ("m3dt.cli", "m3dt.data.collect", "m3dt.tasks.workers", "m3dt.training"):
        import_module(module)
    _become(_serve())
