"""The transform works in full precision and leaves the user's settings as they were."""

import pytest
import torch

from ratpg.natgrad.lower import LowerTriangle

from .cases import CASES
from .oracle import solve

needs_new_settings = pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="this PyTorch has allow_tf32 only"
)


@needs_new_settings
@pytest.mark.parametrize("chosen", ["tf32", "ieee"])
@pytest.mark.parametrize("kind", ["matrix products", "convolutions"])
@pytest.mark.parametrize("budget", [-1, 2**30], ids=["passing", "held"])
def test_the_settings_of_products_are_restored(
    budget: int, kind: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = torch.backends.cuda.matmul if kind == "matrix products" else torch.backends.cudnn.conv
    before, seen = backend.fp32_precision, []
    zeros = LowerTriangle.zeros

    def spy(*arguments):
        seen.append(backend.fp32_precision)
        return zeros(*arguments)

    monkeypatch.setattr(LowerTriangle, "zeros", spy)
    monkeypatch.setattr("ratpg.natgrad.transform.HELD_BYTES", budget)
    try:
        backend.fp32_precision = chosen
        solve(next(iter(CASES)), 0.1)
        assert backend.fp32_precision == chosen
    finally:
        backend.fp32_precision = before
    assert seen == ["ieee"]


def test_under_autocast_the_step_is_that_without() -> None:
    name = next(iter(CASES))
    _, _, plain = solve(name, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=True):
        assert torch.is_autocast_enabled("cpu")
        _, _, step = solve(name, 0.1)
        assert torch.is_autocast_enabled("cpu")
    for parameter, g in plain.direction.items():
        torch.testing.assert_close(step.direction[parameter], g, rtol=0.05, atol=0.05 * float(g.abs().max()))
