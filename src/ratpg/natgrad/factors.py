"""A layer's share of the score matrix ``H``, kept in factored form.

Row ``i`` of ``H [B, p]`` is the score ``∇θ log π(aᵢ|sᵢ)``.  A *factor* holds the columns of ``H`` that
belong to one layer without forming them, and offers the products everything else is made of:

===================  ============================================  ================
``add_gram(K)``      adds ``H Hᵀ``, this layer's share of ``K``    ``[B, B]``
``matvec(g)``        ``H g`` for ``g = {parameter name: tensor}``  ``[B]``
``rmatvec(v)``       ``Hᵀ v`` as ``{parameter name: tensor}``      parameter shapes
``squares(v)``       ``(H∘H)ᵀ v``, likewise                        parameter shapes
``norms()``          scale of each row, ``{parameter name: [B]}``  ``[B]`` each
``head(n)``          the factor of the first ``n`` rows            `Factor`
``cost()``           how ``K`` is come by, and what that takes     `Cost`
===================  ============================================  ================

No factor applies ``1/B``, a weight or the damping: that is for who asks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ratpg.natgrad.lower import LowerTriangle
from ratpg.natgrad.products import product, updated
from ratpg.natgrad.workspace import Workspace


@dataclass(frozen=True)
class Cost:
    """What a factor takes.

    Attributes:
        way: how its share of ``K`` is computed.
        bytes: held between the products; what the graph holds too (a layer's input) is counted as well.
        flops: of its share of ``K``, from the diagonal down; 2 for a multiply-add.
    """

    way: str
    bytes: int
    flops: int


class Factor(Protocol):
    """The columns of ``H [B, p]`` that belong to a few parameters."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters this factor covers."""
        ...

    def add_gram(self, gram: LowerTriangle) -> None:
        """Adds this factor's share to ``gram [B, B]``."""
        ...

    def matvec(self, g: Mapping[str, Tensor]) -> Tensor: ...

    def rmatvec(self, v: Tensor) -> dict[str, Tensor]: ...

    def squares(self, v: Tensor) -> dict[str, Tensor]: ...

    def head(self, count: int) -> "Factor":
        """The factor of the first ``count`` rows."""
        ...

    def norms(self) -> dict[str, Tensor]:
        """Of each parameter the norms of its rows, ``[B]``.

        Where a row is a sum over tokens this is a bound, made of the terms: rounding errors are in proportion to it,
        whatever cancels.
        """
        ...

    def cost(self) -> Cost: ...


def lower_gram(factors: Sequence[Factor], like: Tensor, workspace: Workspace) -> LowerTriangle:
    """``K = HHᵀ [B, B]`` summed over factors, its lower triangle.

    Its dtype, device and ``B`` are those of ``like [B]``; its memory is the workspace's.
    """
    total = LowerTriangle.zeros(like, workspace)
    for factor in factors:
        factor.add_gram(total)
    return total


def gram(factors: Sequence[Factor], like: Tensor) -> Tensor:
    """``K = HHᵀ [B, B]`` summed over factors, whole; dtype, device and ``B`` are those of ``like [B]``."""
    return lower_gram(factors, like, Workspace()).dense()


def along(factors: Sequence[Factor], g: Mapping[str, Tensor]) -> Tensor:
    """``H g [B]`` for ``g = {parameter name: tensor}``."""
    return torch.stack([factor.matvec(g) for factor in factors]).sum(0)


def to_parameters(factors: Sequence[Factor], v: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """``Hᵀv`` for ``v [B]``, as {parameter name: tensor} in the order of ``names``."""
    products: dict[str, Tensor] = {}
    for factor in factors:
        products.update(factor.rmatvec(v))
    return {name: products[name] for name in names}


def bytes_of(*tensors: Tensor) -> int:
    """Bytes of the elements of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def add_product(gram: LowerTriangle, rows: Tensor) -> None:
    """``gram += rows rowsᵀ``."""
    for start, stop, part in gram.columns():
        part.copy_(updated(part, rows[start:], rows[start:stop]))


class OuterFactor:
    """A linear layer seen once per sample: row ``i`` is ``dᵢ aᵢᵀ`` (and ``dᵢ`` for the bias).

    Then ``H Hᵀ = (A Aᵀ + 1) ∘ (D Dᵀ)``, with the ``1`` only where there is a trainable bias, and ``H`` is never
    formed (Ren & Goldfarb 2019, arXiv 1906.02353, use the same identity for Gauss-Newton systems).

    Args:
        inputs: ``A [B, d_in]``, what the layer was fed.
        gradients: ``D [B, d_out]``, gradient of each sample's log-probability in the layer's output.
        weight: name of the weight ``[d_out, d_in]``, or None where it is frozen.
        bias: name of the bias ``[d_out]``, or None where there is none or it is frozen.
    """

    def __init__(self, inputs: Tensor, gradients: Tensor, weight: str | None, bias: str | None):
        self.inputs, self.gradients, self.weight, self.bias = inputs, gradients, weight, bias

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.weight, self.bias) if name is not None)

    def head(self, count: int) -> "OuterFactor":
        return OuterFactor(self.inputs[:count], self.gradients[:count], self.weight, self.bias)

    def add_gram(self, gram: LowerTriangle) -> None:
        if self.weight is None:
            return add_product(gram, self.gradients)
        a, d = self.inputs, self.gradients
        for start, stop, part in gram.columns():
            inner = product(a[start:], a[start:stop])
            if self.bias is not None:  # the weight of a constant input, 1
                inner.add_(1.0)
            part.addcmul_(inner, product(d[start:], d[start:stop]))

    def cost(self) -> Cost:
        samples = len(self.inputs)
        widths = self.gradients.shape[1] + (self.inputs.shape[1] if self.weight is not None else 0)
        return Cost("outer product", bytes_of(self.inputs, self.gradients), samples * samples * widths)

    def norms(self) -> dict[str, Tensor]:
        of_bias, found = torch.linalg.vector_norm(self.gradients, dim=1), dict[str, Tensor]()
        if self.weight is not None:
            found[self.weight] = torch.linalg.vector_norm(self.inputs, dim=1) * of_bias
        if self.bias is not None:
            found[self.bias] = of_bias
        return found

    def matvec(self, g: Mapping[str, Tensor]) -> Tensor:
        along = self.gradients.new_zeros(len(self.gradients))
        if self.weight is not None:
            along += (product(self.inputs, g[self.weight]) * self.gradients).sum(1)
        if self.bias is not None:
            along += self.gradients @ g[self.bias]
        return along

    def rmatvec(self, v: Tensor) -> dict[str, Tensor]:
        weighted = self.gradients * v[:, None]
        products = {}
        if self.weight is not None:
            products[self.weight] = product(weighted.T, self.inputs.T)
        if self.bias is not None:
            products[self.bias] = weighted.sum(0)
        return products

    def squares(self, v: Tensor) -> dict[str, Tensor]:
        weighted = self.gradients.square() * v[:, None]
        products = {}
        if self.weight is not None:
            products[self.weight] = weighted.T @ self.inputs.square()
        if self.bias is not None:
            products[self.bias] = weighted.sum(0)
        return products


class DenseFactor:
    """A parameter whose rows are held as they are.

    Args:
        rows: ``[B, *parameter.shape]``.
        name: of the parameter.
        way: how they were come by.
        flops: what that took.
        scale: ``[B]``, see `Factor.norms`; the norms of the rows unless given.
    """

    def __init__(self, rows: Tensor, name: str, way: str = "rows", flops: int = 0, scale: Tensor | None = None):
        self.rows, self.name, self._shape = rows.reshape(len(rows), rows.shape[1:].numel()), name, rows.shape[1:]
        self.way, self.flops, self.scale = way, flops, scale

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def head(self, count: int) -> "DenseFactor":
        scale = None if self.scale is None else self.scale[:count]
        return DenseFactor(self.rows[:count].view(-1, *self._shape), self.name, self.way, self.flops, scale)

    def cost(self) -> Cost:
        return Cost(self.way, bytes_of(self.rows), self.flops + len(self.rows) * self.rows.numel())

    def add_gram(self, gram: LowerTriangle) -> None:
        add_product(gram, self.rows)

    def norms(self) -> dict[str, Tensor]:
        norms = torch.linalg.vector_norm(self.rows, dim=1)  # without a copy of the rows
        return {self.name: norms if self.scale is None else torch.maximum(norms, self.scale)}

    def matvec(self, g: Mapping[str, Tensor]) -> Tensor:
        return self.rows @ g[self.name].flatten()

    def rmatvec(self, v: Tensor) -> dict[str, Tensor]:
        return {self.name: (v @ self.rows).view(self._shape)}

    def squares(self, v: Tensor) -> dict[str, Tensor]:
        return {self.name: (v @ self.rows.square()).view(self._shape)}
