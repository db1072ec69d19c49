"""What every algorithm must do."""

import dataclasses
import io
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ratpg.algorithms import CONFIGS, Config, make_algorithm
from ratpg.algorithms.checks import BadConfig
from ratpg.rl.batch import Batch
from ratpg.rl.spec import PolicySpec

from .problem import (
    BINARY,
    CENSORED,
    DISCRETE,
    GAUSSIAN,
    RECURRENT,
    SEVERAL,
    SHARED,
    SHARED_DISCRETE,
    SHARED_RECURRENT,
    make_batch,
    make_policy,
)

SMALL: dict[str, dict[str, Any]] = {
    "rat": {"epochs": 2, "minibatches": 3, "critic_epochs": 1, "critic_minibatches": 2},
    "rat, gauss-newton critic": {"critic": "gauss-newton", "epochs": 2, "minibatches": 3, "critic_minibatches": 2},
    "rat, curvature of some rows": {"curvature_rows": 5, "epochs": 2, "minibatches": 3, "critic_minibatches": 2},
    "rat, residuals": {"value_advantage": "residual", "epochs": 2, "minibatches": 3},
    "trpo": {"critic_epochs": 1, "critic_minibatches": 2},
    "trpo, steps of mini-batches": {"target_kl": None, "epochs": 2, "minibatches": 3, "critic_minibatches": 2},
    "acktr": {"damping": 0.1, "epochs": 2, "minibatches": 3},
    "acktr, eigenvalue-corrected": {"eigenvalue_corrected": True, "epochs": 2, "minibatches": 3},
    "sophia": {"learning_rate": 0.01, "epochs": 2, "minibatches": 3, "hessian_interval": 2, "critic_minibatches": 2},
    "sophia, hutchinson": {"hessian": "hutchinson", "epochs": 2, "minibatches": 3, "hessian_interval": 2},
    "diag": {"epochs": 2, "minibatches": 3, "critic_minibatches": 2},
    "ppo": {"learning_rate": 0.01, "epochs": 2, "minibatches": 3},
}
SEPARATE_ONLY = ("trpo", "sophia")
"""Algorithms without a form for shared layers; RAT with these options has none either."""
NOT_FOR = {
    "rat, residuals": ("gaussian", "censored", "categorical", "multi-categorical", "bernoulli", "recurrent"),
    "rat, gauss-newton critic": ("shared", "shared and categorical", "shared and recurrent"),
    "rat, curvature of some rows": ("shared", "shared and categorical", "recurrent", "shared and recurrent"),
}
NETWORKS = {
    "gaussian": GAUSSIAN,
    "censored": CENSORED,
    "categorical": DISCRETE,
    "multi-categorical": SEVERAL,
    "bernoulli": BINARY,
    "shared": SHARED,
    "shared and categorical": SHARED_DISCRETE,
    "recurrent": RECURRENT,
    "shared and recurrent": SHARED_RECURRENT,
}
every_algorithm = pytest.mark.parametrize("algo", SMALL)
every_network = pytest.mark.parametrize(
    ("algo", "spec"),
    [
        pytest.param(algo, spec, id=f"{algo}, {kind}")
        for algo in SMALL
        for kind, spec in NETWORKS.items()
        if not (spec.shared and algo.startswith(SEPARATE_ONLY)) and kind not in NOT_FOR.get(algo, ())
    ],
)


def small(algo: str, **changes: Any) -> Config:
    return CONFIGS[algo.partition(",")[0]](**SMALL[algo] | changes)


def gaussian(algo: str) -> PolicySpec:
    """A policy with continuous actions, of separate networks if the algorithm has a form for these."""
    return SHARED if "gaussian" in NOT_FOR.get(algo, ()) else GAUSSIAN


@pytest.mark.parametrize("algo", SEPARATE_ONLY)
def test_what_has_no_form_for_shared_layers_refuses_them(algo: str) -> None:
    with pytest.raises(BadConfig, match=f"{algo} needs separate networks"):
        make_algorithm(make_policy(SHARED), small(algo), torch.Generator())


def test_every_algorithm_is_here() -> None:
    assert {name.partition(",")[0] for name in SMALL} == set(CONFIGS)


@every_network
def test_every_parameter_moves_log_std_too(algo: str, spec: PolicySpec) -> None:
    policy = make_policy(spec)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    assert any("log_std" in name for name in before) == (not spec.choices)
    make_algorithm(policy, small(algo), torch.Generator()).update(make_batch(policy), 1.0)
    for name, parameter in policy.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@every_network
def test_the_same_seed_gives_the_same_update(algo: str, spec: PolicySpec) -> None:
    policies = [make_policy(spec) for _ in range(2)]
    ours, again = (
        make_algorithm(policy, small(algo), torch.Generator().manual_seed(3)).update(make_batch(policy), 1.0)
        for policy in policies
    )
    assert ours == again
    for first, second in zip(*(policy.parameters() for policy in policies), strict=True):
        assert torch.equal(first, second)


@every_network
def test_a_restored_algorithm_goes_on_to_the_bit(algo: str, spec: PolicySpec) -> None:
    policy, generator = make_policy(spec), torch.Generator().manual_seed(3)
    algorithm = make_algorithm(policy, small(algo), generator)
    algorithm.update(make_batch(policy, seed=1), 1.0)
    copy, other_generator = make_policy(spec), torch.Generator()
    copy.load_state_dict(policy.state_dict())
    restored = make_algorithm(copy, small(algo), other_generator)
    file = io.BytesIO()
    torch.save(algorithm.state_dict(), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    other_generator.set_state(generator.get_state())
    batch = make_batch(policy, seed=2)
    assert algorithm.update(batch, 0.5) == restored.update(batch, 0.5)
    for ours, theirs in zip(policy.parameters(), copy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@every_algorithm
def test_an_update_raises_the_surrogate(algo: str) -> None:
    policy = make_policy(gaussian(algo))
    batch = make_batch(policy)
    make_algorithm(policy, small(algo), torch.Generator()).update(batch, 1.0)
    ratio = (policy.actor(batch.observations).log_prob(batch.actions) - batch.log_prob).exp()
    assert ((ratio - 1) * (batch.advantages - batch.advantages.mean())).mean() > 0


@every_algorithm
def test_advantages_count_up_to_a_positive_scale_and_a_shift(algo: str) -> None:
    policies = [make_policy(gaussian(algo)) for _ in range(2)]
    for policy, (scale, shift) in zip(policies, [(1.0, 0.0), (100.0, -7.0)], strict=True):
        batch = make_batch(policy)
        changed = Batch(**vars(batch) | {"advantages": scale * batch.advantages + shift})
        make_algorithm(policy, small(algo), torch.Generator().manual_seed(7)).update(changed, 1.0)
    first, second = (nn.utils.parameters_to_vector(p.actor.parameters()) for p in policies)
    assert_close(first, second, rtol=1e-6, atol=1e-6)


@every_algorithm
def test_a_batch_smaller_than_its_number_of_minibatches_does_no_harm(algo: str) -> None:
    policy = make_policy(gaussian(algo))
    few = make_batch(policy)[torch.arange(3)]
    make_algorithm(policy, small(algo, minibatches=4), torch.Generator()).update(few, 1.0)
    assert all(parameter.isfinite().all() for parameter in policy.parameters())


@every_algorithm
def test_what_it_logs_is_finite_and_has_the_common_columns(algo: str) -> None:
    policy = make_policy(gaussian(algo))
    metrics = make_algorithm(policy, small(algo), torch.Generator()).update(make_batch(policy), 1.0)
    assert {"kl", "entropy", "learning_rate", "grad_norm"} <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())


@every_algorithm
def test_hyperparameters_that_are_no_numbers_are_refused_by_name(algo: str) -> None:
    for field in dataclasses.fields(small(algo)):
        if isinstance(field.default, float):
            with pytest.raises(BadConfig, match=field.name):
                small(algo, **{field.name: math.nan})
        elif isinstance(field.default, int) and not isinstance(field.default, bool):
            with pytest.raises(BadConfig, match=field.name):
                small(algo, **{field.name: 0})


@every_algorithm
def test_a_config_cannot_be_changed(algo: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small(algo).epochs = 1
