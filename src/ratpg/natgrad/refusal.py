"""Modules with which no score matrix can be right."""

from collections.abc import Mapping

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
