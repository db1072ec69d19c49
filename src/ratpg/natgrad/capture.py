"""Records a forward pass and returns the factors of a per-sample scalar.

Forward hooks keep each layer's input and the graph edge of its output; one backward pass *to those edges only*
then gives every layer's output gradients, which with the inputs are all a factor needs.  What the hooks do not
see is filled in by batched vector-Jacobian products on the recorded graph: slower, never wrong.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from ratpg.natgrad.backward import backward_to
from ratpg.natgrad.batched import batched_factors
from ratpg.natgrad.errors import CaptureError
from ratpg.natgrad.factors import DenseFactor, Factor
from ratpg.natgrad.free import stand_ins
from ratpg.natgrad.layer import Layer, LayerCall
from ratpg.natgrad.layers import PerSampleParameter, build_factors, has_factor
from ratpg.natgrad.refusal import refuse_modules


@dataclass
class Call:
    """One recorded call of one module.

    Attributes:
        first: whether its input needs no gradient, so that no recorded call is below it.
    """

    module: nn.Module
    inputs: Tensor
    version: int
    edge: GradientEdge
    first: bool


@dataclass
class Found:
    """What a backward pass has brought.

    Attributes:
        factors: names of the parameters they are meant to cover, and the factors of a layer (none where it fits none).
        calls: indices of the recorded calls that were reached.
        free: lengths of the gradients at the expansions of free parameters, by name.
        precision: the coarsest rounding of the gradients.
    """

    factors: list[tuple[tuple[str, ...], list[Factor]]] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    free: list[tuple[str, int]] = field(default_factory=list)
    precision: float = 0.0

    def kept(self, refused: frozenset[str]) -> list[list[Factor]]:
        """Layers none of whose parameters is refused, or shared with another layer."""
        seen = Counter(name for names, _ in self.factors for name in names)
        return [
            factors
            for names, factors in self.factors
            if factors and not refused.intersection(names) and all(seen[name] == 1 for name in names)
        ]


class Recorder:
    """Records the forward passes of some modules.

    Args:
        modules: name -> module, every module whose calls may be recorded (submodules included).
        parameters: name -> trainable parameter, the columns of ``H``.
        keep_tokens: keep a layer's inputs and output gradients even where its rows are the cheaper form: for those who
            look at the layer, as K-FAC does, and not only at its products.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        parameters: Mapping[str, nn.Parameter],
        keep_tokens: bool = False,
    ):
        self.modules, self.parameters, self.keep_tokens = dict(modules), dict(parameters), keep_tokens
        self.calls: list[Call] = []
        self._entered = False
        self.expansions: list[tuple[str, GradientEdge]] = []
        self._name_of = {id(parameter): name for name, parameter in self.parameters.items()}
        self._trainable_of: dict[int, dict[str, str]] = {}
        self._module_name_of = {id(module): name for name, module in self.modules.items()}
        # Structures already compared with autograd -> the parameters that have to take the batched path.
        self._batched: dict[tuple[Any, ...], frozenset[str]] = {}

    @staticmethod
    def over(actor: nn.Module | Sequence[nn.Module | nn.Parameter], keep_tokens: bool = False) -> "Recorder":
        """A recorder of a module, or of a sequence of modules and free parameters.

        Raises:
            ValueError: where nothing is trainable.
        """
        modules, parameters = _named(actor)
        if not parameters:
            raise ValueError("nothing to precondition: no parameter of the actor requires a gradient")
        return Recorder(modules, parameters, keep_tokens)

    @contextmanager
    def record(self) -> Iterator[None]:
        """Forgets the last recording and records what runs inside; the hooks are removed even after an error."""
        refuse_modules(self.modules)
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
        found = self._backward(log_prob)
        structure = (operations, *self._structure(found, len(log_prob)))
        known = self._batched.get(structure)
        layers = found.kept(known or frozenset())
        if known is None:
            wrong, conclusive = self._disagreeing(log_prob, layers, found.precision)
            layers = found.kept(wrong)
            # A layout without the samples in front may fit one batch by chance; it is compared every time.
            if conclusive and all(len(self.calls[index].inputs) == len(log_prob) for index in found.calls):
                self._batched[structure] = wrong
        factors = [factor for layer in layers for factor in layer]
        covered = {name for factor in factors for name in factor.names}
        missing = {name: parameter for name, parameter in self.parameters.items() if name not in covered}
        return factors + batched_factors(log_prob, missing) if missing else factors

    def _hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        given = [value for value in (*args, *kwargs.values()) if value is not None]
        # An EmbeddingBag with offsets or weights of its own is left to the batched path.
        if output.grad_fn is not None and len(given) == 1:
            inputs = given[0].detach()
            # The edge, and not the tensor: an in-place ReLU may yet overwrite the output.
            edge = get_gradient_edge(output)
            self.calls.append(Call(module, inputs, inputs._version, edge, not given[0].requires_grad))

    def _note_expansion(self, name: str, rows: Tensor) -> None:
        if rows.grad_fn is not None:  # not inside of an autograd function, whose graph is its own
            self.expansions.append((name, get_gradient_edge(rows)))

    def _trainable(self, module: nn.Module) -> dict[str, str]:
        """The module's own parameters among those of the transform: attribute -> name."""
        found = self._trainable_of.get(id(module))
        if found is None:
            owned = {key: self._name_of.get(id(p)) for key, p in module._parameters.items() if p is not None}
            found = {key: name for key, name in owned.items() if name is not None}
            self._trainable_of[id(module)] = found
        return found

    def _backward(self, log_prob: Tensor) -> Found:
        """One backward pass: a layer's factors are built as soon as the gradients at all its calls are there."""
        found, samples = Found(), len(log_prob)
        dtype = next(iter(self.parameters.values())).dtype  # under autocast inputs and gradients may have fewer digits
        # Modules of one type that share all their parameters are one layer.
        keys = [(type(call.module), *self._trainable(call.module).values()) for call in self.calls]
        expected, waiting = Counter(keys), dict[tuple[Any, ...], list[LayerCall]]()
        rows: dict[str, Tensor] = {}

        def build(key: tuple[Any, ...]) -> None:
            calls = waiting.pop(key)
            layer = Layer(calls, self._trainable(calls[0].module), samples, self.keep_tokens)
            found.factors.append((key[1:], build_factors(layer)))

        def receive(index: int, gradient: Tensor) -> None:
            found.precision = max(found.precision, torch.finfo(gradient.dtype).eps)
            if index >= len(self.calls):
                name = self.expansions[index - len(self.calls)][0]
                found.free.append((name, len(gradient)))
                rows[name] = rows[name] + gradient if name in rows else gradient
                return
            call, key = self.calls[index], keys[index]
            if call.inputs._version != call.version and not isinstance(call.module, PerSampleParameter):
                name = self._module_name_of[id(call.module)]
                raise CaptureError(f"the input of module '{name}' was changed in place after the module ran")
            found.calls.append(index)
            inputs = call.inputs.to(dtype) if call.inputs.is_floating_point() else call.inputs
            waiting.setdefault(key, []).append(LayerCall(call.module, inputs, gradient.to(dtype)))
            if len(waiting[key]) == expected[key]:
                build(key)

        edges = [call.edge for call in self.calls] + [edge for _, edge in self.expansions]
        first = [call.first for call in self.calls] + [True] * len(self.expansions)
        backward_to(log_prob.sum(), edges, first, receive)
        for key in list(waiting):  # some of its calls were not reached
            build(key)
        if edges and not found.calls and not found.free:
            raise CaptureError(
                "log_prob does not depend on the recorded forward pass: compute it inside `with transform.record():`"
            )
        for name, row in rows.items():
            fits = len(row) == samples
            factor = DenseFactor(row.reshape(samples, *self.parameters[name].shape), name) if fits else None
            found.factors.append(((name,), [factor] if factor else []))
        return found

    def _structure(self, found: Found, samples: int) -> tuple[Any, ...]:
        # One sample fits any layout, and shows nothing about two.
        reached = [self.calls[index] for index in sorted(found.calls)]
        layers = tuple((id(call.module), call.inputs.ndim, len(call.inputs) == samples) for call in reached)
        return samples == 1, layers, tuple((name, length == samples) for name, length in sorted(found.free))

    def _disagreeing(
        self, log_prob: Tensor, layers: Sequence[Sequence[Factor]], precision: float
    ) -> tuple[frozenset[str], bool]:
        """Parameters for which ``Hᵀv`` from factors is not autograd's, at a random ``v``.

        Catches samples that are not independent, a layout with the samples not in front, and a weight that is
        also used outside of its module.
        """
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(len(log_prob), generator=generator, dtype=torch.float64).to(log_prob)
        names = [name for layer in layers for factor in layer for name in factor.names]
        if not names:
            return frozenset(), True
        truth = torch.autograd.grad(
            log_prob, [self.parameters[name] for name in names], v, retain_graph=True, allow_unused=True
        )
        expected = dict(zip(names, truth, strict=True))
        tolerance = max(torch.finfo(log_prob.dtype).eps, precision) ** 0.5
        wrong: set[str] = set()
        conclusive = True
        for layer in layers:
            # The scale of the terms that were summed, so that a true zero made of large terms is no mismatch; of the
            # whole layer, for each row of a bias may be such a zero (before a norm of each channel).
            scale = torch.stack([factor.squared_norms() @ v.square() for factor in layer]).sum().sqrt()
            conclusive &= bool(scale > 0)
            for name, product in ((n, p) for factor in layer for n, p in factor.rmatvec(v).items()):
                gradient = expected[name]
                if gradient is not None and gradient.is_sparse:
                    gradient = gradient.to_dense()
                error = product if gradient is None else product - gradient
                if not error.norm() <= tolerance * scale:
                    wrong.add(name)
        return frozenset(wrong), conclusive

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
