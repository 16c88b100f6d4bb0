"""Shortcuts: functions that compute what the modules of `m3dt.models.plain` say, with less work.

They change rounding and nothing else; tests hold them equal to the plain form. Training without
them: `compute.shortcuts=off`.
"""

from m3dt.models.fast.forward import act, encode_prompt, predict
from m3dt.models.fast.prompts import EncodedPrompt

__all__ = ["EncodedPrompt", "act", "encode_prompt", "predict"]
