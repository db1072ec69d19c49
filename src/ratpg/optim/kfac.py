"""Kronecker-factored curvature from the factors that `ratpg.natgrad` records.

The Fisher block of a linear layer with homogeneous inputs ``ā = (a, 1)`` and output gradients ``d`` is approximated by
``E[āāᵀ] ⊗ E[ddᵀ]`` (Martens & Grosse 2015, arXiv 1503.05671; convolutions and tokens as in Grosse & Martens 2016,
arXiv 1602.01407: the first sums over locations, the second averages over them); any other parameter has its block in
full. Layers are wanted with their tokens: record with ``Recorder.over(network, keep_tokens=True)``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ratpg.natgrad.factors import DenseFactor, Factor, OuterFactor
from ratpg.natgrad.patches import parts
from ratpg.natgrad.tokens import TokenFactor

KRONECKER = OuterFactor, TokenFactor
"""Factors of layers, whose blocks are Kronecker products."""
LARGEST_BLOCK = 4096
"""Entries of a parameter whose block is kept in full."""


class KFAC:
    """The damped inverse of the approximate Fisher matrix, from exponential averages over mini-batches.

    Args:
        damping: λ > 0, split between a layer's two factors by their mean eigenvalues (factored Tikhonov); with
            ``eigenvalue_corrected`` it is added to the eigenvalues of the whole block.
        decay: of the averages at each update; they are bias-corrected.
        interval: updates from one inversion to the next; the averages move at every update.
        eigenvalue_corrected: EKFAC (George et al. 2018, arXiv 1806.03884): in the eigenbasis of the Kronecker factors
            the diagonal is that of the true block, averaged since the basis was last found.
    """

    def __init__(self, damping: float, decay: float = 0.95, interval: int = 1, eigenvalue_corrected: bool = False):
        self.damping, self.decay, self.interval = damping, decay, interval
        self.eigenvalue_corrected = eigenvalue_corrected
        self._updates = 0
        self._averages: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._inverses: dict[str, Tensor] = {}  # with ``eigenvalue_corrected`` a layer's eigenbases instead
        self._scales: dict[str, Tensor] = {}

    def update(self, factors: Sequence[Factor]) -> None:
        """Moves the averages towards a mini-batch's factors.

        Raises:
            TypeError: for a parameter of more than `LARGEST_BLOCK` entries that is not recorded as a linear layer's or
                a convolution's, and for a convolution in groups.
        """
        self._updates += 1
        fresh = (self._updates - 1) % self.interval == 0
        for factor in factors:
            for key, moment in _moments(factor).items():
                fresh |= key not in self._averages  # a layer that has changed its form
                before = self._averages.get(key)
                # In memory of its own, so that a state that was handed out stays as it was.
                self._averages[key] = (
                    (1 - self.decay) * moment if before is None else before.lerp(moment, 1 - self.decay)
                )
                self._counts[key] = self._counts.get(key, 0) + 1
        if fresh:
            self._invert(factors)
        if self.eigenvalue_corrected:
            self._rescale(factors, fresh)

    def precondition(self, factors: Sequence[Factor], gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``F̂⁻¹ g``, {parameter name: tensor}, for the gradient of all parameters of these factors.

        The damped block of a layer is ``(D + √λ/π I) ⊗ (A + π√λ I)``, with factors ``A`` of its inputs and ``D`` of its
        outputs, and of any other parameter, or with ``eigenvalue_corrected``, the block plus ``λI``.
        """
        direction: dict[str, Tensor] = {}
        for factor in factors:
            layer = _name(factor)
            if not isinstance(factor, KRONECKER):
                (name,) = factor.names
                g = gradient[name]
                direction[name] = (self._inverses[f"block {layer}"] @ g.flatten()).view_as(g)
                continue
            left, right = self._inverses[f"output {layer}"], self._inverses[f"input {layer}"]
            joint = _joint(factor, gradient)
            if self.eigenvalue_corrected:
                rotated = (left.T @ joint @ right) / (self._scales[layer] + self.damping)
                joint = left @ rotated @ right.T
            else:
                joint = left @ joint @ right
            direction |= _split(factor, joint)
        return direction

    def _invert(self, factors: Sequence[Factor]) -> None:
        for factor in factors:
            layer = _name(factor)
            if not isinstance(factor, KRONECKER):
                self._inverses[f"block {layer}"] = _inverse(self._average(f"block {layer}"), self.damping)
                continue
            inputs, outputs = (self._average(f"{kind} {layer}") for kind in ("input", "output"))
            if self.eigenvalue_corrected:
                self._inverses[f"input {layer}"] = torch.linalg.eigh(inputs).eigenvectors
                self._inverses[f"output {layer}"] = torch.linalg.eigh(outputs).eigenvectors
                continue
            # π² is the ratio of the mean eigenvalues; where a layer is dead there is nothing to split by.
            ratio = inputs.diagonal().mean() / outputs.diagonal().mean()
            pi = torch.where(ratio.isfinite() & (ratio > 0), ratio, torch.ones_like(ratio)).sqrt()
            self._inverses[f"input {layer}"] = _inverse(inputs, pi * self.damping**0.5)
            self._inverses[f"output {layer}"] = _inverse(outputs, self.damping**0.5 / pi)

    def _average(self, key: str) -> Tensor:
        return self._averages[key] / (1 - self.decay ** self._counts[key])

    def _rescale(self, factors: Sequence[Factor], fresh: bool) -> None:
        for factor in factors:
            if isinstance(factor, KRONECKER):
                layer = _name(factor)
                squares: Tensor | float = 0.0
                for inputs, outputs in _tokens(factor):
                    right, left = inputs @ self._inverses[f"input {layer}"], outputs @ self._inverses[f"output {layer}"]
                    if isinstance(factor, OuterFactor):
                        squares = squares + left.square().squeeze(1).T @ right.square().squeeze(1)
                    else:
                        squares = squares + torch.bmm(left.transpose(1, 2), right).square_().sum(0)
                now = squares / torch.as_tensor(len(factor.gradients))
                self._scales[layer] = now if fresh else self._scales[layer].lerp(now, 1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        return {
            "updates": self._updates,
            "averages": dict(self._averages),
            "counts": dict(self._counts),
            "inverses": dict(self._inverses),
            "scales": dict(self._scales),
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Takes the state over, on a device.

        Raises:
            ValueError: for a state that is not of one piece.
        """
        _require_whole(state)
        self._updates, self._counts = state["updates"], dict(state["counts"])
        self._averages, self._inverses, self._scales = (
            {key: tensor.to(device) for key, tensor in state[name].items()}
            for name in ("averages", "inverses", "scales")
        )


def _require_whole(state: Mapping[str, Any]) -> None:
    """Refuses a state whose parts do not belong together, which the next update would stumble over."""
    averages, inverses, counts = state["averages"], state["inverses"], state["counts"]
    tensors = [*averages.values(), *inverses.values(), *state["scales"].values()]
    whole = (
        all(isinstance(number, int) and number >= 0 for number in (state["updates"], *counts.values()))
        and all(isinstance(tensor, Tensor) and tensor.ndim == 2 for tensor in tensors)
        and averages.keys() == inverses.keys() == counts.keys()
        and all(value.shape == inverses[key].shape == 2 * value.shape[:1] for key, value in averages.items())
        and all(
            value.shape == (len(averages[f"output {layer}"]), len(averages[f"input {layer}"]))
            for layer, value in state["scales"].items()
        )
    )
    if not whole:
        raise ValueError("the state of K-FAC is not of one piece")


def _name(factor: Factor) -> str:
    return " ".join(factor.names)


def _tokens(factor: OuterFactor | TokenFactor) -> Iterator[tuple[Tensor, Tensor]]:
    """Homogeneous inputs ``[b, T, d_in (+ 1)]`` and output gradients ``[b, T, d_out]``, some samples at a time."""
    chunks: Iterable[tuple[Tensor, Tensor]]
    if isinstance(factor, OuterFactor):
        chunks = [(factor.inputs[:, None], factor.gradients[:, None])]
    elif factor.inputs.shape[1] > 1:
        raise TypeError(f"KFAC has no block for a convolution in groups: '{_name(factor)}'")
    else:
        chunks = ((inputs[:, 0], factor.gradients[samples, 0]) for samples, inputs in parts(factor.inputs))
    for inputs, outputs in chunks:
        columns = [inputs] if factor.weight is not None else []
        if factor.bias is not None:
            columns.append(inputs.new_ones(*inputs.shape[:2], 1))
        yield torch.cat(columns, 2), outputs


def _moments(factor: Factor) -> dict[str, Tensor]:
    layer = _name(factor)
    if isinstance(factor, KRONECKER):
        a_moment: Tensor | float = 0.0
        d_moment: Tensor | float = 0.0
        for inputs, outputs in _tokens(factor):
            a, d = inputs.flatten(0, 1), outputs.flatten(0, 1)
            # Summed over tokens, of which a sample has T; averaged over them.
            a_moment = a_moment + a.T @ a / len(factor.gradients)
            d_moment = d_moment + d.T @ d / (len(factor.gradients) * inputs.shape[1])
        return {f"input {layer}": torch.as_tensor(a_moment), f"output {layer}": torch.as_tensor(d_moment)}
    if not isinstance(factor, DenseFactor) or factor.rows.shape[1] > LARGEST_BLOCK:
        raise TypeError(
            f"KFAC has no block for parameter '{layer}': where none is recorded as a linear layer's or a convolution's "
            f"it has at most {LARGEST_BLOCK} entries"
        )
    return {f"block {layer}": factor.rows.T @ factor.rows / len(factor.rows)}


def _joint(factor: OuterFactor | TokenFactor, gradient: Mapping[str, Tensor]) -> Tensor:
    """Weight and bias side by side, ``[d_out, d_in (+ 1)]``."""
    columns = [gradient[factor.weight].flatten(1)] if factor.weight is not None else []
    if factor.bias is not None:
        columns.append(gradient[factor.bias][:, None])
    return torch.cat(columns, 1)


def _split(factor: OuterFactor | TokenFactor, joint: Tensor) -> dict[str, Tensor]:
    split = {}
    if factor.bias is not None:
        split[factor.bias], joint = joint[:, -1], joint[:, :-1]
    if factor.weight is not None:
        split[factor.weight] = joint.reshape(factor.shape) if isinstance(factor, TokenFactor) else joint
    return split


def _inverse(matrix: Tensor, damping: float | Tensor) -> Tensor:
    damped = matrix.clone()
    damped.diagonal().add_(damping)
    return torch.cholesky_inverse(torch.linalg.cholesky(damped))
