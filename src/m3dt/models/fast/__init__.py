"""Shortcuts: functions that compute what the modules of `m3dt.models.plain` say, with less work.

They change rounding and, with dropout, which units are dropped; nothing else. Tests hold them equal
to the plain form. `compute.shortcuts=off` trains without them.
"""

from m3dt.models.fast.forward import act, encode_prompt, predict, prompt_gates
from m3dt.models.fast.mixture import prepare
from m3dt.models.fast.prompts import EncodedPrompt

__all__ = ["EncodedPrompt", "act", "encode_prompt", "predict", "prepare", "prompt_gates"]
