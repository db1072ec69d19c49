"""Snapshots of a training are made once, and an interrupted series goes on."""

from pathlib import Path

import pytest
import torch

import snapshots
from ratpg.training.trainer import Trainer
from short_runs import ROLLOUT, short_config

POINTS = (0, ROLLOUT, 3 * ROLLOUT)


def test_an_interrupted_series_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = short_config("Pendulum-v1", tmp_path / "unused")
    monkeypatch.setattr(snapshots, "ROOT", tmp_path / "whole")
    whole = list(snapshots.snapshots(config, POINTS))
    assert [found.timesteps for found in whole] == list(POINTS)

    monkeypatch.setattr(snapshots, "ROOT", tmp_path / "cut")
    list(snapshots.snapshots(config, POINTS[:2]))

    def start(config: object) -> Trainer:
        raise AssertionError("started anew")

    monkeypatch.setattr(Trainer, "start", start)
    again = list(snapshots.snapshots(config, POINTS))
    for first, second in zip(whole, again, strict=True):
        assert torch.equal(first.observations, second.observations)
        assert torch.equal(first.advantages, second.advantages)
        assert torch.equal(first.policy.actor.head.weight, second.policy.actor.head.weight)


def test_another_config_is_another_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "ROOT", tmp_path)
    for seed in (0, 1):
        list(snapshots.snapshots(short_config("Pendulum-v1", tmp_path, seed=seed), [0]))
    assert len(list(tmp_path.glob("*/0.pt"))) == 2
