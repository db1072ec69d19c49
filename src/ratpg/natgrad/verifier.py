"""Compares what the factors add up to with autograd's own gradient."""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ratpg.natgrad.errors import CaptureError, NotFinite
from ratpg.natgrad.factors import Factor
from ratpg.natgrad.precision import full_precision

Verify = Literal["always", "first"]


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
        self._shown, self._turn = False, 0

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

    def disagreeing(
        self,
        log_prob: Tensor,
        v: Tensor,
        shares: Mapping[str, Share],
        by_rows: Collection[str],
        rounding: Mapping[str, float],
        gradients: Mapping[str, Tensor] | None = None,
    ) -> frozenset[str]:
        """Names whose share is not autograd's gradient.

        Args:
            log_prob: ``[B]``, with its graph, which is kept.
            v: ``[B]``.
            shares: of ``Hᵀv``.
            by_rows: names of the parameters whose rows came from batched products; they may have no share.
            rounding: of each parameter, see `Share`.
            gradients: of ``vᵀ log_prob``, where they are known already.

        Raises:
            NotFinite: where a gradient is not finite.
            CaptureError: where gradients are not linear in ``v``.
        """
        truth = dict(gradients or self._gradients(log_prob, v, self.parameters))
        shares = dict(shares)
        if unseen := [name for name in by_rows if name not in shares]:
            v = v / v.abs().max().clamp(min=torch.finfo(v.dtype).tiny)
            truth |= self._gradients(log_prob, v, unseen)
            shares |= self._by_halves(log_prob, v, unseen, rounding)
        # Rows by batched products are right by construction. Where even they differ, by more than rounding of the
        # largest share, a hook changes gradients as no factor does.
        largest = torch.stack([share.scale for share in shares.values()]).max()
        wrong = set()
        for name, (product, scale, eps) in shares.items():
            gradient = truth[name]
            allowed = tolerance(eps) * (largest if name in by_rows else scale)
            if not (product - gradient).norm() <= allowed:
                if not gradient.isfinite().all():
                    raise NotFinite(f"the gradient of '{name}' is not finite: look for NaN or infinity in the network")
                if name in by_rows:
                    raise CaptureError(
                        f"the gradient of '{name}' is not linear in that of log_prob: remove the hooks that do more to "
                        "gradients than multiply them by a number"
                    )
                wrong.add(name)
        if self.when == "first" and not wrong:
            # One sample fits any layout, and a layer that no gradient reaches yet shows nothing.
            self._shown = len(v) > 1 and all(bool(share.scale > 0) for share in shares.values())
        return frozenset(wrong)

    def probe(self, norms: Tensor) -> Tensor:
        """``v [B]`` under which all samples count alike, whatever the ``norms [B]`` of their scores; another each time.

        Powers of two with random signs and a random factor between 1/8 and 8: each sample's gradients are scaled
        without another rounding, so that a score which is all rounding noise is the same noise on both sides.
        """
        generator = torch.Generator().manual_seed(self._turn)
        self._turn += 1
        exponents = torch.randint(-3, 4, norms.shape, generator=generator, device="cpu")
        signs = 2 * torch.randint(0, 2, norms.shape, generator=generator, device="cpu") - 1
        floor = torch.finfo(norms.dtype).tiny ** 0.5
        level = norms.clamp(min=max(float(norms.max()) * 1e-12, floor)).log2().round()
        return torch.ldexp(signs.to(norms), exponents.to(norms) - level)

    def _gradients(self, log_prob: Tensor, v: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Of ``vᵀ log_prob``; zeros where it does not depend on a parameter."""
        inputs = {name: self.parameters[name] for name in names}
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
        one, other = (self._gradients(log_prob, v * half, names) for half in (even, 1 - even))
        return {
            name: Share(one[name] + other[name], torch.maximum(one[name].norm(), other[name].norm()), rounding[name])
            for name in names
            if name in rounding
        }


def shares_of(
    factors: Iterable[Factor], v: Tensor, rounding: Mapping[str, float], products: Mapping[str, Tensor] | None = None
) -> dict[str, Share]:
    """What factors say of ``Hᵀv``.

    Args:
        factors: some.
        v: ``[B]``.
        rounding: of each parameter, see `Share`.
        products: ``Hᵀv``, where it is known already.
    """
    shares: dict[str, Share] = {}
    for factor in factors:
        product = factor.rmatvec(v) if products is None else products
        for name, norms in factor.norms().items():
            shares[name] = Share(product[name], (norms * v).norm(), rounding.get(name, 0.0))
    return shares


def tolerance(rounding: float) -> float:
    """Relative error of a share that rounding alone may make.

    In half precision autograd itself was seen to be six roundings off; the root would be up to nine percent.
    """
    return min(rounding**0.5, max(1e-3, 8 * rounding))
