"""RAT as an algorithm of Stable-Baselines3, with its policies, wrappers, callbacks, saving and loading.

from ratpg.integrations.sb3 import RAT
RAT("MlpPolicy", "Hopper-v4").learn(1_000_000)
"""

import inspect
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutBufferSamples, Schedule
from stable_baselines3.common.utils import explained_variance
from torch import Tensor, nn

from ratpg.algorithms.checks import BadConfig, require
from ratpg.natgrad import AdvantageTransform
from ratpg.optim.kl_band import KLBand
from ratpg.rl.batch import normalized

RATIOS = (0.1, 10.0)
"""Bounds of the importance ratios."""
STEP_SIZES = (1e-4, 2.0)
"""Bounds of the step size."""


class RAT(OnPolicyAlgorithm):
    """Natural policy gradients by Randomized Advantage Transformation (Sun, ICML 2026).

    The actor takes exact damped natural-gradient steps, whose size keeps the KL divergence of an update in a band; the
    critic is fitted by the policy's optimizer, which is Adam unless ``policy_kwargs`` says otherwise. Observations and
    rewards are best normalised (``VecNormalize``).

    Args:
        policy: a policy of Stable-Baselines3, or its name. Actor and critic must not share parameters: of images, whose
            layers they share by default, give ``policy_kwargs={"share_features_extractor": False}``.
        env: the environment, or its id.
        learning_rate: of the critic; a number, or a function of the share of the run that is left.
        n_steps: steps of each environment in a rollout.
        batch_size: mini-batch of the actor, whose Fisher matrix is its rows'. What a rollout has beyond a multiple of
            it is left out, other rows at each pass; of a smaller rollout all rows are one mini-batch.
        n_epochs: passes over each rollout by the actor; they end where a mini-batch finds the KL divergence above its
            band.
        gamma: discount factor.
        gae_lambda: λ of generalized advantage estimation.
        ent_coef: weight of the entropy.
        max_grad_norm: bound on the norm of the critic's gradient.
        damping: λ > 0 of the Fisher matrix.
        step_size: the first step size along the natural gradient.
        kl_band: range of the KL divergence of an update, above which the step size is divided by 1.5, and below
            multiplied.
        critic_epochs: passes over each rollout by the critic.
        critic_batch_size: its mini-batch.
        stats_window_size, tensorboard_log, policy_kwargs, verbose, seed, device: as Stable-Baselines3 has them.

    Raises:
        BadConfig: for hyperparameters that make no sense, for a policy that is not made of an actor and a critic
            without common parameters, and for a Box of integers as actions.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }
    rollout_buffer: RolloutBuffer
    policy: ActorCriticPolicy

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 2048,
        batch_size: int = 1024,
        n_epochs: int = 2,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        ent_coef: float = 0.0,
        max_grad_norm: float = 5.0,
        damping: float = 0.1,
        step_size: float = 0.2,
        kl_band: tuple[float, float] = (0.0075, 0.03),
        critic_epochs: int = 10,
        critic_batch_size: int = 128,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=1.0,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        self.batch_size, self.n_epochs, self.damping = batch_size, n_epochs, damping
        self.step_size, self.kl_band = step_size, kl_band
        self.critic_batch_size, self.critic_epochs = critic_batch_size, critic_epochs
        self._adapted = step_size, step_size
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        for name in ("damping", "max_grad_norm"):
            require(name, getattr(self, name), above=0)
        for name in ("n_steps", "n_epochs", "critic_epochs", "critic_batch_size"):
            require(name, getattr(self, name), at_least=1)
        require("batch_size", self.batch_size, at_least=2)
        require("ent_coef", self.ent_coef, at_least=0)
        require("step_size", self.step_size, at_least=STEP_SIZES[0], at_most=STEP_SIZES[1])
        low, high = self.kl_band
        require("kl_band", low, above=0)
        require("kl_band", high, at_least=low)
        if isinstance(self.action_space, spaces.Box) and not np.issubdtype(self.action_space.dtype, np.floating):
            # Its rollout buffer keeps actions in the space's dtype, and so forgets what the policy chose.
            raise BadConfig(
                f"Stable-Baselines3 truncates the actions of a Box of {self.action_space.dtype}: declare the Box as "
                "float32 and round in the environment"
            )
        super()._setup_model()
        self._bind()

    def _bind(self) -> None:
        """Parts the policy into an actor for the transform and a critic for the optimizer."""
        policy = self._bound = self.policy
        extractor = policy.mlp_extractor
        if not (hasattr(extractor, "policy_net") and hasattr(extractor, "value_net")):
            raise BadConfig(f"{type(extractor).__name__} must have policy_net and value_net, as MlpExtractor has")
        actor: list[nn.Module | nn.Parameter] = [policy.pi_features_extractor, extractor.policy_net, policy.action_net]
        if isinstance(self.action_space, spaces.Box):
            actor.append(policy.log_std)
        self.transform = AdvantageTransform(actor, self.damping)
        critic = nn.ModuleList([policy.vf_features_extractor, extractor.value_net, policy.value_net])
        parameters = [p for p in critic.parameters() if p.requires_grad]
        ours, theirs = ({id(p) for p in some} for some in (self.transform.parameters.values(), parameters))
        if ours & theirs:
            raise BadConfig(
                "actor and critic share layers: policy_kwargs={'share_features_extractor': False} parts them"
            )
        others = [n for n, p in policy.named_parameters() if p.requires_grad and id(p) not in ours | theirs]
        if others:
            raise BadConfig(f"these parameters are neither the actor's nor the critic's: {', '.join(others)}")
        if "share_features_extractor" in inspect.signature(type(policy)).parameters:
            policy._get_constructor_parameters = partial(_constructor_parameters, policy)  # type: ignore[method-assign]
        optimizer: Any = policy.optimizer_class
        policy.optimizer = optimizer(parameters, lr=self.lr_schedule(1), **policy.optimizer_kwargs)

    def train(self) -> None:
        """Improves actor and critic by the rollout."""
        if self._bound is not self.policy:  # which has been replaced
            self._bind()
        self.transform.damping = self.damping  # which may have been changed
        policy, buffer = self.policy, self.rollout_buffer
        self._update_learning_rate(policy.optimizer)
        size = self._adapted[1] if self._adapted[0] == self.step_size else self.step_size  # another one was loaded
        policy.set_training_mode(False)  # so that ratios are of the policy that acted, and samples do not mix
        norms = self._improve(size)
        policy.set_training_mode(True)
        losses = [self._fit(b) for _ in range(self.critic_epochs) for b in buffer.get(self.critic_batch_size)]
        policy.set_training_mode(False)
        kl, entropy = self._measure()
        band = KLBand(size, self.kl_band, STEP_SIZES)
        band.update(kl)
        self._adapted = self.step_size, band.value
        self._n_updates += self.n_epochs
        self.logger.record("train/approx_kl", kl)
        self.logger.record("train/entropy_loss", -entropy)
        self.logger.record("train/value_loss", float(torch.stack(losses).mean()))
        self.logger.record("train/step_size", size)
        self.logger.record("train/step_norm", size * float(torch.stack(norms).mean()) if norms else 0.0)
        values, returns = buffer.values.flatten(), buffer.returns.flatten()
        self.logger.record("train/explained_variance", explained_variance(values, returns))
        if isinstance(self.action_space, spaces.Box):
            self.logger.record("train/std", float(policy.log_std.detach().exp().mean()))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _improve(self, size: float) -> list[Tensor]:
        """The actor's passes; returns the norms of its directions, none where no mini-batch was within the KL band."""
        whole = min(self.batch_size, self.n_steps * self.n_envs)
        norms: list[Tensor] = []
        for _ in range(self.n_epochs):
            for batch in self.rollout_buffer.get(self.batch_size):
                if len(batch.advantages) == whole:
                    with self.transform.record():
                        log_prob = self._distribution(batch).log_prob(self._actions(batch))
                    log_ratio = log_prob.detach() - batch.old_log_prob
                    if float(_kl(log_ratio)) > self.kl_band[1]:
                        self.transform.release()
                        return norms
                    norms.append(self._step(batch, log_prob, log_ratio, size))
        self.transform.release()
        return norms

    def _step(self, batch: RolloutBufferSamples, log_prob: Tensor, log_ratio: Tensor, size: float) -> Tensor:
        """Moves the actor along the natural gradient; returns its norm."""
        ratio, now = log_ratio.exp().clamp(*RATIOS), log_prob.detach()
        # The entropy's gradient is that of the surrogate with −log π for the advantage.
        advantages = normalized(batch.advantages) + self.ent_coef * (now.mean() - now)
        direction = self.transform(log_prob, advantages, ratio).direction
        with torch.no_grad():
            for name, g in direction.items():
                self.transform.parameters[name].add_(g, alpha=size)
        return torch.stack([g.norm() for g in direction.values()]).norm()

    def _fit(self, batch: RolloutBufferSamples) -> Tensor:
        """One step of the critic; returns its loss."""
        optimizer = self.policy.optimizer
        loss = (self.policy.predict_values(batch.observations).flatten() - batch.returns).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.max_grad_norm)
        optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def _measure(self) -> tuple[float, float]:
        """KL divergence from the policy that acted, and entropy, over the rollout."""
        sums, rows = torch.zeros(2), 0
        for batch in self.rollout_buffer.get(self.batch_size):
            distribution = self._distribution(batch)
            log_prob = distribution.log_prob(self._actions(batch))
            entropy = distribution.entropy()
            count = len(log_prob)
            means = _kl(log_prob - batch.old_log_prob), (-log_prob if entropy is None else entropy).mean()
            sums, rows = sums + count * torch.stack(means).cpu(), rows + count
        kl, entropy_mean = (sums / rows).tolist()
        return kl, entropy_mean

    def _distribution(self, batch: RolloutBufferSamples) -> Distribution:
        return self.policy.get_distribution(batch.observations)

    def _actions(self, batch: RolloutBufferSamples) -> Tensor:
        return batch.actions.long().flatten() if isinstance(self.action_space, spaces.Discrete) else batch.actions

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "RAT",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Trains for so many steps."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "transform", "_bound"]


def _constructor_parameters(policy: ActorCriticPolicy) -> dict[str, Any]:
    """What `policy.save` writes beside the weights.

    Stable-Baselines3 leaves out whether extractors are shared; the policy loaded would give the actor the critic's.
    """
    parameters = type(policy)._get_constructor_parameters(policy)
    return {"share_features_extractor": policy.share_features_extractor} | parameters


def _kl(log_ratio: Tensor) -> Tensor:
    """Estimate of ``KL(old ‖ new)`` from ``log new − log old`` of the old one's actions (joschu.net/blog/kl-approx)."""
    return (log_ratio.exp() - 1 - log_ratio).mean()
