"""Records a forward pass and returns the factors of a per-sample scalar.

Forward hooks keep each layer's input and the graph edge of its output; one backward pass *to those edges only*
then gives every layer's output gradients, which with the inputs are all a factor needs.  What the hooks do not
see is filled in by batched vector-Jacobian products on the recorded graph: slower, never wrong.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock, get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ratpg.natgrad.backward import backward_to
from ratpg.natgrad.batched import ROWS_BYTES, batched_factors, groups
from ratpg.natgrad.errors import CaptureError
from ratpg.natgrad.factors import DenseFactor, Factor, bytes_of
from ratpg.natgrad.free import free_parameters, stand_ins
from ratpg.natgrad.graph import Graph
from ratpg.natgrad.layer import Layer, LayerCall
from ratpg.natgrad.layers import PerSampleParameter, build_factors, has_factor
from ratpg.natgrad.parts import named_parts
from ratpg.natgrad.precision import full_precision
from ratpg.natgrad.refusal import refuse_modules
from ratpg.natgrad.verifier import Look, Verifier, Verify, are_alike

HELD_BYTES = 64 * 2**20
"""Where the inputs of the layers take more than this, in bytes, as those of convolutions do, no more than one layer's
factor is held at a time, and the direction takes a second backward pass."""


@dataclass
class Call:
    """One recorded call of one module.

    Attributes:
        first: whether its input needs no gradient, so that no recorded call is nearer to the network's input.
    """

    module: nn.Module
    inputs: Tensor
    version: int
    edge: GradientEdge
    first: bool


OnLayer = Callable[[tuple[str, ...], list[Factor]], None]
"""Takes the names of the parameters that a layer's factors are meant to cover, and these (none where it fits none)."""


class Recorder:
    """Records the forward passes of some modules.

    Args:
        modules: name -> module, every module whose calls may be recorded (submodules included).
        parameters: name -> trainable parameter, the columns of ``H``.
        keep_tokens: keep a layer's inputs and output gradients even where its rows are the cheaper form: for those who
            look at the layer, as K-FAC does, and not only at its products.
        verify: when the factors are compared with autograd, see `Verifier`.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        parameters: Mapping[str, nn.Parameter],
        keep_tokens: bool = False,
        verify: Verify = "always",
    ):
        self.modules, self.parameters, self.keep_tokens = dict(modules), dict(parameters), keep_tokens
        self.verifier = Verifier(self.parameters, verify)
        self._begin()
        self._identify()

    def __getstate__(self) -> dict[str, Any]:
        """Without what was recorded, and what is known of it, which is by identity: a copy records anew."""
        kept = ("modules", "parameters", "keep_tokens")
        return {name: vars(self)[name] for name in kept} | {"verifier": self.verifier.anew()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def _begin(self) -> None:
        self.lock = RLock()  # threads take turns: a recording is one product's at a time
        self.calls: list[Call] = []
        self._entered, self._reading = False, False
        self._thread: int | None = None  # that records
        self.expansions: list[tuple[str, int, GradientEdge]] = []
        self._name_of: dict[int, str] = {}
        # Parameters whose factors were found to be wrong once: they take the batched path from then on.
        self._refused: set[str] = set()
        # Those that took it in the last visit.
        self._by_rows: frozenset[str] = frozenset()
        # The graph of this recording, which several products may ask for.
        self._graph: tuple[Tensor, Graph] | None = None

    def _identify(self) -> None:
        """Finds modules and parameters by identity."""
        self._name_of = {id(parameter): name for name, parameter in self.parameters.items()}
        # A module's own parameters among these: attribute -> name.
        self._trainable_of = {
            id(module): {
                key: self._name_of[id(parameter)]
                for key, parameter in module._parameters.items()
                if id(parameter) in self._name_of
            }
            for module in self.modules.values()
        }
        self._free = free_parameters(self.modules.values(), self._name_of)
        self._module_name_of = {id(module): name for name, module in self.modules.items()}

    @staticmethod
    def over(
        actor: nn.Module | Sequence[nn.Module | nn.Parameter], keep_tokens: bool = False, verify: Verify = "always"
    ) -> "Recorder":
        """A recorder of a module, or of a sequence of modules and free parameters.

        Raises:
            ValueError: where nothing is trainable.
        """
        modules, parameters = named_parts(actor)
        if not parameters:
            raise ValueError("nothing to precondition: no parameter of the actor requires a gradient")
        return Recorder(modules, parameters, keep_tokens, verify)

    @contextmanager
    def record(self) -> Iterator[None]:
        """Forgets the last recording and records what runs inside; the hooks are removed even after an error."""
        refuse_modules(self.modules)
        thread = get_ident()
        if self._thread not in (None, thread):
            raise CaptureError("another thread is recording: give each thread a transform of its own")
        if not self._name_of:  # a copy
            self._identify()
        with self.lock:  # a product of another thread ends first
            self.release()
            self._entered, self._thread = True, thread
        handles = []
        try:
            for module in self.modules.values():
                if has_factor(module) and self._trainable_of[id(module)]:
                    handles.append(module.register_forward_hook(self._hook, prepend=True, with_kwargs=True))
            with stand_ins(self.parameters, self._free, self._note_expansion):
                yield
        except BaseException:
            self.release()  # its memory may be what was lacking
            raise
        finally:
            self._thread = None
            for handle in handles:
                handle.remove()

    def release(self) -> None:
        """Lets go of what was recorded, and so of the graph behind it."""
        with self.lock:
            self.calls, self.expansions, self._graph = [], [], None
            self._entered = False

    def is_large(self, log_prob: Tensor) -> bool:
        """Whether the layers' inputs, or the rows of what has no fast factor, are more than should be held at once."""
        seen = {name for name, *_ in self.expansions}
        for call in self.calls:
            seen.update(self._trainable_of[id(call.module)].values())
        seen -= self._refused
        entries = sum(parameter.numel() for name, parameter in self.parameters.items() if name not in seen)
        return bytes_of(log_prob) * entries > ROWS_BYTES or bytes_of(*(call.inputs for call in self.calls)) > HELD_BYTES

    def factors(self, log_prob: Tensor) -> list[Factor]:
        """The factors that together are ``H [B, p]`` for ``log_prob [B]``.

        Raises:
            CaptureError: where ``log_prob`` does not depend on what was recorded, a recorded input was changed
                in place, or a trainable parameter would be left out.
            ValueError: where ``log_prob`` is not a vector.
            NotFinite: where it, or a gradient that is compared with autograd's, is not finite.
        """
        while True:
            found: list[Factor] = []
            self.visit(log_prob, found.append)
            if self.agrees(log_prob, factors=found):
                return found

    def look_at(self, log_prob: Tensor, v: Tensor | None = None) -> Look | None:
        """Takes in factors while they are there, to be compared afterwards; None where no comparison is due.

        Args:
            log_prob: ``[B]``, with its graph.
            v: the probe; one for scores of like norms unless given.
        """
        graph = self._graph_of(log_prob)
        if not graph.nodes:
            return None
        v = self.verifier.probe(torch.ones_like(log_prob)) if v is None else v
        return Look(self.verifier, v.detach(), graph.rounding)

    def agrees(
        self,
        log_prob: Tensor,
        *,
        factors: Sequence[Factor] | None = None,
        norms: Tensor | None = None,
        looked: Look | None = None,
    ) -> bool:
        """Whether the factors of the last visit are right, by comparison with autograd; True where none is due.

        What differs takes the batched path from the next visit on.

        Args:
            log_prob: ``[B]``, with its graph, which is kept.
            factors: those of the last visit; None to find them anew where they are needed.
            norms: about the norms of the rows of ``H``, ``[B]``, where factors are found anew.
            looked: what was taken in during the last visit.

        Raises:
            CaptureError, NotFinite: as for `Verifier.disagreeing`.
        """
        graph = self._graph_of(log_prob)
        if not graph.nodes:
            return True
        found = [factor.norms() for factor in factors or ()]
        if norms is None:
            norms = torch.stack([norm for each in found for norm in each.values()]).norm(dim=0)
        in_front = all(len(call.inputs) == len(norms) for call in self.calls if call.edge.node in graph.nodes)
        suspects: frozenset[str] | None = None
        for v in self.verifier.probes(norms, graph.rounding):
            look = Look(self.verifier, v, graph.rounding)
            if suspects is None and looked is not None and are_alike(norms):
                look = looked
            elif factors is None:
                with torch.enable_grad():
                    self.visit(log_prob, look.add, fast_alone=True)
            else:
                for factor, each in zip(factors, found, strict=True):
                    look.add(factor, each)
            shares = look.shares
            wrong = self.verifier.disagreeing(log_prob, look.v, shares, self._by_rows, graph.rounding, in_front)
            if suspects is None:
                suspects = wrong
                if not suspects:
                    return True
            elif wrong & suspects:
                break
        else:
            return True  # the scores are so small that the first probe met their rounding alone
        for name in wrong & suspects & self._by_rows:
            raise CaptureError(
                f"the gradient of '{name}' is not linear in that of log_prob: remove the hooks that do more to "
                "gradients than multiply them by a number"
            )
        self._refused |= wrong & suspects
        return False

    def _graph_of(self, log_prob: Tensor) -> Graph:
        """The graph of a recording, empty where no comparison is due; looked at once."""
        if self._graph is None or self._graph[0] is not log_prob:
            graph = Graph.of(log_prob, self._name_of if self.verifier.is_due(log_prob) else None)
            self._graph = log_prob, graph
            self._refused |= self._of_several_layers(graph)
        return self._graph[1]

    def visit(self, log_prob: Tensor, on_factor: Callable[[Factor], None], fast_alone: bool = False) -> None:
        """Hands on each of the `factors` as the backward pass comes to it, and lets go of it before the next.

        Those of parameters without fast factors come at the end, from batched passes that bring several at a time; not
        with ``fast_alone``.

        Raises:
            CaptureError, ValueError, NotFinite: as for `factors`.
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
        self._reading = True
        try:
            with full_precision():
                self._visit(log_prob, on_factor, fast_alone)
        finally:
            self._reading = False

    def _visit(self, log_prob: Tensor, on_factor: Callable[[Factor], None], fast_alone: bool) -> None:
        self._graph_of(log_prob)
        refused, covered = self._refused, set[str]()

        def keep(names: tuple[str, ...], factors: list[Factor]) -> None:
            if not refused.intersection(names):
                for factor in factors:
                    covered.update(factor.names)
                    on_factor(factor)

        self._backward(log_prob, keep)
        missing = {name: parameter for name, parameter in self.parameters.items() if name not in covered}
        self._by_rows = frozenset(missing)
        if fast_alone:
            return
        for group in groups(missing, log_prob):
            for factor in batched_factors(log_prob, group):
                on_factor(factor)

    def _hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        given = [value for value in (*args, *kwargs.values()) if value is not None]
        # What is computed once more for a backward pass (checkpointed activations) was recorded before.
        if self._reading or output.grad_fn is None or _is_transformed(output) or get_ident() != self._thread:
            return
        # An EmbeddingBag with offsets or weights of its own is left to the batched path, and so are nested tensors.
        if len(given) == 1 and not given[0].is_nested:
            inputs = given[0].detach()
            # The edge, and not the tensor: an in-place ReLU may yet overwrite the output.
            edge = get_gradient_edge(output)
            self.calls.append(Call(module, inputs, inputs._version, edge, not given[0].requires_grad))

    def _note_expansion(self, name: str, rows: Tensor) -> None:
        # Not inside of an autograd function, whose graph is its own.
        if rows.grad_fn is not None and not _is_transformed(rows):
            self.expansions.append((name, len(rows), get_gradient_edge(rows)))

    def _of_several_layers(self, graph: Graph) -> set[str]:
        """Parameters that several layers share, none of which has the whole row."""
        layers: dict[str, set[Any]] = {}
        for call in self.calls:
            if call.edge.node in graph.nodes:
                names = self._trainable_of[id(call.module)]
                for name in names.values():
                    layers.setdefault(name, set()).add((type(call.module), *names.values()))
        for name, _, edge in self.expansions:
            if edge.node in graph.nodes:
                layers.setdefault(name, set()).add(name)
        return {name for name, found in layers.items() if len(found) > 1}

    def _backward(self, log_prob: Tensor, on_layer: OnLayer) -> None:
        """One backward pass: a layer's factors are built as soon as the gradients at all its calls are there."""
        samples, reached = len(log_prob), False
        dtype = log_prob.dtype  # layers may have fewer digits, be it under autocast
        # Modules of one type that share all their parameters are one layer.
        keys = [(type(call.module), *self._trainable_of[id(call.module)].values()) for call in self.calls]
        expected, waiting = Counter(keys), dict[tuple[Any, ...], list[LayerCall]]()
        rows, unfit = dict[str, Tensor](), set[str]()

        def build(key: tuple[Any, ...]) -> None:
            calls = waiting.pop(key)
            names = self._trainable_of[id(calls[0].module)]
            on_layer(key[1:], build_factors(Layer(calls, names, samples, self.keep_tokens)))

        def on_gradient(index: int, gradient: Tensor) -> None:
            nonlocal reached
            if index >= len(self.calls):
                name, length, _ = self.expansions[index - len(self.calls)]
                if length != samples:
                    unfit.add(name)
                else:  # [B, 1, A] of one use may meet [B, A] of another
                    gradient = gradient.reshape(samples, *self.parameters[name].shape).to(dtype)
                    rows[name] = rows[name] + gradient if name in rows else gradient
                return
            call, key = self.calls[index], keys[index]
            reached = True
            if call.inputs._version != call.version and not isinstance(call.module, PerSampleParameter):
                name = self._module_name_of[id(call.module)]
                raise CaptureError(f"the input of module '{name}' was changed in place after the module ran")
            inputs = call.inputs.to(dtype) if call.inputs.is_floating_point() else call.inputs
            waiting.setdefault(key, []).append(LayerCall(call.module, inputs, gradient.to(dtype)))
            if len(waiting[key]) == expected[key]:
                build(key)

        edges = [call.edge for call in self.calls] + [edge for *_, edge in self.expansions]
        first = [call.first for call in self.calls] + [True] * len(self.expansions)
        backward_to(log_prob.sum(), edges, first, on_gradient)
        for key in list(waiting):  # some of its calls were not reached
            build(key)
        if edges and not (reached or rows or unfit):
            raise CaptureError(
                "log_prob does not depend on the recorded forward pass: compute it inside `with transform.record():`"
            )
        for name, row in rows.items():
            if name not in unfit:
                on_layer((name,), [DenseFactor(row, name)])
        for name in unfit:
            on_layer((name,), [])


def _is_transformed(tensor: Tensor) -> bool:
    """Whether it is inside of `torch.func.grad`, `vmap` and their like, whose graphs end with them."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))
