"""Natural policy gradients by Randomized Advantage Transformation (RAT), on PyTorch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ratpg.natgrad import AdvantageTransform, CaptureError, Step

__version__ = "0.1.0"
__all__ = ["AdvantageTransform", "CaptureError", "Step", "__version__"]


def __getattr__(name: str) -> Any:
    # Only when asked for: torch takes seconds to load, in which the command answers --help and Ctrl-C.
    if name not in __all__:
        raise AttributeError(f"module 'ratpg' has no attribute '{name}'")
    from ratpg import natgrad

    return getattr(natgrad, name)
