"""``ratpg eval``: deterministic episodes with a trained policy."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ratpg.algorithms.checks import require
from ratpg.cli.arguments import parse
from ratpg.rl.envs import Backend
from ratpg.rl.envs.options import merge_options, parse_options
from ratpg.training import evaluate as episodes
from ratpg.training.logging import say
from ratpg.training.saved_run import load_policy


@dataclass(frozen=True)
class EvalArguments:
    """Run deterministic episodes with a trained policy; prints JSON."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run."""
    episodes: int = 10
    """How many."""
    num_envs: int | None = None
    """Copies of the environment that play them; as many as the run has, and no more than episodes, unless given."""
    seed: int = 1000
    """Seed of the environments."""
    backend: Backend | None = None
    """Another simulator than the run's own."""
    env_options: tuple[str, ...] = ()
    """Options of the environment beside or instead of the run's, each name=value; such as num_levels=0 start_level=10,
    the levels of Procgen that it was not trained on."""
    trust_env: bool = False
    """Let a run whose environment is MODULE:ID import that module: then code that the run folder names is run."""
    summary: bool = False
    """Print one line for people instead of JSON."""


def evaluate(arguments: list[str]) -> int:
    """Prints what a policy's episodes returned."""
    options = parse(EvalArguments, "eval", arguments)
    require("episodes", options.episodes, at_least=1)
    require("seed", options.seed, at_least=0, at_most=2**63 - 1)
    policy, config = load_policy(options.run_dir, trust_env=options.trust_env)
    result = episodes.evaluate(
        policy,
        config.env,
        episodes=options.episodes,
        num_envs=config.num_envs if options.num_envs is None else options.num_envs,
        seed=options.seed,
        backend=options.backend or config.backend,
        threads=config.threads,
        options=parse_options(merge_options(config.env_options, options.env_options)),
        warn=lambda line: say(f"ratpg: {line}", sys.stderr),
    )
    if options.summary:
        print(
            f"{options.episodes} deterministic episodes of {config.env}: return {result.mean:.1f} ± {result.std:.1f}; "
            f"run in {options.run_dir}"
        )
    else:
        print(json.dumps({"env": config.env, "episodes": options.episodes, **vars(result)}))
    return 0
