"""RAT: natural policy gradients by Randomized Advantage Transformation (Sun, ICML 2026)."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ratpg.algorithms.checks import BadConfig, require
from ratpg.algorithms.critic import GAUSS_NEWTON_BOUNDS, AdamCritic, Critic, GaussNewtonCritic
from ratpg.algorithms.divergence import kl_and_entropy
from ratpg.algorithms.graphed import Launch, launched
from ratpg.algorithms.joint import joint_rows, joint_score, value_noise
from ratpg.natgrad import AdvantageTransform, Solution
from ratpg.optim.kl_band import KLBand
from ratpg.rl.batch import Batch, normalized
from ratpg.rl.policy import ActorCritic, Observations


@dataclass(frozen=True)
class RATConfig:
    """Hyperparameters of RAT."""

    damping: float = 0.1
    """Damping λ of the Fisher matrix, >= 0."""
    step_size: float = 0.2
    """First step size η along the natural gradient; adapted to the KL band after each rollout."""
    step_size_bounds: tuple[float, float] = (1e-4, 2.0)
    """Least and greatest step size."""
    kl_band: tuple[float, float] = (0.0075, 0.03)
    """Range for the KL divergence from the behaviour policy: above it the step size is divided by 1.5, below it
    multiplied by 1.5."""
    anneal_kl_band: bool = True
    """Let the KL band fall linearly to 0 over the second half of the run."""
    max_step_norm: float | None = None
    """Bound ν on the norm of the step, min(η, ν/‖g‖)·g; None for no bound."""
    kaczmarz_decay: float = 0.0
    """Decay ζ of the Kaczmarz iterate from mini-batch to mini-batch: 0 is the exact damped natural gradient of each
    mini-batch, 1 the paper's iteration."""
    weight_decay: float = 0.001
    """With separate networks and curvature from all rows: weight c of the actor's ½‖θ‖² in the objective whose natural
    gradient is taken. What the Fisher matrix knows of hardly feels it; what no action depends on any more, such as a
    mean far beyond the bounds, returns at a rate of η c/λ a step, and so does the whole network over very many: the
    default preset has it in inverse proportion to the run's steps from a million on. Needs damping > 0."""
    curvature_rows: int | None = None
    """Rows of a mini-batch that make the Fisher matrix, at (B/R)² less cost; None for all. The gradient is always that
    of all rows. With separate networks and without an LSTM, whose rows are in the order of time."""
    epochs: int = 2
    """Passes over each rollout by the actor."""
    minibatches: int = 2
    """Mini-batches in each of these passes."""
    entropy_coefficient: float = 0.03
    """First weight of the policy's entropy, falling linearly to 0 at the end of the run: this much of the negative
    log-probability is added to the normalised advantages."""
    ratio_bounds: tuple[float, float] = (0.1, 10.0)
    """Importance ratios are clamped to this range."""
    value_coefficient: float = 1.0
    """With shared layers and a pseudo-advantage: weight of the critic's loss beside the surrogate. A pseudo-advantage
    is up to 1/λ; a weight of λ makes the critic's step as long as its error at most."""
    value_advantage: Literal["pseudo", "residual"] = "pseudo"
    """With shared layers: "pseudo" solves for the paper's pseudo-advantage of ones, and wants a step that is bounded;
    "residual" gives each sample a second row, the gradient of its value, whose advantage is how far the return is from
    it. A mini-batch then takes the time and memory of twice as many samples."""
    critic: Literal["adam", "gauss-newton"] = "adam"
    """With separate networks: how the critic is fitted."""
    critic_learning_rate: float = 1e-3
    """Adam's learning rate for the critic."""
    critic_max_grad_norm: float = 5.0
    """Bound on the norm of the critic's gradient, with Adam."""
    critic_damping: float = 0.1
    """Damping λ of the critic's Gauss-Newton matrix, >= 0."""
    critic_step_size: float = 0.1
    """First step size of the Gauss-Newton critic, adapted to its KL band after each rollout; with shared layers and
    residuals the size of the critic's part of a step, which stays unless max_step_norm bounds the whole."""
    critic_kl_band: tuple[float, float] = (0.005, 0.02)
    """Range for half the mean squared change of the normalised values, to which the Gauss-Newton step is adapted."""
    critic_epochs: int = 4
    """Passes over each rollout by the critic."""
    critic_minibatches: int = 8
    """Mini-batches in each of these passes."""

    def __post_init__(self) -> None:
        for name in ("damping", "critic_damping"):
            require(name, getattr(self, name), at_least=0)
        if self.critic not in ("adam", "gauss-newton"):
            raise BadConfig(f"critic must be adam or gauss-newton, got '{self.critic}'")
        if self.value_advantage not in ("pseudo", "residual"):
            raise BadConfig(f"value_advantage must be pseudo or residual, got '{self.value_advantage}'")
        require("step_size", self.step_size, above=0)
        require("curvature_rows", self.curvature_rows, at_least=1)
        require("max_step_norm", self.max_step_norm, above=0)
        for name in ("entropy_coefficient", "value_coefficient", "weight_decay"):
            require(name, getattr(self, name), at_least=0)
        if self.weight_decay and not self.damping:
            raise BadConfig(f"weight_decay must be 0 without damping, got {self.weight_decay:g}")
        require("kaczmarz_decay", self.kaczmarz_decay, at_least=0, at_most=1)
        if self.curvature_rows and not self.damping:
            raise BadConfig(f"curvature_rows needs damping > 0, got {self.damping:g}")
        if self.curvature_rows and self.kaczmarz_decay:  # what only the other rows know of would grow step by step
            raise BadConfig(f"kaczmarz_decay must be 0 with curvature_rows, got {self.kaczmarz_decay:g}")
        for name in ("epochs", "minibatches", "critic_epochs", "critic_minibatches"):
            require(name, getattr(self, name), at_least=1)
        for name in ("critic_learning_rate", "critic_max_grad_norm", "critic_step_size"):
            require(name, getattr(self, name), above=0)
        for name in ("step_size_bounds", "kl_band", "critic_kl_band", "ratio_bounds"):
            low, high = getattr(self, name)
            require(name, low, above=0)
            require(name, high, at_least=low)
        least, greatest = self.step_size_bounds
        require("step_size", self.step_size, at_least=least, at_most=greatest)
        require("critic_step_size", self.critic_step_size, at_most=1)


class RAT:
    """Updates a policy from rollouts.

    Per mini-batch: one forward pass, one transform of the advantages, one step along
    ``g_j = m + HᵀΣÃ`` of size ``min(η, ν/‖g_j‖)``, with ``m = ζ g_{j−1} + (1 − ζ) w`` and
    ``Ã = (λI + KΣ)⁻¹ (y − H m)``. ``w = −c θ/λ``, the weight decay, makes this for ζ = 0 the natural gradient
    ``(λI + HᵀΣH)⁻¹ (HᵀΣy − c θ)``; without it ``g_j`` is the Kaczmarz iterate. ``g`` starts from ``w`` at each rollout.

    Where actor and critic share layers, the scores are those of the joint likelihood of the action and of a value
    drawn from ``N(V(s), 1)``, ``∇ log π + ε ∇V``; one system is solved for the advantages and for the critic's
    *pseudo-advantage* of ones, and a single backward pass of ``mean(w Ã log π) − c_V mean(Ã_V ½(R − V)²)`` gives ``g``.
    With ``value_advantage="residual"`` nothing is drawn: each sample has two rows, ``∇ log π`` with its advantage ``y``
    and ``∇V`` with ``(η_V/η) (R − V)``, as the Fisher matrix of ``N(V(s), 1)`` is ``∇V ∇Vᵀ``. The step is ``HᵀΣÃ`` of
    these ``2B`` rows, the natural gradient of ``mean(w y log π) − (η_V/η) mean(w ½(R − V)²)``, whose
    norm grows where ``η`` becomes small.

    Args:
        policy: the policy to improve, in place.
        config: hyperparameters.
        generator: source of the mini-batches' order, and of the values drawn.

    Raises:
        BadConfig: for a Kaczmarz decay, curvature rows or a Gauss-Newton critic where layers are shared; for residuals
            where they are not; for curvature rows with an LSTM.
    """

    def __init__(self, policy: ActorCritic, config: RATConfig, generator: torch.Generator):
        self.policy, self.config, self.generator = policy, config, generator
        self.shared = policy.spec.shared
        if self.shared and config.kaczmarz_decay:
            raise BadConfig(f"kaczmarz_decay must be 0 with shared layers, got {config.kaczmarz_decay:g}")
        if self.shared and config.curvature_rows:
            raise BadConfig(f"curvature_rows needs separate networks, got {config.curvature_rows}")
        if self.shared and config.critic != "adam":
            raise BadConfig(f"critic '{config.critic}' needs separate networks: leave out --shared")
        if config.value_advantage == "residual" and not self.shared:
            raise BadConfig("value_advantage residual needs shared layers: add --shared")
        if policy.spec.lstm and config.curvature_rows:  # the first rows of sequences are their first steps
            raise BadConfig(f"curvature_rows needs a policy without an LSTM, got {config.curvature_rows}")
        network = policy if self.shared else policy.actor
        self.transform = AdvantageTransform(network, config.damping, config.curvature_rows, verify="first")
        self.critic = None if self.shared else _critic(policy, config, generator)
        self.step_size = KLBand(config.step_size, config.kl_band, config.step_size_bounds)
        self._carried: dict[str, Tensor] | None = None  # g of the mini-batch before, with Kaczmarz
        self.transform.deferred = policy.device.type == "cuda"
        self.measures = not (self.shared or config.curvature_rows)
        self._pseudo = self.shared and config.value_advantage == "pseudo"
        of_both = self._pseudo_step if self._pseudo else self._residual_step
        self._launch: Launch = of_both if self.shared else self._actor_step
        self._launch_measured: Launch = partial(self._actor_step, measured=True)
        if not config.kaczmarz_decay:  # what is carried from one mini-batch to the next is no part of a captured graph
            self._launch = launched(policy, self._launch)
            self._launch_measured = launched(policy, self._launch_measured)

    def update(self, batch: Batch, remaining: float = 1.0) -> dict[str, float]:
        """One rollout's worth of improvement.

        Args:
            batch: the rollout.
            remaining: share of the run that is still to come, from 1 to 0.

        Returns:
            What happened, for the log.
        """
        config = self.config
        entropy_coefficient = config.entropy_coefficient * remaining
        # Where the graph of a step is captured, what differs from call to call has to be a tensor.
        size, bonus = (batch.returns.new_tensor(x) for x in (self.step_size.value, entropy_coefficient))
        norms, failures = [], []
        cosine: Tensor | None = None
        if self.critic is None:
            self.policy.value_head.update(batch.returns)
        self._carried = None
        for _ in range(config.epochs):
            for minibatch in batch.minibatches(config.minibatches, self.generator):
                columns = minibatch.observations, minibatch.actions, minibatch.log_prob, minibatch.advantages
                if self.critic is None:
                    targets = self.policy.value_head.normalize(minibatch.returns)
                    noise = (value_noise(minibatch, self.generator),) if self._pseudo else ()
                    norm, failed = self._launch(*columns, targets, *noise, size, bonus)
                elif self.measures and cosine is None:
                    norm, failed, cosine = self._launch_measured(*columns, size, bonus)
                else:
                    norm, failed = self._launch(*columns, size, bonus)
                norms.append(norm)
                failures.append(failed)
        self.transform.release()
        kl, entropy = kl_and_entropy(self.policy, batch)
        used = self.step_size.value
        self.step_size.update(kl, min(1.0, 2 * remaining) if config.anneal_kl_band else 1.0)
        if self.critic is not None:
            self.critic.begin(batch)
        metrics = {
            "kl": kl,
            "entropy": entropy,
            "learning_rate": used,
            "grad_norm": float(torch.stack(norms).mean()),
            "solver_fallbacks": float(torch.stack(failures).sum()),
        }
        return metrics if cosine is None else metrics | {"natural_cosine": float(cosine)}

    def _actor_step(
        self,
        observations: Observations,
        actions: Tensor,
        behaviour: Tensor,
        advantages: Tensor,
        size: Tensor,
        bonus: Tensor,
        measured: bool = False,
    ) -> tuple[Tensor, ...]:
        """Moves the actor along the natural gradient of a mini-batch.

        Args:
            observations, actions, behaviour, advantages: columns of a `Batch`; ``behaviour`` is its ``log_prob``.
            size: the step size, a scalar.
            bonus: the entropy's weight, a scalar.
            measured: whether the cosine of the direction with the damped natural gradient of the advantages alone,
                without entropy and weight decay, is returned too. It is asked for the first mini-batch of a rollout,
                where Kaczmarz has nothing to carry yet.

        Returns:
            Norm of the direction, whether its system took more than a Cholesky factorisation, and perhaps the cosine;
            scalars.
        """
        with self.transform.record():
            log_prob = self.policy.actor(observations).log_prob(actions)
        ratio, y = self._ratio_and_advantages(log_prob.detach(), behaviour, advantages, bonus)
        zeta, carried = self.config.kaczmarz_decay, self._carried
        reference = normalized(advantages) if measured else None
        # A start that is not zero would grow along what only the other rows know of.
        some = self.config.curvature_rows is not None and self.config.curvature_rows < len(y)
        pull = 0.0 if some else self.config.weight_decay
        if pull:
            decayed = {
                name: p.detach() * (-pull / self.config.damping) for name, p in self.transform.parameters.items()
            }
            start = decayed if carried is None else {n: carried[n].lerp(w, 1 - zeta) for n, w in decayed.items()}
            step = self.transform(log_prob, y, ratio, previous=start, decay=1.0, reference=reference)
        else:
            step = self.transform(log_prob, y, ratio, previous=carried, decay=zeta, reference=reference)
        if zeta:
            self._carried = step.direction
        norm = self._move(step.direction, size)
        taken = norm, _failed(step.solution, size)
        return taken if step.reference is None else (*taken, _cosine(step.direction, step.reference))

    def _pseudo_step(
        self,
        observations: Observations,
        actions: Tensor,
        behaviour: Tensor,
        advantages: Tensor,
        targets: Tensor,
        noise: Tensor,
        size: Tensor,
        bonus: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As `_actor_step`, of both networks; ``targets`` are returns in PopArt's units, ``noise`` is `value_noise`."""
        with self.transform.record():
            score, log_prob, values = joint_score(self.policy, observations, actions, noise)
        ratio, advantages = self._ratio_and_advantages(log_prob.detach(), behaviour, advantages, bonus)
        solution = self.transform.solve(score, torch.stack([advantages, torch.ones_like(advantages)], 1), ratio)
        for_action, for_value = solution.x.unbind(1)
        gain = (ratio * for_action * log_prob).mean()
        gain = gain - 0.5 * self.config.value_coefficient * (for_value * (targets - values).square()).mean()
        gradients = torch.autograd.grad(gain, list(self.transform.parameters.values()))
        direction = dict(zip(self.transform.parameters, gradients, strict=True))
        return self._move(direction, size), _failed(solution, size)

    def _residual_step(
        self,
        observations: Observations,
        actions: Tensor,
        behaviour: Tensor,
        advantages: Tensor,
        targets: Tensor,
        size: Tensor,
        bonus: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As `_pseudo_step`, from two rows a sample."""
        with self.transform.record():
            rows = joint_rows(self.policy, observations, actions)
        log_prob, values = rows.detach().unflatten(0, (-1, 2)).unbind(1)
        ratio, advantages = self._ratio_and_advantages(log_prob, behaviour, advantages, bonus)
        weight = self.config.critic_step_size / size  # a critic cannot wait where the policy's step becomes small
        y = torch.stack([advantages, weight * (targets - values)], 1).flatten()
        step = self.transform(rows, y, 2 * ratio.repeat_interleave(2))  # twice, as Σ divides by the number of rows
        return self._move(step.direction, size), _failed(step.solution, size)

    def _ratio_and_advantages(
        self, log_prob: Tensor, behaviour: Tensor, advantages: Tensor, bonus: Tensor
    ) -> tuple[Tensor, Tensor]:
        ratio = (log_prob - behaviour).exp().clamp(*self.config.ratio_bounds)
        # The entropy's gradient is that of the surrogate with −log π for the advantage (centred, as any baseline may).
        return ratio, normalized(advantages) + bonus * (log_prob.mean() - log_prob)

    @torch.no_grad()
    def _move(self, direction: dict[str, Tensor], size: Tensor) -> Tensor:
        """Takes the step; returns the norm of the direction."""
        norm = torch.stack([g.norm() for g in direction.values()]).norm()
        if self.config.max_step_norm is not None:
            size = torch.minimum(size, self.config.max_step_norm / norm)
        for name, g in direction.items():
            self.transform.parameters[name].add_(g * size)
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {"critic": self.critic and self.critic.state_dict(), "step_size": self.step_size.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])
        self.step_size.value = state["step_size"]


def _cosine(g: dict[str, Tensor], other: dict[str, Tensor]) -> Tensor:
    pairs = [(g[name], other[name]) for name in g]
    product = torch.stack([(a * b).sum() for a, b in pairs]).sum()
    norms = (torch.stack([x.norm() for x in column]).norm() for column in zip(*pairs, strict=True))
    cosine = product / math.prod(norms, start=torch.ones_like(product)).clamp(min=1e-30)
    return cosine.clamp(-1.0, 1.0)  # which rounding may have passed


def _failed(solution: Solution, like: Tensor) -> Tensor:
    if solution.holds is not None:
        return ~solution.holds | (torch.as_tensor(solution.jitter) > 0)
    return torch.full_like(like, solution.method != "cholesky", dtype=torch.bool)


def _critic(policy: ActorCritic, config: RATConfig, generator: torch.Generator) -> Critic:
    passes: dict[str, Any] = {
        "epochs": config.critic_epochs,
        "minibatches": config.critic_minibatches,
        "generator": generator,
    }
    if config.critic == "adam":
        rate, bound = config.critic_learning_rate, config.critic_max_grad_norm
        return AdamCritic(policy, learning_rate=rate, max_grad_norm=bound, **passes)
    step_size = KLBand(config.critic_step_size, config.critic_kl_band, GAUSS_NEWTON_BOUNDS)
    return GaussNewtonCritic(policy, damping=config.critic_damping, step_size=step_size, **passes)
