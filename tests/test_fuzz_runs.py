"""Drawn registries, stored scores and checkpoints: whatever is taken from a run is what it says."""

import json
import shutil

import pytest
from fuzz import checks, leftovers, registries
from fuzz.fixtures import copy_of, drawn
from fuzz.invariants import run_command, run_here
from fuzz.sound_run import BY_PROMPT, MODELS, NEW, TASKS, router_of, scores_of, words_for
from hypothesis import strategies as st

import m3dt
from m3dt.runs.registry import Registry
from m3dt.utils.errors import UserError


@drawn("registries")
def test_registries(cases, made):
    """Listed, loaded, trained on and evaluated: what is taken is what the files say."""

    def case(data):
        with copy_of(made / "run0") as run:
            registries.make_wrong(data, run, made / "run1")
            list_models(run, run_here)
            kinds = [(None, None), ("backbone", None), ("expert", None), ("router", None)]
            chosen = data.draw(st.sampled_from([*kinds, ("router", "prompt")]))
            try:
                agent = m3dt.load(run, *chosen)
            except UserError as error:
                assert str(error)
            else:
                checks.check_agent(agent, run)
            commands = ["stage2", "stage3", "by prompt", "train", "extend", "evaluate", None]
            command = data.draw(st.sampled_from(commands))
            if command == "evaluate" and data.draw(st.integers(0, 2)):
                command = None  # it takes seconds
            if command:
                use_models(run, made, command, run_here)

    cases(case)


@drawn("registries as commands")
def test_registries_as_commands(cases, made):
    def case(data):
        with copy_of(made / "run0") as run:
            registries.make_wrong(data, run, made / "run1")
            list_models(run, run_command)
            commands = ["stage2", "stage3", "by prompt", "train", "extend", "evaluate"]
            command = data.draw(st.sampled_from(commands))
            use_models(run, made, command, run_command)

    cases(case)


def list_models(run, run_words):
    file = run.parent / "models.json"
    if run_words("registry", run, "--json", file).code == 0:
        listed = {f"{e['kind']}/{e['name']}": e for e in json.loads(file.read_text())["entries"]}
        assert listed == checks.check_listed(run)


def use_models(run, made, command, run_words):
    """Train on the models of a run, extend it, or evaluate them."""
    if command == "extend":
        extend_run(run, made, run_words)
        return
    words, file = words_for(run, made / "data"), run.parent / "scores.json"
    if command == "by prompt":
        command, words = "stage3", [*words, BY_PROMPT]
    if command == "evaluate":
        shutil.rmtree(run / "evaluation")
        models = "router:main,router@episode-1,router:prompt"
        if run_words(command, *words, "--models", models, "--json", file).code == 0:
            for result in json.loads(file.read_text())["models"].values():
                checks.check_scores(result, TASKS)
        else:
            assert not file.exists()
    elif run_words(command, *words).code == 0:
        made_by = {"stage2": "expert/1", "stage3": "router/main", "train": "router/main"}
        made_here = "router/prompt" if BY_PROMPT in words else made_by[command]
        checks.check_lineage(run, made_here)


def extend_run(run, made, run_words):
    """Nothing that was there changes, whether the run can be extended or not."""
    files = [path for path in (run / "registry").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    outcome = run_words("extend", "--run", run, "--tasks", NEW, f"data={made / 'new'}")
    assert {path: path.read_bytes() for path in files} == before
    if outcome.code == 0:
        found = checks.check_lineage(run, "router/prompt-1")
        new = [key for key in found if found[key]["tasks"] == [NEW]]
        assert sorted(new) == ["expert/2", "router/prompt-1"]


@drawn("results")
def test_results(cases, made):
    """Scores that were stored are those that were computed, or are computed again."""

    def case(data):
        with copy_of(made / "run0") as run:
            words, file = words_for(run, made / "data"), run.parent / "scores.json"
            leftovers.wrong_results(data, run / "evaluation")
            outcome = run_here("evaluate", *words, "--models", "router", "--json", file)
            if outcome.code == 0:
                checks.check_sound_scores(router_of(file), scores_of(made))

    cases(case)


@drawn("checkpoints")
def test_checkpoints(cases, made, interrupted):
    """An interrupted training goes on to finite weights, and to its own if nothing is forged."""

    def case(data):
        with copy_of(interrupted) as run:
            forged = leftovers.wrong_checkpoints(data, run / "checkpoints" / "stage1")
            outcome = run_here("stage1", *words_for(run, made / "data"))
            found = checks.check_registered(run)
            assert bool(found) == (outcome.code == 0), outcome
            if found:
                assert found["backbone/main"]["step"] in (2, 4)
                if not forged:
                    checks.check_same_weights(run, made / "run0", MODELS[:1])

    cases(case)


@pytest.fixture(scope="module")
def interrupted(made, tmp_path_factory):
    """A run whose stage 1 ended before its backbone was registered."""
    run = tmp_path_factory.mktemp("interrupted") / "run"

    def interrupt(*arguments, **groups):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registry, "save", interrupt)
        assert run_here("stage1", *words_for(run, made / "data")).code == 130
    return run
