"""Layers that are linear in several tokens of a sample: linear layers over sequences, and convolutions over patches."""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from ratpg.natgrad.factors import Cost, DenseFactor, Factor, add_product, bytes_of
from ratpg.natgrad.lower import LowerTriangle
from ratpg.natgrad.patches import Patches, parts

GRAM_CHUNK_BYTES = 64 * 2**20
"""Budget for the temporaries of tokens that are contracted and rows that are formed, in bytes; one sample may take
more."""
ROW_BYTES = 8 * 2**20
"""Rows of a layer no larger than this, or than twice its output gradients, are formed once and held, in bytes."""


class TokenFactor:
    """A linear layer applied to ``T`` tokens of each sample: row ``i`` is ``Σₜ dᵢₜ aᵢₜᵀ = Dᵢᵀ Aᵢ``.

    ``T`` counts tokens, pixels, or the calls of a module that ran more than once in the recorded forward; a
    convolution in ``G`` groups is ``G`` such layers side by side, a linear layer is one.
    ``K`` is found in the cheaper of two ways, by counted operations: from the rows, a slice of output units at a time,
    or by the ``[T, T]`` contraction ``K_ij = Σ_ts (aᵢₜ·aⱼₛ)(dᵢₜ·dⱼₛ)``, a slice of samples at a time.

    Args:
        inputs: ``A [B, G, T, d_in]``.
        gradients: ``D [B, G, T, d_out]``.
        weight: name of the weight.
        bias: name of the bias ``[G · d_out]``, or None where there is none or it is frozen.
        shape: of the weight, ``[G · d_out, ...]`` with ``d_in`` entries a row.
    """

    def __init__(
        self, inputs: Tensor | Patches, gradients: Tensor, weight: str, bias: str | None, shape: tuple[int, ...]
    ):
        self.inputs, self.gradients, self.weight, self.bias, self.shape = inputs, gradients, weight, bias, shape

    @property
    def names(self) -> tuple[str, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def contracts(self) -> bool:
        """Whether the contraction takes fewer operations than the rows."""
        rows, contraction = _operations(self.inputs.shape, self.gradients.shape[3])
        return contraction < rows

    def cost(self) -> Cost:
        inputs = bytes_of(self.inputs) if isinstance(self.inputs, Tensor) else self.inputs.bytes
        rows, contraction = _operations(self.inputs.shape, self.gradients.shape[3])
        way = "contraction of tokens" if self.contracts else "rows, in slices"
        return Cost(way, inputs + bytes_of(self.gradients), min(rows, contraction))

    def head(self, count: int) -> "TokenFactor":
        inputs = self.inputs[:count] if isinstance(self.inputs, Tensor) else self.inputs.head(count)
        return TokenFactor(inputs, self.gradients[:count], self.weight, self.bias, self.shape)

    def add_gram(self, gram: LowerTriangle) -> None:
        if self.contracts:
            self._add_contraction(gram)
        else:
            for rows in self.row_slices():
                add_product(gram, rows.flatten(1))
        if self.bias is not None:
            add_product(gram, self._bias_rows())

    def norms(self) -> dict[str, Tensor]:
        found = {self.weight: weight_norms(self.inputs, self.gradients)}
        if self.bias is not None:
            found[self.bias] = bias_norms(self.gradients)
        return found

    def row_slices(self) -> Iterator[Tensor]:
        """The weight's rows, ``[B, G, units, d_in]`` at a time."""
        samples, groups, _, d_in = self.inputs.shape
        units = max(1, GRAM_CHUNK_BYTES // (samples * groups * d_in * self.gradients.element_size()))
        for gradients in self.gradients.split(units, dim=3):
            yield form_rows(self.inputs, gradients)

    def _bias_rows(self) -> Tensor:
        return self.gradients.sum(2).flatten(1)

    def _add_contraction(self, gram: LowerTriangle) -> None:
        for group in range(self.inputs.shape[1]):
            flat = self.inputs[:][:, group].flatten(0, 1)

            def similarity(rows: slice, columns: slice, flat: Tensor = flat) -> Tensor:
                return flat[rows] @ flat[columns].T

            add_contraction(gram, self.gradients[:, group], similarity)

    def matvec(self, g: Mapping[str, Tensor]) -> Tensor:
        product = self.gradients.new_zeros(len(self.gradients))
        groups, d_in = self.inputs.shape[1], self.inputs.shape[3]
        weight = g[self.weight].reshape(groups, -1, d_in)
        for samples, inputs in parts(self.inputs):
            outputs = torch.einsum("bgti,goi->bgto", inputs, weight)
            product[samples] = (outputs * self.gradients[samples]).sum((1, 2, 3))
        if self.bias is not None:
            product += self._bias_rows() @ g[self.bias]
        return product

    def rmatvec(self, v: Tensor) -> dict[str, Tensor]:
        total: Tensor | float = 0.0
        for samples, inputs in parts(self.inputs):
            weighted = self.gradients[samples] * v[samples, None, None, None]
            total = total + torch.einsum("bgto,bgti->goi", weighted, inputs)
        products = {self.weight: torch.as_tensor(total).reshape(self.shape)}
        if self.bias is not None:
            products[self.bias] = v @ self._bias_rows()
        return products

    def squares(self, v: Tensor) -> dict[str, Tensor]:
        slices = [torch.tensordot(v, rows.square(), 1) for rows in self.row_slices()]
        products = {self.weight: torch.cat(slices, 1).reshape(self.shape)}
        if self.bias is not None:
            products[self.bias] = v @ self._bias_rows().square()
        return products


def token_factors(
    inputs: Tensor | Patches,
    gradients: Tensor,
    weight: str | None,
    bias: str | None,
    shape: tuple[int, ...],
    keep_tokens: bool,
) -> list[Factor]:
    """A layer's factors in the form that costs least.

    Its rows where ``K`` is cheapest from them and they are small (`ROW_BYTES`): then the output gradients, which may be
    many times larger, are let go. Its tokens otherwise.

    Args:
        inputs, gradients, shape: as for `TokenFactor`.
        weight, bias: names, or None where there is none or it is frozen.
        keep_tokens: leaves a trainable weight's tokens as they are.
    """
    if weight is not None:
        rows, contraction = _operations(inputs.shape, gradients.shape[3])
        row_bytes = len(gradients) * math.prod(shape) * gradients.element_size()
        small = row_bytes <= max(ROW_BYTES, 2 * bytes_of(gradients))
        if keep_tokens or contraction < rows or not small:
            if contraction < rows and isinstance(inputs, Patches):
                inputs = inputs[:].contiguous()  # few tokens: what is contracted is worth holding
            return [TokenFactor(inputs, gradients, weight, bias, shape)]
    factors: list[Factor] = []
    if weight is not None:
        forming, scale = 2 * math.prod(inputs.shape) * gradients.shape[3], weight_norms(inputs, gradients)
        factors.append(DenseFactor(form_rows(inputs, gradients).view(-1, *shape), weight, flops=forming, scale=scale))
    if bias is not None:
        factors.append(DenseFactor(gradients.sum(2).flatten(1), bias, scale=bias_norms(gradients)))
    return factors


def weight_norms(inputs: Tensor | Patches, gradients: Tensor) -> Tensor:
    """A bound on the norms of a weight's rows ``Σₜ dᵢₜ aᵢₜᵀ``, ``[B]``: by Cauchy and Schwarz, without forming them."""
    of_inputs = torch.linalg.vector_norm(inputs.flatten(1), dim=1) if isinstance(inputs, Tensor) else inputs.norms()
    return of_inputs * torch.linalg.vector_norm(gradients.flatten(1), dim=1)


def bias_norms(gradients: Tensor) -> Tensor:
    """A bound on the norms of a bias's rows ``Σₜ dᵢₜ``, ``[B]``: the sum of the norms."""
    return torch.linalg.vector_norm(gradients, dim=(1, 3)).sum(1)


def form_rows(inputs: Tensor | Patches, gradients: Tensor) -> Tensor:
    """``Σₜ dᵢₜ aᵢₜᵀ`` for each sample and group, ``[B, G, d_out, d_in]``."""
    if isinstance(inputs, Tensor):
        return gradients.mT @ inputs
    kernel, channels = inputs.kernel_and_channels
    rows = gradients.new_empty(*gradients.shape[:2], gradients.shape[3], channels, kernel)
    for samples in inputs.slices():
        product = gradients[samples].mT @ inputs.channels_last(samples).flatten(3)
        rows[samples] = product.unflatten(3, (kernel, channels)).mT
    return rows.flatten(3)


def add_contraction(gram: LowerTriangle, gradients: Tensor, similarity: Callable[[slice, slice], Tensor]) -> None:
    """``gram_ij += Σ_ts k(t, s) (dᵢₜ·dⱼₛ)``, a slice of samples ``j`` at a time.

    Args:
        gram: ``K``, ``[B, B]``.
        gradients: ``D [B, T, d_out]``.
        similarity: ``k`` between two slices of the ``B · T`` tokens, ``aᵢₜ·aⱼₛ`` for a linear layer.
    """
    samples, tokens, _ = gradients.shape
    flat = gradients.flatten(0, 1)
    row_bytes = 2 * tokens * samples * tokens * gradients.element_size()
    chunk = max(1, GRAM_CHUNK_BYTES // row_bytes)
    for start, stop, part in gram.columns(chunk):
        below, here = slice(start * tokens, samples * tokens), slice(start * tokens, stop * tokens)
        block = flat[below] @ flat[here].T
        block *= similarity(below, here)
        part += block.view(samples - start, tokens, stop - start, tokens).sum((1, 3))


def _operations(shape: torch.Size, d_out: int) -> tuple[int, int]:
    """Floating-point operations of ``K`` from rows, and by contraction."""
    samples, groups, tokens, d_in = shape
    rows = groups * (2 * samples * tokens + samples * samples) * d_in * d_out
    contraction = groups * (samples * tokens) ** 2 * (d_in + d_out)
    return rows, contraction
