"""The authors' checkpoints: import, predictions, export, refusal."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import load_inputs, part, prompt_of, segment_of
from quick_run import QUICK

import m3dt
from m3dt.checkpoints.official_names import (
    backbone_to_official,
    causal_buffers,
    expert_to_official,
    router_to_official,
)
from m3dt.cli import main
from m3dt.config import EvaluationConfig, ModelConfig
from m3dt.evaluation import AgentPolicy
from m3dt.models import PromptDT, add_mixtures
from m3dt.runs.registry import Registry

OUTPUTS = {
    (None, None): "moe",
    ("backbone", None): "backbone",
    **{("expert", str(k)): f"expert{k}" for k in range(3)},
}


def official_files(folder):
    """Write the recorded weights as the authors' own functions do."""
    folder.mkdir(parents=True, exist_ok=True)
    backbone = {**part("backbone/"), **causal_buffers(2)}
    torch.save(backbone, folder / "prompt_model_mt160_iter_400000_seed0")
    experts = [{f"block_{i}": part(f"expert_{k}/block_{i}/") for i in range(2)} for k in range(3)]
    for k, expert in enumerate(experts):
        torch.save(expert, folder / f"expert_{k}_iter_200000")
    moe = {}
    for i in range(2):
        routers = {n: t for n, t in part(f"moe/block_{i}/").items() if n.startswith("router.")}
        bodies = {
            f"experts.{k}.{n}": t for k in range(3) for n, t in experts[k][f"block_{i}"].items()
        }
        moe[f"block_{i}"] = {**routers, **bodies}
    torch.save(moe, folder / "moe__iter_400000")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return official_files(tmp_path_factory.mktemp("official"))


def command(files, run, experts=True, moe=True):
    words = ["import-checkpoint", "--run", str(run), "model.n_head=2", "model.prompt_length=5"]
    words += ["--backbone", str(files / "prompt_model_mt160_iter_400000_seed0")]
    if experts:
        words += ["--experts", *(str(files / f"expert_{k}_iter_200000") for k in range(3))]
    if moe:
        words += ["--moe", str(files / "moe__iter_400000")]
    return words


@pytest.fixture(scope="module")
def imported(files, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "run"
    assert main(command(files, run)) == 0
    return run


@pytest.mark.parametrize("chosen", OUTPUTS)
def test_imported_models_equal_the_recording(imported, chosen):
    agent = m3dt.load(imported, *chosen)
    inputs, outputs = load_inputs("inputs.npz"), load_inputs("outputs.npz")
    predictions = agent.predict(segment_of(inputs), prompt_of(inputs)).numpy()
    real = inputs["attention_mask"].astype(bool)
    expected = outputs[f"{OUTPUTS[chosen]}/action_preds"]
    np.testing.assert_allclose(predictions[real], expected[real], rtol=1e-5, atol=1e-5)


def test_experts_may_come_out_of_the_moe_file(files, imported, tmp_path):
    run = tmp_path / "run"
    assert main([*command(files, run, experts=False), "model.dropout=0.2"]) == 0
    for entry in Registry(imported).entries():
        assert Registry(run).get(entry.kind, entry.name).hash == entry.hash


def test_experts_that_trained_on_with_the_router(files, tmp_path):
    """If the experts in the moe file differ from the expert files, each model has its own."""
    changed = official_files(tmp_path / "changed")
    moe = torch.load(changed / "moe__iter_400000")
    moe["block_1"]["experts.2.c_fc.bias"] += 1
    torch.save(moe, changed / "moe__iter_400000")
    assert main(command(changed, tmp_path / "run")) == 0
    whole = m3dt.load(tmp_path / "run").model.mixtures[1].experts.c_fc_bias
    alone = m3dt.load(tmp_path / "run", "expert", "2").model.mixtures[1].experts.c_fc_bias
    torch.testing.assert_close(whole[2], alone[0] + 1)


def test_export_gives_back_the_files(files, imported, tmp_path):
    assert main(["export-checkpoint", "--target", str(tmp_path), "--run", str(imported)]) == 0
    written = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert {path.name for path in written} == {path.name for path in files.iterdir()}
    for path in written:
        original = files / path.name
        ours, theirs = torch.load(path), torch.load(original)
        if "block_0" not in theirs:
            ours, theirs = {"all": ours}, {"all": theirs}
        assert set(ours) == set(theirs)
        for block, tensors in theirs.items():
            assert set(ours[block]) == set(tensors)
            for name, tensor in tensors.items():
                assert torch.equal(ours[block][name], tensor), name
    again = tmp_path / "again"
    assert main(command(Flat(written), again)) == 0
    assert (
        Registry(again).get("router", "main").hash == Registry(imported).get("router", "main").hash
    )


class Flat:
    """Finds exported files by their names in any folder."""

    def __init__(self, paths):
        self.paths = {path.name: path for path in paths}

    def __truediv__(self, name):
        return self.paths[name]


def test_an_agent_without_data_says_so(imported, capsys):
    assert main(["evaluate", f"run={imported}", "evaluation.episodes=1", "tasks=[reach-v2]"]) == 2
    assert "imported without a dataset" in capsys.readouterr().err


def test_models_that_see_no_returns_are_not_exported(data, tmp_path, capsys):
    run, cloning = f"run={tmp_path / 'run'}", "model.condition_on_return=false"
    settings = [*QUICK, f"data={data}", run, cloning, "callbacks.conflict=null"]
    assert main(["stage1", *settings, "stage1.max_steps=2"]) == 0
    target = ["--target", str(tmp_path / "out"), "--run", str(tmp_path / "run")]
    assert main(["export-checkpoint", *target]) == 2
    assert "model.condition_on_return=true" in capsys.readouterr().err


def test_models_of_the_papers_residual_are_not_exported(finished, tmp_path, capsys):
    assert (
        main(["export-checkpoint", "--target", str(tmp_path / "out"), "--run", str(finished)]) == 2
    )
    assert "model.residual=paper" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def drop(name):
    return lambda state: state.pop(name)


def put(name, value):
    return lambda state: state.update({name: value(state) if callable(value) else value})


BIAS = "transformer.h.1.ln_1.bias"
MATRIX = "transformer.h.1.attn.c_attn.weight"
DAMAGE = {
    "lacks": (drop(BIAS), f"lacks {BIAS}"),
    "unknown": (put("extra.weight", torch.zeros(3)), "extra.weight has no place"),
    "shape": (put(BIAS, torch.zeros(31)), "has shape (31,), not (32,)"),
    "nan": (put(BIAS, torch.full((32,), torch.nan)), "finite"),
    "number": (put(BIAS, 3.0), "is a float, not named tensors"),
    "number as a matrix": (put(MATRIX, 3.0), "is a float"),
    "vector as a matrix": (put(MATRIX, torch.zeros(3)), "has shape (3,)"),
    "sparse": (put(BIAS, torch.zeros(32).to_sparse()), "not a dense tensor"),
    "expanded": (put(BIAS, torch.zeros(1).expand(32)), "claims more numbers"),
    "dims": (put("embed_state.weight", torch.zeros(32, 17)), "states and actions of (17, 8)"),
    "not a backbone": (drop("embed_timestep.weight"), "not a backbone"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_backbones_are_refused(tmp_path, capsys, damage):
    change, message = DAMAGE[damage]
    files = official_files(tmp_path / "files")
    path = files / "prompt_model_mt160_iter_400000_seed0"
    state = torch.load(path)
    change(state)
    torch.save(state, path)
    refused(files, tmp_path / "run", message, capsys)


def refused(files, run, message, capsys):
    assert main(command(files, run)) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("m3dt: ") and error.count("\n") == 1
    assert not (run / "registry").exists()


@pytest.mark.parametrize(
    "name", ["prompt_model_mt160_iter_400000_seed0", "expert_1_iter_200000", "moe__iter_400000"]
)
def test_malicious_and_truncated_files_are_refused(tmp_path, capsys, name):
    files = official_files(tmp_path / "files")
    content = (files / name).read_bytes()
    (files / name).write_bytes(content[: len(content) // 2])
    refused(files, tmp_path / "run", f"{name}: not a checkpoint", capsys)
    mark = tmp_path / "executed"
    torch.save({"block_0": Evil(mark), "embed_timestep.weight": Evil(mark)}, files / name)
    refused(files, tmp_path / "run", f"{name}: not a checkpoint", capsys)
    assert not mark.exists()
    (files / name).unlink()
    refused(files, tmp_path / "run", f"{name}: no such file", capsys)


def test_shared_storage_is_no_harm(imported, tmp_path):
    files = official_files(tmp_path / "files")
    path = files / "prompt_model_mt160_iter_400000_seed0"
    state = torch.load(path)
    both = torch.stack((state[BIAS], state[BIAS.replace("h.1", "h.0")]))
    state[BIAS], state[BIAS.replace("h.1", "h.0")] = both[0], both[1]
    torch.save(state, path)
    assert main(command(files, tmp_path / "run")) == 0
    same = Registry(imported).get("backbone", "main").hash
    assert Registry(tmp_path / "run").get("backbone", "main").hash == same


@pytest.mark.parametrize("name", ["expert_1_iter_200000", "moe__iter_400000"])
@pytest.mark.parametrize("block", [torch.zeros(3), [torch.zeros(3)], {"a": {"b": 1}}])
def test_blocks_of_another_form_are_refused(tmp_path, capsys, name, block):
    files = official_files(tmp_path / "files")
    torch.save(torch.load(files / name) | {"block_1": block}, files / name)
    refused(files, tmp_path / "run", name, capsys)


def test_unknown_parts_of_a_moe_file_are_refused(tmp_path, capsys):
    for name in ("router.w_noise.weight", "experts.3.c_fc.bias", "experts.0.gate"):
        files = official_files(tmp_path / "files")
        moe = torch.load(files / "moe__iter_400000")
        moe["block_1"][name] = torch.zeros(3)
        torch.save(moe, files / "moe__iter_400000")
        refused(files, tmp_path / "run", "moe__iter_400000", capsys)


def test_experts_are_numbered_by_their_names(files, imported, tmp_path, capsys):
    """Shells sort expert_10 before expert_2."""
    words = command(files, tmp_path / "run")
    first = next(i for i, w in enumerate(words) if "expert_0_" in w)
    words[first : first + 3] = [words[first + k] for k in (2, 0, 1)]
    assert main(words) == 0
    for k in range(3):
        hashes = {Registry(run).get("expert", str(k)).hash for run in (imported, tmp_path / "run")}
        assert len(hashes) == 1
    words[first] = words[first + 1]
    assert main([w if w != str(tmp_path / "run") else str(tmp_path / "b") for w in words]) == 2
    assert "must be numbered 0 to 2" in capsys.readouterr().err


def test_an_imported_model_remembers_as_theirs_did(imported):
    assert m3dt.load(imported).history == "all_dims"
    assert AgentPolicy(m3dt.load(imported)).history == "all_dims"
    rules = EvaluationConfig(history="real_dims")
    assert AgentPolicy(m3dt.load(imported), rules).history == "real_dims"


def test_an_oracle_needs_to_know_the_groups(imported, capsys):
    config = str(imported / "config.yaml")
    assert main(["evaluate", "--conf", config, "--models", "oracle"]) == 2
    assert "belongs to several experts" in capsys.readouterr().err


def test_parts_of_different_models_are_refused(tmp_path, capsys):
    files = official_files(tmp_path / "files")
    expert = torch.load(files / "expert_1_iter_200000")
    torch.save({"block_0": expert["block_0"]}, files / "expert_1_iter_200000")
    refused(files, tmp_path / "run", "block_0 to block_1", capsys)
    files = official_files(tmp_path / "files")
    words = [w for w in command(files, tmp_path / "run") if not w.endswith("expert_2_iter_200000")]
    assert main(words) == 2
    assert "holds 3 experts, but the command names 2 expert files" in capsys.readouterr().err


def test_a_run_with_models_is_left_alone(files, imported, capsys):
    before = Registry(imported).get("backbone", "main")
    assert main(command(files, imported)) == 2
    assert "holds models already" in capsys.readouterr().err
    assert Registry(imported).get("backbone", "main") == before


def test_other_shapes_are_read_from_the_tensors(tmp_path):
    """Another width, depth and number of experts."""
    torch.manual_seed(0)
    config = ModelConfig(n_layer=3, n_head=3, n_embd=24, dropout=0.0, residual="official")
    model = PromptDT(config)
    add_mixtures(model, 5, routed=True)
    backbone = {n: t for n, t in model.state_dict().items() if ".mixture." not in n}
    blocks = {}
    for i, mixture in enumerate(model.mixtures):
        own = router_to_official(mixture.router.state_dict())
        blocks[f"block_{i}"] = {f"router.{n}": t for n, t in own.items()}
        for j in range(5):
            body = expert_to_official(mixture.experts.weights_of(j))
            blocks[f"block_{i}"] |= {f"experts.{j}.{n}": t for n, t in body.items()}
    torch.save({**backbone_to_official(backbone), **causal_buffers(3)}, tmp_path / "backbone")
    torch.save(blocks, tmp_path / "moe")
    words = ["--run", str(tmp_path / "run"), "--backbone", str(tmp_path / "backbone")]
    words += ["--moe", str(tmp_path / "moe"), "model.n_head=3"]
    assert main(["import-checkpoint", *words]) == 0
    agent = m3dt.load(tmp_path / "run")
    inputs = load_inputs("inputs.npz")
    arguments = segment_of(inputs), prompt_of(inputs)
    with torch.no_grad():
        expected = model.eval()(*arguments)
    assert torch.equal(agent.predict(*arguments), expected)


def test_no_training_continues_imported_models(imported, capsys):
    """The message is short, and what it names evaluates them."""
    assert main(["train", "--conf", str(imported / "config.yaml")]) == 2
    message = capsys.readouterr().err
    assert "backbone/main was imported, and no training continues it" in message
    assert f"`m3dt evaluate --run {imported}`" in message and "{" not in message


@pytest.mark.long
def test_imported_models_are_not_extended_but_act_by_prompts(imported, tmp_path, capsys):
    """By the command of the message."""
    task, data = "gym:Pendulum-v1", f"data={tmp_path / 'data'}"
    new = [f"tasks=[{task}]", data, "collect.trajectories=4", "collect.workers=1"]
    assert main(["collect", *new]) == 0
    run = shutil.copytree(imported, tmp_path / "run")
    assert main(["extend", "--run", str(run), "--tasks", task, data]) == 2
    message = capsys.readouterr().err
    assert "cannot be extended" in message and "stage3" not in message
    (command,) = re.findall("`m3dt (evaluate .*)`", message)
    few = ["evaluation.episodes=1", "evaluation.workers=1", "--models", "router"]
    assert main([*shlex.split(command), *few]) == 0
