"""Optimisers of the baselines; torch only."""
