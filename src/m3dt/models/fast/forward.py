"""Predict actions with shortcuts: shared prompts, cached prompts, no token that nobody reads.

Letters: B batch, T timesteps, P prompt steps, L tokens, R tokens that are read out, D embedding
width, A action.
"""

import torch
from torch import Tensor

from m3dt.config import ComputeConfig
from m3dt.data.batch import Batch, Segment
from m3dt.models.fast.prompts import EncodedPrompt, KeyValues
from m3dt.models.fast.transformer import ALL, run_transformer
from m3dt.models.fast.trunk_mixture import run_big_experts
from m3dt.models.plain import STATE_TOKEN, TOKENS_PER_STEP, PromptDT, token_mask
from m3dt.models.routing import Selection, mean_gates, watched_gates
from m3dt.models.variants.big_experts import TrunkMixture
from m3dt.models.variants.mtdt import MTDT

# Positions in a sequence of tokens: actions are read at state tokens.
STATE_TOKENS = slice(STATE_TOKEN, None, TOKENS_PER_STEP)
LAST_STATE_TOKEN = slice(STATE_TOKEN - TOKENS_PER_STEP, STATE_TOKEN - TOKENS_PER_STEP + 1)
NO_TOKENS = slice(0, 0)


def predict(model: PromptDT, batch: Batch, compute: ComputeConfig) -> Tensor:
    """Predict the action of every timestep of a batch, (B, T, A)."""
    if isinstance(model, MTDT):
        x = model.embed_segment(batch.segment, batch.task_index)
        hidden, _ = _run(model, x, token_mask(batch.segment), compute, STATE_TOKENS)
        return _actions(model, hidden)
    if _shares_prompts(model, batch, compute):
        shared = encode_prompt(model, batch.prompt, None, compute).take(batch.prompt_rows)
        return _after(model, batch.segment, shared, compute, STATE_TOKENS)
    prompt = batch.row_prompts()
    x = model.embed_segment(batch.segment, batch.task_index)
    x = torch.cat((model.prompt_embed(prompt), x), dim=1)  # (B, L, D)
    valid = torch.cat((token_mask(prompt), token_mask(batch.segment)), dim=1)
    first = STATE_TOKEN - TOKENS_PER_STEP * batch.segment.states.shape[1]
    segment_states = slice(first, None, TOKENS_PER_STEP)
    hidden, _ = _run(model, x, valid, compute, segment_states)
    return _actions(model, hidden)


def encode_prompt(
    model: PromptDT,
    prompt: Segment,
    task_index: Tensor | None,
    compute: ComputeConfig,
    selection: Selection | None = None,
) -> EncodedPrompt:
    """Run a prompt alone: no later token can change it, because attention is causal.

    Args:
        model: The model.
        prompt: (B, P, ...).
        task_index: Position of each row's task, (B,), for models that read it.
        compute: How results are computed.
        selection: The experts of each row, in place of a router. They also serve the tokens after
            the prompt.
    """
    if isinstance(model, MTDT):
        return EncodedPrompt(None, None, task_index)
    valid = token_mask(prompt)
    # The last block's keys and values are enough, so no hidden state is read.
    x = model.prompt_embed(prompt)
    _, key_values = _run(model, x, valid, compute, NO_TOKENS, selection=selection)
    return EncodedPrompt(key_values, valid, task_index, selection)


def prompt_gates(model: PromptDT, prompt: Segment, compute: ComputeConfig) -> Tensor:
    """Average the gates of a model's routers over the real tokens of prompts, (B, M, E)."""
    with watched_gates(model) as gates:
        _run(model, model.prompt_embed(prompt), token_mask(prompt), compute)
    return mean_gates(gates, prompt)


def act(model: PromptDT, segment: Segment, prompt: EncodedPrompt, compute: ComputeConfig) -> Tensor:
    """Predict the action of the last timestep after an encoded prompt, (B, A)."""
    return _after(model, segment, prompt, compute, LAST_STATE_TOKEN)[:, 0]


def _shares_prompts(model: PromptDT, batch: Batch, compute: ComputeConfig) -> bool:
    """Tell whether to encode each distinct prompt once, for all rows that have it."""
    if model.big_experts is not None:  # in stage 2, each runs its own part of whole sequences
        return False
    pays = 2 * len(batch.prompt.states) <= len(batch.prompt_rows)
    return compute.share_prompts == "on" or (compute.share_prompts == "auto" and pays)


def _after(
    model: PromptDT, segment: Segment, prompt: EncodedPrompt, compute: ComputeConfig, read: slice
) -> Tensor:
    """Predict actions of a segment after an encoded prompt; `read` counts the segment's tokens."""
    x, valid = model.embed_segment(segment, prompt.task_index), token_mask(segment)
    cache, cache_valid = prompt.key_values, prompt.valid
    hidden, _ = _run(model, x, valid, compute, read, cache, cache_valid, prompt.selection)
    return _actions(model, hidden)


def _actions(model: PromptDT, hidden: Tensor) -> Tensor:
    return torch.tanh(model.predict_action(hidden))


def _run(
    model: PromptDT,
    x: Tensor,
    valid: Tensor,
    compute: ComputeConfig,
    read: slice = ALL,
    cache: KeyValues | None = None,
    cache_valid: Tensor | None = None,
    selection: Selection | None = None,
) -> tuple[Tensor, KeyValues]:
    """Run the transformer, and big experts if there are any: as `run_transformer`."""
    n_layer, big = model.config.n_layer, model.big_experts
    own = None if cache is None else cache[:n_layer]
    hidden, key_values = run_transformer(
        model.transformer, x, valid, compute, own, cache_valid, read, selection
    )
    if big is None:
        return hidden, key_values
    assert isinstance(big, TrunkMixture)
    theirs = None if cache is None else cache[n_layer:]
    more, others = run_big_experts(
        big, hidden, x, valid, compute, theirs, cache_valid, read, selection
    )
    return hidden + more, key_values + others
