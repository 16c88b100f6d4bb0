"""Prompt-DT, its mixture of experts, and the transformer they share."""

from m3dt.models.moe import ExpertBank, Mixture, Router
from m3dt.models.prompt_dt import Prompt, PromptDT
from m3dt.models.transformer import Transformer

__all__ = ["ExpertBank", "Mixture", "Prompt", "PromptDT", "Router", "Transformer"]
