"""Compares what the factors add up to with autograd's own gradient."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ratpg.natgrad.errors import NotFinite
from ratpg.natgrad.factors import Columns, Factor
from ratpg.natgrad.precision import full_precision

Verify = Literal["always", "first"]
EXACT = 4
"""Probes of powers of two that have to agree where another did not."""
SKETCH = 2
"""Columns ``k`` with which wide weights are compared."""
WIDE = 16
"""Weights of more inputs than this are wide."""


class Share(NamedTuple):
    """One parameter's entry of ``Hᵀv``, by its factor.

    Attributes:
        product: the entry, shaped as the parameter.
        scale: root of the summed squares of the terms that make it, so that a zero made of large terms has a scale.
        rounding: machine epsilon of the coarsest number format on the way.
    """

    product: Tensor
    scale: Tensor
    rounding: float


class Verifier:
    """Decides when factors are compared with autograd, and which parameters disagree.

    For any ``v`` the gradient of ``vᵀ log_prob`` is ``Hᵀv``. Factors take the gradients of the *summed* log-probability
    apart by samples, so their ``Hᵀv`` differs where samples depend on each other, stand elsewhere than they seem to,
    or where a parameter is used in a way that its factor does not know.

    Args:
        parameters: name -> parameter.
        when: ``"always"`` compares at every pass; ``"first"`` until one pass has shown the factors to be right, for
            networks that are known.
    """

    def __init__(self, parameters: Mapping[str, Tensor], when: Verify):
        if when not in ("always", "first"):
            raise ValueError(f"verify must be 'always' or 'first', got {when!r}")
        self.parameters, self.when = parameters, when
        self._shown, self._generator = False, torch.Generator().manual_seed(0)
        self._columns: dict[str, Tensor] = {}

    def anew(self) -> "Verifier":
        """One that has seen nothing yet."""
        return Verifier(self.parameters, self.when)

    def is_due(self, log_prob: Tensor) -> bool:
        """Whether this pass is compared; never while a CUDA graph is captured, whose values cannot be looked at.

        Raises:
            NotFinite: where it is, and ``log_prob [B]`` is not finite.
        """
        if self._shown or (log_prob.is_cuda and torch.cuda.is_current_stream_capturing()):
            return False
        if not log_prob.isfinite().all():
            raise NotFinite("log_prob is not finite: look for NaN or infinity in the network or its inputs")
        return True

    def probes(self, norms: Tensor, rounding: Mapping[str, float]) -> Iterator[Tensor]:
        """What has to be tried until one pass is judged: a `probe`, and where that disagrees `EXACT` exact ones.

        Args:
            norms: about those of the scores, ``[B]``.
            rounding: of each parameter, see `Share`.
        """
        if torch.finfo(torch.float16).eps in rounding.values():  # which has no room for probes of all magnitudes
            greatest = norms.max().clamp(min=torch.finfo(norms.dtype).tiny)
            norms = (norms / greatest).clamp(min=0.1)
        yield self.probe(norms)
        for _ in range(EXACT):
            yield self.probe(norms, exact=True)

    def disagreeing(
        self,
        log_prob: Tensor,
        v: Tensor,
        shares: Mapping[str, Share],
        by_rows: Collection[str],
        rounding: Mapping[str, float],
        in_front: bool = True,
    ) -> frozenset[str]:
        """Names whose share is not autograd's gradient.

        Args:
            log_prob: ``[B]``, with its graph, which is kept.
            v: ``[B]``.
            shares: of ``Hᵀv``, by `shares_of`.
            by_rows: names of the parameters whose rows came from batched products; they may have no share.
            rounding: of each parameter, see `Share`.
            in_front: whether all layers have the samples in front. Another layout may fit one batch by chance, and is
                compared every time.

        Raises:
            NotFinite: where a gradient is not finite.
        """
        truth, shares = self.gradients(log_prob, v), dict(shares)
        if unseen := [name for name in by_rows if name not in shares]:
            v = v / v.abs().max().clamp(min=torch.finfo(v.dtype).tiny)
            truth |= self.gradients(log_prob, v, unseen)
            shares |= self._by_halves(log_prob, v, unseen, rounding)
        # Rows by batched products are right by construction: they may differ by rounding of the largest share.
        largest = torch.stack([share.scale for share in shares.values()]).max()
        wrong = set()
        for name, (product, scale, eps) in shares.items():
            gradient = truth[name]
            if product.shape != gradient.shape:
                few = self._columns[name]
                gradient = (few @ gradient.flatten(1).to(few.dtype).T).T
            allowed = tolerance(eps) * (largest if name in by_rows else scale)
            if not (product - gradient).norm() <= allowed:
                if not gradient.isfinite().all():
                    raise NotFinite(f"the gradient of '{name}' is not finite: look for NaN or infinity in the network")
                wrong.add(name)
        if self.when == "first" and in_front and not wrong:
            # One sample fits any layout, and a layer that no gradient reaches yet shows nothing.
            self._shown = len(v) > 1 and all(bool(share.scale > 0) for share in shares.values())
        return frozenset(wrong)

    def shares_of(
        self, factor: Factor, norms: Mapping[str, Tensor], v: Tensor, rounding: Mapping[str, float]
    ) -> dict[str, Share]:
        """What a factor says of ``Hᵀv``; of a wide weight, what it says of it times a few random columns.

        A difference ``E [d_out, d_in]`` times ``k`` columns of independent normal numbers, divided by ``√k``, has the
        norm of ``E`` on average (Freivalds' check), and takes a small part of the time.

        Args:
            factor: one of the last visit.
            norms: ``factor.norms()``.
            v: ``[B]``.
            rounding: of each parameter, see `Share`.
        """
        products = factor.sketch(v, self._columns_for(v))
        return {name: Share(products[name], (n * v).norm(), rounding.get(name, 0.0)) for name, n in norms.items()}

    def _columns_for(self, like: Tensor) -> Columns:
        def columns(name: str, width: int) -> Tensor | None:
            if width <= WIDE:
                return None
            found = self._columns.get(name)
            if found is None or (found.dtype, found.device, found.shape[1]) != (like.dtype, like.device, width):
                generator = torch.Generator().manual_seed(len(self._columns))
                normal = torch.randn(SKETCH, width, generator=generator, dtype=torch.float64, device="cpu")
                found = self._columns[name] = (normal / SKETCH**0.5).to(like)
            return found

        return columns

    def probe(self, norms: Tensor, exact: bool = False) -> Tensor:
        """``v [B]`` under which all samples count alike, whatever the ``norms [B]`` of their scores.

        Each call brings another one. Its entries are all different, so that no two samples can be taken for each other.
        An exact one has powers of two instead, varied by factors of up to 8: they scale a sample's gradients without
        another rounding, so that a score which is all rounding noise is the same noise on both sides.

        Args:
            norms: about those of the scores.
            exact: whether powers of two are wanted.
        """
        norms = norms.clamp(min=max(float(norms.max()) * 1e-12, torch.finfo(norms.dtype).tiny ** 0.5))
        random = torch.rand(norms.shape, generator=self._generator, dtype=torch.float64, device="cpu").to(norms)
        random = 2 * random - 1
        if not exact:
            return (random.sign() + random) / norms  # 1 to 2, with either sign
        return random.sign() * ((random.abs() * 7).floor() - 3 - norms.log2().round()).exp2()

    def gradients(self, log_prob: Tensor, v: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Of ``vᵀ log_prob`` in some parameters or in all; zeros where it does not depend on one. The graph is kept."""
        inputs = {name: self.parameters[name] for name in (self.parameters if names is None else names)}
        with torch.enable_grad(), full_precision():
            found = torch.autograd.grad(log_prob, list(inputs.values()), v, retain_graph=True, allow_unused=True)
        return {
            name: torch.zeros_like(inputs[name]) if g is None else g.to_dense() if g.is_sparse else g
            for name, g in zip(inputs, found, strict=True)
        }

    def _by_halves(
        self, log_prob: Tensor, v: Tensor, names: Collection[str], rounding: Mapping[str, float]
    ) -> dict[str, Share]:
        """``Hᵀv`` as the sum of those of every other sample and of the rest."""
        even = (torch.arange(len(v), device=v.device) % 2 == 0).to(v)
        one, other = (self.gradients(log_prob, v * half, names) for half in (even, 1 - even))
        return {
            name: Share(one[name] + other[name], torch.maximum(one[name].norm(), other[name].norm()), rounding[name])
            for name in names
            if name in rounding
        }


@dataclass
class Look:
    """What factors say of ``Hᵀv``, taken in one after the other."""

    verifier: Verifier
    v: Tensor
    rounding: Mapping[str, float]
    shares: dict[str, Share] = field(default_factory=dict)

    def add(self, factor: Factor, norms: Mapping[str, Tensor] | None = None) -> None:
        """Takes in a factor, and its `Factor.norms` where they are known."""
        self.shares |= self.verifier.shares_of(factor, norms or factor.norms(), self.v, self.rounding)


def are_alike(norms: Tensor) -> bool:
    """Whether most scores are long enough beside the longest for one probe to show all of them."""
    return bool(norms.max() <= 100 * norms.sort().values[len(norms) // 10])


def tolerance(rounding: float) -> float:
    """Relative error of a share that rounding alone may make.

    Over the table of cases up to 17 roundings were seen in single and double precision, and up to 2 in half.
    """
    return (4 if rounding > 1e-4 else 256) * rounding
