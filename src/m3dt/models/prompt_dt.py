"""Prompt-DT: a Decision Transformer that is told its task by a prompt (paper section 3).

Letters: B batch, T timesteps, P prompt steps, L tokens, D embedding, S state, A action.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from m3dt.config import ModelConfig
from m3dt.config.schema import ACTION_DIM, STATE_DIM
from m3dt.data.batch import Segment
from m3dt.models.moe import Mixture
from m3dt.models.transformer import KeyValues, Transformer


class Prompt(NamedTuple):
    """A prompt after it went through the model: what later tokens attend to."""

    key_values: KeyValues
    valid: Tensor  # (B, 3P) of bool


class _Embedding(nn.Module):
    """Embeds a segment's three modalities, each plus its timestep, into a token sequence."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.timestep = nn.Embedding(config.max_timesteps, config.n_embd)  # N(0, 1)
        self.returns_to_go = nn.Linear(1, config.n_embd)
        self.state = nn.Linear(STATE_DIM, config.n_embd)
        self.action = nn.Linear(ACTION_DIM, config.n_embd)

    def forward(self, segment: Segment) -> Tensor:
        time = self.timestep(segment.timesteps)  # (B, T, D)
        tokens = torch.stack(
            (
                self.returns_to_go(segment.returns_to_go) + time,
                self.state(segment.states) + time,
                self.action(segment.actions) + time,
            ),
            dim=2,
        )  # (B, T, 3, D)
        return tokens.flatten(1, 2)  # (B, 3T, D): R_1, s_1, a_1, R_2, ...


class PromptDT(nn.Module):
    """The backbone of M3DT, alone or with a mixture of experts in every block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        D = config.n_embd
        self.embed = _Embedding(config)
        self.embed_ln = nn.LayerNorm(D)  # on the main sequence alone
        self.prompt_embed = _Embedding(config)
        self.transformer = Transformer(config)
        self.predict_action = nn.Linear(D, ACTION_DIM)
        # In the paper's parameter counts and checkpoints, but in no loss.
        self.predict_state = nn.Linear(D, STATE_DIM).requires_grad_(False)
        self.predict_return = nn.Linear(D, 1).requires_grad_(False)

    def encode_prompt(self, prompt: Segment) -> Prompt:
        """Run the prompt alone: causality lets no later token change it."""
        valid = _token_mask(prompt)
        _, key_values = self.transformer(self.prompt_embed(prompt), valid)
        return Prompt(key_values, valid)

    def forward(self, segment: Segment, prompt: Segment | None = None) -> Tensor:
        """Predict the action of every timestep, (B, T, A) in [-1, 1]."""
        states_only = slice(-3 * segment.states.shape[1] + 1, None, 3)
        return self._act(self._hidden(segment, prompt, states_only))

    def forward_from(self, segment: Segment, prompt: Prompt) -> Tensor:
        """Predict the action of the last timestep, (B, A), given an encoded prompt."""
        x = self.embed_ln(self.embed(segment))
        hidden, _ = self.transformer(
            x, _token_mask(segment), prompt.key_values, prompt.valid, read=slice(-2, -1)
        )
        return self._act(hidden)[:, 0]

    def predict(self, segment: Segment, prompt: Segment | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return action, state and return predictions: (B, T, A), (B, T, S), (B, T, 1)."""
        T = segment.states.shape[1]
        hidden = self._hidden(segment, prompt, slice(None))[:, -3 * T :]
        hidden = hidden.unflatten(1, (T, 3))  # (B, T, 3, D)
        after_action = hidden[:, :, 2]
        return (
            self._act(hidden[:, :, 1]),
            self.predict_state(after_action),
            self.predict_return(after_action),
        )

    def _act(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.predict_action(hidden))

    def _hidden(self, segment: Segment, prompt: Segment | None, read: slice) -> Tensor:
        """Run prompt and segment as one sequence; `read` counts from its end."""
        x = self.embed_ln(self.embed(segment))  # (B, 3T, D)
        valid = _token_mask(segment)
        if prompt is not None:
            x = torch.cat((self.prompt_embed(prompt), x), dim=1)  # (B, 3P + 3T, D)
            valid = torch.cat((_token_mask(prompt), valid), dim=1)
        return self.transformer(x, valid, read=read)[0]

    @property
    def mixtures(self) -> list[Mixture]:
        """The mixture of every block, in order; empty for a backbone without experts."""
        found = [block.mixture for block in self.transformer.h]
        return [mixture for mixture in found if isinstance(mixture, Mixture)]

    def add_mixtures(self, num_experts: int, routed: bool) -> None:
        """Put `num_experts` fresh experts, and a router if `routed`, beside every FFN."""
        for block in self.transformer.h:
            block.mixture = Mixture(self.config, num_experts, routed)

    def num_parameters(self) -> int:
        """Count every parameter, unused heads included, as the paper does (table 4)."""
        return sum(parameter.numel() for parameter in self.parameters())


def _token_mask(segment: Segment) -> Tensor:
    """Repeat the mask of timesteps for their three tokens: (B, T) -> (B, 3T) of bool."""
    return segment.attention_mask.bool().repeat_interleave(3, dim=1)
