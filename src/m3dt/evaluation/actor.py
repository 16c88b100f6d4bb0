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
from m3dt.models import PromptDT, fast
from m3dt.models.fast import EncodedPrompt

COMPUTE = ComputeConfig()  # agents act with the default shortcuts


class Actor:
    """A model in evaluation mode, and how it computes.

    Every pass has B = `batch_size` rows. On one CPU thread, a row then rounds the same in every
    pass; on a GPU, one recorded CUDA graph serves all passes.
    """

    def __init__(self, model: PromptDT, batch_size: int, precision: str = "32-true") -> None:
        self.model = model
        self.batch_size = batch_size
        self.device = next(model.parameters()).device
        kind, lower = self.device.type, precision == "bf16-mixed"

        # These hold no reference to this object: a model is freed as soon as nobody uses it.
        def encode(prompt: Segment, task_index: Tensor, expert: Tensor | None) -> EncodedPrompt:
            with torch.autocast(kind, torch.bfloat16, enabled=lower):
                return fast.encode_prompt(model, prompt, task_index, COMPUTE, expert)

        def act(segment: Segment, prompt: EncodedPrompt) -> Tensor:
            with torch.autocast(kind, torch.bfloat16, enabled=lower):
                return fast.act(model, segment, prompt, COMPUTE).float()

        self._encode = encode
        self._act = graphed(act, enabled=kind == "cuda")

    @torch.inference_mode()
    def encode(self, prompt: Segment, task: int, expert: int | None) -> EncodedPrompt:
        """Run the prompts of one task's episodes, (episodes, P, ...).

        `task` is the task's position in the suite, `expert` the number of the expert that acts in
        it, if no router weighs them.
        """
        prompt = Segment(*(tensor.to(self.device) for tensor in prompt))
        size = (len(prompt.states),)
        task_index = prompt.timesteps.new_full(size, task)
        chosen = None if expert is None else prompt.timesteps.new_full(size, expert)
        return self._encode(prompt, task_index, chosen)

    @torch.inference_mode()
    def act(self, rows: Rows, prompt: EncodedPrompt) -> np.ndarray:
        """Predict the last timestep's action of any number of rows, (rows, 8).

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
