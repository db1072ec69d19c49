"""Cases: free parameters among the layers, and batch sizes from one sample to several panels."""

import torch
from torch import Tensor, nn

from .case import Case, case, gaussian, gaussian_case, perceptron


class PositionalNet(nn.Module):
    """Tokens with a position ``[T, d]`` and a scale ``[1, 1, d]``, both free parameters of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(4, 6))
        self.scale = nn.Parameter(torch.randn(1, 1, 8))
        self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.outer((self.scale * self.inner(tokens + self.position)).tanh()).mean(1)


@case
def free_positions_and_scales() -> Case:
    return gaussian_case(PositionalNet(), (4, 6))


class SequenceFirstWidth(nn.Module):
    """A free log_std that meets means with time in front of the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Linear(6, 3), nn.Parameter(torch.full((3,), -0.3))

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        mean = self.mean(obs.transpose(0, 1))
        return gaussian(mean, action.transpose(0, 1), self.log_std).sum(0)


@case
def free_log_std_sequence_first() -> Case:
    actor = SequenceFirstWidth()
    return Case(actor, (torch.randn(12, 5, 6), torch.randn(12, 5, 3)), actor.log_prob)


@case
def one_sample() -> Case:
    return gaussian_case(perceptron(6, 8, 3), batch=1)


@case
def more_samples_than_parameters() -> Case:
    # p = 21: K is rank-deficient.
    return gaussian_case(nn.Linear(6, 3), batch=60)


@case
def two_panels() -> Case:
    return gaussian_case(perceptron(6, 8, 3), batch=300)


@case
def three_panels_of_tokens() -> Case:
    actor = perceptron(5, 6, 3)
    return gaussian_case(actor, (3, 5), batch=515, forward=lambda obs: actor(obs).mean(1))
