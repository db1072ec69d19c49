"""What image networks are fed."""

import torch
from torch import Tensor, nn

LARGEST = 512
"""Images that pass a network at once where no gradient is wanted: the activations of a whole rollout are large."""


def unit_range(images: Tensor) -> Tensor:
    """Images as floats: bytes are divided by 255, floats are taken as they are, in 0 to 1.

    Their memory has the channels last, with which convolutions are twice as fast on CPUs.

    Args:
        images: ``[B, C, H, W]``, uint8 or floating point.

    Raises:
        TypeError: for any other dtype.
    """
    if images.dtype == torch.uint8:
        images = images.to(torch.get_default_dtype(), memory_format=torch.channels_last) / 255
    if not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point in 0 to 1, got {images.dtype}")
    # As `contiguous(memory_format=torch.channels_last)`, which `torch.vmap` has not got.
    return images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class InParts(nn.Module):
    """A network of images that takes large batches in parts where no gradient is wanted.

    Args:
        network: from ``[B, C, H, W]`` to ``[B, features]``.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """``[B, features]``."""
        parts = images.split(LARGEST) if not torch.is_grad_enabled() else (images,)
        outputs: list[Tensor] = [self.network(part) for part in parts]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]
