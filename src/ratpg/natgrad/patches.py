"""The tokens of a convolution: the patches of its input, unfolded a few samples at a time.

A convolution is a linear layer over patches: with ``aₜ`` the patch under output pixel ``t`` and ``dₜ`` the gradient at
that pixel a row of ``H`` is ``Σₜ dₜ aₜᵀ``. The patches are as many times larger than the image as the kernel has
entries, so they are formed a few samples at a time.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

PATCH_BYTES = 4 * 2**20
"""Patches unfolded at once on CPUs, in bytes: what the processor's cache holds is unfolded and multiplied fastest."""
LAUNCHED_PATCH_BYTES = 256 * 2**20
"""The same on GPUs, where what counts is how few kernels there are."""


def unfold(images: Tensor, convolution: _ConvNd) -> Tensor:
    """The patches that a convolution in any number of dimensions sees.

    Args:
        images: ``[N, C, *space]``.
        convolution: gives kernel size, stride, padding and its mode, dilation and groups.

    Returns:
        ``[N, G, T, k, C/G]`` with ``G`` groups, ``T`` output pixels and ``k`` entries of the kernel.
    """
    mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
    windows = F.pad(images, convolution._reversed_padding_repeated_twice, mode=mode)
    # Patches are copied several times faster where channels are next to each other in memory, as `unit_range` lays
    # images out, than where pixels are.
    windows = windows.movedim(1, -1).contiguous().movedim(-1, 1)
    axes = len(convolution.kernel_size)
    for axis in range(axes):
        dilation = convolution.dilation[axis]
        reach = dilation * (convolution.kernel_size[axis] - 1) + 1
        windows = windows.unfold(2 + axis, reach, convolution.stride[axis])[..., ::dilation]
    # [N, G, C/G, *out, *kernel] -> [N, G, *out, *kernel, C/G]
    windows = windows.unflatten(1, (convolution.groups, -1)).movedim(2, -1)
    return windows.flatten(2 + axes, 1 + 2 * axes).flatten(2, 1 + axes)


class Patches:
    """``A [B, G, T, d_in]`` of which a slice of samples is formed when it is asked for.

    Args:
        calls: the convolution and its input ``[B, F, C, *space]`` (``F`` images a sample) at each call; the patches of
            all images and calls of a sample follow each other along ``T``.
        tokens: ``T`` of all calls together.

    Attributes:
        kernel_and_channels: how many entries the kernel has, and channels a group; ``d_in`` is their product.
    """

    def __init__(self, calls: Sequence[tuple[_ConvNd, Tensor]], tokens: int):
        self._calls = calls
        convolution, images = calls[0]
        self.kernel_and_channels = math.prod(convolution.kernel_size), convolution.in_channels // convolution.groups
        self.shape = torch.Size((len(images), convolution.groups, tokens, math.prod(self.kernel_and_channels)))
        self.element_size = images.element_size()
        self.chunk_bytes = PATCH_BYTES if images.device.type == "cpu" else LAUNCHED_PATCH_BYTES

    @property
    def bytes(self) -> int:
        """Of the images, which are what is held."""
        return sum(images.numel() * images.element_size() for _, images in self._calls)

    def norms(self) -> Tensor:
        """A bound on the norm of each sample's patches, ``[B]``: of its images, times how often a pixel is seen."""
        squares = []
        for convolution, images in self._calls:
            sizes = zip(convolution.kernel_size, convolution.stride, strict=True)
            seen = math.prod(-(-kernel // stride) for kernel, stride in sizes)
            squares.append(seen * torch.linalg.vector_norm(images.flatten(1), dim=1).square())
        return torch.stack(squares).sum(0).sqrt()

    def head(self, count: int) -> "Patches":
        """Those of the first ``count`` samples."""
        return Patches([(convolution, images[:count]) for convolution, images in self._calls], self.shape[2])

    def __getitem__(self, samples: slice) -> Tensor:
        """``[b, G, T, d_in]``, in the order of the weight: for each channel the kernel. A copy of `channels_last`."""
        return self.channels_last(samples).mT.flatten(3)

    def channels_last(self, samples: slice) -> Tensor:
        """``[b, G, T, k, C/G]``."""
        parts = []
        for convolution, images in self._calls:
            chosen = images[samples]
            patches = unfold(chosen.flatten(0, 1), convolution).unflatten(0, chosen.shape[:2])
            # [B, F, G, T, ...] -> [B, G, F · T, ...]; nothing is copied where F is 1.
            parts.append(patches.transpose(1, 2).flatten(2, 3))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def slices(self) -> Iterator[slice]:
        """Samples whose patches have about `chunk_bytes` together."""
        samples, *shape = self.shape
        count = max(1, self.chunk_bytes // (math.prod(shape) * self.element_size))
        for start in range(0, samples, count):
            yield slice(start, min(start + count, samples))


def parts(inputs: Tensor | Patches) -> Iterator[tuple[slice, Tensor]]:
    """Slices of samples with their tokens ``[b, G, T, d_in]``: all at once where they are held already."""
    if isinstance(inputs, Tensor):
        yield slice(0, len(inputs)), inputs
        return
    for samples in inputs.slices():
        yield samples, inputs[samples]
