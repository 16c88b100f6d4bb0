"""Names that other projects use for our keys, for hints."""

ALIASES = {
    "lr": "stage1.learning_rate",
    "steps": "stage1.max_steps",
    "epochs": "stage1.max_steps",
    "batch": "loader.batch_size",
    "bs": "loader.batch_size",
    "device": "trainer.accelerator",
    "layers": "model.n_layer",
    "heads": "model.n_head",
    "width": "model.n_embd",
    "experts": "moe.num_experts",
}
