"""Environments, policies, rollouts and advantages."""
