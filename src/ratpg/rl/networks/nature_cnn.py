"""The convolutional network of DQN (Mnih et al. 2015, Nature 518, 529-533), as Atari agents have it."""

import math

from torch import Tensor, nn

from ratpg.natgrad import Linear
from ratpg.rl.networks.images import unit_range
from ratpg.rl.networks.mlp import orthogonal

KERNELS = ((8, 4), (4, 2), (3, 1))
"""Size and stride of each convolution's kernel."""


class NatureCNN(nn.Module):
    """Three convolutions and a linear layer, each followed by a ReLU; orthogonal weights with gain √2.

    Args:
        shape: ``(C, H, W)`` of an image, at least 36 pixels wide and high; 4 frames of 84 × 84 on Atari.
        depths: channels of each convolution.
        features: width of the output.

    Raises:
        ValueError: for smaller images.
    """

    def __init__(self, shape: tuple[int, int, int], depths: tuple[int, int, int] = (32, 64, 64), features: int = 512):
        super().__init__()
        self.features = features
        channels, *size = shape
        if min(size) < 36:
            raise ValueError(f"NatureCNN needs images of at least 36 x 36 pixels, got {size[0]} x {size[1]}")
        layers: list[nn.Module] = []
        for depth, (kernel, stride) in zip(depths, KERNELS, strict=True):
            layers += [orthogonal(nn.Conv2d(channels, depth, kernel, stride), math.sqrt(2)), nn.ReLU()]
            channels, size = depth, [(length - kernel) // stride + 1 for length in size]
        head = orthogonal(Linear(channels * math.prod(size), features), math.sqrt(2))
        self.layers = nn.Sequential(*layers, nn.Flatten(), head, nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, features]``; uint8, or floating point in 0 to 1."""
        features: Tensor = self.layers(unit_range(images))
        return features
