"""`m3dt extend`: new tasks for a trained run, with nothing of the old one changed."""

import csv
import json
import shutil

import numpy as np
import own_tasks  # noqa: F401  # registers them
import pytest
import torch
from conftest import write_dataset
from quick_run import ONE_TASK, QUICK, TASKS, call
from torch.nn import functional as F

import m3dt
from m3dt.cli import main
from m3dt.data import DatasetStore, TaskContext
from m3dt.data.cutter import TrajectoryCutter
from m3dt.evaluation import AgentPolicy, ExpertsPolicy
from m3dt.evaluation.run_models import run_model
from m3dt.evaluation.sessions import EpisodeGroup
from m3dt.models import PromptDT
from m3dt.models.routing import PromptRouter, prompt_features
from m3dt.runs import Registry
from m3dt.runs.generations import experts_of, newest_generation
from m3dt.stages import PromptRouterStage
from m3dt.tasks.experiment import load_experiment
from m3dt.utils.files import sha256, sole_writer

NEW, LATER = ("cheetah-vel-5", "push-v2"), ("walker-walk",)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The data of tasks that the run does not know."""
    return write_dataset(tmp_path_factory.mktemp("other"), [*NEW, *LATER])


@pytest.fixture(scope="module")
def known(finished, data, made_once, tmp_path_factory):
    """A run with a router by prompts; copy before changing it."""

    def train(folder):
        shutil.copytree(finished, folder)
        assert call("stage3", folder, data, "moe.router=prompt") == 0

    return shutil.copytree(made_once("known", train), tmp_path_factory.mktemp("known") / "run")


def extend(run, tasks, data, *overrides):
    return main(
        ["extend", "--run", str(run), "--tasks", ",".join(tasks), f"data={data}", *overrides]
    )


@pytest.fixture(scope="module")
def extended(known, other, tmp_path_factory):
    """A run extended twice, and the hashes of all registered files before and in between."""
    run = shutil.copytree(known, tmp_path_factory.mktemp("extended") / "run")
    hashes = []
    for tasks in (NEW, LATER):
        hashes.append({path: sha256(path) for path in (run / "registry").rglob("*.*")})
        assert extend(run, tasks, other) == 0
    return run, hashes


def test_the_router_by_tokens_is_that_of_the_run(extended, data):
    """`router` alone means the newest generation's only where the router reads the prompt."""
    run, _ = extended
    for way, name in (("token", "main"), ("prompt", "prompt-2")):
        config = load_experiment(run / "config.yaml", [f"moe.router={way}", ONE_TASK])
        policy = run_model(config, "router").policy
        assert policy.agent.entry.name == name


def test_nothing_that_was_registered_changes(extended):
    run, hashes = extended
    for before in hashes:
        assert {path: sha256(path) for path in before} == before
    assert len(hashes[0]) < len(hashes[1])


def test_a_later_training_in_the_run_changes_no_extension(
    known, extended, other, data, tmp_path, capsys
):
    """It leaves its own configuration: another loader, seed and experts."""
    run = shutil.copytree(known, tmp_path / "run")
    last = ["method=bc-best", "seed=7", "moe.expert=trunk", "moe.top_k=2", "stage2.batch_size=3"]
    last += ["moe.router=token", "prompt_router.max_steps=3", "baseline.max_steps=1"]
    assert call("train", run, data, *last) == 0
    assert extend(run, NEW, other, "size=small") == 2
    assert "override 'size=small': an extension does not" in capsys.readouterr().err
    assert extend(run, NEW, other, "moe.top_k=1") == 2
    assert "override 'moe.top_k=1': moe.router=prompt does not go" in capsys.readouterr().err
    assert extend(run, NEW, other) == 0
    for name in ("2", "3"):
        new, plain = (Registry(place).get("expert", name) for place in (run, extended[0]))
        assert new.hash == plain.hash and new.settings == plain.settings and new.seed == plain.seed
    new, plain = (Registry(place).get("router", "prompt-1") for place in (run, extended[0]))
    assert new.hash == plain.hash and new.settings == plain.settings


def test_each_generation_loads(extended, known):
    run, _ = extended
    registry = Registry(run)
    assert newest_generation(registry) == 2
    for name, tasks in (("prompt", TASKS), ("prompt-1", TASKS + NEW), (None, TASKS + NEW + LATER)):
        agent = m3dt.load(run, "router", name)
        assert agent.context.tasks == tasks
        experts = experts_of(registry, agent.entry)
        assert len(experts) == 2 + len(tasks) - len(TASKS) == agent.entry.moe().num_experts
    assert m3dt.load(run).entry.name == "prompt-2" and "extended" in m3dt.load(run).method
    first, before = m3dt.load(run, "router", "prompt"), m3dt.load(known, "router", "prompt")
    for one, two in zip(first.model.parameters(), before.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_new_expert_knows_its_task_alone(extended, other):
    run, _ = extended
    registry = Registry(run)
    stores = DatasetStore.open(other, [*NEW, *LATER]).tasks
    for number, store in enumerate(stores, start=2):
        entry = registry.get("expert", str(number))
        assert entry.tasks == [store.spec.name]
        assert set(entry.parents) == {"backbone/main"}
        agent = m3dt.load(run, "expert", str(number))
        assert agent.context.tasks == (*TASKS, store.spec.name)
        task = agent.task(store.spec.name)
        states = store.observations[: store.num_training_steps].astype(np.float64)
        mean = task.inputs.normalization.mean[: states.shape[1]]
        np.testing.assert_allclose(mean, states.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_new_experts_learn_their_data(extended, other):
    """They fit the actions of their task better than the backbone, which is frozen under them."""
    run, _ = extended
    for number, task in enumerate(NEW, start=2):
        expert = m3dt.load(run, "expert", str(number))
        backbone = m3dt.load(run, "backbone")
        (store,) = DatasetStore.open(other, [task]).tasks
        config = expert.model.config
        known = expert.task(task)
        begin = np.array([0, 5, 10, 20])
        trajectory = np.zeros(4, int)
        rows = TrajectoryCutter(store).segments(
            trajectory, begin, config.context_length, known.inputs
        )
        segment = rows.segment()
        prompt = type(segment)(*(tensor[[0, 1, 0, 1]] for tensor in known.prompts))
        width = store.spec.action_dim
        losses = []
        for agent in (backbone, expert):
            with torch.no_grad():
                actions = agent.model(segment, prompt)[..., :width]
            losses.append(F.mse_loss(actions, segment.actions[..., :width]).item())
        assert losses[1] < losses[0]


def test_the_loss_weighs_every_task_alike():
    """Those of the data and those whose features were kept, against a loop over tasks.

    Half of a new task's loss is that of the prompts that the agent acts with.
    """
    torch.manual_seed(0)
    config = load_experiment("quickstart", QUICK[:6]).model
    model = PromptDT(config)
    model.prompt_router = router = PromptRouter(config, 5, 8)
    kept, acting = torch.randn(3, 7, len(router.mean)), torch.randn(2, 2, len(router.mean))
    stage = PromptRouterStage(
        model,
        load_experiment("quickstart").prompt_router,
        0,
        TaskContext.empty(),
        [3, 4],
        kept,
        [0, 2, 1],
        acting,
    )
    features, task_index = torch.randn(8, len(router.mean)), torch.arange(2).repeat(4)
    stage.features = lambda batch: features
    batch = type("Batch", (), {"task_index": task_index})
    expected = []
    for t, g in enumerate((3, 4)):
        parts = features[task_index == t], acting[t]
        of = [F.cross_entropy(router.logits(p), torch.full((len(p),), g)) for p in parts]
        expected.append((of[0] + of[1]) / 2)
    expected += [
        F.cross_entropy(router.logits(own), torch.full((7,), g))
        for own, g in zip(kept, (0, 2, 1), strict=True)
    ]
    found = stage.row_losses(batch)
    assert found.shape == (8,)
    torch.testing.assert_close(found.sum(), torch.stack(expected).mean())


def prompt_features_of(run, task):
    """Return the features of the prompts that an agent acts with in a task, (2, F)."""
    known = m3dt.load(run).task(task)
    statistics = known.prompt_normalization
    mean, std = (torch.as_tensor(x)[None] for x in (statistics.mean, statistics.std))
    return prompt_features(known.prompts, mean, std)


def test_the_agents_prompts_go_to_their_own_experts(extended):
    """They take part in its training."""
    run, _ = extended
    router = m3dt.load(run).model.prompt_router
    for number, task in enumerate((*NEW, LATER[0]), start=2):
        assert router(prompt_features_of(run, task)).argmax(dim=1).tolist() == [number, number]


def test_kept_features_have_a_row_per_task(extended):
    registry = Registry(extended[0])
    counts = []
    for name in ("prompt", "prompt-1", "prompt-2"):
        entry = registry.get("router", name)
        counts.append(registry.tensors(entry, "features")["features"])
    assert [len(features) for features in counts] == [3, 5, 6]
    of_new = prompt_features_of(extended[0], NEW[0])
    kept = counts[1][3]
    copies = (kept[:, None] == of_new).all(dim=2).sum(dim=0)
    assert copies.tolist() == [16, 16] and len(kept) == 64
    for earlier, later in zip(counts, counts[1:], strict=False):
        assert torch.equal(later[: len(earlier)], earlier)


@pytest.mark.parametrize("section", ["stage2", "prompt_router"])
def test_an_interrupted_extension_resumes_to_the_same_weights(
    known, extended, other, tmp_path, section
):
    run = shutil.copytree(known, tmp_path / "run")
    halted = f"{{class: moments.SignalAt, step: 50, number: 15, stages: [{section}]}}"
    with pytest.raises(SystemExit):
        extend(run, NEW, other, f"callbacks.signal={halted}")
    assert (run / "extension-1.yaml").is_file() and newest_generation(Registry(run)) == 0
    assert extend(run, NEW, other) == 0
    whole = Registry(extended[0])
    for kind, name in (("expert", "2"), ("expert", "3"), ("router", "prompt-1")):
        assert Registry(run).get(kind, name).hash == whole.get(kind, name).hash


def test_a_repeated_extension_does_nothing(extended, other, capsys):
    run, _ = extended
    files = {path: path.stat().st_mtime_ns for path in (run / "registry").rglob("*.*")}
    for tasks in (NEW, LATER):
        assert extend(run, tasks, other) == 0
        assert capsys.readouterr().out.count("Nothing to do") == 2
    assert files == {path: path.stat().st_mtime_ns for path in (run / "registry").rglob("*.*")}


def test_the_run_goes_on_as_before(extended, data, capsys):
    """Its configuration is untouched: stages are finished, and their tasks evaluated."""
    run, _ = extended
    for stage in ("stage1", "stage2"):
        assert call(stage, run, data) == 0
        assert "Nothing to do" in capsys.readouterr().out
    assert tuple(load_experiment(run / "config.yaml").tasks) == TASKS


def test_old_and_new_tasks_are_evaluated_together(extended, other, tmp_path, capsys):
    run, _ = extended
    tasks = f"tasks=[{TASKS[1]},{NEW[0]}]"
    words = ["--run", str(run), tasks, "evaluation.workers=1", "--models", "oracle,router"]
    assert main(["evaluate", *words, "--json", str(tmp_path / "scores.json")]) == 0
    (oracle, found) = json.loads((tmp_path / "scores.json").read_text())["models"].values()
    assert oracle["method"] == "oracle"
    assert list(found["tasks"]) == [TASKS[1], NEW[0]] and "extended" in found["method"]
    assert "Not trained on" not in capsys.readouterr().out


def test_the_oracle_gives_a_new_task_its_own_expert(extended):
    run, _ = extended
    policy = ExpertsPolicy(run, tasks=[NEW[1]])
    alone = m3dt.load(run, "expert", "3")
    group = EpisodeGroup(NEW[1], (0, 1))
    seen = np.random.default_rng(0).normal(size=(2, 39)).astype(np.float32)
    found = []
    for own in (policy, AgentPolicy(alone)):
        session = own.begin(group, 0)
        session.observe(seen, None)
        found.append(own.act([session])[0])
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)


def test_mistakes_are_one_message(finished, known, extended, other, data, tmp_path, capsys):
    def error_of(run, tasks, *overrides, folder=other):
        assert extend(run, tasks, folder, *overrides) == 2
        error = capsys.readouterr().err
        assert error.startswith("m3dt: ") and error.count("\n") == 1
        return error

    assert "only a run with a router by prompts can be extended" in error_of(finished, NEW)
    assert "knows this task already" in error_of(known, [TASKS[0]])
    assert "unknown task 'push-v3'" in error_of(known, ["push-v3"])
    assert "the dataset lacks 2 of 2 tasks" in error_of(known, NEW, folder=data)
    assert "name the new tasks" in error_of(known, [])
    assert "has no config.yaml" in error_of(tmp_path, NEW)
    assert "near: has 45 states and 10 actions, but the backbone" in error_of(known, ["near"])
    changed = error_of(extended[0], LATER, "stage2.max_steps=7")
    assert "was made with other settings: stage2.max_steps was 120, is 7" in changed


def test_a_second_process_is_refused(known, other, tmp_path, capsys):
    run = shutil.copytree(known, tmp_path / "run")
    with sole_writer(run / "checkpoints"):
        assert extend(run, NEW, other) == 2
    assert "another m3dt is writing here" in capsys.readouterr().err
    assert not list(run.glob("extension-*"))


def test_an_extension_that_cannot_begin_leaves_nothing(known, data, tmp_path):
    run = shutil.copytree(known, tmp_path / "run")
    assert extend(run, NEW, data) == 2  # these data lack the tasks
    assert not list(run.glob("extension-*"))


def test_one_extension_at_a_time(known, other, tmp_path, capsys):
    run = shutil.copytree(known, tmp_path / "run")
    halted = "callbacks.signal={class: moments.SignalAt, step: 5, number: 15}"
    with pytest.raises(SystemExit):
        extend(run, NEW, other, halted)
    capsys.readouterr()
    assert extend(run, LATER, other) == 2
    error = capsys.readouterr().err
    assert f"Finish it first: m3dt extend --run {run} --tasks {','.join(NEW)}" in error


STUDY = """
conf: quickstart
runs: {runs}
parts:
  zero-shot:
    grid: {{tasks: [[cheetah-vel-5]], data: [{data}]}}
    copy: {run}
    set: ["evaluation.prompts={data}"]
    models: [nearest, backbone]
  row:
    grid: {{tasks: [[cheetah-vel-5, walker-walk]], data: [{data}]}}
    copy: {run}
    extend: in a row
    set: [stage2.max_steps=4, prompt_router.max_steps=4]
    evaluate: ["tasks=[{old},cheetah-vel-5]"]
    models: [router]
"""


def test_a_study_begins_with_copies_and_extends_them(known, other, tmp_path, capfd, commands_here):
    file, table = tmp_path / "new.yaml", tmp_path / "new.csv"
    words = {"runs": tmp_path / "runs", "data": other, "run": known, "old": TASKS[1]}
    file.write_text(STUDY.format(**words))
    short = ["evaluation.episodes=1", "evaluation.tile=1", "evaluation.workers=1"]
    command = ["study", str(file), *short, "--csv", str(table)]
    assert main([*command, "--dry-run"]) == 0
    assert capfd.readouterr().out.count("extend") == 1
    before = {path: sha256(path) for path in (known / "registry").rglob("*.*")}
    assert main(command) == 0
    assert {path: sha256(path) for path in before} == before
    zero, row = csv.DictReader(table.open())
    assert (zero["part"], zero["title"], row["title"]) == (
        "zero-shot", "PromptDT", "M3DT, by prompt, extended"
    )  # fmt: skip
    assert 0 <= float(zero["nearest"]) <= 100
    names = [path.name for path in (tmp_path / "runs").iterdir()]
    (extended,) = [name for name in names if name.startswith("cheetah-vel-5-walker-walk")]
    assert newest_generation(Registry(tmp_path / "runs" / extended)) == 2
    scores = json.loads((tmp_path / "new_tasks.json").read_text())
    assert list(scores[row["cell"]]) == [TASKS[1], "cheetah-vel-5"]
    capfd.readouterr()
    assert main(command) == 0
    assert "holds 2 of 2 cells already" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("{grid: {seed: [0]}, extend: together}", "'extend' goes with 'copy'"),
        ("{grid: {seed: [0]}, copy: x, extend: yes}", "'extend' must be one of together"),
        ("{grid: {seed: [0]}, evaluate: ['tasks=[x]']}", "unknown task 'x'"),
    ],
)
def test_a_study_file_is_checked(tmp_path, capsys, part, message):
    (tmp_path / "own.yaml").write_text(f"parts: {{own: {part}}}\n")
    assert main(["study", str(tmp_path / "own.yaml"), "--dry-run"]) == 2
    assert message in capsys.readouterr().err
