"""``ratpg export``: a trained policy as an ONNX file, which runs without PyTorch and without this library."""

import importlib.util
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor, nn

from ratpg.cli import loading
from ratpg.cli.arguments import parse
from ratpg.integrations.output import destination
from ratpg.rl.networks.recurrent import RecurrentBody
from ratpg.rl.policy import ActorCritic
from ratpg.training.files import written_whole
from ratpg.training.saved_run import load_policy

NEEDED = ("onnx", "onnxscript")
"""Packages that PyTorch's exporter asks for."""


class MissingPackage(ValueError):
    """Packages of the extra ``onnx`` are not installed."""


class DeterministicPolicy(nn.Module):
    """What `ActorCritic.act` does, in tensors alone.

    Args:
        policy: a trained policy; its parameters are shared with this module, not copied.
    """

    low: Tensor
    high: Tensor
    first_choices: Tensor

    def __init__(self, policy: ActorCritic):
        super().__init__()
        self.policy, self.spec = policy, policy.spec
        self.register_buffer("low", torch.from_numpy(policy.low))
        self.register_buffer("high", torch.from_numpy(policy.high))
        self.integer_bounds = policy.integer_bounds and [torch.from_numpy(b.astype(int)) for b in policy.integer_bounds]
        self.register_buffer("first_choices", torch.tensor(self.spec.first_choices, dtype=torch.int64))

    def forward(self, observation: Tensor, memory: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The mode of the action's distribution, as the simulator takes it.

        Args:
            observation: raw, ``[N, *observation_shape]``.
            memory: of a recurrent policy, ``[N, 2 H]``; zeros where an episode begins.

        Returns:
            Actions ``[N, *action_shape]``; of a recurrent policy with the memory to go on with.
        """
        body, normalized = self.policy.actor.body, self.policy.normalize(observation)
        if memory is None:
            return self._action(body(normalized))
        assert isinstance(body, RecurrentBody)
        features, memory = body.step(normalized, memory)
        return self._action(features), memory

    def _action(self, features: Tensor) -> Tensor:
        """As `ActorCritic.environment_actions`, which is NumPy's."""
        actor = self.policy.actor
        action = actor.distribution(actor.head(features)).mode()
        if self.spec.choices:
            action = action + (self.first_choices if self.spec.action_shape else self.first_choices[0])
        elif self.spec.action_low:
            unit = action.tanh() if self.spec.action_bounds == "tanh" else action.clamp(-1, 1)
            action = (self.high + self.low) / 2 + (self.high - self.low) / 2 * unit
            action = torch.minimum(torch.maximum(action, self.low), self.high)
        if self.integer_bounds is not None:
            least, greatest = self.integer_bounds
            whole = action.round().to(torch.int64)
            action = torch.minimum(torch.maximum(whole, least), greatest).to(getattr(torch, self.spec.action_dtype))
        return action.reshape(-1, *self.spec.action_shape)


def onnx_program(policy: ActorCritic) -> torch.onnx.ONNXProgram:
    """A policy as an ONNX model, from raw observations to the actions that `ActorCritic.act` takes.

    Its inputs are ``observation [N, *observation_shape]`` and of a recurrent policy ``memory [N, 2 H]``; its outputs
    ``action [N, *action_shape]`` and ``next_memory``. ``N`` is free. Observations are bytes for images; float64 where
    the environment gives float64, or integers that float32 cannot hold; and float32 otherwise.

    Args:
        policy: a trained policy, which is moved to the CPU.

    Raises:
        MissingPackage: where the extra ``onnx`` is not installed.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise MissingPackage(f"exporting needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    spec = policy.spec
    kind = torch.uint8 if spec.images else torch.float64 if spec.observation_dtype == "float64" else torch.float32
    inputs = {"observation": torch.zeros(2, *spec.observation_shape, dtype=kind)}
    outputs = ["action"]
    if spec.lstm:
        inputs["memory"] = torch.zeros(2, 2 * spec.lstm)
        outputs.append("next_memory")
    sizes = {name: {0: torch.export.Dim("N")} for name in inputs}
    with torch.enable_grad():  # without, a network of images splits large batches, which would fix N
        traced = torch.export.export(
            DeterministicPolicy(policy).cpu().eval(), (), inputs, dynamic_shapes=sizes, strict=False
        )
    with warnings.catch_warnings(action="ignore"):  # of the exporter about itself
        program = torch.onnx.export(traced, input_names=list(inputs), output_names=outputs, dynamo=True, verbose=False)
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # paths of this machine
    return program


@dataclass(frozen=True)
class ExportArguments:
    """Write a trained policy as an ONNX file: raw observations in, deterministic actions out."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The file, or a folder that exists, for policy.onnx; the run's folder unless given."""


def export(arguments: list[str]) -> int:
    """Writes the file and prints where."""
    options = parse(ExportArguments, "export", arguments)
    path = destination(options.output or options.run_dir, "policy.onnx")
    policy, _ = load_policy(options.run_dir)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # what it has to say is of packages that nothing here needs
    with loading():  # the exporter imports much
        program = onnx_program(policy)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as file:
        program.save(file.name, external_data=False)
    print(path)
    return 0
