"""Which of Lightning's hooks a callback has."""

import lightning.pytorch as pl

# Called once before or after each optimiser step.
STEP_HOOKS = ("on_train_batch_start", "on_train_batch_end")
# Called within a step.
INNER_HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")


def has_hook(callback: pl.Callback, *names: str) -> bool:
    """Tell whether a callback overrides one of the hooks, in its class or as an attribute."""
    return any(
        getattr(getattr(callback, name), "__func__", None) is not getattr(pl.Callback, name)
        for name in names
    )
