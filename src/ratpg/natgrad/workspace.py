"""Memory that one mini-batch's step leaves to the next."""

from torch import Tensor


class Workspace:
    """Buffers by name, kept between uses.

    A step needs a matrix as large as ``K``, which taken from the system anew each time costs as many page faults. One
    that has become too small is kept on a GPU, where a captured graph may still write to it.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._outgrown: list[Tensor] = []

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A contiguous tensor of this shape and of the dtype and device of ``like``.

        Its contents are undefined, and it is the same memory that the last call with this name returned.
        """
        size = 1
        for length in shape:
            size *= length
        buffer = self._buffers.get(name)
        fits = buffer is not None and buffer.dtype == like.dtype and buffer.device == like.device
        if buffer is None or not fits or buffer.numel() < size:
            if buffer is not None and buffer.is_cuda:
                self._outgrown.append(buffer)
            buffer = self._buffers[name] = like.new_empty(size)
        return buffer[:size].view(shape)
