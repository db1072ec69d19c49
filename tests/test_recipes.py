"""Each recipe of the documentation leaves the natural gradient that it promises in ``.grad``."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical

from ratpg.natgrad import dense

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()
SETUP, *RECIPES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TITLES = ["fresh data", "ratios", "clamped ratios", "entropy", "KL", "any other term"]

Names = dict[str, Any]


def surrogate(n: Names, weights: Tensor) -> Tensor:
    return (weights * n["advantages"] * policy_of(n).log_prob(n["actions"])).mean()


def policy_of(n: Names) -> Categorical:
    return Categorical(logits=n["actor"](n["observations"]))


def entropy(n: Names) -> Tensor:
    return policy_of(n).entropy().mean()


def kl(n: Names) -> Tensor:
    policy = policy_of(n)
    return (policy.probs * (policy.logits - n["reference"].logits)).sum(-1).mean()


def ones(n: Names) -> Tensor:
    return torch.ones_like(n["advantages"])


def ratios(n: Names) -> Tensor:
    return n["ratio"].detach()


# What each maximises, in closed form, and the weights of its Fisher matrix.
PROMISED: dict[str, tuple[Callable[[Names], Tensor], Callable[[Names], Tensor]]] = {
    "fresh data": (ones, lambda n: surrogate(n, ones(n))),
    "ratios": (ratios, lambda n: surrogate(n, ratios(n))),
    "clamped ratios": (lambda n: n["weights"], lambda n: surrogate(n, n["weights"])),
    "entropy": (ratios, lambda n: surrogate(n, ratios(n)) + 0.01 * entropy(n)),
    "KL": (ratios, lambda n: surrogate(n, ratios(n)) - 0.05 * kl(n)),
    "any other term": (ratios, lambda n: surrogate(n, ratios(n)) + 0.01 * entropy(n)),
}


@pytest.fixture(autouse=True)
def _double_precision() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def prepared() -> Names:
    """The setup, with every action taken in every state, so that means over the samples are expectations."""
    names: Names = {}
    torch.manual_seed(0)
    exec(SETUP, names)
    with torch.no_grad():
        for parameter in names["actor"].parameters():
            parameter.mul_(3)  # a policy that is far from the one that acted
    states = torch.randn(20, 4)
    names["observations"], names["actions"] = states.repeat_interleave(3, 0), torch.arange(3).repeat(20)
    names["advantages"], names["old_log_prob"] = torch.randn(60), torch.full((60,), 1 / 3).log()
    names["reference"] = Categorical(logits=torch.randn(20, 3).repeat_interleave(3, 0))
    names["reference_log_prob"] = names["reference"].log_prob(names["actions"])
    exec(SETUP[SETUP.index("with transform.record") :], names)
    return names


def gradient_of(names: Names) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in names["actor"].parameters()])


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).norm()) <= 1e-9 * float(expected.norm())


def test_each_recipe_is_checked() -> None:
    assert len(RECIPES) == len(TITLES)
    assert set(TITLES) == set(PROMISED)


@pytest.mark.parametrize("title", TITLES)
def test_a_recipe_runs_as_it_stands_and_leaves_minus_the_direction(title: str) -> None:
    names: Names = {}
    torch.manual_seed(0)
    exec(SETUP + RECIPES[TITLES.index(title)], names)
    direction = torch.cat([g.flatten() for g in names["step"].direction.values()])
    assert_close(gradient_of(names), -direction)


@pytest.mark.parametrize("title", TITLES)
def test_a_recipe_gives_the_natural_gradient_of_what_it_promises(title: str) -> None:
    names = prepared()
    exec(RECIPES[TITLES.index(title)], names)
    weights, objective = (promise(names) for promise in PROMISED[title])
    parameters = list(names["actor"].parameters())
    vanilla = torch.cat([g.flatten() for g in torch.autograd.grad(objective, parameters)])
    h = dense.score_matrix(policy_of(names).log_prob(names["actions"]), parameters)
    fisher = h.T @ dense.covariance(weights) @ h + 0.1 * torch.eye(len(vanilla))
    assert_close(gradient_of(names), -torch.linalg.solve(fisher, vanilla))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


def test_what_the_page_warns_of_is_another_direction() -> None:
    names = prepared()
    exec(RECIPES[TITLES.index("ratios")].replace("(ratio * step", "(log_prob * step"), names)
    direction = torch.cat([g.flatten() for g in names["step"].direction.values()])
    assert cosine(-gradient_of(names), direction) < 0.9
    names = prepared()
    exec(RECIPES[TITLES.index("any other term")].replace("0.01", "1.0"), names)
    preconditioned = gradient_of(names)
    names = prepared()
    loss = "loss = -(ratio * step.advantage).mean() - policy.entropy().mean()\nloss.backward()"
    exec("step = transform(log_prob, advantages, weights=ratio)\n" + loss, names)
    assert cosine(gradient_of(names), preconditioned) < 0.99
