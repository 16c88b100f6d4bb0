"""Run a model to act: encode prompts, and predict actions in passes of one shape.

Letters: B rows of a pass, T timesteps of the window, P prompt steps.
"""

import numpy as np
import torch
from torch import Tensor

from m3dt.config import ComputeConfig
from m3dt.data.batch import Segment
from m3dt.data.inputs import Rows
from m3dt.engine.graph import graphed
from m3dt.evaluation import plain_acting
from m3dt.evaluation.costs import count_flops
from m3dt.models import PromptDT, fast, is_built_in
from m3dt.models.fast import EncodedPrompt
from m3dt.models.routing import Selection

COMPUTE = ComputeConfig()  # agents act with the default shortcuts


class PassRunner:
    """Runs a model in evaluation mode.

    Every pass has B = `batch_size` rows. On one CPU thread, a row then rounds the same in every
    pass; on a GPU, one recorded CUDA graph serves all passes. A model of the user's class acts by
    its own forward pass, without a graph.
    """

    def __init__(self, model: PromptDT, batch_size: int, precision: str = "32-true") -> None:
        self.model = model
        self.batch_size = batch_size
        self.device = next(model.parameters()).device
        kind, lower = self.device.type, precision == "bf16-mixed"
        known = is_built_in(model)
        self._way = way = fast if known else plain_acting

        # These hold no reference to this object: a model is freed as soon as nobody uses it.
        def encode(
            prompt: Segment, task_index: Tensor, selection: Selection | None
        ) -> EncodedPrompt:
            with torch.autocast(kind, torch.bfloat16, enabled=lower):
                return way.encode_prompt(model, prompt, task_index, COMPUTE, selection)

        def act(segment: Segment, prompt: EncodedPrompt) -> Tensor:
            with torch.autocast(kind, torch.bfloat16, enabled=lower):
                return way.act(model, segment, prompt, COMPUTE).float()

        self._encode = encode
        self._compute = act
        self._act = graphed(act, enabled=kind == "cuda" and known)

    def place(self, prompt: Segment) -> Segment:
        """Copy prompts to the model's device."""
        return Segment(*(tensor.to(self.device) for tensor in prompt))

    @torch.inference_mode()
    def encode(self, prompt: Segment, task: int, selection: Selection | None) -> EncodedPrompt:
        """Run placed prompts of one task's episodes, (episodes, P, ...).

        `task` is the task's position among those that the model was trained on. The selection names
        the experts that act until the episodes end, unless routers weigh all of them at each token.
        """
        task_index = prompt.timesteps.new_full((len(prompt.states),), task)
        return self._encode(prompt, task_index, selection)

    @torch.inference_mode()
    def prompt_gates(self, prompt: Segment) -> Tensor:
        """Average the routers' gates over placed prompts, (episodes, mixtures, experts)."""
        return self._way.prompt_gates(self.model, prompt, COMPUTE)

    @torch.inference_mode()
    def act(self, rows: Rows, prompt: EncodedPrompt) -> np.ndarray:
        """Predict the last timestep's action of any number of rows, (rows, A).

        Rows are cut into passes; copies of the last row fill up the last pass.
        """
        num_rows = len(rows.states)
        passes = []
        for start in range(0, num_rows, self.batch_size):
            index = np.arange(start, start + self.batch_size).clip(max=num_rows - 1)
            segment, own = rows.take(index).segment(self.device), prompt
            if num_rows != self.batch_size:
                own = prompt.take(torch.from_numpy(index).to(self.device))
            passes.append(self._act(segment, own).cpu().numpy())
        return np.concatenate(passes)[:num_rows]

    @torch.inference_mode()
    def flops(self, rows: Rows, prompt: EncodedPrompt) -> float:
        """Return the floating-point operations of an action, mean over rows."""
        segment = rows.segment(self.device)
        return count_flops(lambda: self._compute(segment, prompt)) / len(rows.states)
