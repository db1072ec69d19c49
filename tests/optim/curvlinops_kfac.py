"""KFAC of a linear network by curvlinops, written to ``curvlinops_kfac.json`` for ``test_kfac.py`` to compare with.

    python tests/optim/curvlinops_kfac.py

Run by hand where curvlinops is installed: it brings torchvision along, which the tests do without.
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

OUTPUT = Path(__file__).with_suffix(".json")
DAMPING = 0.03
SAMPLES = 9


def network() -> nn.Sequential:
    """Two linear layers without an activation, the same at every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()


def data() -> tuple[Tensor, Tensor]:
    """Inputs and the actions taken."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SAMPLES, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(2, (SAMPLES,), generator=generator)


def gradient() -> dict[str, Tensor]:
    """What is multiplied by the inverse."""
    generator = torch.Generator().manual_seed(2)
    named = network().named_parameters()
    return {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in named}


def main() -> None:
    from curvlinops import FisherType, KFACInverseLinearOperator, KFACLinearOperator

    net = network()
    kfac = KFACLinearOperator(
        net,
        nn.CrossEntropyLoss(),
        list(net.parameters()),
        [data()],
        fisher_type=FisherType.EMPIRICAL,
        separate_weight_and_bias=False,
    )
    inverse = KFACInverseLinearOperator(kfac, damping=DAMPING, use_heuristic_damping=True)
    direction = inverse @ list(gradient().values())
    result = {"curvlinops": version("curvlinops-for-pytorch")}
    OUTPUT.write_text(json.dumps(result | {n: d.tolist() for n, d in zip(gradient(), direction, strict=True)}) + "\n")


if __name__ == "__main__":
    main()
