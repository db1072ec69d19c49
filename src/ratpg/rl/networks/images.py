"""What image networks are fed."""

import torch
from torch import Tensor


def unit_range(images: Tensor) -> Tensor:
    """Images as floats: bytes are divided by 255, floats are taken as they are, in 0 to 1.

    Args:
        images: ``[B, C, H, W]``, uint8 or floating point.

    Raises:
        TypeError: for any other dtype.
    """
    if images.dtype == torch.uint8:
        return images.to(torch.get_default_dtype()) / 255
    if not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point in 0 to 1, got {images.dtype}")
    return images
