"""The state of one Gymnasium environment as plain values and tensors, for checkpoints that resume to the bit.

Known are MuJoCo and classic-control environments and Gymnasium's standard wrappers; for anything else `snapshot`
returns None, and a resumed run starts fresh episodes.
"""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch

KNOWN_WRAPPERS = (
    gym.wrappers.TimeLimit,
    gym.wrappers.OrderEnforcing,
    gym.wrappers.PassiveEnvChecker,
    gym.wrappers.FlattenObservation,
)
PLAIN = bool | int | float | str | None
CONSTRAINT_SIZED = ("_", "efc_", "iefc_", "island", "map_", "dof_island", "tree_island", "contact", "iacc", "ifrc")


def snapshot(env: gym.Env) -> dict[str, Any] | None:
    """The state of the environment and of every wrapper around it, or None where it is not known how."""
    layers, core = _layers(env)
    if not all(isinstance(layer, KNOWN_WRAPPERS) for layer in layers[:-1]):
        return None
    if _is_mujoco(core):
        simulator = {name: torch.from_numpy(array.copy()) for name, array in _mujoco_arrays(core.data)}
        simulator["time"] = torch.tensor(core.data.time, dtype=torch.float64)
    elif type(core).__module__.startswith("gymnasium.envs.classic_control"):
        simulator = {}
    else:
        return None
    return {
        "simulator": simulator,
        "layers": [_attributes(layer) for layer in layers],
        "generator": core.np_random.bit_generator.state,
    }


def restore(env: gym.Env, state: dict[str, Any]) -> None:
    """Puts the environment into the state that `snapshot` returned.

    Raises:
        ValueError, KeyError: for the state of another environment.
    """
    layers, core = _layers(env)
    if _is_mujoco(core):
        for name, destination in _mujoco_arrays(core.data):
            destination[...] = state["simulator"][name].numpy()
        core.data.time = float(state["simulator"]["time"])
    for layer, attributes in zip(layers, state["layers"], strict=True):
        if strange := [name for name in attributes if name not in vars(layer) and hasattr(type(layer), name)]:
            raise ValueError(f"the state of {type(layer).__name__} has no {', '.join(strange)}")  # but a method
        for name, value in attributes.items():
            array = isinstance(value, torch.Tensor)
            if isinstance(vars(layer).get(name), int | float) and not isinstance(value, int | float | None):
                raise ValueError(f"{name} of {type(layer).__name__} is a number")
            setattr(layer, name, value.numpy().copy() if array else value)
    core.np_random.bit_generator.state = state["generator"]


def _layers(env: gym.Env) -> tuple[list[gym.Env], Any]:
    """The environment from its outermost wrapper inwards, and the innermost again."""
    layers = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    return layers, layers[-1]


def _is_mujoco(core: Any) -> bool:
    return type(core).__module__.startswith("gymnasium.envs.mujoco.")


def _mujoco_arrays(data: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of MjData whose size is fixed by the model, among them the derived ones (body positions, contact
    forces) that some observations and rewards read before the next step recomputes them. What is sized by the
    active constraints (``efc_*`` and the like) is recomputed by every step."""
    import mujoco  # here, as it fails where MUJOCO_GL names what is not there, and most environments do without

    for name in dir(data):
        if name.startswith(CONSTRAINT_SIZED):
            continue
        try:
            array = getattr(data, name)
        except (AttributeError, ValueError, mujoco.FatalError):  # some fields exist under some solver options only
            continue
        if isinstance(array, np.ndarray) and array.dtype == np.float64 and array.flags.writeable:
            yield name, array


def _attributes(layer: Any) -> dict[str, Any]:
    """A layer's own attributes that are plain values or arrays: step counters, flags, classic control's state."""
    attributes: dict[str, Any] = {}
    for name, value in vars(layer).items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            attributes[name] = torch.from_numpy(value.copy())
        elif isinstance(value, tuple) and all(isinstance(item, PLAIN | np.number) for item in value):
            attributes[name] = tuple(_plain(item) for item in value)
        elif isinstance(value, PLAIN | np.number):
            attributes[name] = _plain(value)
    return attributes


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.number) else value
