"""The line search: the longest accepted length, or nothing at all."""

import pytest
import torch

from ratpg.optim.trust_region import backtrack


def parameters() -> list[torch.Tensor]:
    return [torch.tensor([0.1, 0.2]), torch.tensor([[0.3]], requires_grad=True)]


STEP = [torch.tensor([1.0, -1.0]), torch.tensor([[2.0]])]


@pytest.mark.parametrize(("bound", "share"), [(9.0, 1.0), (1.7, 0.64), (0.8 * 2 + 0.3 + 1e-6, 0.8)])
def test_the_longest_accepted_length_is_taken(bound: float, share: float) -> None:
    moved = parameters()
    assert backtrack(moved, STEP, lambda: bool(moved[1] < bound), trials=10) == pytest.approx(share)
    for parameter, start, change in zip(moved, parameters(), STEP, strict=True):
        torch.testing.assert_close(parameter.detach(), (start + share * change).detach())


def test_where_none_is_accepted_the_parameters_stay_bit_for_bit() -> None:
    moved, lengths = parameters(), []
    assert backtrack(moved, STEP, lambda: lengths.append(float(moved[0][0])) or False, trials=4) == 0.0
    assert lengths == pytest.approx([0.1 + 0.8**k for k in range(4)])
    for parameter, start in zip(moved, parameters(), strict=True):
        assert torch.equal(parameter, start)
