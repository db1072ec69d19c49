"""The parameter-space twin of `transform`: Fisher-vector products and conjugate gradients, as TRPO has them.

`score_fisher` is the empirical Fisher ``HᵀΣH`` of the recorded samples, whose damped inverse `transform` applies in
sample space; `kl_fisher` is the Hessian of the mean KL divergence (Schulman et al. 2015, arXiv 1502.05477), which
agrees with it in expectation over actions only. Vectors are flat, ``[p]``, in the order of the parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from ratpg.natgrad.errors import NotFinite
from ratpg.natgrad.factors import Factor, along, to_parameters

Product = Callable[[Tensor], Tensor]


class Stop(Enum):
    """Why conjugate gradients ended."""

    CONVERGED = "the residual is as small as was asked"
    ITERATIONS = "there were as many products as were allowed"
    CURVATURE = "a direction of no or negative curvature: A is not positive definite, and x is what was found before"


@dataclass(frozen=True)
class CGSolution:
    """What conjugate gradients found.

    Attributes:
        x: the solution, ``[p]``.
        iterations: products that were needed.
        residual: ``‖b − A x‖ / ‖b‖``, as the recurrence has it.
        stopped: why no further product was taken.
    """

    x: Tensor
    iterations: int
    residual: float
    stopped: Stop


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """One flat vector ``[p]``."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `flatten`, with the names and shapes of ``like``."""
    pieces = vector.split([tensor.numel() for tensor in like.values()])
    return {name: piece.view_as(tensor) for (name, tensor), piece in zip(like.items(), pieces, strict=True)}


def score_fisher(
    factors: Sequence[Factor], parameters: Mapping[str, Tensor], weights: Tensor, damping: float
) -> Product:
    """``v ↦ (HᵀΣH + λI) v`` with ``Σ = diag(w)/B``, from factors and without a backward pass.

    Args:
        factors: of the recorded samples, together ``H [B, p]``.
        parameters: name -> parameter, which fixes the order of the flat vectors.
        weights: ``w [B]``.
        damping: λ.
    """

    def product(v: Tensor) -> Tensor:
        weighted = weights * along(factors, unflatten(v, parameters)) / len(weights)
        return flatten(list(to_parameters(factors, weighted, parameters).values())) + damping * v

    return product


def kl_fisher(kl: Tensor, parameters: Sequence[Tensor], damping: float) -> Product:
    """``v ↦ (∇²KL + λI) v`` by differentiating twice.

    Args:
        kl: mean KL divergence from a detached copy of the policy to the policy itself, a scalar with its graph.
        parameters: of the policy.
        damping: λ.
    """
    gradient = flatten(torch.autograd.grad(kl, parameters, create_graph=True))

    def product(v: Tensor) -> Tensor:
        return flatten(torch.autograd.grad(gradient @ v, parameters, retain_graph=True)) + damping * v

    return product


@torch.no_grad()
def conjugate_gradient(product: Product, b: Tensor, iterations: int, tolerance: float = 1e-10) -> CGSolution:
    """Solves ``A x = b`` for symmetric positive definite ``A`` given by its products (Hestenes & Stiefel 1952).

    It is solved for ``b`` in units of a power of two near its largest entry, so that squares neither underflow nor
    overflow; no other digit changes.

    Args:
        product: ``v ↦ A v``.
        b: ``[p]``.
        iterations: at most so many products.
        tolerance: stop at ``‖r‖ ≤ tolerance · ‖b‖``.

    Raises:
        NotFinite: where ``b``, a product or the solution has NaN or infinity.
    """
    if not b.isfinite().all():
        raise NotFinite("the right-hand side is not finite: look for NaN or infinity in the gradient")
    unit = torch.frexp(b.abs().max()).exponent
    b = torch.ldexp(b, -unit)
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    squared, scale = residual @ residual, float(b.norm())
    used, stopped = 0, Stop.CONVERGED
    while float(squared.sqrt()) > tolerance * scale:
        if used == iterations:
            stopped = Stop.ITERATIONS
            break
        with torch.enable_grad():
            image = product(direction)
        curvature = direction @ image
        used += 1
        if not curvature.isfinite():
            raise NotFinite("a product of conjugate gradients is not finite: look for NaN or infinity in the network")
        if curvature <= 0:
            stopped = Stop.CURVATURE
            break
        step = squared / curvature
        x += step * direction
        residual -= step * image
        squared, before = residual @ residual, squared
        # The denominator is the squared residual *before* the update; codes in use have got this wrong.
        direction = residual + (squared / before) * direction
    x = torch.ldexp(x, unit)
    if not x.isfinite().all():
        raise NotFinite("the solution of conjugate gradients overflows: raise the damping")
    return CGSolution(x, used, float(squared.sqrt()) / scale if scale else 0.0, stopped)
