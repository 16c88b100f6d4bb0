"""A GPT-2 style pre-LN transformer whose blocks can carry experts (paper sections 3 and 4).

Letters: B batch, L tokens, R tokens that are read out, C cached tokens, D embedding, H heads,
W attention width (D, but for figure 12).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m3dt.config import ModelConfig
from m3dt.models.dropout import Dropout, dropout_mask

# Keys and values of tokens seen before, per block: two tensors (B, H, C, W / H).
KeyValues = list[tuple[Tensor, Tensor]]


class Attention(nn.Module):
    """Multi-head self-attention over the given tokens and those of a cache."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.width = config.attention_width or config.n_embd
        self.c_attn = nn.Linear(config.n_embd, 3 * self.width)
        self.c_proj = nn.Linear(self.width, config.n_embd)
        self.resid_dropout = Dropout(config.dropout)

    def forward(
        self, x: Tensor, mask: Tensor, cache: tuple[Tensor, Tensor] | None, read: slice
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend from the tokens in `read` to all.

        Args:
            x: Normalised hidden states, (B, L, D).
            mask: Added to the scores, (B, 1, R, C + L): 0 where attention is allowed.
            cache: Keys and values of earlier tokens, (B, H, C, W / H) each, or None.
            read: The tokens whose output is wanted, R of them.

        Returns:
            The output (B, R, D), and the keys and values with the cache in front.
        """
        B, W = x.shape[0], self.width
        if read == slice(None):
            q, k, v = self.c_attn(x).split(W, dim=2)
        else:
            weight, bias = self.c_attn.weight, self.c_attn.bias
            q = F.linear(x[:, read], weight[:W], bias[:W])  # (B, R, W)
            k, v = F.linear(x, weight[W:], bias[W:]).split(W, dim=2)
        q, k, v = (t.unflatten(2, (self.n_head, -1)).transpose(1, 2) for t in (q, k, v))
        if cache is not None:
            k = torch.cat((cache[0].expand(B, -1, -1, -1), k), dim=2)
            v = torch.cat((cache[1].expand(B, -1, -1, -1), v), dim=2)
        y = _attend(q, k, v, mask.to(q.dtype), self.dropout if self.training else 0.0)
        y = y.transpose(1, 2).flatten(2)  # (B, H, R, W / H) -> (B, R, W)
        return self.resid_dropout(self.c_proj(y)), (k, v)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
    slow = q.dtype == torch.bfloat16 and q.requires_grad
    if q.device.type != "cpu" or not (dropout or slow):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    # Torch's fused kernel for the CPU has no dropout, and in bfloat16 a slow backward pass.
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-2, -1)) + mask
    weights = scores.softmax(dim=-1)
    if dropout:
        weights = weights * dropout_mask(weights, dropout)
    return torch.matmul(weights, v)


class FeedForward(nn.Module):
    """D -> 4D -> D with a ReLU: the part that an expert copies."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.mlp_width or 4 * config.n_embd
        self.c_fc = nn.Linear(config.n_embd, hidden)
        self.c_proj = nn.Linear(hidden, config.n_embd)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(F.relu(self.c_fc(x))))


class Block(nn.Module):
    """Pre-LN attention and feed-forward, with an optional mixture beside the latter."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.residual = config.residual
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = FeedForward(config)
        self.mixture: nn.Module | None = None  # (B, R, D) -> (B, R, D), set by the model

    def forward(
        self, x: Tensor, mask: Tensor, cache: tuple[Tensor, Tensor] | None, read: slice
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        a, key_values = self.attn(self.ln_1(x), mask, cache, read)
        h = x[:, read] + a  # (B, R, D)
        n = self.ln_2(h)
        if self.mixture is None:
            return h + self.mlp(n), key_values
        # Equations 3 and 4 add to h; the authors' code adds to LN(h) (README, deviation 1).
        kept = n if self.residual == "official" else h
        return kept + self.mlp(n) + self.mixture(n), key_values


class Transformer(nn.Module):
    """A stack of blocks over embedded tokens.

    Args:
        config: Sizes and dropout.
        token_table: Whether to hold GPT-2's token table, one unused row here. The backbone has it:
            it is in the paper's parameter counts.
    """

    def __init__(self, config: ModelConfig, token_table: bool = True) -> None:
        super().__init__()
        if token_table:
            self.wte = nn.Embedding(1, config.n_embd).requires_grad_(False)
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.apply(init_gpt2)

    def forward(
        self,
        x: Tensor,
        valid: Tensor,
        cache: KeyValues | None = None,
        cache_valid: Tensor | None = None,
        read: slice = slice(None),
    ) -> tuple[Tensor, KeyValues]:
        """Run the stack causally.

        Args:
            x: Embedded tokens, (B, L, D).
            valid: Tokens that may be attended to, (B, L) of bool.
            cache: Keys and values of a prefix, which every token sees; its batch may be 1.
            cache_valid: Prefix tokens that may be attended to, (B, C) of bool.
            read: Positions whose final hidden state is wanted. The last block computes no other.

        Returns:
            Hidden states (B, R, D) after the final LayerNorm, and keys and values of all tokens.
        """
        mask = attention_mask(valid, cache_valid, x.dtype)  # (B, 1, L, C + L)
        x = self.drop(x)
        key_values: KeyValues = []
        last = len(self.h) - 1
        for i, block in enumerate(self.h):
            part = read if i == last else slice(None)
            x, kv = block(x, mask[:, :, part], None if cache is None else cache[i], part)
            key_values.append(kv)
        return self.ln_f(x), key_values


def attention_mask(valid: Tensor, cache_valid: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Build the additive causal mask, (B, 1, L, C + L), of tokens behind a cached prefix.

    A token always sees itself: a row of padding would otherwise have nothing to attend to and
    turn into NaN. No other token sees padding, so what is computed there is never used.
    """
    L = valid.shape[1]
    causal = torch.ones(L, L, dtype=torch.bool, device=valid.device).tril()
    itself = torch.eye(L, dtype=torch.bool, device=valid.device)
    allowed = causal & valid[:, None, :] | itself  # (B, L, L)
    if cache_valid is not None:
        prefix = cache_valid[:, None, :].expand(allowed.shape[0], L, -1)
        allowed = torch.cat((prefix, allowed), dim=2)
    lowest = torch.finfo(torch.bfloat16).min  # finite in every precision that mask is cast to
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, lowest)[:, None]


def init_gpt2(module: nn.Module) -> None:
    """Draw weights from N(0, 0.02) and zero the biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
