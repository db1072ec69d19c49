"""Records a forward pass and returns the factors of a per-sample scalar.

Forward hooks keep each layer's input and the graph edge of its output; one backward pass *to those edges only*
then gives every layer's output gradients, which with the inputs are all a factor needs.  What the hooks do not
see is filled in by batched vector-Jacobian products on the recorded graph: slower, never wrong.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from ratpg.natgrad.factors import DenseFactor, Factor
from ratpg.natgrad.free import stand_ins
from ratpg.natgrad.layers import build_factor, has_factor

VJP_CHUNK_BYTES = 256 * 2**20
"""Budget for the cotangents and rows of one chunk of batched vector-Jacobian products, in bytes."""


class CaptureError(RuntimeError):
    """The recorded forward pass cannot give a right score matrix; the message names the module and the remedy."""


@dataclass
class Call:
    """One recorded call of one module."""

    module: nn.Module
    inputs: Tensor
    version: int
    edge: GradientEdge


Calls = Sequence[tuple[Call, Tensor]]
"""Recorded calls, each with the gradient at its output."""
FreeRows = Sequence[tuple[str, Tensor]]
"""Names of free parameters with the gradients at their expansions, ``[B, *shape]``."""


class Recorder:
    """Records the forward passes of some modules.

    Args:
        modules: name -> module, every module whose calls may be recorded (submodules included).
        parameters: name -> trainable parameter, the columns of ``H``.
    """

    def __init__(self, modules: Mapping[str, nn.Module], parameters: Mapping[str, nn.Parameter]):
        self.modules, self.parameters = dict(modules), dict(parameters)
        self.calls: list[Call] = []
        self._entered = False
        self.expansions: list[tuple[str, GradientEdge]] = []
        self._name_of = {id(parameter): name for name, parameter in self.parameters.items()}
        self._module_name_of = {id(module): name for name, module in self.modules.items()}
        # Structures already compared with autograd -> the parameters that have to take the batched path.
        self._batched: dict[tuple[Any, ...], frozenset[str]] = {}

    @staticmethod
    def over(actor: nn.Module | Sequence[nn.Module | nn.Parameter]) -> "Recorder":
        """A recorder of a module, or of a sequence of modules and free parameters.

        Raises:
            ValueError: where nothing is trainable.
        """
        modules, parameters = _named(actor)
        if not parameters:
            raise ValueError("nothing to precondition: no parameter of the actor requires a gradient")
        return Recorder(modules, parameters)

    @contextmanager
    def record(self) -> Iterator[None]:
        """Forgets the last recording and records what runs inside; the hooks are removed even after an error."""
        self._refuse_random_modules()
        self.calls, self.expansions = [], []
        self._entered = True
        handles = []
        try:
            for module in self.modules.values():
                if has_factor(module) and self._trainable(module):
                    handles.append(module.register_forward_hook(self._hook, prepend=True, with_kwargs=True))
            with stand_ins(self.modules, self._name_of, self._note_expansion):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def factors(self, log_prob: Tensor) -> list[Factor]:
        """The factors that together are ``H [B, p]`` for ``log_prob [B]``.

        Raises:
            CaptureError: where ``log_prob`` does not depend on what was recorded, a recorded input was changed
                in place, or a trainable parameter would be left out.
            ValueError: where ``log_prob`` is not a vector.
        """
        if log_prob.ndim != 1:
            raise ValueError(f"log_prob must be one number a sample, [B]; got shape {list(log_prob.shape)}")
        if not log_prob.requires_grad:
            raise CaptureError("log_prob does not depend on any trainable parameter: was it computed under no_grad?")
        if not self._entered:
            raise CaptureError("nothing was recorded: compute log_prob inside `with transform.record():`")
        for name, parameter in self.parameters.items():
            if not parameter.requires_grad:
                raise CaptureError(f"parameter '{name}' was frozen after AdvantageTransform was made: make a new one")
        operations = self._operations(log_prob)
        calls, free = self._gradients(log_prob)
        structure = (operations, *self._structure(calls, free, len(log_prob)))
        known = self._batched.get(structure)
        factors, covered = self._fast_factors(calls, free, len(log_prob), known or frozenset())
        if known is None:
            wrong, conclusive = self._disagreeing(log_prob, calls, factors)
            if wrong:
                factors, covered = self._fast_factors(calls, free, len(log_prob), wrong)
            # A layout without the samples in front may fit one batch by chance; it is compared every time.
            if conclusive and all(len(call.inputs) == len(log_prob) for call, _ in calls):
                self._batched[structure] = wrong
        missing = [name for name in self.parameters if name not in covered]
        if missing:
            factors += self._batched_factors(log_prob, missing)
        return factors

    def _hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        if output.requires_grad:
            inputs = (*args, *kwargs.values())[0].detach()
            # The edge, and not the tensor: an in-place ReLU may yet overwrite the output.
            self.calls.append(Call(module, inputs, inputs._version, get_gradient_edge(output)))

    def _note_expansion(self, name: str, rows: Tensor) -> None:
        if rows.requires_grad:
            self.expansions.append((name, get_gradient_edge(rows)))

    def _trainable(self, module: nn.Module) -> dict[str, str]:
        """The module's own parameters among those of the transform: attribute -> name."""
        owned = {attribute: self._name_of.get(id(p)) for attribute, p in module._parameters.items() if p is not None}
        return {attribute: name for attribute, name in owned.items() if name is not None}

    def _gradients(self, log_prob: Tensor) -> tuple[Calls, FreeRows]:
        """One backward pass: gradients at the recorded outputs, and at the expansions of free parameters."""
        edges = [call.edge for call in self.calls] + [edge for _, edge in self.expansions]
        if not edges:
            return [], []
        gradients = torch.autograd.grad(log_prob.sum(), edges, retain_graph=True, allow_unused=True)
        at_calls, at_expansions = gradients[: len(self.calls)], gradients[len(self.calls) :]
        reached = [(call, g) for call, g in zip(self.calls, at_calls, strict=True) if g is not None]
        free = [(name, g) for (name, _), g in zip(self.expansions, at_expansions, strict=True) if g is not None]
        if not reached and not free:
            raise CaptureError(
                "log_prob does not depend on the recorded forward pass: compute it inside `with transform.record():`"
            )
        for call, _ in reached:
            if call.inputs._version != call.version and isinstance(call.module, nn.Linear):
                name = self._module_name_of[id(call.module)]
                raise CaptureError(f"the input of module '{name}' was changed in place after the module ran")
        return reached, free

    def _structure(self, calls: Calls, free: FreeRows, samples: int) -> tuple[Any, ...]:
        # One sample fits any layout, and shows nothing about two.
        layers = tuple((id(call.module), call.inputs.ndim, len(call.inputs) == samples) for call, _ in calls)
        return samples == 1, layers, tuple((name, len(rows) == samples) for name, rows in free)

    def _fast_factors(
        self, calls: Calls, free: FreeRows, samples: int, refused: frozenset[str]
    ) -> tuple[list[Factor], set[str]]:
        """Factors of the recorded layers; a parameter shared between different layers is left to the batched path."""
        groups: dict[tuple[str, ...], list[tuple[Call, Tensor]]] = {}
        dtype = next(iter(self.parameters.values())).dtype  # under autocast both may have fewer digits
        for call, gradient in calls:
            groups.setdefault(tuple(self._trainable(call.module).values()), []).append((call, gradient))
        rows: dict[str, Tensor] = {}
        for name, gradient in free:
            rows[name] = rows[name] + gradient if name in rows else gradient
        seen = [name for key in (*groups, tuple(rows)) for name in key]
        factors: list[Factor] = []
        covered: set[str] = set()
        for name, row in rows.items():
            if len(row) == samples and name not in refused and seen.count(name) == 1:
                factors.append(DenseFactor(row.reshape(samples, *self.parameters[name].shape), name))
                covered.add(name)
        for key, group in groups.items():
            if refused.intersection(key) or any(seen.count(name) > 1 for name in key):
                continue
            module = group[0][0].module
            tensors = [(call.inputs.to(dtype), gradient.to(dtype)) for call, gradient in group]
            factor = build_factor(module, self._trainable(module), tensors, samples)
            if factor is not None:
                factors.append(factor)
                covered.update(key)
        return factors, covered

    def _disagreeing(self, log_prob: Tensor, calls: Calls, factors: Sequence[Factor]) -> tuple[frozenset[str], bool]:
        """Parameters for which ``Hᵀv`` from factors is not autograd's, at a random ``v``.

        Catches samples that are not independent, a layout with the samples not in front, and a weight that is
        also used outside of its module.
        """
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(len(log_prob), generator=generator, dtype=torch.float64).to(log_prob)
        names = [name for factor in factors for name in factor.names]
        if not names:
            return frozenset(), True
        truth = torch.autograd.grad(
            log_prob, [self.parameters[name] for name in names], v, retain_graph=True, allow_unused=True
        )
        expected = dict(zip(names, truth, strict=True))
        tolerance = max(torch.finfo(t.dtype).eps for t in (log_prob, *(g for _, g in calls))) ** 0.5
        wrong: set[str] = set()
        conclusive = True
        for factor in factors:
            # The scale of the terms that were summed, so that a true zero made of large terms is no mismatch.
            scale = (factor.squared_norms() @ v.square()).sqrt()
            conclusive &= bool(scale > 0)
            for name, product in factor.rmatvec(v).items():
                gradient = expected[name]
                error = product if gradient is None else product - gradient
                if not error.norm() <= tolerance * scale:
                    wrong.update(factor.names)
        return frozenset(wrong), conclusive

    def _batched_factors(self, log_prob: Tensor, names: Sequence[str]) -> list[Factor]:
        """Rows by batched vector-Jacobian products, a chunk of samples at a time."""
        parameters = [self.parameters[name] for name in names]
        used = torch.autograd.grad(log_prob.sum(), parameters, retain_graph=True, allow_unused=True)
        for name, gradient in zip(names, used, strict=True):
            if gradient is None:
                raise CaptureError(
                    f"log_prob does not depend on the trainable parameter '{name}': freeze it, "
                    "or hand AdvantageTransform only the modules that log_prob depends on"
                )
        samples = len(log_prob)
        row_bytes = (samples + sum(p.numel() for p in parameters)) * log_prob.element_size()
        chunk = max(1, VJP_CHUNK_BYTES // row_bytes)
        identity = torch.eye(samples, dtype=log_prob.dtype, device=log_prob.device)
        rows: list[list[Tensor]] = [[] for _ in names]
        for cotangents in identity.split(chunk):
            for collected, part in zip(rows, _rows(log_prob, parameters, cotangents), strict=True):
                collected.append(part)
        return [DenseFactor(torch.cat(parts), name) for name, parts in zip(names, rows, strict=True)]

    def _refuse_random_modules(self) -> None:
        """What makes a sample's score depend on its neighbours, or on chance, is refused."""
        for name, module in self.modules.items():
            batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if not module.training and not (batch_norm and module.running_mean is None):
                continue
            if batch_norm:
                raise CaptureError(
                    f"module '{name}' ({type(module).__name__}) is in training mode, so a sample's log-probability "
                    "depends on the other samples: call .eval() on it, or use LayerNorm or GroupNorm"
                )
            rate = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0.0)
            if isinstance(rate, int | float) and rate > 0:
                raise CaptureError(
                    f"module '{name}' ({type(module).__name__}) drops units at random in training mode, so the score "
                    "of this forward pass is not that of the next: call .eval() on it or set its rate to 0"
                )

    def _operations(self, log_prob: Tensor) -> tuple[str, ...]:
        """The operations of the recorded graph in the order of a walk; two passes with the same may share a check.

        Raises:
            CaptureError: where a trainable tensor is found that nobody handed over, and would be skipped silently.
        """
        operations: list[str] = []
        stack: list[Node | None] = [log_prob.grad_fn]
        seen: set[Node] = set()
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            operations.append(node.name())
            leaf = getattr(node, "variable", None)
            if leaf is not None and id(leaf) not in self._name_of:
                raise CaptureError(
                    f"log_prob depends on a trainable tensor of shape {list(leaf.shape)} that AdvantageTransform was "
                    "not given (a log_std kept outside the module?): hand it over too, as in "
                    "AdvantageTransform([actor, log_std]), or freeze it"
                )
            stack.extend(next_node for next_node, _ in node.next_functions)
        return tuple(operations)


def _rows(log_prob: Tensor, parameters: Sequence[Tensor], cotangents: Tensor) -> Sequence[Tensor]:
    """``cotangents @ H`` for each parameter, ``[n, *shape]``: batched, or one by one where vmap has no rule."""
    try:
        return torch.autograd.grad(log_prob, parameters, cotangents, retain_graph=True, is_grads_batched=True)
    except RuntimeError:
        single = [torch.autograd.grad(log_prob, parameters, v, retain_graph=True) for v in cotangents]
        return [torch.stack(parts) for parts in zip(*single, strict=True)]


def _named(
    actor: nn.Module | Sequence[nn.Module | nn.Parameter],
) -> tuple[dict[str, nn.Module], dict[str, nn.Parameter]]:
    """Modules and trainable parameters by name; in a sequence each name starts with the position."""
    parts = [("", actor)] if isinstance(actor, nn.Module) else [(str(i), part) for i, part in enumerate(actor)]
    modules: dict[str, nn.Module] = {}
    parameters: dict[str, nn.Parameter] = {}
    for prefix, part in parts:
        if isinstance(part, nn.Parameter):
            found = [(prefix, part)]
        else:
            known_modules = {id(module) for module in modules.values()}
            modules.update({n: m for n, m in part.named_modules(prefix=prefix) if id(m) not in known_modules})
            found = list(part.named_parameters(prefix=prefix))
        known = {id(parameter) for parameter in parameters.values()}
        parameters.update({name: p for name, p in found if p.requires_grad and id(p) not in known})
    return modules, parameters
