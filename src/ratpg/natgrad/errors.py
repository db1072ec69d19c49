"""What this part of the package raises of its own."""


class CaptureError(RuntimeError):
    """The recorded forward pass cannot give a right score matrix; the message names the module and the remedy."""


class NotFinite(ValueError):
    """What was handed over, or the recorded network, holds NaN or infinity."""
