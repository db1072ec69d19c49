"""One training of the evidence: the command that makes it, its folder, and its settings, by which it is recognised."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ratpg.cli.arguments import parse_train

ROOT, TRIED = Path("runs/evidence"), Path("runs/tried")
BEFORE = {
    "initial_weights": "orthogonal",
    "stagger": False,
    "algorithm.anneal_kl_band": False,
    "algorithm.weight_decay": 0.0,
}
"""What an option whose default changes a run was before there was such an option."""

Row = dict[str, str]
Settings = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One training: ``ratpg train`` with these arguments, in a folder named after it; on any device it is the same."""

    name: str
    env: str
    seed: int
    steps: int
    arguments: tuple[str, ...] = ()
    device: str = "cpu"
    root: Path = ROOT

    @property
    def directory(self) -> Path:
        return self.root / f"{self.env}-{self.name}-s{self.seed}"

    def beside(self, suffix: str) -> Path:
        """The file of that suffix beside the folder."""
        return self.directory.with_name(f"{self.directory.name}.{suffix}")

    @property
    def command(self) -> str:
        flags = f"--env {self.env} --seed {self.seed} --total-timesteps {self.steps} --threads 1"
        device = () if self.device == "cpu" else (f"--device {self.device}",)
        return " ".join(["ratpg train", flags, *self.arguments, *device, f"--run-dir {self.directory}"])

    @cached_property
    def settings(self) -> Settings:
        return settings_of(self.command.removeprefix("ratpg train"))

    @cached_property
    def fingerprint(self) -> str:
        """Of the settings but for the device, so that a figure made with other defaults is not taken for this run's."""
        settings = self.settings | {"device": "cpu"}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def defaults(self) -> Settings:
        """The settings of this algorithm and preset where no more is said."""
        return settings_of(f"--env {self.env} --algo {self.settings['algo']} --preset {self.settings['preset']}")

    def owns(self, row: Row) -> bool:
        """Whether a row of ``runs.csv`` is this run's, on whichever device."""
        recorded: Settings = json.loads(row["settings"]) | {"device": self.device}
        newer = {name: BEFORE.get(name, value) for name, value in self.defaults.items() if name not in recorded}
        return recorded | newer == self.settings


def settings_of(flags: str) -> Settings:
    """All values of a training that can change its result, flat."""
    return flat(parse_train(flags.split()).to_dict())


def flat(config: Settings) -> Settings:
    """A training's ``config.json`` as settings: the algorithm's options among the others, without those of saving."""
    algorithm = config.pop("algorithm")
    values = {**config, **{f"algorithm.{name}": value for name, value in algorithm.items()}}
    values = {name: value for name, value in values.items() if name not in ("run_dir", "checkpoint_interval")}
    return json.loads(json.dumps(values))  # tuples become lists, as in what is read back
