"""Generalised advantage estimation."""

import torch
from torch import Tensor


def gae(
    rewards: Tensor, values: Tensor, terminated: Tensor, truncated: Tensor, valid: Tensor, gamma: float, lam: float
) -> Tensor:
    """GAE(γ, λ) (Schulman et al. 2016, arXiv 1506.02438) for environments that reset on the next step.

    ``δ_t = r_t + γ (1 − terminated_t) V(s_{t+1}) − V(s_t)`` and ``A_t = δ_t + γλ (1 − done_t) A_{t+1}``.  A truncated
    episode bootstraps from the value of its true final observation, which next-step reset puts in place ``t + 1``.

    Args:
        rewards: ``[T, N]``.
        values: ``V(s_t)``, ``[T + 1, N]``.
        terminated, truncated: bool ``[T, N]``.
        valid: False where the step only reset the environment, bool ``[T, N]``; such steps get advantage 0.
        gamma: discount γ.
        lam: λ.

    Returns:
        Advantages ``[T, N]``; the λ-returns are ``advantages + values[:-1]``.
    """
    bootstrap = values[1:].masked_fill(terminated, 0.0)
    delta = (rewards + gamma * bootstrap - values[:-1]).masked_fill(~valid, 0.0)
    carry = gamma * lam * (valid & ~(terminated | truncated)).to(delta.dtype)
    advantages = torch.empty_like(delta)
    last = torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        last = torch.addcmul(delta[t], carry[t], last, out=advantages[t])
    return advantages
