"""Products by oneDNN or MKL against float64."""

import pytest
import torch
from torch import Tensor

from ratpg.natgrad.products import Activation, product, updated

LAYOUTS = {
    "contiguous": lambda rows, columns: torch.randn(rows, columns),
    "transposed": lambda rows, columns: torch.randn(columns, rows).T,
    "rows of a wider matrix": lambda rows, columns: torch.randn(rows, columns + 3)[:, 1:-2],
    "every other column": lambda rows, columns: torch.randn(rows, 2 * columns)[:, ::2],
    "one row, many times": lambda rows, columns: torch.randn(1, columns).expand(rows, columns),
}


@pytest.fixture(autouse=True, params=["all", "plain", "none"])
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each library in turn, whatever the tests run on."""
    monkeypatch.setattr("ratpg.natgrad.products.mkls", request.param)


@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("shape", [(5, 4, 3), (1, 7, 2), (40, 1, 33), (3, 2, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_a_times_b_transposed(left: str, right: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    m, n, k = shape
    a, b = LAYOUTS[left](m, k).to(dtype), LAYOUTS[right](n, k).to(dtype)
    expected = a.double() @ b.double().T
    result = product(a, b)
    assert result.dtype == dtype
    assert result.is_contiguous()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(result.double(), expected, rtol=10 * eps, atol=10 * eps * max(k, 1))
    total = torch.randn(m, n, dtype=dtype)
    together = expected + total.double()
    torch.testing.assert_close(updated(total, a, b).double(), together, rtol=10 * eps, atol=10 * eps * max(k, 1))


@pytest.mark.parametrize("activation", ["none", "relu", "tanh"])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_adds_a_bias_and_applies_an_activation(activation: Activation, biased: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    a, b, bias = (torch.randn(*shape, dtype=dtype) for shape in ((6, 5), (4, 5), (4,)))
    expected = a.double() @ b.double().T + biased * bias.double()
    expected = {"none": expected, "relu": expected.relu(), "tanh": expected.tanh()}[activation]
    result = product(a, b, bias if biased else None, activation)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


def test_it_has_a_derivative_where_one_is_wanted() -> None:
    a, b = torch.randn(5, 3, requires_grad=True), torch.randn(4, 3)
    product(a, b).sum().backward()
    torch.testing.assert_close(a.grad, b.sum(0).expand(5, 3))
    bias = torch.zeros(4, requires_grad=True)
    product(a.detach(), b, bias).sum().backward()
    torch.testing.assert_close(bias.grad, torch.full((4,), 5.0))


def test_it_keeps_all_of_float32s_digits() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(64, 300), torch.randn(32, 300)
    errors = (product(a, b).double() - a.double() @ b.double().T).abs()
    scale: Tensor = a.double().norm(dim=1)[:, None] * b.double().norm(dim=1)
    assert (errors <= 4 * torch.finfo(torch.float32).eps * scale).all()
