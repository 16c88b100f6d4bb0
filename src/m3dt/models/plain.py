"""M3DT as the paper writes it: a Prompt-DT backbone whose blocks can carry a mixture of experts.

Start reading here. A batch has B rows; each is a segment of a trajectory and a prompt, which is a
piece of another trajectory of the same task. This form is simple and slow: every token passes
through every block, and experts run in a loop. `m3dt.models.fast` gives the same results faster.

Letters: B batch, T timesteps, P prompt steps, L = 3 (P + T) tokens, D embedding width, H heads,
S state, A action, E experts. W is the width of attention: D, except in figure 12.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3dt.config import ModelConfig
from m3dt.data.batch import ExpertParts, Segment
from m3dt.models.bank import Bank

# Each timestep is three tokens, in this order.
TOKENS_PER_STEP = 3
RETURN_TOKEN, STATE_TOKEN, ACTION_TOKEN = range(TOKENS_PER_STEP)


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.width = config.attention_width or config.n_embd
        self.c_attn = nn.Linear(config.n_embd, 3 * self.width)
        self.c_proj = nn.Linear(self.width, config.n_embd)
        self.attn_dropout = nn.Dropout(config.dropout)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """Attend where `allowed` (B, L, L) is True: (B, L, D) -> (B, L, D)."""
        parts = self.c_attn(x).chunk(3, dim=2)  # three of (B, L, W)
        q, k, v = (t.unflatten(2, (self.n_head, -1)).transpose(1, 2) for t in parts)
        scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5  # (B, H, L, L)
        scores = scores.masked_fill(~allowed[:, None], torch.finfo(scores.dtype).min)
        weights = self.attn_dropout(scores.softmax(dim=-1))
        y = (weights @ v).transpose(1, 2).flatten(2)  # (B, H, L, W / H) -> (B, L, W)
        return self.resid_dropout(self.c_proj(y))


class FeedForward(nn.Module):
    """D -> 4D -> D with a ReLU. Each expert has the same architecture."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.mlp_width or 4 * config.n_embd
        self.c_fc = nn.Linear(config.n_embd, hidden)
        self.c_proj = nn.Linear(hidden, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(F.relu(self.c_fc(x))))


class ExpertBank(Bank):
    """E feed-forward networks, stored as one tensor per weight.

    `m3dt.models.bank` seeds, loads and clips experts one by one.
    """

    def __init__(self, config: ModelConfig, num_experts: int) -> None:
        super().__init__(num_experts, config.dropout)
        E, D, hidden = num_experts, config.n_embd, config.mlp_width or 4 * config.n_embd
        self.c_fc_weight = nn.Parameter(torch.empty(E, D, hidden).normal_(std=0.02))
        self.c_fc_bias = nn.Parameter(torch.zeros(E, hidden))
        self.c_proj_weight = nn.Parameter(torch.empty(E, hidden, D).normal_(std=0.02))
        self.c_proj_bias = nn.Parameter(torch.zeros(E, D))

    def forward(self, expert: int, x: Tensor) -> Tensor:
        """Apply one expert, without dropout: (..., D) -> (..., D)."""
        h = F.relu(x @ self.c_fc_weight[expert] + self.c_fc_bias[expert])
        return h @ self.c_proj_weight[expert] + self.c_proj_bias[expert]


class Router(nn.Module):
    """Weighs the experts for each token: D -> 4D -> 4D -> 4D -> 2D -> E, softmax (equation 5)."""

    def __init__(self, config: ModelConfig, num_experts: int) -> None:
        super().__init__()
        self.layers = self.make_layers(config.n_embd, num_experts)
        self.apply(init_gpt2)

    @staticmethod
    def make_layers(D: int, num_experts: int) -> nn.ModuleList:
        """Return the linear layers."""
        widths = (D, 4 * D, 4 * D, 4 * D, 2 * D, num_experts)
        return nn.ModuleList(nn.Linear(i, o) for i, o in zip(widths, widths[1:], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return gate weights that sum to 1 over the experts: (..., D) -> (..., E)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x).softmax(dim=-1)


class Mixture(nn.Module):
    """The experts of one block.

    With a router, every token gets the weighted sum of all experts (stage 3). Without one, each
    expert gets its own part of the batch (stage 2); a single expert gets all of it.

    All experts of a block drop the same units. In stage 2 the mask has the shape of one part, so
    an expert trains alike whichever others are there. In stage 3 the weighted sum drops them.
    """

    router: nn.Module | None

    def __init__(self, experts: Bank, router: nn.Module | None) -> None:
        super().__init__()
        self.num_experts = experts.num_experts
        self.experts = experts
        self.router = router

    def forward(self, n: Tensor) -> Tensor:
        """Return what the experts add to the block, (B, L, D)."""
        if self.router is None:
            parts = ExpertParts(self.num_experts)
            rows = parts.split(n)  # (E, B / E, L, D)
            mask = self.experts.dropout(torch.ones_like(rows[0]))  # of 0 and 1 / (1 - p)
            return parts.merge([self.experts(e, x) * mask for e, x in enumerate(rows)])
        gate_weights = self.router(n)  # (B, L, E)
        outputs = (self.experts(e, n) for e in range(self.num_experts))
        mixed = sum(gate_weights[..., e, None] * y for e, y in enumerate(outputs))
        return self.experts.dropout(mixed)


class Block(nn.Module):
    """Attention, then a feed-forward network and, after stage 1, experts (equations 3 and 4).

    h = x + Attention(LN x);  block(x) = h + FFN(LN h) + sum_e gate_e Expert_e(LN h)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.residual = config.residual
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = FeedForward(config)
        self.mixture: Mixture | None = None

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        h = x + self.attn(self.ln_1(x), allowed)  # (B, L, D)
        n = self.ln_2(h)
        if self.mixture is None:
            return h + self.mlp(n)
        # `residual` is "paper", the default, or "official": the authors' code adds to LN(h), so
        # that even a zero expert changes the backbone (docs/deviations.md, 1).
        residual = n if self.residual == "official" else h
        return residual + self.mlp(n) + self.mixture(n)


class Transformer(nn.Module):
    """A stack of blocks over embedded tokens.

    The backbone includes GPT-2's token table, one unused row, for the paper's parameter count.
    """

    def __init__(self, config: ModelConfig, token_table: bool = True) -> None:
        super().__init__()
        if token_table:
            self.wte = nn.Embedding(1, config.n_embd).requires_grad_(False)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.apply(init_gpt2)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """Return the hidden states of all tokens, (B, L, D)."""
        x = self.drop(x)
        for block in self.h:
            x = block(x, allowed)
        return self.ln_f(x)


class SegmentEmbedding(nn.Module):
    """Embeds returns, states and actions, each plus its timestep, into one token sequence."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.timestep = nn.Embedding(config.max_timesteps, config.n_embd)
        self.timestep.weight.data *= config.timestep_std
        self.returns_to_go = nn.Linear(1, config.n_embd)
        self.state = nn.Linear(config.state_dim + config.task_embedding, config.n_embd)
        self.action = nn.Linear(config.action_dim, config.n_embd)

    def forward(self, segment: Segment) -> Tensor:
        time = self.timestep(segment.timesteps)  # (B, T, D)
        returns = self.returns_to_go(segment.returns_to_go) + time
        states = self.state(segment.states) + time
        actions = self.action(segment.actions) + time
        tokens = torch.stack((returns, states, actions), dim=2)  # (B, T, 3, D)
        return tokens.flatten(1, 2)  # (B, 3T, D): return, state, action, return, ...


class PromptDT(nn.Module):
    """A Decision Transformer that reads its task from a prompt (paper section 3).

    Alone it is the backbone of stage 1. Stages 2 and 3 add a mixture to each block.

    `num_tasks` is for a variant that learns a vector per task.
    """

    def __init__(self, config: ModelConfig, num_tasks: int = 0) -> None:
        super().__init__()
        self.config = config
        self.num_tasks = num_tasks
        self.embed = SegmentEmbedding(config)
        self.embed_ln = nn.LayerNorm(config.n_embd)  # on the segment alone, not on the prompt
        self.add_task_input()
        self.transformer = Transformer(config)
        self.big_experts: nn.Module | None = None  # a variant: added to the last hidden state
        self.prompt_router: nn.Module | None = None  # a variant: chooses experts by the prompt
        self.predict_action = nn.Linear(config.n_embd, config.action_dim)
        # The paper counts these heads, and the authors' checkpoints hold them; no loss trains them.
        self.predict_state = nn.Linear(config.n_embd, config.state_dim).requires_grad_(False)
        self.predict_return = nn.Linear(config.n_embd, 1).requires_grad_(False)

    def add_task_input(self) -> None:
        """Create the embedding of the task input: here of a prompt."""
        self.prompt_embed = SegmentEmbedding(self.config)

    def forward(
        self,
        segment: Segment,
        prompt: Segment | None = None,
        task_index: Tensor | None = None,
    ) -> Tensor:
        """Predict the action of every timestep.

        Args:
            segment: The trajectories so far, (B, T, ...).
            prompt: A prompt per row, (B, P, ...).
            task_index: Position of each row's task, (B,), for models that read it.

        Returns:
            Actions in [-1, 1], (B, T, A).
        """
        hidden = self.hidden_states(segment, prompt, task_index)
        return torch.tanh(self.predict_action(hidden[:, :, STATE_TOKEN]))

    def hidden_states(
        self, segment: Segment, prompt: Segment | None, task_index: Tensor | None = None
    ) -> Tensor:
        """Return the last hidden states of the segment's tokens, (B, T, 3, D)."""
        x, valid = self.embed_segment(segment, task_index), token_mask(segment)
        if prompt is not None:
            x = torch.cat((self.prompt_embed(prompt), x), dim=1)  # (B, L, D)
            valid = torch.cat((token_mask(prompt), valid), dim=1)
        allowed = causal_mask(valid)
        hidden = self.transformer(x, allowed)
        if self.big_experts is not None:
            hidden = hidden + self.big_experts(hidden, x, allowed)
        segment_tokens = slice(-TOKENS_PER_STEP * segment.states.shape[1], None)
        return hidden[:, segment_tokens].unflatten(1, (-1, TOKENS_PER_STEP))

    def embed_segment(self, segment: Segment, task_index: Tensor | None) -> Tensor:
        """Embed the main sequence, (B, 3T, D)."""
        return self.embed_ln(self.embed(segment))

    @property
    def mixtures(self) -> list[Mixture]:
        """The mixtures in order: one per block, or one of big experts, or none."""
        found = [*(block.mixture for block in self.transformer.h), self.big_experts]
        return [mixture for mixture in found if isinstance(mixture, Mixture)]

    def unused_modules(self) -> list[nn.Module]:
        """Return the modules that get no gradient."""
        return [self.transformer.wte, self.predict_state, self.predict_return]

    def num_parameters(self) -> int:
        """Count every parameter, unused heads included, as the paper does (table 4)."""
        return sum(parameter.numel() for parameter in self.parameters())


def token_mask(segment: Segment) -> Tensor:
    """Repeat the mask of timesteps for their three tokens: (B, T) -> (B, 3T) of bool."""
    return segment.attention_mask.bool().repeat_interleave(TOKENS_PER_STEP, dim=1)


def causal_mask(valid: Tensor) -> Tensor:
    """Return which token may attend to which, (B, L, L) of bool, from real tokens, (B, L).

    A token always sees itself, so that padding has something to attend to. No other token sees
    padding, so what is computed there is never used.
    """
    L = valid.shape[1]
    itself = torch.eye(L, dtype=torch.bool, device=valid.device)
    return (torch.ones_like(itself).tril() & valid[:, None, :]) | itself


def init_gpt2(module: nn.Module) -> None:
    """Draw weights from N(0, 0.02) and zero the biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
