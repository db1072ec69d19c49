"""Tests of `ratpg.natgrad`: the fast paths against the naive float64 oracle, over one table of cases."""
