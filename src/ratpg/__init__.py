"""Natural policy gradients by Randomized Advantage Transformation (RAT), on PyTorch."""

from ratpg.natgrad import AdvantageTransform, CaptureError, Step

__version__ = "0.1.0"
__all__ = ["AdvantageTransform", "CaptureError", "Step", "__version__"]
