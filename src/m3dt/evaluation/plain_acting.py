"""Act with a model's own forward pass, as `m3dt.models.fast` acts with shortcuts.

Models of the user's classes act this way: the whole prompt runs again at every action.

Letters: B batch, T timesteps, P prompt steps, A action, M mixtures of the model, E experts.
"""

from torch import Tensor

from m3dt.config import ComputeConfig
from m3dt.data.batch import Segment
from m3dt.models import PromptDT
from m3dt.models.fast import EncodedPrompt
from m3dt.models.plain import causal_mask, token_mask
from m3dt.models.routing import (
    GivenGates,
    Selection,
    dense_gates,
    mean_gates,
    watched_gates,
    with_routers,
)


def encode_prompt(
    model: PromptDT,
    prompt: Segment,
    task_index: Tensor | None,
    compute: ComputeConfig,
    selection: Selection | None = None,
) -> EncodedPrompt:
    """Keep a prompt, (B, P, ...), with the position of each row's task, (B,), and its experts."""
    return EncodedPrompt(None, None, task_index, selection, prompt)


def act(model: PromptDT, segment: Segment, prompt: EncodedPrompt, compute: ComputeConfig) -> Tensor:
    """Predict the action of the last timestep of segments, (B, T, ...) -> (B, A)."""
    if prompt.selection is not None:
        chosen = map(prompt.selection.of, range(len(model.mixtures)))
        routers = [
            GivenGates(weights if numbers is None else dense_gates(numbers, weights, m.num_experts))
            for m, (numbers, weights) in zip(model.mixtures, chosen, strict=True)
        ]
        model = with_routers(model, routers)
    return model(segment, prompt.steps, prompt.task_index)[:, -1]


def prompt_gates(model: PromptDT, prompt: Segment, compute: ComputeConfig) -> Tensor:
    """Average the gates of a model's routers over the real tokens of prompts, (B, M, E)."""
    x, allowed = model.prompt_embed(prompt), causal_mask(token_mask(prompt))
    with watched_gates(model) as gates:
        hidden = model.transformer(x, allowed)
        if model.big_experts is not None:
            model.big_experts(hidden, x, allowed)
    return mean_gates(gates, prompt)
