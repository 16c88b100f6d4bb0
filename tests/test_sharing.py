"""Sharing: model cards, compact copies, and the agents in the package."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from quick_run import call
from tests.test_registry import entry, expert_weights, save_backbone

import m3dt
from m3dt.cli import main
from m3dt.runs import Registry
from m3dt.runs.evaluations import Evaluation
from m3dt.runs.layout import check_run_folder
from m3dt.runs.model_card import write_card
from m3dt.runs.shipped import WEIGHTS_FOLDER, compact_copy, find_run, shipped_agents
from m3dt.utils.errors import UserError

SHARING = Path(__file__).resolve().parents[1] / "docs/sharing.md"
RESULT = {
    "method": "M3DT-Gradient, by prompt",
    "num_parameters": 7,
    "weights": "",
    "score": 12.345,
    "ci95": [10.0, 14.0],
    "domains": {"metaworld": 12.345},
    "tasks": {"reach-v2": {}},
    "episodes": 10,
    "seed": 0,
}


def metadata_of(run):
    _, metadata, body = (run / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(metadata), body


def store_result(run, backbone, name="router:prompt", **changes):
    result = {**RESULT, "weights": backbone.hash, **changes}
    Evaluation.now(name, "k", result).write(run)


def test_a_card_is_written_with_every_model(tmp_path):
    registry = Registry(tmp_path / "run")
    backbone = save_backbone(registry)
    metadata, body = metadata_of(registry.run)
    assert metadata["library_name"] == "m3dt" and "license" not in metadata
    assert metadata["pipeline_tag"] == "reinforcement-learning" and "model-index" not in metadata
    assert "| backbone/main | 1 | 5 | data |" in body and 'm3dt.load("run")' in body
    for number in ("0", "1"):
        registry.save(entry("expert", number, [backbone]), expert_weights())
    assert "| 2 experts | 1 | 5 | backbone |" in metadata_of(registry.run)[1]
    check_run_folder(registry.run)
    other = Registry(tmp_path / "other")
    other.adopt(registry, backbone)
    assert "| backbone/main |" in metadata_of(other.run)[1]


def test_a_card_has_the_scores_in_the_hubs_layout(tmp_path):
    backbone = save_backbone(Registry(tmp_path))
    store_result(tmp_path, backbone)
    (tmp_path / "evaluation" / "damaged.json").write_text('{"result": {"score": 1}}')
    write_card(tmp_path)
    metadata, body = metadata_of(tmp_path)
    (model,) = metadata["model-index"]
    assert model["name"] == RESULT["method"]
    first, second = model["results"]
    assert first["task"]["type"] == "reinforcement-learning"
    assert (first["dataset"]["name"], second["dataset"]["name"]) == ("1 task", "metaworld")
    (metric,) = first["metrics"]
    assert (metric["type"], metric["value"]) == ("normalized_score", 12.3)
    assert "| M3DT-Gradient, by prompt | 12.3 [10.0, 14.0] | 1 | 10 | 0 |" in body
    store_result(tmp_path, backbone, num_parameters=0)  # a policy that nobody trained
    write_card(tmp_path)
    assert "model-index" not in metadata_of(tmp_path)[0]


def test_a_card_has_no_scores_of_weights_that_were_replaced(tmp_path):
    registry = Registry(tmp_path)
    old = save_backbone(registry)
    store_result(tmp_path, old, "backbone")
    store_result(tmp_path, old, "oracle", weights=[old.hash])
    write_card(tmp_path)
    assert len(metadata_of(tmp_path)[0]["model-index"]) == 2
    save_backbone(registry, seed=1)
    metadata, body = metadata_of(tmp_path)
    assert "model-index" not in metadata and "12.3" not in body


def test_a_card_says_which_tasks_need_a_module_of_ones_own(tmp_path):
    registry, known = Registry(tmp_path), entry("backbone", "main")
    for task, needs in (("reach-v2", False), ("gym:Pendulum-v1", False), ("moonwalk", True)):
        registry.save(replace(known, tasks=[task]), expert_weights())
        assert ("no simulator for `moonwalk`. To play it," in metadata_of(tmp_path)[1]) == needs


def test_a_card_tells_ways_to_act_apart(tmp_path):
    backbone = save_backbone(Registry(tmp_path))
    for name in ("backbone", "backbone@target-0.5"):
        store_result(tmp_path, backbone, name, method="Prompt-DT")
    write_card(tmp_path)
    names = [model["name"] for model in metadata_of(tmp_path)[0]["model-index"]]
    assert names == ["Prompt-DT", "Prompt-DT (@target-0.5)"]


def test_what_a_person_wrote_in_a_card_is_kept(tmp_path):
    registry = Registry(tmp_path)
    save_backbone(registry)
    card = tmp_path / "README.md"
    own = 'license: "other"\nlicense_name: my-license  # ours\nlicense_link: LICENSE\n'
    card.write_text(card.read_text().replace("---\n", f"---\n{own}", 1))
    for seed in (1, 2):
        save_backbone(registry, seed=seed)
        assert card.read_text().startswith(f"---\n{own}library_name: m3dt\n")
    card.write_text("My own.")
    save_backbone(registry, seed=3)
    assert card.read_text() == "My own."


def test_a_card_that_cannot_be_written_ends_nothing(tmp_path):
    (tmp_path / "README.md").mkdir()
    save_backbone(Registry(tmp_path))
    assert Registry(tmp_path).has("backbone", "main")
    store_result(tmp_path / "other", save_backbone(Registry(tmp_path / "other")), method="${")
    write_card(tmp_path / "other")  # text that the library of the metadata refuses


@pytest.mark.long
def test_a_downloaded_run_and_its_compact_copy_act(finished, data, tmp_path, capsys):
    """The hub keeps names and content of files; checkpoints and logs are left behind."""
    left = shutil.ignore_patterns("checkpoints", "logs")
    shutil.copytree(finished, tmp_path / "down", ignore=left)
    (tmp_path / "down" / ".cache").mkdir()
    agent = m3dt.load(tmp_path / "down")
    compact_copy(tmp_path / "down", tmp_path / "small")
    small = m3dt.load(tmp_path / "small")
    for a, b in zip(agent.model.parameters(), small.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    size, whole = (
        sum(f.stat().st_size for f in (tmp_path / name).rglob("weights.safetensors"))
        for name in ("small", "down")
    )
    assert size < 0.8 * whole
    assert metadata_of(tmp_path / "small")[0]["library_name"] == "m3dt"
    assert call("stage1", tmp_path / "small", data) == 2  # these weights are not what it makes
    assert "backbone/main was made with other settings: weights was" in capsys.readouterr().err


def test_shipped_agents_are_small_and_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped_agents() == ["mt40", "quickstart"]
    for name in shipped_agents():
        files = [f for f in (WEIGHTS_FOLDER / name).rglob("*") if f.is_file()]
        assert sum(f.stat().st_size for f in files) < 4e6
    with pytest.raises(UserError, match=r"^mt4: holds no trained .* ships: mt40 and quickstart\.$"):
        m3dt.load("mt4")
    (tmp_path / "mt40").mkdir()
    assert str(find_run("mt40")) == "mt40"  # one's own folder is preferred
    with pytest.raises(UserError, match=r"^runs/mt40: holds no trained model"):
        m3dt.load("runs/mt40")


@pytest.mark.long
@pytest.mark.parametrize("page", [WEIGHTS_FOLDER / "quickstart/README.md", SHARING])
def test_examples_run_as_scripts(page, tmp_path):
    """Worker processes import the script: without a guard, each would evaluate in turn."""
    code = re.search(r"```python\n(.*?)```", page.read_text(), re.S)[1]
    code = re.sub(r"(tasks=[^)]+)\)", r'\1, episodes=1)["score"]', code)
    (tmp_path / "act.py").write_text(code)
    command = [sys.executable, "act.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    assert 0 <= float(done.stdout.splitlines()[-1]) <= 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "^device=gpu: Expected one of cpu"),
        ({"device": "cuda:99"}, "^device=cuda:99: "),
        ({"device": []}, r"^device=\[\]: "),
        ({"kind": "expert", "name": 9}, "no expert/9 in its registry"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_message(options, message):
    with pytest.raises(UserError, match=message):
        m3dt.load("quickstart", **options)


@pytest.mark.parametrize("run", [None, 3])
def test_a_run_that_is_no_path_is_refused(run):
    with pytest.raises(UserError, match=f"^{run} is no path: give text or a pathlib.Path"):
        m3dt.load(run)


def test_numbers_of_experts_may_be_numbers():
    assert m3dt.load("quickstart", kind="expert", name=2).entry.name == "2"
    with pytest.raises(UserError, match="^'quickstart' is no agent"):
        m3dt.evaluate("quickstart", tasks="reach-v2")


def test_a_copy_replaces_nothing(tmp_path, monkeypatch):
    """Neither the run that it is made of, nor the models of another, which it would mix with."""
    run = Registry(tmp_path / "run")
    backbone = save_backbone(run)
    for file in ("config.yaml", "extension-1.yaml"):
        (run.run / file).write_text("suite: mt10\n")
    with pytest.raises(UserError, match=r"run: is not empty\."):
        compact_copy(run.run, run.run)
    assert run.get("backbone", "main").hash == backbone.hash
    monkeypatch.setenv("HOME", str(tmp_path))
    compact_copy(run.run, "~/small")
    assert Registry(tmp_path / "small").get("backbone", "main").settings["weights"] == "float16"
    assert (tmp_path / "small/extension-1.yaml").is_file()  # else it could not be extended again
    assert sorted(tmp_path.iterdir()) == [tmp_path / "run", tmp_path / "small"]


def test_what_cannot_be_copied_is_named(tmp_path):
    file, target = tmp_path / "file", tmp_path / "small"
    file.touch()
    for place in (file, file / "below"):
        with pytest.raises(UserError, match="file: is no folder. Name another"):
            compact_copy("quickstart", place)
    run = Registry(tmp_path / "run")
    run.run.mkdir()
    for missing in ("config.yaml", "trained model"):
        with pytest.raises(UserError, match=f"run: is no run to copy, as it has no {missing}"):
            compact_copy(run.run, target)
        (run.run / "config.yaml").write_text("suite: mt10\n")
    backbone = save_backbone(run)
    run.save(entry("expert", "0", [backbone]), expert_weights(7e4))
    with pytest.raises(UserError, match=r"expert/0/weights\S+: 0\.c_fc_bias holds 70000, .*65504"):
        compact_copy(run.run, target)


def test_shipped_agents_are_evaluated_by_name(tmp_path, monkeypatch, capsys):
    """Nothing is written into the package, where they are also listed."""
    monkeypatch.chdir(tmp_path)
    before = {p: p.read_bytes() for p in WEIGHTS_FOLDER.rglob("*") if p.is_file()}
    words = ["evaluate", "--run", "quickstart", "tasks=[ant-dir-6]", "evaluation.episodes=1"]
    for said in ("mean over tasks", "evaluated before"):
        assert main([*words, "--models", "nothing,nothing"]) == 0
        printed = capsys.readouterr().out
        assert said in printed and printed.count(" nothing ") == 1
    (scores,) = (tmp_path / "runs/shipped-quickstart/evaluation").glob("nothing.*.json")
    assert list(json.loads(scores.read_text())["result"]["tasks"]) == ["ant-dir-6"]
    assert main(["registry", "quickstart"]) == 0
    assert "router/prompt" in capsys.readouterr().out
    assert main(["extend", "--run", "quickstart", "--tasks", "walker-run"]) == 2
    assert 'compact_copy("quickstart", "runs/quickstart-copy")' in capsys.readouterr().err
    assert {p: p.read_bytes() for p in WEIGHTS_FOLDER.rglob("*") if p.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mt40", "quickstart"])
def test_shipped_agents_score_what_their_card_says(name, tmp_path, monkeypatch):
    """Three tasks of each, without any dataset; rounding may change single episodes."""
    monkeypatch.chdir(tmp_path)
    agent = m3dt.load(name)
    (stored,) = (WEIGHTS_FOLDER / name / "evaluation").glob("*.json")
    expected = json.loads(stored.read_text())["result"]
    assert f"{expected['score']:.1f}" in (WEIGHTS_FOLDER / name / "README.md").read_text()
    tasks = [t for t in agent.context.tasks if re.match(r"door-open|cheetah-vel|ant-dir", t)][:3]
    result = m3dt.evaluate(agent, tasks)
    for task in tasks:
        assert abs(result["tasks"][task]["score"] - expected["tasks"][task]["score"]) < 15
