"""Time and memory of one RAT step against the same step by materialised scores and LU, as the authors' code does it.

    python benchmarks/update_cost.py [--batch 1024] [--width 256] [--threads 2]

Prints a table of medians; both take the same step, which is checked.
"""

import argparse
import json

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from ratpg import AdvantageTransform
from ratpg.rl.policy import ActorCritic, PolicySpec
from timing import in_fresh_process, interleaved, machine, peak_memory_of

SHAPES = {"Hopper": (11, 3), "HalfCheetah": (17, 6), "Ant": (27, 8), "Humanoid": (376, 17)}
DAMPING = 0.1


class Problem:
    """One mini-batch of a policy, and the two ways to its step."""

    def __init__(self, env: str, batch: int, width: int):
        torch.manual_seed(0)
        d_obs, d_action = SHAPES[env]
        bounds = (-1.0,) * d_action, (1.0,) * d_action
        self.actor = ActorCritic(PolicySpec((d_obs,), (d_action,), 0, 0, *bounds, hidden=(width, width))).actor
        self.observations = torch.randn(batch, d_obs)
        self.actions = torch.randn(batch, d_action)
        self.advantages = torch.randn(batch)
        self.weights = torch.rand(batch) + 0.5
        self.transform = AdvantageTransform(self.actor, DAMPING)

    def factored(self) -> dict[str, Tensor]:
        with self.transform.record():
            log_prob = self.actor(self.observations).log_prob(self.actions)
        return self.transform(log_prob, self.advantages, self.weights).direction

    def materialised(self) -> dict[str, Tensor]:
        """Per-sample gradients by vmap, ``H Hᵀ`` and LU, then one backward pass with the transformed advantage."""
        parameters = dict(self.actor.named_parameters())

        def log_prob_of(values: dict[str, Tensor], observation: Tensor, action: Tensor) -> Tensor:
            return functional_call(self.actor, values, (observation[None],)).log_prob(action[None]).squeeze(0)

        detached = {name: parameter.detach() for name, parameter in parameters.items()}
        rows = vmap(grad(log_prob_of), in_dims=(None, 0, 0))(detached, self.observations, self.actions)
        scores = torch.cat([row.flatten(1) for row in rows.values()], 1)
        system = scores @ scores.T @ torch.diag(self.weights) / len(scores)
        system += DAMPING * torch.eye(len(scores))
        transformed = torch.linalg.solve(system, self.advantages)
        log_prob = self.actor(self.observations).log_prob(self.actions)
        loss = (self.weights * transformed * log_prob).mean()
        return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", nargs=2, metavar=("ENV", "WAY"), help="measure one way's peak memory, print JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    if arguments.memory:
        env, way = arguments.memory
        problem = Problem(env, arguments.batch, arguments.width)
        torch.randn(256, 256) @ torch.randn(256, 256)  # the matrix library's own buffers
        print(json.dumps({"bytes": peak_memory_of(getattr(problem, way))}))
        return

    print(f"B = {arguments.batch}, width {arguments.width}; {machine()}")
    print("| shape | materialised + LU | factored + Cholesky | ratio | extra memory | extra memory | difference |")
    print("|---|---|---|---|---|---|---|")
    for env in SHAPES:
        problem = Problem(env, arguments.batch, arguments.width)
        slow, fast = problem.materialised(), problem.factored()
        difference = max(float((slow[name] - fast[name]).norm() / slow[name].norm()) for name in slow)
        slow_s, fast_s = interleaved([problem.materialised, problem.factored], arguments.repeats)
        options = [
            "--batch",
            str(arguments.batch),
            "--width",
            str(arguments.width),
            "--threads",
            str(arguments.threads),
        ]
        slow_b, fast_b = (
            in_fresh_process([*options, "--memory", env, way])["bytes"] for way in ("materialised", "factored")
        )
        print(
            f"| {env} | {1e3 * slow_s:.0f} ms | {1e3 * fast_s:.1f} ms | {slow_s / fast_s:.1f} "
            f"| {slow_b / 1e6:.0f} MB | {fast_b / 1e6:.0f} MB | {difference:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
