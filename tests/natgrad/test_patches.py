"""A convolution is a product with the patches of its input, in any number of dimensions and with any option."""

import pytest
import torch
from torch import nn

from ratpg.natgrad.patches import unfold

from .oracle import relative_error

CONVOLUTIONS = {
    "1d": (nn.Conv1d, (9,), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "2d": (nn.Conv2d, (6, 7), {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 2), "dilation": (2, 1)}),
    "3d": (nn.Conv3d, (4, 5, 3), {"kernel_size": (2, 3, 1), "padding": (1, 0, 1), "groups": 2}),
    "same": (nn.Conv2d, (5, 6), {"kernel_size": (4, 2), "padding": "same"}),
    "valid": (nn.Conv2d, (5, 6), {"kernel_size": 2, "padding": "valid"}),
    "reflect": (nn.Conv1d, (9,), {"kernel_size": 4, "padding": 3, "padding_mode": "reflect", "groups": 4}),
    "replicate": (nn.Conv2d, (5, 6), {"kernel_size": 3, "padding": (2, 1), "padding_mode": "replicate"}),
    "circular": (nn.Conv3d, (3, 4, 3), {"kernel_size": 2, "padding": (1, 2, 0), "padding_mode": "circular"}),
}


# Even kernels are padded by one more on the far side, which torch finds worth a warning.
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_output_is_weight_times_patches(kind: str) -> None:
    cls, space, options = CONVOLUTIONS[kind]
    torch.manual_seed(0)
    convolution = cls(4, 8, bias=False, dtype=torch.float64, **options)
    images = torch.randn(5, 4, *space, dtype=torch.float64)
    expected = convolution(images).detach()
    weight = convolution.weight.detach().flatten(2).unflatten(0, (convolution.groups, -1))
    output = torch.einsum("gock,ngtkc->ngot", weight, unfold(images, convolution))
    assert relative_error(output.flatten(1, 2).view_as(expected), expected) <= 1e-14
