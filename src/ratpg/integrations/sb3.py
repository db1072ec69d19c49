"""RAT as an algorithm of Stable-Baselines3, with its policies, wrappers, callbacks, saving and loading.

from ratpg.integrations.sb3 import RAT
RAT("MlpPolicy", "Hopper-v4").learn(1_000_000)
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
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
    critic is fitted by Adam. Observations and rewards are best normalised (``VecNormalize``).

    Args:
        policy: a policy of Stable-Baselines3, or its name. Actor and critic must not share parameters: of images, whose
            layers they share by default, give ``policy_kwargs={"share_features_extractor": False}``.
        env: the environment, or its id.
        learning_rate: of the critic's Adam; a number, or a function of the share of the run that is left.
        n_steps: steps of each environment in a rollout.
        batch_size: mini-batch of the actor, whose Fisher matrix is its rows'; divides ``n_steps * n_envs``.
        n_epochs: passes over each rollout by the actor.
        gamma: discount factor.
        gae_lambda: λ of generalized advantage estimation.
        ent_coef: weight of the entropy.
        max_grad_norm: bound on the norm of the critic's gradient.
        damping: λ > 0 of the Fisher matrix.
        step_size: the first step size along the natural gradient.
        kl_band: range of the KL divergence of an update, above which the step size is divided by 1.5, and below
            multiplied.
        critic_epochs: passes over each rollout by the critic.
        critic_batch_size: its mini-batch; divides ``n_steps * n_envs``.
        stats_window_size, tensorboard_log, policy_kwargs, verbose, seed, device: as Stable-Baselines3 has them.

    Raises:
        BadConfig: for hyperparameters that make no sense, and for a policy whose actor and critic share parameters.
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
        for name, value in (("damping", damping), ("step_size", step_size), ("kl_band", kl_band[0])):
            require(name, value, above=0)
        require("kl_band", kl_band[1], at_least=kl_band[0])
        for name, count in (("n_epochs", n_epochs), ("critic_epochs", critic_epochs)):
            require(name, count, at_least=1)
        self.damping, self.batch_size, self.n_epochs = damping, batch_size, n_epochs
        self.critic_batch_size, self.critic_epochs = critic_batch_size, critic_epochs
        self.step_size = KLBand(step_size, kl_band, STEP_SIZES)
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        rows = self.n_steps * self.n_envs
        for name in ("batch_size", "critic_batch_size"):
            size = getattr(self, name)
            require(name, size, at_least=2)
            if rows % size:
                raise BadConfig(f"{name} must divide n_steps * n_envs = {rows}, got {size}")
        policy = self.policy
        parts: list[nn.Module | nn.Parameter]
        parts = [policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net]
        if isinstance(self.action_space, spaces.Box):
            parts.append(policy.log_std)
        self.transform = AdvantageTransform(parts, self.damping)
        critic = nn.ModuleList([policy.vf_features_extractor, policy.mlp_extractor.value_net, policy.value_net])
        parameters = list(critic.parameters())
        if {id(p) for p in parameters} & {id(p) for p in self.transform.parameters.values()}:
            raise BadConfig(
                "actor and critic share layers: policy_kwargs={'share_features_extractor': False} parts them"
            )
        optimizer: Any = policy.optimizer_class
        policy.optimizer = optimizer(parameters, lr=self.lr_schedule(1), **policy.optimizer_kwargs)

    def train(self) -> None:
        """Improves actor and critic by the rollout."""
        policy, buffer = self.policy, self.rollout_buffer
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        norms = [self._improve(batch) for batch in self._batches(self.n_epochs, self.batch_size)]
        losses = [self._fit(batch) for batch in self._batches(self.critic_epochs, self.critic_batch_size)]
        self._n_updates += self.n_epochs
        with torch.no_grad():
            (rollout,) = buffer.get()
            log_prob = self._log_prob(rollout)
            log_ratio = log_prob - rollout.old_log_prob
            kl = float((log_ratio.exp() - 1 - log_ratio).mean())  # http://joschu.net/blog/kl-approx.html
        self.logger.record("train/approx_kl", kl)
        self.logger.record("train/entropy_loss", float(log_prob.mean()))
        self.logger.record("train/value_loss", float(torch.stack(losses).mean()))
        self.logger.record("train/step_size", self.step_size.value)
        self.logger.record("train/step_norm", self.step_size.value * float(torch.stack(norms).mean()))
        self.logger.record("train/explained_variance", explained_variance(*map(_flat, (buffer.values, buffer.returns))))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.step_size.update(kl)

    def _batches(self, epochs: int, size: int) -> Iterator[RolloutBufferSamples]:
        for _ in range(epochs):
            yield from self.rollout_buffer.get(size)

    def _log_prob(self, batch: RolloutBufferSamples) -> Tensor:
        actions = batch.actions.long().flatten() if isinstance(self.action_space, spaces.Discrete) else batch.actions
        return self.policy.get_distribution(batch.observations).log_prob(actions)

    def _improve(self, batch: RolloutBufferSamples) -> Tensor:
        """Moves the actor along the natural gradient; returns its norm."""
        with self.transform.record():
            log_prob = self._log_prob(batch)
        now = log_prob.detach()
        ratio = (now - batch.old_log_prob).exp().clamp(*RATIOS)
        # The entropy's gradient is that of the surrogate with −log π for the advantage.
        advantages = normalized(batch.advantages) + self.ent_coef * (now.mean() - now)
        direction = self.transform(log_prob, advantages, ratio).direction
        with torch.no_grad():
            for name, g in direction.items():
                self.transform.parameters[name].add_(g, alpha=self.step_size.value)
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

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "RAT",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> "RAT":
        """Trains for so many steps."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "transform"]


def _flat(values: Any) -> Any:
    return values.flatten()
