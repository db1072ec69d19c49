"""An LSTM behind other layers, for policies that have to remember (Hausknecht and Stone 2015, arXiv 1507.06527)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Reader = Literal["actor", "critic"]


@dataclass(frozen=True)
class Sequences:
    """What a recurrent policy is asked about: ``T`` steps of ``n`` environments, of which some rows count.

    Attributes:
        inputs: normalised observations, ``[T, n, *shape]``.
        fresh: whether an episode begins with this step, so that the state is zero before it; bool ``[T, n]``.
        states: hidden and cell states before the first step, side by side, of each reader; ``[n, 2 H]``.
        kept: the rows that are experience, bool ``[T, n]``; networks return those, step by step.
    """

    inputs: Tensor
    fresh: Tensor
    states: dict[Reader, Tensor]
    kept: Tensor

    def __getitem__(self, envs: Tensor) -> "Sequences":
        """The sequences of some of the environments."""
        states = {reader: state[envs] for reader, state in self.states.items()}
        return Sequences(self.inputs[:, envs], self.fresh[:, envs], states, self.kept[:, envs])

    def until(self, steps: int) -> "Sequences":
        """The first steps."""
        return Sequences(self.inputs[:steps], self.fresh[:steps], self.states, self.kept[:steps])


class RecurrentBody(nn.Module):
    """Layers, then an LSTM over the steps.

    Args:
        features: the layers, from ``[B, *shape]`` to ``[B, width]``.
        width: of their output.
        hidden: ``H``, width of the LSTM.
        reader: whose states of `Sequences` it goes on from.
    """

    def __init__(self, features: nn.Module, width: int, hidden: int, reader: Reader):
        super().__init__()
        self.features, self.reader = features, reader
        self.cell = nn.LSTMCell(width, hidden)

    def forward(self, sequences: Sequences) -> Tensor:
        """``[rows, H]``, of the rows that are kept."""
        outputs, _ = self.run(sequences.inputs, sequences.fresh, sequences.states[self.reader])
        return outputs[sequences.kept]

    def run(self, inputs: Tensor, fresh: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """All steps from a state.

        Args:
            inputs: ``[T, n, *shape]``.
            fresh: bool ``[T, n]``.
            state: ``[n, 2 H]``.

        Returns:
            Outputs ``[T, n, H]``, and the state after the last step.
        """
        features = self.features(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
        outputs = []
        for x, forgets in zip(features, fresh[..., None], strict=True):
            hidden, cell = self.cell(x, state.masked_fill(forgets, 0.0).chunk(2, -1))
            outputs.append(hidden)
            state = torch.cat([hidden, cell], -1)
        return torch.stack(outputs), state

    def step(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of ``[n, *shape]`` from a state; returns output ``[n, H]`` and state."""
        hidden, cell = self.cell(self.features(inputs), state.chunk(2, -1))
        return hidden, torch.cat([hidden, cell], -1)
