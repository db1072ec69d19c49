"""Network bodies."""

from ratpg.rl.networks.impala import IMPALA
from ratpg.rl.networks.nature_cnn import NatureCNN

__all__ = ["IMPALA", "NatureCNN"]
