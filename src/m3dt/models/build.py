"""Choose the classes that a configuration asks for: the plain model, or a variant of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from m3dt.config import ModelConfig, MoEConfig
from m3dt.models.plain import ExpertBank, Mixture, PromptDT, Router
from m3dt.models.variants.big_experts import TrunkBank, TrunkMixture
from m3dt.models.variants.mtdt import MTDT
from m3dt.models.variants.top_k import TopKRouter
from m3dt.utils.class_paths import import_class
from m3dt.utils.errors import UserError


def make_model(config: ModelConfig, num_tasks: int = 0, source: str = "") -> PromptDT:
    """Build a model without experts, with fresh weights.

    Args:
        config: Sizes, dropout and variant, or the path of another class.
        num_tasks: Number of tasks, N; only needed with `task_embedding`.
        source: As for `model_class`.

    Raises:
        UserError: As of `model_class`.
    """
    kind = model_class(config, source)
    with _single_precision():
        return kind(config, num_tasks)


def model_class(config: ModelConfig, source: str = "") -> type[PromptDT]:
    """Return the class of a model: Prompt-DT, MTDT, or the one that `class_path` names.

    Args:
        config: Of the model.
        source: Where the configuration comes from; begins the error.

    Raises:
        UserError: The path names no class that is derived from Prompt-DT, or from MTDT where there
            is a `task_embedding`.
    """
    base = MTDT if config.task_embedding else PromptDT
    if not config.class_path:
        return base
    where = f"{source}: " if source else ""
    where += f"model.class_path={config.class_path}"
    what = f"a model derived from m3dt.models.{base.__name__}"
    return import_class(config.class_path, base, where, what)


def is_built_in(model: PromptDT) -> bool:
    """Tell whether a model is of a class that shortcuts, CUDA graphs and compiling are made for."""
    return type(model) in (PromptDT, MTDT)


def add_mixtures(
    model: PromptDT, num_experts: int, routed: bool, moe: MoEConfig | None = None
) -> None:
    """Add fresh experts to a model, and routers if `routed`.

    Args:
        model: A model without experts.
        num_experts: Number of experts, E.
        routed: Whether routers weigh them; else batches come in E parts, one per expert.
        moe: Kind of experts and of routing; by default the paper's.

    Raises:
        UserError: The model has no blocks for them.
    """
    with _single_precision():
        _add_mixtures(model, num_experts, routed, moe or MoEConfig(num_experts))
    if not model.mixtures:
        raise UserError(
            f"model.class_path={model.config.class_path} has no `transformer.h` of blocks that "
            "carry experts, so it trains in stage 1 or as method=promptdt alone."
        )


def _add_mixtures(model: PromptDT, num_experts: int, routed: bool, moe: MoEConfig) -> None:
    if moe.expert == "trunk":
        trunks = TrunkBank(model.config, num_experts)
        router = _make_router(model.config, num_experts, moe.top_k) if routed else None
        model.big_experts = TrunkMixture(trunks, router)
        return
    for block in getattr(getattr(model, "transformer", None), "h", ()):
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
