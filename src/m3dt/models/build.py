"""Choose the classes that a configuration asks for: the plain model, or a variant of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from m3dt.config import ModelConfig, MoEConfig
from m3dt.models.plain import ExpertBank, Mixture, PromptDT, Router
from m3dt.models.variants.big_experts import TrunkBank, TrunkMixture
from m3dt.models.variants.mtdt import MTDT
from m3dt.models.variants.top_k import TopKRouter


def make_model(config: ModelConfig, num_tasks: int = 0) -> PromptDT:
    """Build a model without experts, with fresh weights.

    Args:
        config: Sizes, dropout and variant.
        num_tasks: Number of tasks, N; only needed with `task_embedding`.
    """
    with _single_precision():
        return MTDT(config, num_tasks) if config.task_embedding else PromptDT(config)


def add_mixtures(
    model: PromptDT, num_experts: int, routed: bool, moe: MoEConfig | None = None
) -> None:
    """Add fresh experts to a model, and routers if `routed`.

    Args:
        model: A model without experts.
        num_experts: Number of experts, E.
        routed: Whether routers weigh them; else batches come in E parts, one per expert.
        moe: Kind of experts and of routing; by default the paper's.
    """
    with _single_precision():
        _add_mixtures(model, num_experts, routed, moe or MoEConfig(num_experts))


def _add_mixtures(model: PromptDT, num_experts: int, routed: bool, moe: MoEConfig) -> None:
    if moe.expert == "trunk":
        trunks = TrunkBank(model.config, num_experts)
        router = _make_router(model.config, num_experts, moe.top_k) if routed else None
        model.big_experts = TrunkMixture(trunks, router)
        return
    for block in model.transformer.h:
        experts = ExpertBank(model.config, num_experts)
        router = _make_router(model.config, num_experts, moe.top_k) if routed else None
        block.mixture = Mixture(experts, router)


def _make_router(config: ModelConfig, num_experts: int, top_k: int) -> Router:
    return TopKRouter(config, num_experts, top_k) if top_k else Router(config, num_experts)


@contextmanager
def _single_precision() -> Iterator[None]:
    """Make new tensors float32, whatever default the process has set."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
