"""Drawn environments of a process: what it calls done is done, and the same command continues."""

import json
import shutil

from fuzz import checks
from fuzz.environments import draw_surroundings
from fuzz.fixtures import copy_of, drawn
from fuzz.invariants import run_command
from fuzz.sound_run import MODELS, TASKS, router_of, scores_of, words_for
from hypothesis import strategies as st


@drawn("environments")
def test_environments(cases, made):
    """Whatever a process is started with: done is done, and the same command continues."""

    def case(data):
        with copy_of(made / "run0") as run:
            around = draw_surroundings(data, run.parent)
            command = data.draw(st.sampled_from([*COMMANDS]))
            file = run.parent / "result.json"
            words, check = COMMANDS[command](run, made, file)
            outcome = run_command(*words, surroundings=around)
            if outcome.code == 0:
                check()
                return
            assert run_command(*words).code == 0
            check()

    cases(case)


def stage1(run, made, file):
    new = run.parent / "new"
    words = ["stage1", *words_for(new, made / "data")]
    return words, lambda: checks.check_same_weights(new, made / "run0", MODELS[:1], close=True)


def with_workers(run, made, file):
    words, check = stage1(run, made, file)
    return [*words, "loader.num_workers=2"], check


def evaluate(run, made, file):
    shutil.rmtree(run / "evaluation")
    words = ["evaluate", *words_for(run, made / "data"), "--models", "router", "--json", str(file)]
    return words, lambda: checks.check_sound_scores(router_of(file), scores_of(made))


def verify_data(run, made, file):
    def check():
        report = json.loads(file.read_text())
        assert (report["problems"], report["tasks"]) == ([], len(TASKS))

    return ["verify", made / "data", "--json", file], check


def registry(run, made, file):
    def check():
        entries = json.loads(file.read_text())["entries"]
        assert {f"{e['kind']}/{e['name']}": e for e in entries} == checks.check_registered(run)

    return ["registry", run, "--json", file], check


COMMANDS = {f.__name__: f for f in (stage1, with_workers, evaluate, verify_data, registry)}
