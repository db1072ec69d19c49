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
        for rows in self._row_slices():
            add_product(gram, rows.flatten(1))

    def _row_slices(self) -> Iterator[Tensor]:
        """Rows over the ids that occur, ``[B, U, units]`` at a time."""
        samples, count = len(self.ids), len(self._used)
        units = max(1, GRAM_CHUNK_BYTES // (samples * count * self.gradients.element_size()))
        places = self._places + count * torch.arange(samples, device=self.ids.device)[:, None]
        for gradients in self.gradients.split(units, dim=2):
            rows = gradients.new_zeros(samples * count, gradients.shape[2])
            rows.index_add_(0, places.flatten(), gradients.flatten(0, 1))
            yield rows.view(samples, count, -1)

    def squared_norms(self) -> Tensor:
        return torch.stack([rows.square().sum((1, 2)) for rows in self._row_slices()]).sum(0)

    def matvec(self, g: Mapping[str, Tensor]) -> Tensor:
        return (g[self.name][self.ids] * self.gradients).sum((1, 2))

    def rmatvec(self, v: Tensor) -> dict[str, Tensor]:
        weighted = self.gradients * v[:, None, None]
        product = weighted.new_zeros(self.vocabulary, weighted.shape[2])
        return {self.name: product.index_add_(0, self.ids.flatten(), weighted.flatten(0, 1))}

    def squares(self, v: Tensor) -> dict[str, Tensor]:
        product = self.gradients.new_zeros(self.vocabulary, self.gradients.shape[2])
        product[self._used] = torch.cat([torch.tensordot(v, rows.square(), 1) for rows in self._row_slices()], 1)
        return {self.name: product}
