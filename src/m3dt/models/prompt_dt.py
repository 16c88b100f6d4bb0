"""Prompt-DT: a Decision Transformer that is told its task by a prompt (paper section 3).

MTDT, which knows its tasks by a learned vector each, is the same model with another input.

Letters: B batch, T timesteps, P prompt steps, L tokens, D embedding, S state, A action, N tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from m3dt.config import ComputeConfig, ModelConfig, MoEConfig
from m3dt.config.schema import ACTION_DIM, STATE_DIM
from m3dt.data.batch import Segment
from m3dt.models.big_experts import TrunkMixture
from m3dt.models.moe import Mixture
from m3dt.models.transformer import KeyValues, Transformer


class Prompt(NamedTuple):
    """What tells the model its task: an encoded prompt that later tokens attend to, or a number."""

    key_values: KeyValues | None
    valid: Tensor | None  # (B, 3P) of bool
    task_index: Tensor | None = None  # (B,)

    def take(self, rows: Tensor) -> Prompt:
        """Return the prompts of the given rows."""
        return Prompt(
            self.key_values and [(k[rows], v[rows]) for k, v in self.key_values],
            None if self.valid is None else self.valid[rows],
            None if self.task_index is None else self.task_index[rows],
        )

    @classmethod
    def join(cls, prompts: Sequence[Prompt]) -> Prompt:
        """Return the rows of several prompts, in their order."""
        if len(prompts) == 1:
            return prompts[0]

        layers = zip(*(prompt.key_values or () for prompt in prompts), strict=True)
        key_values = [
            (torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers
        ]
        valid = [prompt.valid for prompt in prompts if prompt.valid is not None]
        numbers = [prompt.task_index for prompt in prompts if prompt.task_index is not None]
        return cls(
            key_values or None,
            torch.cat(valid) if valid else None,
            torch.cat(numbers) if numbers else None,
        )


class _Embedding(nn.Module):
    """Embeds a segment's three modalities, each plus its timestep, into a token sequence."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.timestep = nn.Embedding(config.max_timesteps, config.n_embd)  # N(0, 1)
        self.timestep.weight.data *= config.timestep_std
        self.returns_to_go = nn.Linear(1, config.n_embd)
        self.state = nn.Linear(STATE_DIM + config.task_embedding, config.n_embd)
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
    """The backbone of M3DT, alone or with a mixture of experts.

    Args:
        config: Sizes, dropout and variant.
        num_tasks: Tasks to be told apart by a learned vector; needed with `task_embedding` alone.
    """

    def __init__(self, config: ModelConfig, num_tasks: int = 0) -> None:
        super().__init__()
        self.config = config
        self.compute = ComputeConfig()
        D = config.n_embd
        self.embed = _Embedding(config)
        self.embed_ln = nn.LayerNorm(D)  # on the main sequence alone
        if config.task_embedding:
            self.task_embed = nn.Embedding(num_tasks, config.task_embedding)
        else:
            self.prompt_embed = _Embedding(config)
        self.transformer = Transformer(config)
        self.big_experts: TrunkMixture | None = None
        self.predict_action = nn.Linear(D, ACTION_DIM)
        # In the paper's parameter counts and checkpoints, but in no loss.
        self.predict_state = nn.Linear(D, STATE_DIM).requires_grad_(False)
        self.predict_return = nn.Linear(D, 1).requires_grad_(False)

    def encode_prompt(self, prompt: Segment | None, task_index: Tensor | None = None) -> Prompt:
        """Run the prompt alone: causality lets no later token change it."""
        if self.config.task_embedding or prompt is None:
            return Prompt(None, None, task_index)
        valid = _token_mask(prompt)
        nothing = slice(0, 0)  # the last block's keys and values are enough
        _, key_values = self._trunk(self.prompt_embed(prompt), valid, read=nothing)
        return Prompt(key_values, valid, task_index)

    def forward(
        self,
        segment: Segment,
        prompt: Segment | None = None,
        task_index: Tensor | None = None,
        prompt_rows: Tensor | None = None,
    ) -> Tensor:
        """Predict the action of every timestep.

        Args:
            segment: The trajectories so far, (B, T, ...).
            prompt: A prompt for each row, (B, P, ...), or Q distinct ones with `prompt_rows`.
            task_index: Position of each row's task, (B,), for `task_embedding`.
            prompt_rows: Which of the Q prompts each row has, (B,).

        Returns:
            Actions in [-1, 1], (B, T, A).
        """
        T = segment.states.shape[1]
        if prompt is not None and prompt_rows is not None:
            if self._shares(prompt, prompt_rows):
                shared = self.encode_prompt(prompt).take(prompt_rows)
                shared = shared._replace(task_index=task_index)
                return self._act(self._after(segment, shared, slice(1, None, 3)))
            prompt = prompt.take(prompt_rows)
        return self._act(self._hidden(segment, prompt, task_index, slice(-3 * T + 1, None, 3)))

    def forward_from(self, segment: Segment, prompt: Prompt) -> Tensor:
        """Predict the action of the last timestep, (B, A), given an encoded prompt."""
        return self._act(self._after(segment, prompt, read=slice(-2, -1)))[:, 0]

    def _shares(self, prompt: Segment, prompt_rows: Tensor) -> bool:
        if self.big_experts is not None:  # in stage 2 each runs its own part of whole sequences
            return False
        wanted, seldom = self.compute.share_prompts, 2 * len(prompt.states) <= len(prompt_rows)
        return wanted == "on" or (wanted == "auto" and seldom)

    def _after(self, segment: Segment, prompt: Prompt, read: slice) -> Tensor:
        """Run a segment behind an encoded prompt; `read` counts in the segment's tokens."""
        x = self._embed(segment, prompt.task_index)
        return self._trunk(x, _token_mask(segment), prompt.key_values, prompt.valid, read)[0]

    def predict(self, segment: Segment, prompt: Segment | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return action, state and return predictions: (B, T, A), (B, T, S), (B, T, 1)."""
        T = segment.states.shape[1]
        hidden = self._hidden(segment, prompt, None, slice(None))[:, -3 * T :]
        hidden = hidden.unflatten(1, (T, 3))  # (B, T, 3, D)
        after_action = hidden[:, :, 2]
        return (
            self._act(hidden[:, :, 1]),
            self.predict_state(after_action),
            self.predict_return(after_action),
        )

    def _act(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.predict_action(hidden))

    def _embed(self, segment: Segment, task_index: Tensor | None) -> Tensor:
        """Embed the main sequence, (B, 3T, D)."""
        if self.config.task_embedding:
            assert task_index is not None, "this model is told its task by a number"
            vector = self.task_embed(task_index)[:, None].expand(-1, segment.states.shape[1], -1)
            segment = segment._replace(states=torch.cat((segment.states, vector), dim=2))
        return self.embed_ln(self.embed(segment))

    def _hidden(
        self, segment: Segment, prompt: Segment | None, task_index: Tensor | None, read: slice
    ) -> Tensor:
        """Run prompt and segment as one sequence; `read` counts from its end."""
        x = self._embed(segment, task_index)
        valid = _token_mask(segment)
        if prompt is not None and not self.config.task_embedding:
            x = torch.cat((self.prompt_embed(prompt), x), dim=1)  # (B, 3P + 3T, D)
            valid = torch.cat((_token_mask(prompt), valid), dim=1)
        return self._trunk(x, valid, read=read)[0]

    def _trunk(
        self,
        x: Tensor,
        valid: Tensor,
        cache: KeyValues | None = None,
        cache_valid: Tensor | None = None,
        read: slice = slice(None),
    ) -> tuple[Tensor, KeyValues]:
        """Run the transformer, and big experts beside it: as `Transformer.forward`."""
        own = None if cache is None else cache[: self.config.n_layer]
        hidden, key_values = self.transformer(x, valid, own, cache_valid, read)
        if self.big_experts is None:
            return hidden, key_values
        theirs = None if cache is None else cache[self.config.n_layer :]
        more, more_key_values = self.big_experts(hidden, x, valid, theirs, cache_valid, read)
        return hidden + more, key_values + more_key_values

    def unused_modules(self) -> list[nn.Module]:
        """Return what no loss reaches."""
        return [self.transformer.wte, self.predict_state, self.predict_return]

    @property
    def mixtures(self) -> list[Mixture | TrunkMixture]:
        """The mixtures, in order: one a block, or one of big experts; none for a backbone."""
        found = [*(block.mixture for block in self.transformer.h), self.big_experts]
        return [mixture for mixture in found if isinstance(mixture, Mixture | TrunkMixture)]

    def add_mixtures(self, num_experts: int, routed: bool, moe: MoEConfig | None = None) -> None:
        """Add `num_experts` fresh experts, and routers if `routed`.

        Args:
            num_experts: How many of them, E.
            routed: Whether routers weigh them, or batches come in E parts, one an expert.
            moe: Kind of experts and routing.
        """
        moe = moe or MoEConfig(num_experts)
        if moe.expert == "trunk":
            self.big_experts = TrunkMixture(self.config, num_experts, routed, moe.top_k)
        else:
            for block in self.transformer.h:
                block.mixture = Mixture(self.config, num_experts, routed, moe.top_k)
        self.use(self.compute)

    def use(self, compute: ComputeConfig) -> None:
        """Choose how results are computed."""
        self.compute = compute
        for mixture in self.mixtures:
            mixture.experts.compute = compute

    def num_parameters(self) -> int:
        """Count every parameter, unused heads included, as the paper does (table 4)."""
        return sum(parameter.numel() for parameter in self.parameters())


def _token_mask(segment: Segment) -> Tensor:
    """Repeat the mask of timesteps for their three tokens: (B, T) -> (B, 3T) of bool."""
    return segment.attention_mask.bool().repeat_interleave(3, dim=1)
