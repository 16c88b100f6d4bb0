"""The models against recorded outputs of the authors' published classes (tests/data/README.md)."""

import numpy as np
import pytest
import torch
from golden import load_inputs, official_model, prompt_of, segment_of

from m3dt.config import ComputeConfig
from m3dt.data import Batch
from m3dt.models.plain import ACTION_TOKEN

MODELS = ("backbone", "expert0", "expert1", "expert2", "moe")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def inputs():
    return load_inputs("inputs.npz")


@pytest.fixture(scope="module")
def outputs():
    return load_inputs("outputs.npz")


@pytest.mark.parametrize("name", MODELS)
def test_predictions(name, inputs, outputs):
    model = official_model(name)
    real = inputs["attention_mask"].astype(bool)
    with torch.no_grad():
        hidden = model.hidden_states(segment_of(inputs), prompt_of(inputs))
        predictions = {
            "action": model(segment_of(inputs), prompt_of(inputs)),
            "state": model.predict_state(hidden[:, :, ACTION_TOKEN]),
            "return": model.predict_return(hidden[:, :, ACTION_TOKEN]),
            "noprompt_action": model(segment_of(inputs)),
        }
    for kind, prediction in predictions.items():
        expected = outputs[f"{name}/{kind}_preds"]
        np.testing.assert_allclose(prediction.numpy()[real], expected[real], **TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("share", ["on", "off"])
def test_shortcuts_read_the_same_actions(name, share, inputs, outputs):
    """They leave out what nobody reads, and encode each prompt once; the actions are unchanged."""
    from m3dt.models import fast

    segment, prompt = segment_of(inputs), prompt_of(inputs)
    rows = torch.arange(len(segment.states))
    nothing = torch.zeros(len(rows))
    batch = Batch(segment, prompt, rows, nothing, nothing, rows, rows)
    real = inputs["attention_mask"].astype(bool)
    with torch.no_grad():
        actions = fast.predict(official_model(name), batch, ComputeConfig(share_prompts=share))
    expected = outputs[f"{name}/action_preds"]
    np.testing.assert_allclose(actions.numpy()[real], expected[real], **TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states(name, inputs, outputs):
    model = official_model(name)
    hidden = []
    for block in model.transformer.h:
        block.register_forward_hook(lambda module, args, result: hidden.append(result))
    embedded = []
    model.transformer.register_forward_pre_hook(lambda module, args: embedded.append(args[0]))
    with torch.no_grad():
        model(segment_of(inputs), prompt_of(inputs))
    masks = (inputs["prompt_attention_mask"], inputs["attention_mask"])
    real = np.repeat(np.concatenate(masks, axis=1), 3, axis=1).astype(bool)
    if name == "backbone":
        np.testing.assert_allclose(
            embedded[0].numpy()[real], outputs["backbone/embeds_in"][real], **TOLERANCE
        )
    for i, h in enumerate(hidden):
        np.testing.assert_allclose(
            h.numpy()[real], outputs[f"{name}/block{i}_out"][real], **TOLERANCE
        )


def test_gate_weights(inputs, outputs):
    model = official_model("moe")
    seen = []
    for mixture in model.mixtures:
        mixture.router.register_forward_hook(lambda module, args, result: seen.append(result))
    with torch.no_grad():
        model(segment_of(inputs), prompt_of(inputs))
    masks = (inputs["prompt_attention_mask"], inputs["attention_mask"])
    real = np.repeat(np.concatenate(masks, axis=1), 3, axis=1).astype(bool)
    for i, gate_weights in enumerate(seen):
        np.testing.assert_allclose(
            gate_weights.numpy()[real], outputs[f"moe/router{i}"][real], **TOLERANCE
        )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", ["plain", "encoded prompt", "no prompt"])
def test_live_history(name, form, inputs, outputs):
    """The last action of a growing history."""
    model, prompt = official_model(name), prompt_of(inputs, "prompt1_")
    key = f"{name}/get_action" + ("_noprompt" if form == "no prompt" else "")
    for expected, length in zip(outputs[key], inputs["ga_lengths"], strict=True):
        history = {k: inputs[f"ga_{k}"][:length] for k in ("states", "actions", "rtg", "timesteps")}
        history["actions"] = history["actions"].copy()
        history["actions"][-1] = 0
        window = {k: v[-20:][None] for k, v in history.items()}
        window["attention_mask"] = np.ones(window["timesteps"].shape, np.float32)
        segment = segment_of(window)
        with torch.no_grad():
            if form == "encoded prompt":
                from m3dt.models import fast

                encoded = fast.encode_prompt(model, prompt, None, ComputeConfig())
                action = fast.act(model, segment, encoded, ComputeConfig())[0]
            else:
                action = model(segment, prompt if form == "plain" else None)[0, -1]
        np.testing.assert_allclose(action.numpy(), expected, **TOLERANCE)


def test_long_prompt_keeps_rows_apart(inputs):
    """A prompt as long as the segment is each row's own, which the published code got wrong."""
    model = official_model("backbone")
    prompt = prompt_of(inputs, "prompt20_")
    segment = segment_of(inputs)
    with torch.no_grad():
        together = model(segment, prompt)
        alone = torch.cat(
            [
                model(
                    type(segment)(*(t[i : i + 1] for t in segment)),
                    type(prompt)(*(t[i : i + 1] for t in prompt)),
                )
                for i in range(4)
            ]
        )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
