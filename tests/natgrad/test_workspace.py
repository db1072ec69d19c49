"""`Workspace`: the same memory again, never another's shape, dtype or contents by accident."""

import torch

from ratpg import AdvantageTransform
from ratpg.natgrad.workspace import Workspace

LIKE = torch.zeros(1)


def test_a_name_keeps_its_memory_and_others_have_their_own() -> None:
    workspace = Workspace()
    first = workspace.take("a", (4, 5), LIKE)
    assert workspace.take("a", (4, 5), LIKE).data_ptr() == first.data_ptr()
    assert workspace.take("a", (3, 2), LIKE).data_ptr() == first.data_ptr()
    assert workspace.take("b", (4, 5), LIKE).data_ptr() != first.data_ptr()


def test_shape_and_dtype_are_those_asked_for() -> None:
    workspace = Workspace()
    for shape, dtype in [
        ((4, 5), torch.float32),
        ((2, 3), torch.float32),
        ((7, 9), torch.float64),
        ((0, 3), torch.float64),
    ]:
        taken = workspace.take("a", shape, torch.zeros(1, dtype=dtype))
        assert (taken.shape, taken.dtype) == (shape, dtype)
        assert taken.is_contiguous()


def test_steps_of_changing_batch_size_do_not_disturb_each_other() -> None:
    # Larger, smaller, larger: each step must be what a transform of its own gives.
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)).double()
    shared = AdvantageTransform(net, 0.1)
    for size in (300, 20, 299, 300):
        x, y = torch.randn(size, 4, dtype=torch.float64), torch.randn(size, dtype=torch.float64)
        steps = []
        for transform in (shared, AdvantageTransform(net, 0.1)):
            with transform.record():
                log_prob = net(x).squeeze(1)
            steps.append(transform(log_prob, y))
        assert torch.equal(steps[0].advantage, steps[1].advantage)
