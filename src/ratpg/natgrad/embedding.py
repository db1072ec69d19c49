"""Embeddings: linear layers whose inputs are one-hot, and never formed."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ratpg.natgrad.factors import Cost, add_product, bytes_of
from ratpg.natgrad.lower import LowerTriangle
from ratpg.natgrad.tokens import GRAM_CHUNK_BYTES, add_contraction


class EmbeddingFactor:
    """An embedding of ``T`` tokens a sample: row ``i`` holds ``Σₜ dᵢₜ`` over the tokens of each id.

    ``K_ij = Σ_ts [idᵢₜ = idⱼₛ] (dᵢₜ·dⱼₛ)``, contracted as that or, where it takes fewer operations, from rows over the
    ids that occur: nothing is of the size of the vocabulary, where fewer of its ids occur.

    Args:
        ids: ``[B, T]``.
        gradients: ``D [B, T, d]``, gradient of each sample's log-probability in each embedded token.
        name: of the weight ``[V, d]``.
        vocabulary: ``V``.
    """

    def __init__(self, ids: Tensor, gradients: Tensor, name: str, vocabulary: int):
        self.ids, self.gradients, self.name, self.vocabulary = ids, gradients, name, vocabulary
        self._used, self._places = torch.unique(ids, return_inverse=True)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def head(self, count: int) -> "EmbeddingFactor":
        return EmbeddingFactor(self.ids[:count], self.gradients[:count], self.name, self.vocabulary)

    def cost(self) -> Cost:
        way = "contraction of equal ids" if self._contracts else "rows of the ids that occur"
        return Cost(way, bytes_of(self.ids, self.gradients), min(self._operations()))

    def _operations(self) -> tuple[int, int]:
        samples, tokens, width = self.gradients.shape
        rows = (samples * tokens + samples * samples * len(self._used)) * width
        return rows, (samples * tokens) ** 2 * (width + 1)

    @property
    def _contracts(self) -> bool:
        rows, contraction = self._operations()
        return contraction < rows

    def add_gram(self, gram: LowerTriangle) -> None:
        if self._contracts:
            flat = self.ids.flatten()
            add_contraction(gram, self.gradients, lambda rows, columns: flat[rows, None] == flat[None, columns])
            return
        for _, rows in self._row_slices():
            add_product(gram, rows.flatten(1))

    def _row_slices(self) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        """Rows over the ids that occur, ``[B, ids, units]`` of them at a time, within `GRAM_CHUNK_BYTES`."""
        samples, count = len(self.ids), len(self._used)
        entries = max(1, GRAM_CHUNK_BYTES // (samples * self.gradients.element_size()))
        units, flat = max(1, entries // count), self.gradients.flatten(0, 1)
        rows_of = torch.arange(samples, device=self.ids.device)[:, None]
        for start in range(0, count, entries):
            ids = slice(start, min(start + entries, count))
            width, inside = ids.stop - start, ((self._places >= start) & (self._places < ids.stop)).flatten()
            places = (self._places - start + width * rows_of).flatten()
            if width < count:
                places = places[inside]
            for first in range(0, flat.shape[1], units):
                part = slice(first, first + units)
                rows = flat.new_zeros(samples * width, len(range(*part.indices(flat.shape[1]))))
                rows.index_add_(0, places, flat[:, part] if width == count else flat[inside, part])
                yield (ids, part), rows.view(samples, width, -1)

    def norms(self) -> dict[str, Tensor]:
        return {self.name: torch.linalg.vector_norm(self.gradients, dim=2).sum(1)}

    def matvec(self, g: Mapping[str, Tensor]) -> Tensor:
        return (g[self.name][self.ids] * self.gradients).sum((1, 2))

    def rmatvec(self, v: Tensor) -> dict[str, Tensor]:
        weighted = self.gradients * v[:, None, None]
        product = weighted.new_zeros(self.vocabulary, weighted.shape[2])
        return {self.name: product.index_add_(0, self.ids.flatten(), weighted.flatten(0, 1))}

    def squares(self, v: Tensor) -> dict[str, Tensor]:
        used = self.gradients.new_zeros(len(self._used), self.gradients.shape[2])
        for where, rows in self._row_slices():
            used[where] = torch.tensordot(v, rows.square(), 1)
        product = self.gradients.new_zeros(self.vocabulary, self.gradients.shape[2])
        product[self._used] = used
        return {self.name: product}
