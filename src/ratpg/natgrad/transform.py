"""The transformed advantage of RAT (Sun, ICML 2026): a natural gradient by ordinary backpropagation.

By the Woodbury identity (used twice) the regularised natural gradient of a mini-batch is an ordinary policy
gradient with another advantage,

    (λI_p + HᵀΣH)⁻¹ HᵀΣ y = HᵀΣ Ã,    Ã = (λI_B + KΣ)⁻¹ y,    K = HHᵀ,    Σ = diag(w)/B,

with ``H [B, p]`` the scores, ``y [B]`` the advantages, ``w [B]`` the importance ratios and ``λ`` the damping.
Solved in its symmetric form: with ``S = Σ^{1/2}``, ``Ã = S⁻¹ (λI + SKS)⁻¹ S y``, by Cholesky.

Of the sample-space solve this is the only file in which ``λ``, ``Σ``, ``1/B`` and ``ζ`` are applied.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ratpg.natgrad.capture import Recorder
from ratpg.natgrad.errors import CaptureError, NotFinite
from ratpg.natgrad.factors import Factor
from ratpg.natgrad.lower import LowerTriangle
from ratpg.natgrad.plan import Plan
from ratpg.natgrad.precision import full_precision
from ratpg.natgrad.refusal import refuse_process_groups
from ratpg.natgrad.scores import HeldScores, PassingScores, Scores
from ratpg.natgrad.solve import Solution, solve_spd, solve_spd_deferred
from ratpg.natgrad.verifier import Verify
from ratpg.natgrad.workspace import Workspace


@dataclass(frozen=True)
class Step:
    """A natural-gradient ascent step on the surrogate ``mean(w · y · log π)``.

    Attributes:
        advantage: ``Ã [B]``, to be used in a loss just as the advantage was.
        direction: ``g``, {parameter name: tensor}: ``HᵀΣÃ``, plus ``ζ g_{j−1}`` with Kaczmarz; an ascent direction,
            each tensor in the parameter's own precision.
        predicted_gain: first-order change ``gᵀ HᵀΣ y`` of the surrogate along ``direction``, a scalar.
        predicted_kl: second-order ``½ gᵀ HᵀΣH g``, the KL divergence that moving by ``direction`` causes, a scalar;
            moving by ``α g`` causes ``α²`` times as much. Where λ is far above the eigenvalues ``e`` of ``SKS``, this
            and the gain have a relative error of ``λ/e`` roundings.
        solution: how the B × B system was solved.
        reference: the damped natural gradient of the reference advantages, where some were given.
    """

    advantage: Tensor
    direction: dict[str, Tensor]
    predicted_gain: Tensor
    predicted_kl: Tensor
    solution: Solution
    reference: dict[str, Tensor] | None = None


class AdvantageTransform:
    """Turns advantages into transformed advantages, whose policy gradient is the natural gradient.

    Example:
        >>> transform = AdvantageTransform(actor, damping=0.1)
        >>> with transform.record():
        ...     log_prob = actor_log_prob(obs, actions)
        >>> step = transform(log_prob, advantages, weights=ratio)
        >>> loss = -(ratio * step.advantage).mean()  # or move the parameters by step.direction

    With ``previous`` and ``decay`` it takes one step of randomized block Kaczmarz over mini-batches,
    ``g_j = ζ g_{j−1} + HᵀΣ (λI + KΣ)⁻¹ (y − ζ H g_{j−1})``: ζ = 0 is the exact damped natural gradient of the
    block, ζ = 1 the paper's iteration, between them projected momentum (SPRING, arXiv 2401.10190).

    Args:
        actor: the module whose calls are recorded, or a sequence of modules and free parameters.
        damping: λ ≥ 0, the Tikhonov term.
        curvature_rows: ``R``: the Fisher matrix is that of the first ``R`` samples of a mini-batch (shuffle them), the
            gradient that of all ``B``; ``K`` and the solve cost ``(B/R)²`` less. The step is
            ``(λI + H_RᵀΣ_R H_R)⁻¹ HᵀΣy``: directions which only the other samples know of are stretched by
            ``1/λ``, so that Kaczmarz iterates with a decay grow along them where their eigenvalue is above ``2λ``. None
            for all samples.
        verify: ``"always"`` compares each step with autograd's own gradient, at the cost of one more backward pass;
            ``"first"`` only the first, which is enough for a network that is known to work (docs/maths.md).

    Attributes:
        deferred: whether nothing may make the host wait for the device, as in a CUDA graph; False at first. Then values
            are not checked, and a step that cannot be had is zero, which ``step.solution.holds`` tells. Embeddings,
            layers that are fed ``[B·T, d]``, and samples that are picked by an index make it wait still.

    Raises:
        ValueError: for a negative or non-finite damping, curvature rows without damping or less than one, or where
            nothing is trainable.
    """

    def __init__(
        self,
        actor: nn.Module | Sequence[nn.Module | nn.Parameter],
        damping: float = 0.1,
        curvature_rows: int | None = None,
        *,
        verify: Verify = "always",
    ):
        try:
            damping = float(damping)
        except (TypeError, ValueError):
            raise ValueError(f"damping must be a number, got {type(damping).__name__}") from None
        if not (math.isfinite(damping) and damping >= 0):
            raise ValueError(f"damping must be finite and >= 0, got {damping}")
        if curvature_rows is not None and (curvature_rows < 1 or damping == 0):
            raise ValueError(
                f"curvature_rows must be at least 1, and needs damping > 0; got {curvature_rows}, {damping}"
            )
        self.damping, self.curvature_rows, self.deferred = damping, curvature_rows, False
        self._recorder = Recorder.over(actor, verify=verify)
        self.parameters = self._recorder.parameters
        self._begin()

    def _begin(self) -> None:
        # What `gram` and `plan` ask of the last call.
        self._last: tuple[Callable[[], Tensor], Scores] | None = None
        self._workspace = Workspace()

    def __getstate__(self) -> dict[str, Any]:
        """Without what was recorded last, of which a copy has nothing."""
        return {name: value for name, value in vars(self).items() if name not in ("_last", "_workspace")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def record(self) -> AbstractContextManager[None]:
        """Context in which the forward pass that makes ``log_prob`` runs; any code that calls the modules will do."""
        self._last = None
        return self._recorder.record()

    def release(self) -> None:
        """Lets go of what was recorded last, which is kept for further calls otherwise, until the next recording.

        What its graph holds is memory. And no graph can be captured on CUDA, of a backward pass to the same parameters,
        while one that was recorded on the default stream is kept.
        """
        self._last = None
        self._recorder.release()

    def gram(self) -> Tensor:
        """``K = HHᵀ [B, B]`` of what was recorded and handed to the last call, whose inputs must still be as they were.

        After `solve`, and where factors are not held, it is taken out of the weighted system again: then the entries of
        a sample whose weight is ``w`` times the largest have ``1/w`` times the rounding error.

        Raises:
            CaptureError: where no call followed the last recording.
        """
        with self._recorder.lock, full_precision():
            return self._of_last()[0]()

    def plan(self) -> Plan:
        """How the share of each layer of what was recorded and handed to the last call is found; prints as a table.

        Counted for all rows; with ``curvature_rows`` the flops of ``K`` are ``(R/B)²`` of these.

        Raises:
            CaptureError: where no call followed the last recording.
        """
        with self._recorder.lock:
            return self._of_last()[1].plan()

    def _of_last(self) -> tuple[Callable[[], Tensor], Scores]:
        if self._last is None:
            raise CaptureError("nothing recorded yet: call the transform on a recorded log_prob first")
        return self._last

    @torch.no_grad()
    def __call__(
        self,
        log_prob: Tensor,
        advantages: Tensor,
        weights: Tensor | None = None,
        *,
        previous: Mapping[str, Tensor] | None = None,
        decay: float = 0.0,
        reference: Tensor | None = None,
    ) -> Step:
        """The step for one mini-batch.

        Where factors are not held (see `plan`) the direction takes a backward pass, which `solve` does without.

        Args:
            log_prob: ``[B]``, with its graph, computed inside `record`; the graph is kept.
            advantages: ``y [B]``.
            weights: importance ratios ``w [B]``, > 0; ones by default.
            previous: ``g_{j−1}``, the last mini-batch's ``direction``, for Kaczmarz.
            decay: ζ ∈ [0, 1]; 0 ignores ``previous``.
            reference: other advantages ``[B]``, whose natural gradient without any carried term is wanted as well, to
                see how near the step is to it; it comes from the same factorisation.

        Raises:
            ValueError: for shapes that do not fit, a ``log_prob`` in half precision, weights that are not positive, a
                decay outside [0, 1], or a reference where curvature is of some rows only.
            NotFinite: for input, or a network, with NaN or infinity.
            CaptureError: where the recorded pass cannot give a right score matrix.
        """
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay must be in [0, 1], got {decay}")
        _require_tensors(log_prob=log_prob, advantages=advantages, weights=weights, reference=reference)
        y = advantages.detach()
        root = self._root(log_prob, y, weights)
        whole = self.curvature_rows is None or self.curvature_rows >= len(y)
        if not whole and reference is not None:
            raise ValueError("a reference needs the curvature of all rows")
        carried = self._carried(previous, y.dtype) if previous is not None and decay else None
        with self._recorder.lock, full_precision():
            self._last, agreed = None, False
            while not agreed:  # with what differs from autograd on the slow path: once more, if at all
                held = None if whole and self._recorder.is_large(log_prob) else self._held(log_prob)
                scores: HeldScores | PassingScores = held or PassingScores(self._recorder, log_prob)
                if whole:
                    system, moved = scores.products(root, carried, self._workspace)
                else:
                    moved = None if carried is None else scores.matvec(carried)
                agreed = self._agrees(log_prob, scores)
            along_carried = torch.zeros_like(y) if moved is None else decay * moved  # ζ H g_{j−1}
            target = root * (y - along_carried)
            for_reference: list[Tensor] = []
            if not whole and held is not None:
                solution, z = self._solve_rows(held, root, target)
            else:
                columns = [target] if reference is None else [target, root * reference.detach()]
                solution = self._solve_system(system, root, torch.stack(columns, 1))
                z, *for_reference = solution.x.unbind(1)
            k = partial(self._gram_of, system, root) if held is None else partial(held.gram, y)
            self._last = k, scores

            direction = scores.rmatvec(root * z)
            if carried is not None:
                direction = {name: g.add(carried[name], alpha=decay) for name, g in direction.items()}
            if whole and solution.method == "cholesky" and solution.holds is None:
                # S H g without another product: SKS z = S y − λ z, and the carried term is already known. Not where the
                # diagonal may have been raised (a deferred solution): near rounding level the difference is inexact.
                moved = target - self.damping * z + root * along_carried
            else:
                moved = root * scores.matvec(direction)
            other = scores.rmatvec(root * for_reference[0]) if for_reference else None
            if solution.holds is not None:
                z, moved = (torch.where(solution.holds, t, 0.0) for t in (z, moved))
                direction = {name: torch.where(solution.holds, g, 0.0) for name, g in direction.items()}
        return Step(
            advantage=z / root,
            direction=self._of_parameters(direction),
            predicted_gain=moved @ (root * y),
            predicted_kl=0.5 * moved @ moved,
            solution=solution,
            reference=None if other is None else self._of_parameters(other),
        )

    @torch.no_grad()
    def solve(self, log_prob: Tensor, targets: Tensor, weights: Tensor | None = None) -> Solution:
        """``Ã = (λI + KΣ)⁻¹ Y`` for several right-hand sides, from one factorisation.

        For losses whose parts are weighted by different columns, as a shared actor-critic's are; one ordinary
        backward pass then gives the direction. Of what has fast factors no more than one layer's are held at a time, so
        that this takes little memory beside that pass.

        Args:
            log_prob: ``[B]``, with its graph, computed inside `record`; the graph is kept.
            targets: ``Y [B, k]``.
            weights: importance ratios ``w [B]``, > 0; ones by default.

        Returns:
            ``Ã [B, k]`` as ``x``, and how the system was solved.

        Raises:
            ValueError, NotFinite, CaptureError: as for a step, and where ``targets`` is no matrix, or curvature is of
                some rows only.
        """
        _require_tensors(log_prob=log_prob, targets=targets, weights=weights)
        if targets.ndim != 2 or targets.shape[1] == 0:
            raise ValueError(f"targets must be [B, k] with k > 0, got {list(targets.shape)}")
        targets = targets.detach()
        if self.curvature_rows is not None and self.curvature_rows < len(targets):
            raise ValueError("the advantage alone needs the curvature of all rows: take a step's")
        root = self._root(log_prob, targets[:, 0], weights)
        scores = PassingScores(self._recorder, log_prob)
        with self._recorder.lock, full_precision():
            self._last, agreed = None, False
            while not agreed:
                system, _ = scores.products(root, None, self._workspace)
                agreed = self._agrees(log_prob, scores)
            solution = self._solve_system(system, root, root[:, None] * targets)
            self._last = partial(self._gram_of, system, root), scores
        return replace(solution, x=solution.x / root[:, None])

    def _agrees(self, log_prob: Tensor, scores: HeldScores | PassingScores) -> bool:
        """Whether the scores are right, as far as that is looked at; if not, the next visit brings other ones."""
        if isinstance(scores, HeldScores):
            return self._recorder.agrees(log_prob, factors=scores.factors)
        return self._recorder.agrees(log_prob, norms=scores.norms, looked=scores.looked)

    def _gram_of(self, system: LowerTriangle, root: Tensor) -> Tensor:
        """``K`` from the system that was solved, ``λI + SKS``."""
        system = system.copy()
        system.shift(-self.damping)
        system.scale(1 / root)
        return system.dense()

    def _root(self, log_prob: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
        """``S = Σ^{1/2}`` as a vector."""
        refuse_process_groups()
        w = torch.ones_like(y) if weights is None else weights.detach()
        if log_prob.ndim != 1 or not log_prob.shape == y.shape == w.shape:
            shapes = [list(t.shape) for t in (log_prob, y, w)]
            raise ValueError(f"log_prob, advantages and weights must all be [B], got {shapes}")
        if not log_prob.dtype == y.dtype == w.dtype:
            dtypes = [str(t.dtype) for t in (log_prob, y, w)]
            raise ValueError(f"log_prob, advantages and weights must have one dtype, got {dtypes}")
        if log_prob.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"log_prob must be float32 or float64, got {log_prob.dtype}: compute it from `logits.float()`, "
                "whatever the layers compute in"
            )
        if not y.numel():
            raise ValueError("there are no samples: log_prob, advantages and weights are empty")
        if not (self.deferred or bool((w > 0).all())):
            if w.isnan().any():
                raise NotFinite("weights (importance ratios) are not finite: look for NaN in log-probabilities")
            raise ValueError("weights (importance ratios) must be positive: clamp them away from zero")
        # A ratio may be so small that its share of Σ would be 0, and 0/0 its advantage.
        return (w / w.numel()).sqrt().clamp(min=torch.finfo(w.dtype).tiny ** 0.5)

    def _carried(self, previous: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        for name, parameter in self.parameters.items():
            if name not in previous or previous[name].shape != parameter.shape:
                found = list(previous[name].shape) if name in previous else "nothing"
                raise ValueError(
                    f"previous must be the last direction: {list(parameter.shape)} of '{name}', got {found}"
                )
        return {name: previous[name].to(dtype) for name in self.parameters}

    def _of_parameters(self, g: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In the precision of each parameter, as its gradient would be."""
        return {name: g[name].to(parameter.dtype) for name, parameter in self.parameters.items()}

    def _held(self, log_prob: Tensor) -> HeldScores:
        with torch.enable_grad():
            factors: list[Factor] = []
            self._recorder.visit(log_prob, factors.append)
            return HeldScores(factors, list(self.parameters))

    def _solve_rows(self, scores: HeldScores, root: Tensor, target: Tensor) -> tuple[Solution, Tensor]:
        """``z`` with ``HᵀSz = (λI + H_RᵀΣ_R H_R)⁻¹ HᵀSt``, by Woodbury from the first ``R`` rows.

        With ``g = HᵀSt``: ``λ (λI + H_RᵀΣ_R H_R)⁻¹ g = g − H_RᵀS_R (λI + S_R K_R S_R)⁻¹ S_R H_R g``.
        """
        rows = self.curvature_rows or len(root)
        scale = (len(root) / rows) ** 0.5  # Σ_R = diag(w_R)/R
        root_of_rows = scale * root[:rows]
        system, moved = scores.head(rows).products(root_of_rows, scores.rmatvec(root * target), self._workspace)
        assert moved is not None
        solution = self._solve_system(system, root_of_rows, root_of_rows * moved)
        z = target.clone()
        z[:rows] -= scale * solution.x
        return solution, z / self.damping

    def _solve_system(self, system: LowerTriangle, root: Tensor, rhs: Tensor) -> Solution:
        """Solves with ``λI + SKS``, from ``K``, which is overwritten."""
        system.scale(root)
        system.shift(self.damping)
        return (solve_spd_deferred if self.deferred else solve_spd)(system, rhs, self.damping)


def _require_tensors(**arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor [B], got {type(value).__name__}: use torch.as_tensor")
