"""Two ways to fit a separate critic to λ-returns, in PopArt's normalised units."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratpg.algorithms.background import Background
from ratpg.algorithms.graphed import launched
from ratpg.algorithms.restoring import restore
from ratpg.natgrad import AdvantageTransform
from ratpg.optim.kl_band import KLBand
from ratpg.rl.batch import Batch
from ratpg.rl.networks.perceptron import squared_error_gradients
from ratpg.rl.policy import ActorCritic, Observations

GAUSS_NEWTON_BOUNDS = (1e-4, 1.0)
"""Least and greatest step of the Gauss-Newton critic; 1 is the whole step."""


class Critic(ABC):
    """Fits a policy's critic to rollouts, in place.

    With ``overlap`` a fit goes on while the next rollout is collected, which asks the actor alone: `begin` only starts
    it, and whoever needs the critic, or saves it, calls `finish` first. The result is the same, up to rounding.

    Args:
        policy: whose critic is fitted.
        epochs: passes over each rollout.
        minibatches: mini-batches in each pass.
        generator: source of the mini-batches' order.

    Attributes:
        overlap: whether `begin` returns at once, False at first.
        loss: mean squared error on the way of the last fit that was finished, in normalised units.
    """

    def __init__(self, policy: ActorCritic, epochs: int, minibatches: int, generator: torch.Generator):
        self.policy, self.epochs, self.minibatches, self.generator = policy, epochs, minibatches, generator
        self.overlap, self.loss = False, 0.0
        self._background = Background()

    def begin(self, batch: Batch) -> None:
        """Fits to a rollout, or starts to; the generator is not touched once this has returned."""
        passes = [batch.parts(self.minibatches, self.generator) for _ in range(self.epochs)]

        def task() -> None:
            self.policy.value_head.update(batch.returns)
            targets = self.policy.value_head.normalize(batch.returns)
            parts = ((batch.observations[part], targets[batch.rows(part)]) for parts in passes for part in parts)
            self.loss = float(torch.stack(self._fit(batch.observations, parts)).mean())

        if self.overlap:
            self._background.start(task)
        else:
            task()

    def finish(self) -> None:
        """Waits for the fit that was begun, if any, and raises what it raised."""
        self._background.wait()

    def fit(self, batch: Batch) -> float:
        """Fits to a rollout; returns `loss`."""
        self.begin(batch)
        self.finish()
        return self.loss

    @abstractmethod
    def _fit(self, observations: Observations, parts: Iterable[tuple[Observations, Tensor]]) -> list[Tensor]:
        """One step for each of the ``parts`` of all observations, which come with their targets; returns their mean
        squared errors before it."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class AdamCritic(Critic):
    """Regression by Adam with a bound on the gradient's norm.

    Args:
        policy, epochs, minibatches, generator: as for `Critic`.
        learning_rate: Adam's.
        max_grad_norm: bound on the gradient's norm.
    """

    def __init__(
        self,
        policy: ActorCritic,
        *,
        learning_rate: float,
        epochs: int,
        minibatches: int,
        max_grad_norm: float,
        generator: torch.Generator,
    ):
        super().__init__(policy, epochs, minibatches, generator)
        self.max_grad_norm = max_grad_norm
        self._parameters = list(policy.critic.parameters())
        self._capturable = policy.device.type == "cuda"
        self.optimizer = torch.optim.Adam(self._parameters, lr=learning_rate, fused=True, capturable=self._capturable)
        self._layers = policy.critic_layers()
        self._launch = launched(policy, self._step)

    def _fit(self, observations: Observations, parts: Iterable[tuple[Observations, Tensor]]) -> list[Tensor]:
        self._layers = self.policy.critic_layers()
        return [self._launch(*part)[0] for part in parts]

    def _step(self, observations: Observations, targets: Tensor) -> tuple[Tensor]:
        if self._layers is not None and isinstance(observations, Tensor):
            loss = squared_error_gradients(self._layers, observations, targets)
        else:
            loss = functional.mse_loss(self.policy.critic(observations), targets)
            self.optimizer.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm)
        self.optimizer.step()
        return (loss.detach(),)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore(self.optimizer, state["optimizer"])
        for group in self.optimizer.param_groups:
            group["capturable"] = self._capturable  # and not as on the device where it was saved
        self._launch = launched(self.policy, self._step)  # a captured one would go on with the averages before


class GaussNewtonCritic(Critic):
    """Regression by damped Gauss-Newton steps, the natural gradient of a Gaussian value with unit variance.

    With residuals ``r = R − V(s)`` and rows ``J = ∇V`` each mini-batch moves the critic along
    ``Jᵀ (λI + JJᵀ/B)⁻¹ r / B``: the transform of `ratpg.natgrad` with another scalar. The step size keeps
    ``½ E[(V − V_before)²]``, that Gaussian's KL divergence, inside a band.

    Args:
        policy, epochs, minibatches, generator: as for `Critic`.
        damping: λ.
        step_size: the KL band's step size, in its state when the run begins.
    """

    def __init__(
        self,
        policy: ActorCritic,
        *,
        damping: float,
        step_size: KLBand,
        epochs: int,
        minibatches: int,
        generator: torch.Generator,
    ):
        super().__init__(policy, epochs, minibatches, generator)
        self.step_size = step_size
        self.transform = AdvantageTransform(policy.critic, damping, verify="first")
        self.transform.deferred = policy.device.type == "cuda"

    def _fit(self, observations: Observations, parts: Iterable[tuple[Observations, Tensor]]) -> list[Tensor]:
        critic = self.policy.critic
        with torch.no_grad():
            before = critic(observations)
        losses = []
        for inputs, targets in parts:
            with self.transform.record():
                values = critic(inputs)
            residuals = targets - values.detach()
            step = self.transform(values, residuals)
            with torch.no_grad():
                for name, g in step.direction.items():
                    self.transform.parameters[name].add_(g, alpha=self.step_size.value)
            losses.append(residuals.square().mean())
        self.transform.release()
        with torch.no_grad():
            moved = critic(observations) - before
        self.step_size.update(0.5 * float(moved.square().mean()))
        return losses

    def state_dict(self) -> dict[str, Any]:
        return {"step_size": self.step_size.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step_size.value = state["step_size"]
