"""Acting in a task that a prompt describes, against inputs that are put together here."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_agents import trajectories

from m3dt.data import Segment, TaskContext
from m3dt.models.routing import GivenGates, dense_gates, top_gates, with_routers
from m3dt.utils.errors import UserError


def padded(array, width):
    return np.pad(array, ((0, 0), (0, width - array.shape[1])))


def prompt_rows(trajectory, mean, std, scale):
    """Put the three steps before the final one together, with padding before them."""
    steps = range(max(0, len(trajectory.rewards) - 1 - 3), len(trajectory.rewards))[:3]
    missing = 3 - len(steps)
    states = padded((trajectory.observations[steps] - mean) / std, 39)
    returns = [trajectory.rewards[step:].sum() / scale for step in steps]
    return (
        np.concatenate([np.zeros((missing, 39)), states]),
        np.concatenate([np.full((missing, 8), -10.0), padded(trajectory.actions[steps], 8)]),
        np.array([0.0] * missing + returns)[:, None],
        np.array([0] * missing + list(steps)),
        np.array([0.0] * missing + [1.0] * len(steps)),
    )


@pytest.mark.parametrize("method", ["backbone", "token", "prompt", "bc"])
def test_a_prompt_alone_tells_the_task(agents, method):
    """Against the plain model, on statistics, prompts and returns that are computed here."""
    agent, rng = agents[method], np.random.default_rng(0)
    prompts = trajectories(rng)
    states = np.concatenate([p.observations for p in prompts])
    mean, std = states.mean(axis=0), np.maximum(states.std(axis=0), 0.01)
    returns = [p.rewards.sum() for p in prompts]
    target, scale = max(returns), max(returns) / 5
    rows = (prompt_rows(p, mean, std, scale) for p in (*prompts, prompts[0]))
    prompt = segment_of([np.stack(field) for field in zip(*rows, strict=True)])
    if method == "bc":
        prompt = prompt._replace(returns_to_go=prompt.returns_to_go * 0)
    model = agent.model
    if method == "prompt":
        model = with_gates(model, [features(p, mean, std, scale) for p in (*prompts, prompts[0])])
    actor = agent.actor(prompt=prompts, episodes=3)
    seen, actions, left = [], [], [np.full(3, target)]
    for t in range(6):
        seen.append(3 + rng.normal(size=(3, 11)))
        rewards = rng.uniform(0, 2, 3) if t else None
        if t:
            left.append(left[-1] - rewards)
        found = actor.act(seen[-1], rewards)
        window = range(max(0, t - 3), t + 1)
        taken = [*actions, np.zeros((3, 3))]
        shown = 0 if method == "bc" else 1 / scale
        segment = segment_of(
            [
                np.stack([padded((seen[s] - mean) / std, 39) for s in window], axis=1),
                np.stack([padded(taken[s], 8) for s in window], axis=1),
                np.stack([left[s] * shown for s in window], axis=1)[..., None],
                np.array([list(window)] * 3),
                np.ones((3, len(window))),
            ]
        )
        with torch.no_grad():
            expected = model(segment, prompt)[:, -1, :3]
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=2e-5)
        actions.append(found)


def features(trajectory, mean, std, scale):
    """Describe a prompt by its raw states, normalised states, actions and rewards."""
    steps = range(max(0, len(trajectory.rewards) - 1 - 3), len(trajectory.rewards))[:3]
    raw = trajectory.observations[steps]
    rewards = trajectory.rewards[steps][:, None] / scale
    rewards[-1] = 0  # the prompt does not show what came after its last step
    parts = padded(raw, 39), padded((raw - mean) / std, 39), padded(trajectory.actions[steps], 8)
    each = np.concatenate([*parts, rewards], axis=1)
    return np.concatenate([each.mean(axis=0), each.std(axis=0)])


def with_gates(model, rows):
    """Return a plain model in which the prompt router's choice for each row is given."""
    gates = model.prompt_router(torch.tensor(np.stack(rows), dtype=torch.float32))
    given = GivenGates(dense_gates(*top_gates(gates, 2, 0.9), 2))
    return with_routers(model, [given] * len(model.mixtures))


def segment_of(arrays):
    types = (torch.float32, torch.float32, torch.float32, torch.int64, torch.float32)
    return Segment(*(torch.tensor(a, dtype=t) for a, t in zip(arrays, types, strict=True)))


def test_target_and_scale_of_a_prompt_are_the_callers(agents):
    """A target in another unit, with its scale, asks for the same."""
    (prompt,) = trajectories(np.random.default_rng(0), (20,))
    scaled = replace(prompt, rewards=prompt.rewards * 10)
    found = []
    for given in (
        {"prompt": prompt, "target": 30.0, "return_scale": 4.0},
        {"prompt": scaled, "target": 300.0, "return_scale": 40.0},
        {"prompt": prompt},
        {"prompt": prompt, "target": prompt.episode_return},
        {"prompt": prompt, "return_scale": prompt.episode_return / 5},
        {"prompt": prompt, "target": 1.0},
    ):
        found.append(agents["token"].actor(**given).act(np.ones(11)))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(found[2], found[3], atol=1e-6)
    np.testing.assert_allclose(found[2], found[4], atol=1e-6)
    assert np.abs(found[2] - found[0]).max() > 1e-4 < np.abs(found[2] - found[5]).max()
    empty = replace(prompt, rewards=prompt.rewards * 0)
    assert np.isfinite(agents["token"].actor(prompt=empty).act(np.ones(11))).all()


@pytest.mark.parametrize("method", ["mtdt", "harmodt"])
def test_methods_with_parts_for_each_task_refuse_prompts(agents, method):
    (prompt,) = trajectories(np.random.default_rng(0), (9,))
    with pytest.raises(UserError, match="a part of its own for each task.*It knows reach-v2, walk"):
        agents[method].actor(prompt=prompt)


def test_an_agent_that_knows_no_task_acts_by_a_prompt(agents):
    """An imported checkpoint without data."""
    agent = replace(agents["backbone"], context=TaskContext.empty())
    (prompt,) = trajectories(np.random.default_rng(0), (9,))
    acted = (a.actor(prompt=prompt).act(np.ones(11)) for a in (agent, agents["backbone"]))
    np.testing.assert_array_equal(*acted)
