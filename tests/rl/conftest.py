"""Fixtures of the environments' and rollouts' tests."""

import toy_envs  # noqa: F401  registers the environments whose every reward is known
