"""Training on a GPU: the same as on a CPU up to rounding, resumable, and readable where there is none."""

import copy
from pathlib import Path

import pytest
import torch

from ratpg.cli.arguments import parse_train
from ratpg.training.trainer import Trainer, load_policy

FLAGS = "--num-envs 8 --num-steps 32 --threads 1 --backend gymnasium --total-timesteps 1024".split()
RUNS = {
    "rat": "--env Pendulum-v1 --algo rat",
    "rat, discrete": "--env CartPole-v1 --algo rat",
    "rat, kaczmarz": "--env Pendulum-v1 --algo rat --kaczmarz-decay 0.9",
    "rat, curvature rows": "--env Pendulum-v1 --algo rat --curvature-rows 32",
    "rat, gauss-newton critic": "--env Pendulum-v1 --algo rat --critic gauss-newton",
    "rat, shared": "--env Pendulum-v1 --algo rat --shared",
    "rat, recurrent": "--env Pendulum-v1 --algo rat --lstm 8",
    "rat, images": "--env ToyToldImage-v0 --algo rat --preset atari --network impala",
    "ppo": "--env Pendulum-v1 --algo ppo",
    "ppo, images": "--env ToyToldImage-v0 --algo ppo --preset atari",
    "trpo": "--env Pendulum-v1 --algo trpo",
    "acktr": "--env Pendulum-v1 --algo acktr",
    "sophia": "--env Pendulum-v1 --algo sophia",
    "diag": "--env Pendulum-v1 --algo diag",
}

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("run", RUNS)
def test_a_gpu_trains_as_a_cpu_does(run: str, tmp_path: Path) -> None:
    rows = {}
    for device in ("cpu", "cuda"):
        config = parse_train([*RUNS[run].split(), *FLAGS, "--device", device, "--run-dir", str(tmp_path / device)])
        trainer = Trainer.start(config)
        rows[device] = [trainer.iterate() for _ in range(3)]
        trainer.save()
        trainer.envs.close()
    first = {device: found[0] for device, found in rows.items()}
    for name in ("value_loss", "kl", "entropy", "grad_norm", "natural_cosine"):
        assert first["cuda"][name] == pytest.approx(first["cpu"][name], rel=0.02, abs=1e-4), name

    saved = copy.deepcopy(trainer.policy).cpu().state_dict()
    on_cpu, _ = load_policy(tmp_path / "cuda")
    torch.testing.assert_close(on_cpu.state_dict(), saved, rtol=0, atol=0)
    for device in ("cuda", "cpu"):  # where it was trained, and elsewhere
        resumed, _ = Trainer.resume(tmp_path / "cuda", device=device)
        assert resumed.iterate()["timesteps"] == 4 * 8 * 32
        resumed.finish()
        resumed.envs.close()
