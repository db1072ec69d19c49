"""Randomized block Kaczmarz in float64 with everything known exactly: blocks, their mean, and many random sequences.

For a block τ of rows of ``H`` and a damping λ of the block's own system

    N_τ = H_τᵀ(λI + H_τH_τᵀ)⁻¹,    P_τ = N_τH_τ,    g_j = ζ g_{j−1} + N_τ(y_τ − ζ H_τ g_{j−1}),

so that with targets ``y = Hg* + ε`` the error ``e = g − g*`` obeys

    e_j = (I − P_τ)(ζ e_{j−1} − (1 − ζ) g*) + N_τ ε_τ.

λ is ``B`` times the library's damping, whose Σ holds the ``1/B``. Blocks are drawn uniformly from a finite collection,
so that every expectation over them is a plain mean.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """A collection of ``T`` blocks, each drawn with the same probability.

    Attributes:
        rows: which rows of ``H``, ``[T, B]``.
        noise_map: ``N_τ``, ``[T, p, B]``.
        projection: ``P_τ``, ``[T, p, p]``; symmetric, eigenvalues in [0, 1).
    """

    rows: Tensor
    noise_map: Tensor
    projection: Tensor

    @staticmethod
    def of(scores: Tensor, rows: Tensor, damping: float) -> "Blocks":
        """The blocks ``rows [T, B]`` of ``H [n, p]`` at ``λ = damping``."""
        blocks = scores[rows]  # [T, B, p]
        transposed = blocks.transpose(1, 2)
        if rows.shape[1] <= scores.shape[1]:
            system = damping * torch.eye(rows.shape[1]).to(scores) + blocks @ transposed
            noise_map = torch.linalg.solve(system, blocks).transpose(1, 2)
        else:  # the same by the push-through identity, with the smaller matrix
            system = damping * torch.eye(scores.shape[1]).to(scores) + transposed @ blocks
            noise_map = torch.linalg.solve(system, transposed)
        return Blocks(rows, noise_map, noise_map @ blocks)

    @property
    def rate(self) -> float:
        """``μ = λ_min(E[P_τ])``."""
        return float(torch.linalg.eigvalsh(self.projection.mean(0))[0])

    def noise(self, deviation: float) -> float:
        """``η² = E‖N_τ ε_τ‖²`` for independent ``ε`` of this standard deviation."""
        return deviation**2 * float(self.noise_map.square().sum((1, 2)).mean())

    def repeated_noise_bias(self, deviation: float) -> float:
        """``E‖m‖²`` of the mean ``m = E[P_τ]⁻¹ E[N_τ ε_τ]`` which iterates settle around where ε stays the same."""
        count, size = len(self.rows), int(self.rows.max()) + 1
        mean_map = self.projection.new_zeros(self.projection.shape[1], size)  # E[N_τ ε_τ] as a matrix times ε
        for rows, noise_map in zip(self.rows, self.noise_map, strict=True):
            mean_map[:, rows] += noise_map / count
        return deviation**2 * float(torch.linalg.solve(self.projection.mean(0), mean_map).square().sum())


def draw_rows(count: int, block: int, weights: Tensor, generator: torch.Generator) -> Tensor:
    """``[count, block]`` rows, within a block without replacement, likely in proportion to the weights ``[n]``."""
    return torch.multinomial(weights.expand(count, -1), block, generator=generator)


def leverage(scores: Tensor) -> Tensor:
    """``h_iᵀ(HᵀH)⁻¹h_i``, ``[n]``: how much a row decides alone; they add up to ``p``."""
    return torch.linalg.qr(scores).Q.square().sum(1)


@dataclass(frozen=True)
class Errors:
    """``‖g_j − g*‖²`` over random sequences of blocks, for ``j = 0 … J``.

    Attributes:
        mean: ``[J + 1]``.
        standard_error: of the mean, ``[J + 1]``.
    """

    mean: Tensor
    standard_error: Tensor

    def within(self, bound: Tensor) -> bool:
        """Whether the mean is below the bound at every j, within three standard errors and rounding."""
        return bool((self.mean <= bound * (1 + 1e-9) + 3 * self.standard_error).all())


NOISES = ("exact", "fresh", "repeated")
"""Targets: ``Hg*``; with noise drawn anew at each step, as the theorem has it; with noise that belongs to the row."""


def sequences(
    blocks: Blocks,
    solution: Tensor,
    deviation: float,
    steps: int,
    count: int,
    decay: float = 1.0,
) -> dict[str, Errors]:
    """Runs ``count`` sequences of ``steps`` random blocks from ``g_0 = 0``, the same blocks for every kind of target.

    Args:
        blocks: what to draw from.
        solution: ``g* [p]``.
        deviation: standard deviation of the normal noise ``ε``.
        steps: ``J``.
        count: how many sequences.
        decay: ζ.
    """
    generator = torch.Generator().manual_seed(0)
    contraction = torch.eye(len(solution)).to(solution) - blocks.projection
    kinds = {kind: index for index, kind in enumerate(NOISES)}
    # N_τ ε is distributed as Rᵀz with N_τᵀ = QR and z standard normal, which has at most p entries.
    roots = deviation * torch.linalg.qr(blocks.noise_map.transpose(1, 2)).R  # [T, min(B, p), p]
    kept = torch.randn(count, int(blocks.rows.max()) + 1, generator=generator, dtype=solution.dtype) * deviation
    # N_τ ε_τ of each block and sequence, [T, S, p].
    repeated = torch.stack([kept[:, rows] @ n.T for rows, n in zip(blocks.rows, blocks.noise_map, strict=True)])
    error = (-solution).expand(count, len(kinds), -1).clone()  # [S, kinds, p]
    squares = [error.square().sum(2)]
    for _ in range(steps):
        drawn = torch.randint(len(blocks.rows), (count,), generator=generator)
        order = drawn.argsort()
        before = (decay * error - (1 - decay) * solution)[order]
        moved, noise = torch.empty_like(before), torch.empty_like(before[:, 0])
        normal = torch.randn(count, roots.shape[1], generator=generator, dtype=solution.dtype)
        stop = 0
        for block, drawn_by in enumerate(drawn.bincount(minlength=len(blocks.rows)).tolist()):
            start, stop = stop, stop + drawn_by
            if start == stop:
                continue
            torch.mm(before[start:stop].flatten(0, 1), contraction[block], out=moved[start:stop].flatten(0, 1))
            torch.mm(normal[start:stop], roots[block], out=noise[start:stop])
        moved[:, kinds["fresh"]] += noise
        moved[:, kinds["repeated"]] += repeated[drawn[order], order]
        error[order] = moved
        squares.append(error.square().sum(2))
    table = torch.stack(squares)  # [J + 1, S, kinds]
    mean, standard_error = table.mean(1), table.std(1) / count**0.5
    return {kind: Errors(mean[:, index], standard_error[:, index]) for kind, index in kinds.items()}


def bound(blocks: Blocks, solution: Tensor, steps: int, deviation: float) -> Tensor:
    """``(1 − μ)^j ‖g_0 − g*‖² + η²/μ`` from ``g_0 = 0``, ``[J + 1]``; without noise that of the first theorem."""
    rate = blocks.rate
    j = torch.arange(steps + 1, dtype=solution.dtype)
    return (1 - rate) ** j * solution.square().sum() + blocks.noise(deviation) / rate
