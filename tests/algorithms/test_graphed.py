"""What a CUDA graph captures: that it never waits for the device, and, where there is a GPU, that it is the same."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ratpg.algorithms.graphed import WARM_UP, Graphed
from ratpg.algorithms.joint import value_noise
from ratpg.algorithms.rat import RAT, RATConfig
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec

from .problem import CENSORED, DISCRETE, GAUSSIAN, RECURRENT, SHARED, make_batch, make_policy

IMAGES = PolicySpec((3, 40, 36), (), (3,), (0,), images=True, network="nature-cnn")
WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique", "_unique2"}
"""Operations whose result the host needs before it goes on."""


class Waits(TorchDispatchMode):
    """Collects the operations that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        boolean_index = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in WAITS or boolean_index:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_the_collector_finds_what_waits() -> None:
    x = torch.arange(3.0)
    for wait in (x.sum().item, lambda: x[x > 1], x.nonzero, lambda: bool(x.sum() > 0)):
        with Waits() as waits:
            wait()
        assert waits.found


@pytest.mark.parametrize("spec", [GAUSSIAN, CENSORED, DISCRETE], ids=["gaussian", "censored", "discrete"])
@pytest.mark.parametrize("changes", [{}, {"kaczmarz_decay": 0.5}, {"curvature_rows": 8}, {"max_step_norm": 0.1}])
def test_a_step_of_rat_never_waits_when_it_is_deferred(spec: Any, changes: dict[str, Any]) -> None:
    policy = make_policy(spec)
    rat = RAT(policy, RATConfig(**changes), torch.Generator())
    rat.transform.deferred = True
    batch = make_batch(policy)
    columns = batch.observations, batch.actions, batch.log_prob, batch.advantages
    size, bonus = torch.tensor(0.1).double(), torch.tensor(0.01).double()
    for _ in range(4):  # passes 1, 2 and 4 of a structure are compared with autograd, which waits, unless captured
        rat._actor_step(*columns, size, bonus)
    with Waits() as waits:
        rat._actor_step(*columns, size, bonus)
        if rat.measures:
            rat._actor_step(*columns, size, bonus, measured=True)
    assert waits.found == []


@pytest.mark.parametrize("value_advantage", ["pseudo", "residual"])
def test_a_shared_step_of_rat_never_waits_when_it_is_deferred(value_advantage: Any) -> None:
    policy = make_policy(SHARED)
    rat = RAT(policy, RATConfig(value_advantage=value_advantage), torch.Generator().manual_seed(7))
    rat.transform.deferred = True
    batch = make_batch(policy)
    columns = [batch.observations, batch.actions, batch.log_prob, batch.advantages, batch.returns]
    columns += [value_noise(batch, rat.generator)] if value_advantage == "pseudo" else []
    scalars = torch.tensor(0.1).double(), torch.tensor(0.01).double()
    for _ in range(4):  # as above
        rat._launch(*columns, *scalars)
    with Waits() as waits:
        rat._launch(*columns, *scalars)
    assert waits.found == []


def test_a_step_of_the_adam_critic_never_waits() -> None:
    policy = make_policy(GAUSSIAN)
    rat = RAT(policy, RATConfig(), torch.Generator())
    batch = make_batch(policy)
    with Waits() as waits:
        rat.critic._step(batch.observations, batch.returns)
    assert waits.found == []


def test_a_deferred_update_is_the_update() -> None:
    parameters = []
    for deferred in (False, True):
        policy = make_policy(CENSORED)
        rat = RAT(policy, RATConfig(), torch.Generator().manual_seed(7))
        rat.transform.deferred = deferred
        assert rat.update(make_batch(policy))["solver_fallbacks"] == 0
        parameters.append(policy.state_dict())
    torch.testing.assert_close(parameters[0], parameters[1])


@pytest.mark.parametrize(
    ("spec", "changes", "captured"),
    [
        (GAUSSIAN, {}, True),
        (SHARED, {}, True),
        (SHARED, {"value_advantage": "residual"}, True),
        (GAUSSIAN, {"curvature_rows": 8}, True),
        (GAUSSIAN, {"kaczmarz_decay": 0.5}, False),
        (RECURRENT, {}, False),
        (IMAGES, {}, False),
    ],
    ids=["separate", "shared", "residual", "curvature rows", "kaczmarz", "recurrent", "images"],
)
def test_what_is_captured(spec: PolicySpec, changes: dict[str, Any], captured: bool) -> None:
    rat = RAT(ActorCritic(spec), RATConfig(**changes), torch.Generator())
    assert isinstance(rat._launch, Graphed) == captured
    if rat.critic is not None:  # whose state is its own from mini-batch to mini-batch
        assert isinstance(rat.critic._launch, Graphed) == (spec not in (RECURRENT, IMAGES))


def test_a_critics_state_is_followed_by_what_is_captured_after_it() -> None:
    critic = RAT(make_policy(GAUSSIAN), RATConfig(), torch.Generator()).critic
    before = critic._launch
    critic.load_state_dict(critic.state_dict())
    assert critic._launch is not before


def test_on_a_cpu_the_function_is_called_as_it_is() -> None:
    x, given = torch.ones(2), []

    def function(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given.append(inputs)
        return inputs

    assert Graphed(function)(x) == (x,)
    assert given[0][0] is x


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("spec", "changes"),
    [(GAUSSIAN, {}), (CENSORED, {}), (DISCRETE, {}), (SHARED, {}), (SHARED, {"value_advantage": "residual"})],
    ids=["gaussian", "censored", "discrete", "shared", "residual"],
)
def test_a_captured_update_is_the_update(spec: Any, changes: dict[str, Any]) -> None:
    def parameters(wrap: Callable[[Any], Any]) -> dict[str, torch.Tensor]:
        policy = make_policy(spec)
        batch = make_batch(copy.deepcopy(policy))
        policy = policy.cuda()
        rat = RAT(policy, RATConfig(epochs=2 * WARM_UP, **changes), torch.Generator().manual_seed(7))
        if rat.critic is None:
            rat._launch = wrap(rat._residual_step if changes else rat._pseudo_step)
        else:
            rat._launch, rat.critic._launch = wrap(rat._actor_step), wrap(rat.critic._step)
            rat._launch_measured = wrap(partial(rat._actor_step, measured=True))
        moved = {name: value.cuda() for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
        with torch.no_grad():
            distribution = policy.actor(moved["observations"]).detach()
        for _ in range(3):
            rat.update(type(batch)(**moved, distribution=distribution))
        return policy.state_dict()

    torch.testing.assert_close(parameters(Graphed), parameters(lambda function: function))
