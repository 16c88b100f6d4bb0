"""The method: a plain model to read first, its variants, and shortcuts apart from both."""

from m3dt.models.build import add_mixtures, is_built_in, make_model, model_class
from m3dt.models.plain import ExpertBank, Mixture, PromptDT, Router, Transformer
from m3dt.models.variants.big_experts import capturable
from m3dt.models.variants.mtdt import MTDT

__all__ = [
    "ExpertBank",
    "MTDT",
    "Mixture",
    "PromptDT",
    "Router",
    "Transformer",
    "add_mixtures",
    "capturable",
    "is_built_in",
    "make_model",
    "model_class",
]
