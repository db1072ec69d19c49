"""The natural-gradient maths: torch only, and no word of reinforcement learning but "advantage"."""

from ratpg.natgrad.capture import Recorder
from ratpg.natgrad.errors import CaptureError, NotFinite
from ratpg.natgrad.layers import PerSampleParameter
from ratpg.natgrad.linear import Linear
from ratpg.natgrad.solve import Solution, solve_spd
from ratpg.natgrad.transform import AdvantageTransform, Step

__all__ = [
    "AdvantageTransform",
    "CaptureError",
    "Linear",
    "NotFinite",
    "PerSampleParameter",
    "Recorder",
    "Solution",
    "Step",
    "solve_spd",
]
