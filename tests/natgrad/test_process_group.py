"""Samples that are spread over processes are refused, as are parameters of which each process holds a part."""

import subprocess
import sys
from pathlib import Path

import pytest

TWO_RANKS = """
import sys, torch, torch.distributed as dist, torch.multiprocessing as mp
from torch import nn
from ratpg.natgrad import AdvantageTransform, CaptureError

def rank(number, file):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=number, world_size=2)
    net = nn.parallel.DistributedDataParallel(nn.Linear(3, 2))
    transform = AdvantageTransform(net)
    with transform.record():
        log_prob = net(torch.randn(4, 3)).sum(1)
    for ask in (lambda: transform(log_prob, torch.ones(4)), lambda: transform.solve(log_prob, torch.ones(4, 1))):
        try:
            ask()
        except CaptureError as error:
            assert "2 processes" in str(error) and "gather" in str(error), error
        else:
            raise AssertionError("a part of the samples was taken for all")
    dist.destroy_process_group()
    transform(log_prob, torch.ones(4))

if __name__ == "__main__":
    mp.spawn(rank, (sys.argv[1],), 2)
"""
SHARDED = """
import sys, torch, torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
from ratpg.natgrad import AdvantageTransform

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
net = fully_shard(nn.Linear(3, 2), mesh=init_device_mesh("cpu", (1,)))
try:
    AdvantageTransform(net)
except TypeError as error:
    assert "'weight' is a DTensor" in str(error), error
else:
    raise AssertionError("a part of a parameter was taken for the whole")
finally:
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("script", [TWO_RANKS, SHARDED], ids=["two ranks", "sharded"])
def test_parts_are_refused(script: str, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, path, f"{tmp_path}/store"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
