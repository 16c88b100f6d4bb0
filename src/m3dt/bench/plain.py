"""The same model without shortcuts, as the paper writes it: what fast paths are held against.

Every row carries its own prompt, every token goes through every block, experts run in a loop.

Letters: B batch, T timesteps, P prompt steps, L = 3 (P + T) tokens, D embedding, H heads, A action.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from m3dt.data import Batch
from m3dt.models import PromptDT
from m3dt.models.moe import ExpertBank
from m3dt.models.transformer import Attention, Block


def plain_actions(model: PromptDT, batch: Batch) -> Tensor:
    """Predict the action of every timestep, (B, T, A); parts in training mode drop units."""
    prompt, segment = batch.row_prompts(), batch.segment
    x = torch.cat((model.prompt_embed(prompt), model.embed_ln(model.embed(segment))), dim=1)
    steps = torch.cat((prompt.attention_mask, segment.attention_mask), dim=1)
    valid = steps.bool().repeat_interleave(3, dim=1)  # (B, L)
    L = valid.shape[1]
    itself = torch.eye(L, dtype=torch.bool, device=x.device)
    allowed = torch.ones_like(itself).tril() & valid[:, None, :] | itself  # (B, L, L)
    trunk = model.transformer
    x = F.dropout(x, trunk.drop.p, trunk.drop.training)  # (B, L, D)
    for block in trunk.h:
        assert isinstance(block, Block)
        x = _block(block, x, allowed)
    hidden = trunk.ln_f(x)[:, 3 * prompt.states.shape[1] :]
    return torch.tanh(model.predict_action(hidden[:, 1::3]))


def _block(block: Block, x: Tensor, allowed: Tensor) -> Tensor:
    h = x + _attention(block.attn, block.ln_1(x), allowed)
    n = block.ln_2(h)
    mlp = block.mlp
    y = mlp.c_proj(F.relu(mlp.c_fc(n)))
    y = F.dropout(y, mlp.dropout.p, mlp.dropout.training)
    if block.mixture is None:
        return h + y
    kept = n if block.residual == "official" else h
    experts, router = block.mixture.experts, block.mixture.router
    assert isinstance(experts, ExpertBank)
    if router is None:  # stage 2, one expert
        return kept + y + _expert(experts, 0, n)
    assert callable(router)
    gates = router(n)  # (B, L, E)
    for e in range(gates.shape[-1]):
        y = y + gates[..., e : e + 1] * _expert(experts, e, n)
    return kept + y


def _attention(attention: Attention, x: Tensor, allowed: Tensor) -> Tensor:
    H = attention.n_head
    q, k, v = (t.unflatten(2, (H, -1)).transpose(1, 2) for t in attention.c_attn(x).chunk(3, dim=2))
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5  # (B, H, L, L)
    scores = scores.masked_fill(~allowed[:, None], torch.finfo(scores.dtype).min)
    weights = F.dropout(scores.softmax(dim=-1), attention.dropout, attention.training)
    y = attention.c_proj((weights @ v).transpose(1, 2).flatten(2))
    return F.dropout(y, attention.resid_dropout.p, attention.training)


def _expert(bank: ExpertBank, e: int, x: Tensor) -> Tensor:
    h = F.relu(x @ bank.c_fc_weight[e] + bank.c_fc_bias[e])
    y = h @ bank.c_proj_weight[e] + bank.c_proj_bias[e]
    return F.dropout(y, bank.dropout, bank.training)
