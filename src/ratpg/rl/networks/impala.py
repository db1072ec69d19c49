"""The residual network of IMPALA (Espeholt et al. 2018, arXiv 1802.01561, figure 3), as Procgen agents have it."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ratpg.natgrad import Linear
from ratpg.rl.networks.images import unit_range


class Residual(nn.Module):
    """``x + conv(relu(conv(relu(x))))``, 3 × 3."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(F.relu(self.first(F.relu(x))))
        return x + change


class IMPALA(nn.Module):
    """Sections of a convolution, a max-pooling that halves the image and two residual blocks; then a linear layer.

    The LSTM of the paper is left out, as Procgen's authors do (Cobbe et al. 2020, arXiv 1912.01588). Weights start as
    PyTorch draws them.

    Args:
        shape: ``(C, H, W)`` of an image; 3 × 64 × 64 in Procgen.
        depths: channels of each section.
        features: width of the output.
    """

    def __init__(self, shape: tuple[int, int, int], depths: tuple[int, ...] = (16, 32, 32), features: int = 256):
        super().__init__()
        self.features = features
        channels, *size = shape
        sections: list[nn.Module] = []
        for depth in depths:
            sections += [
                nn.Conv2d(channels, depth, 3, padding=1),
                nn.MaxPool2d(3, stride=2, padding=1),
                Residual(depth),
                Residual(depth),
            ]
            channels, size = depth, [(length + 1) // 2 for length in size]
        self.sections = nn.Sequential(*sections)
        self.head = Linear(channels * math.prod(size), features)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, features]``; uint8, or floating point in 0 to 1."""
        h = F.relu(self.sections(unit_range(images)))
        return F.relu(self.head(h.flatten(1)))
