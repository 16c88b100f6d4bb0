"""Settings of the model and of its experts."""

from dataclasses import dataclass

from m3dt.config.fields import Section, SettingError, choice, number

# Widths to which the states and actions of the 160 tasks are padded (paper section 3).
STATE_DIM = 39
ACTION_DIM = 8

LARGEST_MODEL = 10**12  # weights of the blocks

MOE_TRAININGS = ("frozen_experts", "unfrozen_experts", "ungrouped")


@dataclass
class ModelConfig(Section):
    """Prompt-DT: a GPT-2 trunk over (return, state, action) tokens."""

    state_dim: int = number(STATE_DIM, low=1)
    """Width to which states are padded. A task that is wider raises it."""
    action_dim: int = number(ACTION_DIM, low=1)
    """Width to which actions are padded. A task that is wider raises it."""
    n_layer: int = number(6, low=1)
    """Number of transformer blocks."""
    n_head: int = number(8, low=1)
    """Number of attention heads per block."""
    n_embd: int = number(256, low=1)
    """Width of the token embeddings."""
    context_length: int = number(20, low=1)
    """Timesteps per segment; the paper's K."""
    prompt_length: int = number(20, low=1)
    """Timesteps per prompt."""
    dropout: float = number(0.1, low=0, below=1)
    """Probability of dropping a unit."""
    max_timesteps: int = number(1000, low=1)
    """Number of rows in each of the two timestep tables."""
    timestep_std: float = number(1.0, low=0)
    """Standard deviation of the timestep tables' initial values. The authors' code uses 1, which
    drowns the states early in training. With 0.02, the value of all other weights, short trainings
    need half the steps."""
    residual: str = choice("paper", ("paper", "official"))
    """`paper` computes h + FFN(LN h) + Expert(LN h). `official` replaces the first h by LN h, as
    the authors' code does."""
    attention_width: int = number(0, low=0)
    """Width of queries, keys and values, summed over heads. 0 means n_embd (figure 12)."""
    mlp_width: int = number(0, low=0)
    """Hidden width of feed-forward networks and experts. 0 means 4 n_embd (figure 12)."""
    condition_on_return: bool = True
    """Whether the model sees returns-to-go. Otherwise zeros stand in their place, in segments and
    prompts, in training and in acting: behaviour cloning, which ignores the target return."""
    task_embedding: int = number(0, low=0)
    """Width of a learned vector per task that is appended to the states and replaces the prompt
    (MTDT uses 12)."""
    class_path: str = ""
    """Dotted path of a class of your own that is derived from PromptDT (docs/plugging-in.md). Empty
    means m3dt's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        width, hidden = self.attention_width or self.n_embd, self.mlp_width or 4 * self.n_embd
        size = self.n_layer * self.n_embd * (4 * width + 2 * hidden)
        size += 3 * self.n_embd * (self.state_dim + self.action_dim)
        if size > LARGEST_MODEL:
            raise SettingError(
                self,
                f"{{}}, {{}}: {size:.1e} weights are more than any machine holds",
                "n_layer",
                "n_embd",
            )
        split = "attention_width" if self.attention_width else "n_embd"
        if getattr(self, split) % self.n_head:
            raise SettingError(self, "{} is not a multiple of {}", split, "n_head")


@dataclass
class MoEConfig(Section):
    """Experts in parallel with the feed-forward network of every block (paper section 4)."""

    num_experts: int = number(48, low=1)
    """Number of experts, which is also the number of task groups."""
    expert: str = choice("ffn", ("ffn", "trunk"))
    """`ffn` adds a feed-forward network to every block. `trunk` adds a whole transformer between
    the backbone's embeddings and its prediction head (big experts)."""
    top_k: int = number(0, low=0)
    """Number of experts per token, chosen by noisy top-k. 0 uses all experts."""
    router: str = choice("token", ("token", "prompt"))
    """What stage 3 trains to weigh the experts. `token`, the paper's: a router per block, for each
    token. `prompt`: one router that chooses experts once per episode, by the raw prompt."""
    training: str = choice("frozen_experts", MOE_TRAININGS)
    """What stage 3 trains. `frozen_experts`: only the router. `unfrozen_experts`: the router and
    the experts of stage 2. `ungrouped`: the router and fresh experts, without stage 2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k > self.num_experts:
            raise SettingError(self, "{} is more than {}", "top_k", "num_experts")
        if self.router == "prompt" and (self.top_k or self.training != "frozen_experts"):
            problem = "{} does not go with {}, {}: it is trained apart from the experts. Choose "
            problem += "evaluation.experts for their number."
            raise SettingError(self, problem, "router", "top_k", "training")
