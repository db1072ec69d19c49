"""An exported policy acts in another runtime as it does here."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from ratpg.integrations.onnx import onnx_program
from ratpg.natgrad import products
from ratpg.rl.policy import ActorCritic
from ratpg.rl.spec import PolicySpec

SPECS = {
    "unbounded": PolicySpec((376,), (17,), hidden=(100, 48)),
    "a number": PolicySpec((3,), ()),
    "censored": PolicySpec((3,), (2,), action_low=(-1.0, 0.0), action_high=(0.3, 7.0), action_bounds="censor"),
    "squashed": PolicySpec((2, 3), (2, 1), action_low=(-1.0, 0.0), action_high=(0.3, 7.0), action_bounds="tanh"),
    "integers": PolicySpec((3,), (2,), action_low=(-2.0, 0.0), action_high=(9.0, 1.0), action_dtype="int32"),
    "squashed bytes": PolicySpec(
        (3,), (2,), action_low=(0.0, 0.0), action_high=(9.0, 1.0), action_dtype="uint8", action_bounds="tanh"
    ),
    "double": PolicySpec((3,), (2,), observation_dtype="float64"),
    "categorical": PolicySpec((3,), (), choices=(4,), first_choices=(-1,), activation="tanh"),
    "multi-categorical": PolicySpec((3,), (2,), choices=(4, 3), first_choices=(0, 5)),
    "bernoulli": PolicySpec((3,), (2, 2), choices=(2,) * 4, first_choices=(0,) * 4, shared=True),
    "recurrent": PolicySpec((3,), (2,), lstm=4),
    "images": PolicySpec((36, 40, 3), (2,), images=True, network="nature-cnn"),
    "impala": PolicySpec((3, 18, 20), (2,), images=True, network="impala", shared=True, lstm=4),
}


def observations_of(spec: PolicySpec, count: int) -> torch.Tensor:
    if spec.images:
        return torch.randint(256, (count, *spec.observation_shape), dtype=torch.uint8)
    return (3 + 2 * torch.randn(count, *spec.observation_shape)).to(getattr(torch, spec.observation_dtype))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_it_acts_as_the_policy(spec: PolicySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "mkls", "none")  # as on processors where products are chosen by their sizes
    torch.manual_seed(0)
    policy = ActorCritic(spec)
    for parameter in policy.actor.head.parameters():
        torch.nn.init.normal_(parameter)  # so that it acts differently in each state, and beyond the bounds
    policy.observe(observations_of(spec, 100))
    onnx_program(policy).save(tmp_path / "policy.onnx", external_data=False)
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    for count in (1, 7, 600):
        memory = policy.new_memory(count)
        inputs = {} if memory is None else {"memory": memory.actor.numpy().copy()}
        for _ in range(3):
            observations = observations_of(spec, count)
            action, *rest = session.run(None, {"observation": observations.numpy(), **inputs})
            expected = policy.act(observations, memory)
            np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-5)
            assert action.dtype == expected.dtype
            assert count == 1 or (action != action[0]).any()
            inputs = dict(zip(inputs, rest, strict=True))
