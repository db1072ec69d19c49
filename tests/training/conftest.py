"""Fixtures of the trainer's tests."""

import toy_envs  # noqa: F401  registers the environments that some runs are made of
