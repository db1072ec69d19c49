"""The oracle: every quantity of `ratpg.natgrad` formed naively from the full score matrix.

Meant for float64 and small problems.  Each function is the textbook line, with LU and a parameter-sized inverse
where the textbook has one, so that nothing here shares a trick with what it checks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def score_matrix(log_prob: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """``H [B, p]``: row ``i`` is the gradient of ``log_prob[i]``, one backward pass a row."""
    rows = []
    for value in log_prob:
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        rows.append(torch.cat([g.flatten() for g in flat]))
    return torch.stack(rows).detach()


def covariance(weights: Tensor) -> Tensor:
    """``Σ = diag(w)/B``, ``[B, B]``."""
    return torch.diag(weights) / len(weights)


def transformed_advantage(scores: Tensor, advantages: Tensor, weights: Tensor, damping: float) -> Tensor:
    """``Ã = (λI + HHᵀΣ)⁻¹ y`` by LU, as the authors' code does."""
    system = damping * torch.eye(len(scores)).to(scores) + scores @ scores.T @ covariance(weights)
    return torch.linalg.solve(system, advantages)


def natural_gradient(scores: Tensor, advantages: Tensor, weights: Tensor, damping: float) -> Tensor:
    """``(λI + HᵀΣH)⁻¹ HᵀΣy [p]``, with the parameter-sized system that the transform avoids."""
    sigma = covariance(weights)
    fisher = damping * torch.eye(scores.shape[1]).to(scores) + scores.T @ sigma @ scores
    return torch.linalg.solve(fisher, scores.T @ sigma @ advantages)


def kaczmarz_step(
    scores: Tensor, advantages: Tensor, weights: Tensor, damping: float, previous: Tensor, decay: float
) -> Tensor:
    """``g_j = ζ g_{j−1} + HᵀΣ (λI + KΣ)⁻¹ (y − ζ H g_{j−1})``, ``[p]``."""
    residual = advantages - decay * scores @ previous
    block = transformed_advantage(scores, residual, weights, damping)
    return decay * previous + scores.T @ covariance(weights) @ block
