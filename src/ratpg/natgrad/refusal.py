"""What no score matrix can be right with: modules, and samples that are spread over processes."""

from collections.abc import Mapping

import torch.distributed
from torch import nn

from ratpg.natgrad.errors import CaptureError


def refuse_modules(modules: Mapping[str, nn.Module]) -> None:
    """Refuses what makes a sample's score depend on its neighbours, or on chance.

    Raises:
        CaptureError: naming the module and the remedy.
    """
    for name, module in modules.items():
        called = f"module '{name}' ({type(module).__name__})"
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.scale_grad_by_freq:
            raise CaptureError(
                f"{called} divides its gradients by how often an id occurs in the batch, so they are those of no "
                "log-probability: set scale_grad_by_freq to False"
            )
        batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if not module.training and not (batch_norm and module.running_mean is None):
            continue
        if batch_norm:
            raise CaptureError(
                f"{called} is in training mode, so a sample's log-probability "
                "depends on the other samples: call .eval() on it, or use LayerNorm or GroupNorm"
            )
        if isinstance(module, nn.RReLU):
            raise CaptureError(
                f"{called} draws its slopes at random in training mode, so the score of this forward pass is not that "
                "of the next: call .eval() on it"
            )
        rate = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0.0)
        if isinstance(rate, int | float) and rate > 0:
            raise CaptureError(
                f"{called} drops units at random in training mode, so the score "
                "of this forward pass is not that of the next: call .eval() on it or set its rate to 0"
            )


def refuse_process_groups() -> None:
    """Refuses to work on one process's part of the samples.

    Raises:
        CaptureError: where a process group of more than one is initialised.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    count = torch.distributed.get_world_size()
    if count > 1:
        raise CaptureError(
            f"{count} processes hold parts of the samples, and K couples all of them, so that an average of their "
            "directions is another step: gather the samples into one process without a process group"
        )
