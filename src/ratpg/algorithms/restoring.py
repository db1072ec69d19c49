"""Optimizers that go on where they were."""

from typing import Any

import torch
from torch import Tensor


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads what `torch.optim.Optimizer.state_dict` returned.

    Raises:
        ValueError: where it is not of this optimizer's parameters, which PyTorch would find out in the next step.
    """
    for values in state["state"].values():
        if not (isinstance(values, dict) and all(isinstance(value, Tensor | int | float) for value in values.values())):
            raise ValueError("an optimizer's state is of tensors and numbers")
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            # A count of steps is one number; everything else has an entry for each of the parameter's.
            expected = () if name == "step" else parameter.shape
            if torch.as_tensor(value).shape != expected:
                raise ValueError(f"an optimizer's {name} is not of the shape of its parameter")
