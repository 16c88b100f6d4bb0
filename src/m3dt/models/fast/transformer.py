"""Run a transformer after a cached prefix, and compute only the tokens that are read.

Letters: B batch, L tokens, R tokens that are read out, C cached tokens, D embedding width,
H heads, W width of attention.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from m3dt.config import ComputeConfig
from m3dt.models.fast.dropout import drop, dropout_mask
from m3dt.models.fast.mixture import run_mixture
from m3dt.models.fast.prompts import KeyValues
from m3dt.models.plain import Attention, Block, FeedForward, Transformer, causal_mask
from m3dt.models.routing import Selection

ALL = slice(None)


def run_transformer(
    transformer: Transformer,
    x: Tensor,
    valid: Tensor,
    compute: ComputeConfig,
    cache: KeyValues | None = None,
    cache_valid: Tensor | None = None,
    read: slice = ALL,
    selection: Selection | None = None,
) -> tuple[Tensor, KeyValues]:
    """Run the stack causally.

    Args:
        transformer: Its modules hold the weights.
        x: Embedded tokens, (B, L, D).
        valid: Tokens that may be attended to, (B, L) of bool.
        compute: How frozen experts are mixed.
        cache: Keys and values of a prefix, which every token sees; its batch may be 1.
        cache_valid: Prefix tokens that may be attended to, (B, C) of bool.
        read: Positions whose final hidden state is wanted. The last block computes no other.
        selection: The experts of each row, instead of a router.

    Returns:
        Hidden states (B, R, D) after the final LayerNorm, and keys and values of all tokens.
    """
    mask = attention_mask(valid, cache_valid, x.dtype)  # (B, 1, L, C + L)
    x = drop(transformer.drop, x)
    key_values: KeyValues = []
    last = len(transformer.h) - 1
    for i, block in enumerate(transformer.h):
        assert isinstance(block, Block)
        part = read if i == last else ALL
        own = None if cache is None else cache[i]
        chosen = None
        if selection is not None and block.mixture is not None:
            chosen = selection.of(i)
        x, kv = _block(block, x, mask[:, :, part], own, part, compute, chosen)
        key_values.append(kv)
    return transformer.ln_f(x), key_values


def attention_mask(valid: Tensor, cache_valid: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Build the additive causal mask, (B, 1, L, C + L), of tokens after a cached prefix."""
    allowed = causal_mask(valid)  # (B, L, L)
    if cache_valid is not None:
        B, L, _ = allowed.shape
        allowed = torch.cat((cache_valid[:, None, :].expand(B, L, -1), allowed), dim=2)
    lowest = torch.finfo(torch.bfloat16).min  # finite in every precision that mask is cast to
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, lowest)[:, None]


def _block(
    block: Block,
    x: Tensor,
    mask: Tensor,
    cache: tuple[Tensor, Tensor] | None,
    read: slice,
    compute: ComputeConfig,
    chosen: tuple[Tensor | None, Tensor] | None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    a, key_values = _attention(block.attn, block.ln_1(x), mask, cache, read)
    h = x[:, read] + a  # (B, R, D)
    n = block.ln_2(h)
    if block.mixture is None:
        return h + _feed_forward(block.mlp, n), key_values
    residual = n if block.residual == "official" else h
    h = residual + _feed_forward(block.mlp, n)
    return h + run_mixture(block.mixture, n, compute, chosen), key_values


def _feed_forward(mlp: FeedForward, x: Tensor) -> Tensor:
    return drop(mlp.dropout, mlp.c_proj(F.relu(mlp.c_fc(x))))


def _attention(
    attention: Attention, x: Tensor, mask: Tensor, cache: tuple[Tensor, Tensor] | None, read: slice
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Attend from the tokens in `read` to all.

    Args:
        attention: The module.
        x: Normalised hidden states, (B, L, D).
        mask: Added to the scores, (B, 1, R, C + L): 0 where attention is allowed.
        cache: Keys and values of earlier tokens, (B, H, C, W / H) each, or None.
        read: The tokens whose output is wanted, R of them.

    Returns:
        The output (B, R, D), and the keys and values with the cache in front.
    """
    B, W = x.shape[0], attention.width
    if read == ALL:
        q, k, v = attention.c_attn(x).split(W, dim=2)
    else:
        weight, bias = attention.c_attn.weight, attention.c_attn.bias
        q = F.linear(x[:, read], weight[:W], bias[:W])  # (B, R, W)
        k, v = F.linear(x, weight[W:], bias[W:]).split(W, dim=2)
    q, k, v = (t.unflatten(2, (attention.n_head, -1)).transpose(1, 2) for t in (q, k, v))
    if cache is not None:
        k = torch.cat((cache[0].expand(B, -1, -1, -1), k), dim=2)
        v = torch.cat((cache[1].expand(B, -1, -1, -1), v), dim=2)
    dropout = attention.attn_dropout
    y = attend(q, k, v, mask.to(q.dtype), dropout.p if dropout.training else 0.0)
    y = y.transpose(1, 2).flatten(2)  # (B, H, R, W / H) -> (B, R, W)
    return drop(attention.resid_dropout, attention.c_proj(y)), (k, v)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + mask) v by the fastest kernel, (B, H, R, W / H)."""
    slow = q.dtype == torch.bfloat16 and q.requires_grad
    if q.device.type != "cpu" or not (dropout or slow):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    # On a CPU, torch's fused kernel has no dropout, and its bfloat16 backward pass is slow.
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-2, -1)) + mask
    weights = scores.softmax(dim=-1)
    if dropout:
        weights = weights * dropout_mask(weights, dropout)
    return torch.matmul(weights, v)
