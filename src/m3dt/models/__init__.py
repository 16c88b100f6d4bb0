"""The method: a plain model to read first, its variants, and shortcuts apart from both."""

from m3dt.models.build import add_mixtures, make_model
from m3dt.models.plain import ExpertBank, Mixture, PromptDT, Router, Transformer
from m3dt.models.variants.big_experts import capturable

__all__ = [
    "ExpertBank",
    "Mixture",
    "PromptDT",
    "Router",
    "Transformer",
    "add_mixtures",
    "capturable",
    "make_model",
]
