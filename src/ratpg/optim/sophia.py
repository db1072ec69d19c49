"""Sophia: a clipped step preconditioned by a running Hessian diagonal (Liu et al. 2023, arXiv 2305.14342)."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class Sophia(torch.optim.Optimizer):
    """``θ ← θ − η clip(m / max(γ h, ε), ±1)``, ``m`` and ``h`` exponential averages of gradient and Hessian diagonal.

    The diagonal is estimated every few steps by `gauss_newton_bartlett` or `hutchinson` and handed to
    `update_hessian`. The published method has weight decay too, which nothing here uses.

    Args:
        params: the parameters.
        lr: η.
        betas: decays of the averages of gradient and Hessian diagonal.
        gamma: γ; entries with ``|m| < γ h`` take a Newton step, the others one of the sign.
        eps: ε.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.965, 0.99),
        gamma: float = 0.05,
        eps: float = 1e-12,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "gamma": gamma, "eps": eps})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
                self.state[parameter]["hessian"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def update_hessian(self, diagonal: Sequence[Tensor]) -> None:
        """Moves the average towards an estimate of the diagonal, one tensor a parameter in their order."""
        estimates = iter(diagonal)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["hessian"].lerp_(next(estimates), 1 - group["betas"][1])

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step along the gradients in ``.grad``, which ``closure``, where there is one, computes with the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter]["momentum"].lerp_(parameter.grad, 1 - group["betas"][0])
                curvature = (group["gamma"] * self.state[parameter]["hessian"]).clamp(min=group["eps"])
                parameter.add_((momentum / curvature).clamp_(-1, 1), alpha=-group["lr"])
        return loss


def gauss_newton_bartlett(log_prob: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """``B ĝ∘ĝ`` with ``ĝ = ∇ mean(log_prob)``, whose expectation is the Fisher matrix's diagonal.

    Args:
        log_prob: of outcomes *sampled from the model*, ``[B]``, with its graph.
        parameters: the parameters.
    """
    gradients = torch.autograd.grad(log_prob.mean(), parameters)
    return [len(log_prob) * gradient.square() for gradient in gradients]


def hutchinson(loss: Tensor, parameters: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """``u∘(∇²L u)`` for a normal ``u``, whose expectation is the Hessian's diagonal.

    Args:
        loss: ``L``, a scalar with its graph.
        parameters: the parameters.
        generator: source of ``u``, on the CPU.
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    vectors = [torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device) for p in parameters]
    products = torch.autograd.grad(gradients, parameters, vectors)
    return [u * product for u, product in zip(vectors, products, strict=True)]
