"""What an actor is made of."""

from collections.abc import Mapping, Sequence

from torch import nn


def named_parts(
    actor: nn.Module | Sequence[nn.Module | nn.Parameter],
) -> tuple[dict[str, nn.Module], dict[str, nn.Parameter]]:
    """Modules and trainable parameters by name; in a sequence each name starts with the position.

    Raises:
        TypeError: for what is neither a module nor a parameter, and for complex and sharded parameters.
    """
    if isinstance(actor, Mapping):
        raise TypeError(f"hand over the module itself, and no {type(actor).__name__} of its parameters")
    parts = [("", actor)] if isinstance(actor, nn.Module) else [(str(i), part) for i, part in enumerate(actor)]
    modules: dict[str, nn.Module] = {}
    parameters: dict[str, nn.Parameter] = {}
    for prefix, part in parts:
        if isinstance(part, nn.Parameter):
            found = [(prefix, part)]
        elif not isinstance(part, nn.Module):
            raise TypeError(
                f"an actor is a module, or a sequence of modules and nn.Parameters; got {type(part).__name__}"
            )
        else:
            known_modules = {id(module) for module in modules.values()}
            modules.update({n: m for n, m in part.named_modules(prefix=prefix) if id(m) not in known_modules})
            found = list(part.named_parameters(prefix=prefix))
        known = {id(parameter) for parameter in parameters.values()}
        parameters.update({name: p for name, p in found if p.requires_grad and id(p) not in known})
    for name, parameter in parameters.items():
        if hasattr(parameter, "device_mesh"):
            raise TypeError(
                f"parameter '{name}' is a DTensor, of which each process holds a part (FSDP2, tensor parallelism): "
                "hand over the module before it is sharded"
            )
        if parameter.is_complex():
            raise TypeError(
                f"parameter '{name}' is complex: keep pairs of real numbers, as torch.view_as_real has them"
            )
    return modules, parameters
