"""The table of cases: small networks of every structure a policy may have, each with its log-probability."""

from . import (
    cases_adapters,
    cases_convolutions,
    cases_distributions,
    cases_perceptrons,
    cases_sequences,
    cases_sizes,
    cases_tokens,
)
from .case import CASES, Case

# Importing a family of cases is what enters it in the table.
FAMILIES = (
    cases_perceptrons,
    cases_distributions,
    cases_tokens,
    cases_convolutions,
    cases_sequences,
    cases_adapters,
    cases_sizes,
)

__all__ = ["CASES", "FAMILIES", "Case"]
