"""Action distributions over a batch: log-probability, entropy, KL divergence, mode, and sampling from given noise.

Noise is drawn apart from its use, so that a whole rollout's worth comes from one call to a seeded generator.
"""

from ratpg.rl.distributions.discrete import Bernoulli, Categorical, MultiCategorical
from ratpg.rl.distributions.gaussian import CensoredGaussian, DiagonalGaussian

Distribution = DiagonalGaussian | CensoredGaussian | Categorical | MultiCategorical | Bernoulli

__all__ = ["Bernoulli", "Categorical", "CensoredGaussian", "DiagonalGaussian", "Distribution", "MultiCategorical"]
