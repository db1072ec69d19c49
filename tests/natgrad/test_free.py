"""A free parameter acts in a recorded pass just as in any other, and every use of it gives the right scores."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal
from torch.utils.checkpoint import checkpoint

from ratpg.natgrad import AdvantageTransform, capture, dense

from .oracle import relative_error

Use = Callable[[Tensor, Tensor], Tensor]
"""(free parameter ``[3]``, batch ``[B, 3]``) -> ``[B, 3]``."""


class Scale(torch.autograd.Function):
    """A function of somebody's own, which takes its arguments as they are."""

    @staticmethod
    def forward(p: Tensor, x: Tensor) -> Tensor:
        return p * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        p, x = ctx.saved_tensors
        return (gradient * x).sum(0), gradient * p


def _changed(make: Callable[[Tensor], Tensor], change: Callable[[Tensor], object]) -> Use:
    def use(p: Tensor, x: Tensor) -> Tensor:
        q = make(p)
        r = q.exp()
        change(q)
        return x * q + r * x

    return use


# What is broadcast over the samples, and so has a gradient row for each without a batched product.
FAST: dict[str, Use] = {
    "add": lambda p, x: x + p,
    "radd": lambda p, x: p + x,
    "sub": lambda p, x: x - p,
    "rsub": lambda p, x: p - x,
    "mul": lambda p, x: torch.mul(x, p),
    "rmul": lambda p, x: p * x,
    "div": lambda p, x: x / p,
    "rdiv": lambda p, x: p / (x + 3),
    "expand_as": lambda p, x: x * p.expand_as(x),
    "log_prob": lambda p, x: Normal(x, p.exp()).log_prob(torch.ones_like(x)),
    "chain": lambda p, x: x * (0.5 * (p.tanh() + 1) - 2).exp(),
    "softplus": lambda p, x: x / (F.softplus(p) + 1e-3),
    "clamp": lambda p, x: x + p.clamp(-10, 10).square(),
    "expanded": lambda p, x: x * p.expand(len(x), 3),
    "expanded after a function": lambda p, x: x * p.exp().expand(len(x), -1),
    "expanded over tokens": lambda p, x: (x[:, None] * p.expand(len(x), 2, 3)).sum(1),
    "broadcast to": lambda p, x: x * torch.broadcast_to(p, x.shape),
    "repeated": lambda p, x: p.repeat(len(x), 1).mul_(x),
    "several": lambda p, x: (x * p + p.exp()).tanh() / p,
}
# What is not, or not in a way that is looked for.
SLOW: dict[str, Use] = {
    "iadd": lambda p, x: x.clone().add_(p),
    "reduced": lambda p, x: x * p.sum(),
    "indexed": lambda p, x: x * p[None],
    "tiled": lambda p, x: x * p.repeat(len(x), 2)[:, 2:5],
    "expanded to other rows": lambda p, x: x * p.expand(2, 3).sum(0),
    "viewed": lambda p, x: x * p.view(1, -1),
    "product": lambda p, x: x @ torch.diag(p),
    "outer": lambda p, x: x @ torch.outer(p, p),
    "with itself": lambda p, x: x * (p + p),
    "exponent": lambda p, x: x.abs() * 2**p,
    "where": lambda p, x: torch.where(x > 0, p, x * p),
    "addcmul": lambda p, x: torch.addcmul(x, p, p),
    "layer_norm": lambda p, x: F.layer_norm(x.exp(), (3,), p),
    "concatenated": lambda p, x: torch.cat([p, p])[:3] * x,
    "detached as well": lambda p, x: p.detach() * x + p * x,
    "one sample": lambda p, x: x + x[0] * p,
    "one feature": lambda p, x: x * (p * x[:, :1]).sum(1, keepdim=True),
    "data": lambda p, x: p.data * x + p.to(x.dtype),
    "broadcast by itself": lambda p, x: x * torch.broadcast_tensors(p)[0],
    "iterated": lambda p, x: torch.stack([x[:, i] * value for i, value in enumerate(p)], 1),
    "by its length": lambda p, x: x * p * len(p) * p.shape[0] * p.numel(),
    "copied": lambda p, x: x * p.clone(),
    "a function of its own": lambda p, x: Scale.apply(p, x),
    "a function of its own of a function": lambda p, x: Scale.apply(p.exp(), x),
    "clamped in place": _changed(F.softplus, lambda q: q.clamp_(0.5, 1.1)),
    "masked in place": _changed(lambda p: p * 1.0, lambda q: q.__setitem__(0, 0.0)),
    "added to in place": _changed(torch.square, lambda q: q.__iadd__(1.0)),
    "changed through a view": _changed(torch.abs, lambda q: q[:2].fill_(2.0)),
    "changed through its data": _changed(torch.neg, lambda q: q.data.fill_(7.0)),
    "changed through its detached self": _changed(torch.neg, lambda q: q.detach().fill_(7.0)),
}


class Free(nn.Module):
    """A network with one free parameter, used in one way."""

    def __init__(self, use: Use):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.use = use
        self.free = nn.Parameter(0.5 + torch.rand(3, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.free, x).sin().sum(1)


def _gram_error(use: Use, batch: int) -> float:
    module = Free(use)
    x = torch.randn(batch, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    transform = AdvantageTransform(module)
    with transform.record():
        log_prob = module(x)
    assert torch.equal(log_prob, module(x))
    transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(module(x), [module.free])
    return relative_error(transform.gram(), h @ h.T)


# A batch as large as the parameter, and of one sample, are where dimensions are most easily confused.
@pytest.mark.parametrize("batch", [5, 3, 1])
@pytest.mark.parametrize("use", [*FAST, *SLOW])
def test_scores_are_right_however_the_parameter_is_used(use: str, batch: int) -> None:
    assert _gram_error({**FAST, **SLOW}[use], batch) <= 1e-10


@pytest.mark.parametrize("use", FAST)
def test_broadcast_over_samples_needs_no_batched_products(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "batched_factors", lambda *_: pytest.fail("took the batched path"))
    assert _gram_error(FAST[use], 5) <= 1e-10


def _clamped(p: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        p.clamp_(-10, 10)
    p.data.clamp_(-9, 9)
    return x * p.exp()


def _on_the_host(p: Tensor, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return x * p.exp()


def _in_inference_too(p: Tensor, x: Tensor) -> Tensor:
    with torch.inference_mode():
        assert not (x * p.exp()).requires_grad
    return x * p.exp()


@pytest.mark.parametrize("use", [_clamped, _on_the_host, _in_inference_too])
def test_what_changes_no_value_on_the_way_leaves_it_on_the_fast_path(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "batched_factors", lambda *_: pytest.fail("took the batched path"))
    assert _gram_error(use, 5) <= 1e-10


def test_a_parameter_that_changes_after_a_function_of_it_was_computed() -> None:
    def use(p: Tensor, x: Tensor) -> Tensor:
        q = 2 * p
        p.data.mul_(3.0)
        return x * q

    module, x = Free(use), torch.rand(5, 3, dtype=torch.float64)
    before = module.free.detach().clone()
    with AdvantageTransform(module).record():
        log_prob = module(x)
    assert torch.allclose(log_prob, (x * 2 * before).sin().sum(1))


@pytest.mark.parametrize("use", ["chain", "layer_norm", "a function of its own"])
def test_activation_checkpointing_computes_it_again(use: str) -> None:
    module, x = Free({**FAST, **SLOW}[use]), torch.rand(5, 3, dtype=torch.float64)
    transform = AdvantageTransform(module)
    with transform.record():
        log_prob = checkpoint(module, x, use_reentrant=False)
    transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(module(x), [module.free])
    assert relative_error(transform.gram(), h @ h.T) <= 1e-10
    log_prob.sum().backward()
    assert module.free.grad is not None


def test_one_parameter_meets_batches_of_vectors_and_of_sequences() -> None:
    module = Free(lambda p, x: (x * p)[:, None] + torch.stack([x, x + 1], 1) * p)
    module.free = nn.Parameter(module.free.detach()[None])
    x = torch.rand(5, 3, dtype=torch.float64)
    transform = AdvantageTransform(module)
    with transform.record():
        log_prob = module(x).sum(1)
    transform(log_prob, torch.ones_like(log_prob))
    h = dense.score_matrix(module(x).sum(1), [module.free])
    assert relative_error(transform.gram(), h @ h.T) <= 1e-10


def test_parameter_stays_itself_and_may_be_copied() -> None:
    module = Free(FAST["add"])
    before = module.free
    with AdvantageTransform(module).record():
        module(torch.ones(4, 3, dtype=torch.float64))
        assert module.free is before
        copied = copy.deepcopy(module)
    assert type(copied.free) is nn.Parameter and torch.equal(copied.free, before)


def test_loss_on_a_recorded_pass_gives_the_parameter_its_gradient() -> None:
    module, x = Free(FAST["log_prob"]), torch.ones(4, 3, dtype=torch.float64)
    with AdvantageTransform(module).record():
        recorded = module(x).sum()
    (gradient,) = torch.autograd.grad(recorded, module.free)
    (expected,) = torch.autograd.grad(module(x).sum(), module.free)
    assert relative_error(gradient, expected) <= 1e-12


@pytest.mark.parametrize("change", [lambda p: p.data.add_(1.0), lambda p: nn.utils.vector_to_parameters(p + 1, [p])])
def test_what_was_computed_of_it_stays_as_it_was_after_the_recording(change: Callable[[Tensor], object]) -> None:
    module, x = Free(FAST["add"]), torch.rand(5, 3, dtype=torch.float64)
    with AdvantageTransform(module).record():
        width = module.free.exp()
    before = width.detach().clone()
    change(module.free)
    assert torch.equal((x * width).detach(), x * before)
    assert width.root() is None


def test_a_scalar_takes_the_precision_of_what_it_meets() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.free, self.head = nn.Parameter(torch.tensor(0.7, dtype=torch.float64)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x * self.free).square().sum(1)

    module, x = Gated(), torch.rand(5, 4)
    transform = AdvantageTransform(module)
    with transform.record():
        log_prob = module(x)
    transform(log_prob, torch.ones_like(log_prob))
    exact = Gated().double()
    exact.load_state_dict(module.state_dict())
    h = dense.score_matrix(exact(x.double()), [*exact.parameters()])
    assert relative_error(transform.gram().double(), h @ h.T) <= 1e-5
