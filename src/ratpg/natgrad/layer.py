"""What was recorded of one layer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class LayerCall(NamedTuple):
    """A recorded call: the module, its first input, and the gradient of the summed log-probability in its output."""

    module: Any
    inputs: Tensor
    gradients: Tensor


class Layer(NamedTuple):
    """Calls of one module, or of several of its type that share all their parameters.

    Attributes:
        calls: in any order.
        names: the module's own trainable parameters: attribute -> name in the result.
        samples: the batch size ``B``.
        keep_tokens: see `token_factors`.
    """

    calls: Sequence[LayerCall]
    names: dict[str, str]
    samples: int
    keep_tokens: bool

    def divides(self) -> bool:
        """Whether the slowest dimension of each input can hold ``B`` samples, or ``B`` times as many images."""
        return all(len(call.inputs) and len(call.inputs) % self.samples == 0 for call in self.calls)
