"""The score matrix ``H`` of a mini-batch: its factors held, or found anew by a backward pass where they are large."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ratpg.natgrad.capture import Recorder
from ratpg.natgrad.factors import Factor, along, gram, lower_gram, to_parameters
from ratpg.natgrad.lower import LowerTriangle
from ratpg.natgrad.plan import LayerPlan, Plan, plan_of
from ratpg.natgrad.verifier import Look
from ratpg.natgrad.workspace import Workspace


class Scores(Protocol):
    """``H [B, p]``, row ``i`` the score ``∇θ log π(aᵢ|sᵢ)``."""

    def products(
        self, like: Tensor, g: Mapping[str, Tensor] | None, workspace: Workspace
    ) -> tuple[LowerTriangle, Tensor | None]:
        """``K = HHᵀ``, in the workspace's memory, with dtype and device of ``like [B]``; and ``H g [B]``, if wanted."""
        ...

    def matvec(self, g: Mapping[str, Tensor]) -> Tensor:
        """``H g [B]`` for ``g = {parameter name: tensor}``."""
        ...

    def rmatvec(self, v: Tensor) -> dict[str, Tensor]:
        """``Hᵀv`` as {parameter name: tensor}, for ``v [B]``."""
        ...

    def plan(self) -> Plan:
        """How each layer's share of ``K`` is found."""
        ...


class HeldScores:
    """Every layer's factor is held from one backward pass on.

    Args:
        factors: these.
        names: of the parameters, in the order wanted.
    """

    def __init__(self, factors: Sequence[Factor], names: Sequence[str]):
        self.factors, self.names = factors, names

    def products(
        self, like: Tensor, g: Mapping[str, Tensor] | None, workspace: Workspace
    ) -> tuple[LowerTriangle, Tensor | None]:
        return lower_gram(self.factors, like, workspace), None if g is None else self.matvec(g)

    def gram(self, like: Tensor) -> Tensor:
        """``K [B, B]``, whole, for ``like [B]``."""
        return gram(self.factors, like)

    def head(self, count: int) -> "HeldScores":
        """The first ``count`` rows."""
        return HeldScores([factor.head(count) for factor in self.factors], self.names)

    def matvec(self, g: Mapping[str, Tensor]) -> Tensor:
        return along(self.factors, g)

    def rmatvec(self, v: Tensor) -> dict[str, Tensor]:
        return to_parameters(self.factors, v, self.names)

    def plan(self) -> Plan:
        return Plan(tuple(plan_of(factor) for factor in self.factors), held=True)


class PassingScores:
    """Of what has fast factors no more than one layer's are held at a time: each product is a backward pass of its own.

    Args:
        recorder: what recorded the forward pass.
        log_prob: ``[B]``, with its graph, which is kept.

    Attributes:
        norms: of the rows, ``[B]``, once there were `products`.
        looked: what the factors said of one probe meanwhile; None where no comparison is due.
    """

    def __init__(self, recorder: Recorder, log_prob: Tensor):
        self.recorder, self.log_prob = recorder, log_prob
        self._layers: tuple[LayerPlan, ...] = ()
        self.norms = torch.ones_like(log_prob)
        self.looked: Look | None = None

    def products(
        self, like: Tensor, g: Mapping[str, Tensor] | None, workspace: Workspace
    ) -> tuple[LowerTriangle, Tensor | None]:
        total, parts, layers = LowerTriangle.zeros(like, workspace), list[Tensor](), list[LayerPlan]()
        self.looked = self.recorder.look_at(self.log_prob)

        def add(factor: Factor) -> None:
            factor.add_gram(total)
            if self.looked is not None:
                self.looked.add(factor)
            if g is not None:
                parts.append(factor.matvec(g))
            layers.append(plan_of(factor))

        self._visit(add)
        self._layers, self.norms = tuple(layers), total.diagonal().sqrt()
        return total, torch.stack(parts).sum(0) if parts else None

    def matvec(self, g: Mapping[str, Tensor]) -> Tensor:
        parts: list[Tensor] = []
        self._visit(lambda factor: parts.append(factor.matvec(g)))
        return torch.stack(parts).sum(0)

    def rmatvec(self, v: Tensor) -> dict[str, Tensor]:
        parameters = self.recorder.parameters
        gradients = torch.autograd.grad(self.log_prob, list(parameters.values()), v, retain_graph=True)
        dense = (g.to_dense() if g.is_sparse else g for g in gradients)
        return {name: g.to(v.dtype) for name, g in zip(parameters, dense, strict=True)}

    def plan(self) -> Plan:
        return Plan(self._layers, held=False)

    def _visit(self, on_factor: Callable[[Factor], None]) -> None:
        with torch.enable_grad():
            self.recorder.visit(self.log_prob, on_factor)
