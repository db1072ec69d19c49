"""Which parts of RAT matter: one thing changed at a time, around each preset.

    ratpg reproduce ablation [--parallel 2] [--seeds 0]

Trains what ``results/runs.csv`` lacks (``--redraw``: nothing), then writes ``results/ablation/``: 1M steps of Hopper
and HalfCheetah, seeds 0 to 2. Around ``paper`` are changed the transform, the norm clip, both, ζ, λ, the critic, and
the size of a mini-batch; around ``default``, which has no clip, the transform, the clip, both, ζ and λ. What the clip
may be there for, errors that add up over the iterates (ζ = 1) or a step size that does not adapt to the KL divergence,
is tried around ``paper`` with the clip and without.

The transform is switched off by its own limit, ``λ(λI + HᵀΣH)⁻¹HᵀΣy → HᵀΣy`` for λ → ∞, with all step sizes multiplied
by the same factor as λ is. So ``(λI + HᵀΣH)⁻¹HᵀΣy`` becomes ``HᵀΣy/λ`` with the preset's own λ: the vanilla gradient,
as long as the natural one is along a direction without curvature. The norm clip, which looks at the step alone, acts
as before, and so does the band in which the KL divergence is kept, to which the vanilla gradient's step size is adapted
as the natural gradient's is. What is left is the preset with its transform replaced by ``Ã = y/λ``. Where there is
curvature such a step is far too long at first: a KL divergence of 3e4 in the first rollout of Hopper under ``paper``,
from where no band brings a policy back. So the vanilla gradient begins with a hundredth of it, at which the KL
divergence of the first rollouts is near the band (0.006 to 0.07, seed 10), and may grow from there.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ratpg.algorithms import RATConfig
from ratpg.cli.arguments import parse_train
from report import save
from run import Row, Run
from trainings import run

RESULTS = Path("results/ablation")
STEPS, SEEDS, ENVS = 1_000_000, range(3), ("Hopper-v4", "HalfCheetah-v4")
PRESETS = ("paper", "default")
OFF = 1e6
"""Factor on λ and the step sizes at which ``λI + HᵀΣH`` is ``λI`` to about one part in a thousand."""
FIRST = 0.01
"""Share of its step size with which the vanilla gradient begins."""


def _algorithm(env: str, preset: str) -> RATConfig:
    config: RATConfig = parse_train(["--env", env, "--preset", preset]).algorithm
    return config


def without_transform(env: str, preset: str) -> tuple[str, ...]:
    """Flags that replace the transform of a preset by ``Ã = y/λ``."""
    config = _algorithm(env, preset)
    least, greatest = config.step_size_bounds
    values = {
        "--damping": [config.damping],
        "--step-size": [FIRST * config.step_size],
        "--step-size-bounds": [least, greatest],
    }
    return tuple(text for flag, sizes in values.items() for text in (flag, *(repr(OFF * size) for size in sizes)))


@cache
def variants(env: str, preset: str) -> dict[str, tuple[str, ...]]:
    """Name -> flags beside the preset's; those that change nothing of it are left out."""
    off = without_transform(env, preset)
    clip, name = (("None",), "no-clip") if preset == "paper" else (("0.5",), "clip")
    clip = ("--max-step-norm", *clip)
    changes: dict[str, tuple[str, ...]] = {
        "no-transform": off,
        name: clip,
        f"no-transform-{name}": off + clip,
        **{f"decay-{decay:g}": ("--kaczmarz-decay", str(decay)) for decay in (0.0, 0.9, 1.0)},
        **{f"damping-{damping:g}": ("--damping", str(damping)) for damping in (0.01, 0.03, 1.0)},
    }
    if preset == "paper":
        changes["gauss-newton-critic"] = ("--critic", "gauss-newton")
        changes["minibatches-of-256"] = ("--minibatches", "32")
        fixed = ("--step-size-bounds", *2 * (repr(_algorithm(env, preset).step_size),))
        changes["decay-1-no-clip"] = ("--kaczmarz-decay", "1.0", *clip)
        changes["fixed-step"] = fixed
        changes["fixed-step-no-clip"] = fixed + clip
    base = ("--preset", preset)
    unchanged = Run("base", env, 0, STEPS, base).settings
    named = {f"{preset}-{name}": base + flags for name, flags in changes.items()}
    kept = {name: flags for name, flags in named.items() if Run(name, env, 0, STEPS, flags).settings != unchanged}
    return {f"{preset}-base": base} | kept


def runs() -> list[Run]:
    """All trainings, the first seed of everything first."""
    return [
        Run(name, env, seed, STEPS, flags)
        for seed in SEEDS
        for preset in PRESETS
        for env in ENVS
        for name, flags in variants(env, preset).items()
    ]


def draw(rows: Sequence[Row]) -> dict[str, str]:
    """Every run a dot, their mean a bar, and a line where the preset as it is stands."""
    figure, axes = plt.subplots(
        len(PRESETS), len(ENVS), figsize=(12, 8), sharex="col", squeeze=False, layout="constrained"
    )
    for line, preset in enumerate(PRESETS):
        for column, env in enumerate(ENVS):
            axis = axes[line, column]
            names = [name.removeprefix(f"{preset}-") for name in variants(env, preset)]
            for height, name in enumerate(names):
                found = [float(r["return"]) for r in rows if (r["env"], r["name"]) == (env, f"{preset}-{name}")]
                axis.plot(found, [height] * len(found), "o", color="tab:blue", fillstyle="none")
                if found:
                    axis.plot(np.mean(found), height, "|", color="k", markersize=16, markeredgewidth=2)
                if found and height == 0:
                    axis.axvline(np.mean(found), color="0.6", linestyle="--", linewidth=0.8)
            downwards = (len(names) - 0.5, -0.5)
            axis.set(yticks=range(len(names)), yticklabels=names, ylim=downwards, title=f"{env}, preset {preset}")
            axis.grid(axis="x", alpha=0.3)
            if line == len(PRESETS) - 1:
                axis.set_xlabel("return after 1M steps (mean of the last 100 episodes)")
    save(figure, RESULTS / "ablation.png")
    return {}


if __name__ == "__main__":
    run(__doc__, "ablation", runs(), draw)
