"""What a case is, how one enters the table, and the parts that most of them are made of.

Modules and data are drawn in float32 and widened, so that a case holds exactly the same numbers in both precisions
and a float32 result can be compared with the float64 oracle without a rounding of the problem itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Normal

BATCH = 12


@dataclass(frozen=True)
class Case:
    """A recorded problem: what is handed to `AdvantageTransform`, fixed data, and the forward pass over them."""

    actor: nn.Module | Sequence[nn.Module | nn.Parameter]
    data: tuple[Tensor, ...]
    compute: Callable[..., Tensor]

    def log_prob(self) -> Tensor:
        """The forward pass: ``[B]``, the same numbers at every call."""
        return self.compute(*self.data)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, each once, in the order they were handed over."""
        parts = [self.actor] if isinstance(self.actor, nn.Module) else self.actor
        found = [p for part in parts for p in ([part] if isinstance(part, nn.Parameter) else part.parameters())]
        return [p for p in dict.fromkeys(found) if p.requires_grad]

    def to(self, dtype: torch.dtype) -> "Case":
        """The case in another precision: modules and parameters are converted in place, as `nn.Module.to` does."""
        for part in [self.actor] if isinstance(self.actor, nn.Module) else self.actor:
            if isinstance(part, nn.Parameter):
                part.data = part.data.to(dtype)
            else:
                part.to(dtype)
        data = tuple(t.to(dtype) if t.is_floating_point() else t for t in self.data)
        return Case(self.actor, data, self.compute)


CASES: dict[str, Callable[[], Case]] = {}


def case(build: Callable[[], Case]) -> Callable[[], Case]:
    """Adds a builder to the table under its own name; what it builds is float64 and from a fixed seed."""

    def seeded() -> Case:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return build().to(torch.float64)

    CASES[build.__name__] = seeded
    return seeded


def perceptron(*sizes: int, activation: Callable[[], nn.Module] = nn.Tanh, bias: bool = True) -> nn.Sequential:
    """Linear layers with an activation between each two."""
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(sizes):
        layers += [nn.Linear(d_in, d_out, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


def gaussian(mean: Tensor, action: Tensor, log_std: Tensor | float = -0.5) -> Tensor:
    """Log-density of a diagonal Gaussian, summed over action dimensions: ``[B, A] -> [B]``."""
    std = log_std.exp() if isinstance(log_std, Tensor) else mean.new_tensor(log_std).exp()
    return Normal(mean, std).log_prob(action).sum(-1)


def gaussian_case(
    actor: nn.Module, shape: Sequence[int] = (6,), actions: int = 3, batch: int = BATCH, forward: Callable | None = None
) -> Case:
    """A Gaussian policy of fixed width whose mean is ``forward(obs)``, by default ``actor(obs)``."""
    run = actor if forward is None else forward
    data = torch.randn(batch, *shape), torch.randn(batch, actions)
    return Case(actor, data, lambda obs, action: gaussian(run(obs), action))
