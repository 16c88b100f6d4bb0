"""No episode is lost when workers die, environments raise or evaluations are killed."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from quick_run import TWO_TASKS, call

from m3dt.config import EvaluationConfig
from m3dt.evaluation import RandomPolicy, evaluate_policy
from m3dt.evaluation.evaluator import Journal, make_groups
from m3dt.evaluation.scheduler import RolloutScheduler
from m3dt.runs.evaluations import evaluation_file, evaluations, read_evaluation
from m3dt.tasks.workers import Failure, WorkerPool
from m3dt.utils.console import make_console
from m3dt.utils.errors import RunError

RULES = EvaluationConfig(episodes=2, tile=1, workers=1)
TASKS = ("ant-dir-6", "cheetah-vel-7")

pytestmark = pytest.mark.long


class Troubled(RandomPolicy):
    """Random actions, with trouble at the 20th step of chosen episodes.

    Args:
        trouble: Called with the actions; its result is sent in their place.
        times: How often trouble occurs, over all chosen episodes.
        task: Prefix of the tasks whose episodes are chosen.
    """

    def __init__(self, trouble, times, task=""):
        super().__init__()
        self.trouble, self.times, self.task = trouble, times, task

    def begin(self, group, seed):
        session, steps = super().begin(group, seed), iter(range(1, 10_000))
        draw = session.draw

        def drawing():
            actions = draw()
            if next(steps) == 20 and self.times and group.task.startswith(self.task):
                self.times -= 1
                return self.trouble(actions)
            return actions

        session.draw = drawing
        return session


def too_wide(actions):
    """Return actions that the environment refuses."""
    return np.zeros((1, 99), np.float32)


@pytest.fixture(scope="module")
def undisturbed():
    return evaluate_policy(RandomPolicy(), TASKS, RULES, make_console())


def kill_first(pool):
    def kill(actions):
        os.kill(pool.processes[0].pid, signal.SIGKILL)
        return actions

    return kill


def test_an_environment_that_raises_is_played_again(undisturbed):
    result = evaluate_policy(Troubled(too_wide, times=1), TASKS, RULES, make_console())
    assert result["tasks"] == undisturbed["tasks"]


def test_a_worker_that_dies_is_replaced(undisturbed):
    with WorkerPool(1) as pool:
        first = pool.processes[0].pid
        policy = Troubled(kill_first(pool), times=1)
        result = evaluate_policy(policy, TASKS, RULES, make_console(), pool)
        assert pool.processes[0].pid != first and pool.processes[0].is_alive()
    assert result["tasks"] == undisturbed["tasks"]


def test_a_worker_that_cannot_start_is_not_replaced(tmp_path):
    """Such as the worker of a script that evaluates whenever it is imported."""
    script = tmp_path / "own.py"
    script.write_text(
        "from m3dt.config import EvaluationConfig\n"
        "from m3dt.utils.console import make_console\n"
        "from m3dt.evaluation import RandomPolicy, evaluate_policy\n"
        "rules = EvaluationConfig(episodes=1, workers=1)\n"
        "evaluate_policy(RandomPolicy(), ['cheetah-vel-7'], rules, make_console())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(
        "m3dt.utils.errors.RunError: evaluation worker 0 cannot start, exit code 1"
    )
    assert "__main__" in last
    assert done.stderr.count("\nRuntimeError: ") == 1  # of Python, of one worker


def test_a_script_from_standard_input_is_refused():
    """Although it does so under the guard: workers cannot import what has no file."""
    script = (
        "import m3dt\n"
        "from m3dt.tasks.workers import WorkerPool\n"
        'if __name__ == "__main__":\n'
        "    WorkerPool(1)\n"
    )
    command = [sys.executable, "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("m3dt.utils.errors.UserError: simulations run in processes")
    assert last.endswith("Write the script to a file and run `python FILE`.")
    inline = [sys.executable, "-c", script.replace("WorkerPool(1)", "WorkerPool(1).__exit__()")]
    done = subprocess.run(inline, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr  # there, workers have nothing to import


def test_a_task_that_kills_its_worker_takes_no_other_with_it(undisturbed, tmp_path):
    """The other groups of its worker are played one at a time, and their episodes kept."""
    with WorkerPool(1) as pool:
        policy = Troubled(kill_first(pool), times=99, task="ant")
        journal = Journal(tmp_path / "episodes.jsonl", "k")
        with pytest.raises(RunError, match="failed twice in ant-dir-6") as error:
            evaluate_policy(policy, TASKS, RULES, make_console(), pool, journal)
    assert "died, exit code -9" in str(error.value)
    assert [group.task for group in journal.episodes] == ["cheetah-vel-7"] * 2


def test_a_task_that_fails_twice_is_named_and_the_others_are_kept(undisturbed, tmp_path):
    """Once the task works, the same evaluation plays its episodes alone."""
    path = tmp_path / "episodes.jsonl"
    policy = Troubled(too_wide, times=99, task="ant")
    with pytest.raises(RunError, match="failed twice in ant-dir-6") as error:
        evaluate_policy(policy, TASKS, RULES, make_console(), journal=Journal(path, "k"))
    assert "Traceback" in str(error.value)  # of the environment, for whoever must fix it
    kept = Journal(path, "k")
    assert [group.task for group in kept.episodes] == ["cheetah-vel-7"] * 2
    asked = []

    class Watched(RandomPolicy):
        def begin(self, group, seed):
            asked.append(group.task)
            return super().begin(group, seed)

    result = evaluate_policy(Watched(), TASKS, RULES, make_console(), journal=kept)
    assert asked == ["ant-dir-6"] * 2
    assert result["tasks"] == undisturbed["tasks"]


def test_a_journal_survives_a_cut_line_and_another_key(tmp_path):
    path = tmp_path / "episodes.jsonl"
    recorded = {}
    with WorkerPool(1) as pool:
        journal = Journal(path, "k")
        scheduler = RolloutScheduler(pool, RandomPolicy(), make_groups(TASKS, 2, 1), seed=0)
        for group, episodes in scheduler.run():
            journal.add(group, episodes)
            recorded[group] = episodes
    assert Journal(path, "k").episodes == recorded
    whole = path.read_text()
    path.write_text(whole[:-20])  # a kill in the middle of the last line
    cut = Journal(path, "k")
    lost = [group for group in recorded if group not in cut.episodes]
    assert len(lost) == 1
    cut.add(lost[0], recorded[lost[0]])
    assert Journal(path, "k").episodes == recorded
    other = Journal(path, "other")  # such as of another seed; neither reads the other's lines
    assert other.episodes == {}
    other.add(lost[0], [])
    assert Journal(path, "k").episodes == recorded
    journal.delete()
    assert not path.exists()


def test_an_evaluation_that_was_killed_goes_on(finished, data, monkeypatch, capsys):
    """Repeated after an interruption, the command has the scores of an undisturbed one."""
    folder = finished / "evaluation"
    arguments = ["--models", "random", "evaluation.seed=3", TWO_TASKS]
    assert call("evaluate", finished, data, *arguments) == 0
    seeded = [one for one in evaluations(finished)[0] if one.conditions.seed == 3]
    expected, file = seeded[-1].result, evaluation_file(finished, "random", seeded[-1].key)
    file.unlink()
    add = Journal.add

    def interrupted(self, group, episodes):
        add(self, group, episodes)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", interrupted)
        assert call("evaluate", finished, data, *arguments) == 130
    (path,) = folder.glob("random.*.episodes.jsonl")
    assert path.read_text().strip() and not file.exists()
    assert call("evaluate", finished, data, *arguments) == 0
    result = read_evaluation(file).result
    assert result["tasks"] == expected["tasks"] and not path.exists()


def test_workers_answer_for_what_failed():
    with WorkerPool(1) as pool:
        pool.reset(0, 7, "walker-jog", [1])
        ((worker, failure),) = pool.receive()
        assert (worker, failure.attempt) == (0, 7) and "walker-jog" in failure.message
        pool.step(0, 7, np.zeros((1, 6)))  # on its way when the attempt failed: nobody answers
        pool.reset(0, 8, "ant-dir-6", [1])
        ((_, answer),) = pool.receive()
        assert answer.attempt == 8 and not isinstance(answer, Failure)
        pool.processes[0].kill()
        ((_, failure),) = pool.receive()
        assert failure.attempt is None and "died, exit code -9" in failure.message
