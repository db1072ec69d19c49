"""Which modules have a fast factor, and how a recorded call becomes one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ratpg.natgrad.factors import DenseFactor, Factor, OuterFactor, TokenFactor


class PerSampleParameter(nn.Module):
    """A free parameter, such as a state-independent ``log_std``, that gives each sample its own view.

    Called with a batch it returns ``[B, *shape]``, so a forward hook sees one gradient row a sample.

    Args:
        value: the initial value, of any shape.
    """

    def __init__(self, value: Tensor):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, batch: Tensor) -> Tensor:
        """The parameter expanded to ``[B, *shape]``, where ``B = len(batch)``."""
        return self.value.expand(len(batch), *self.value.shape)


def has_factor(module: nn.Module) -> bool:
    """Whether recorded calls of this module have a fast factor.

    A subclass with a forward of its own, and a parametrised layer (whose weight is no parameter), have none.
    """
    if isinstance(module, nn.Linear):
        return type(module).forward is nn.Linear.forward and "weight" in module._parameters
    return isinstance(module, PerSampleParameter)


def build_factor(
    module: nn.Module, names: dict[str, str], calls: Sequence[tuple[Tensor, Tensor]], samples: int
) -> Factor | None:
    """The factor of one module from its recorded calls.

    Args:
        module: a module for which `has_factor` holds.
        names: the module's own trainable parameters: attribute -> name in the result.
        calls: (input, gradient of the summed log-probability in the output) of each call.
        samples: the batch size ``B``.

    Returns:
        The factor, or None where a call's leading dimensions cannot hold ``B`` samples.
    """
    if isinstance(module, PerSampleParameter):
        shape = module.value.shape
        if any(gradient.shape != (samples, *shape) for _, gradient in calls):
            return None
        return DenseFactor(torch.stack([gradient for _, gradient in calls]).sum(0), names["value"])

    inputs, gradients = [], []
    for call_inputs, call_gradients in calls:
        rows = call_gradients.numel() // call_gradients.shape[-1]
        if rows == 0 or rows % samples:
            return None
        # [B, ..., d] or [B * T, d] -> [B, T, d]; a layout where samples are not the slowest dimension is
        # caught by the check against autograd that every new structure goes through (`capture`).
        inputs.append(call_inputs.reshape(samples, -1, call_inputs.shape[-1]))
        gradients.append(call_gradients.reshape(samples, -1, call_gradients.shape[-1]))
    # A module that ran more than once sums its scores before they are contracted: its calls are more tokens.
    a = inputs[0] if len(inputs) == 1 else torch.cat(inputs, 1)
    d = gradients[0] if len(gradients) == 1 else torch.cat(gradients, 1)
    weight, bias = names.get("weight"), names.get("bias")
    if a.shape[1] == 1:
        return OuterFactor(a.squeeze(1), d.squeeze(1), weight, bias)
    return TokenFactor(a, d, weight, bias)
