"""KFAC against dense float64 blocks."""

import io
import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ratpg.natgrad import PerSampleParameter, Recorder
from ratpg.natgrad.dense import score_matrix
from ratpg.natgrad.factors import DenseFactor, Factor
from ratpg.optim.kfac import KFAC

from . import curvlinops_kfac

DAMPING = 0.03


class Net(nn.Module):
    """Two linear layers, one of them without a bias and over tokens, and a free parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2, bias=False)
        self.free = PerSampleParameter(torch.randn(2))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3] -> [B]``; the second layer sees two tokens of each sample."""
        hidden = self.first(x).tanh()
        tokens = self.second(torch.stack([hidden, hidden.square()], 1))
        return (tokens.sum(1) * self.free(x)).sin().sum(1)


def recorded(samples: int, seed: int = 0) -> tuple[Net, list[Factor], dict[str, Tensor]]:
    """The net, its factors, and the rows of ``H`` of each parameter, ``[B, size]``."""
    torch.manual_seed(0)
    net = Net()
    recorder = Recorder.over(net, keep_tokens=True)
    x = torch.randn(samples, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with recorder.record():
        scalar = net(x)
    rows = {name: score_matrix(scalar, [p]) for name, p in recorder.parameters.items()}
    return net, recorder.factors(scalar), rows


def gradient_of(net: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in net.named_parameters()}


def first_layer(values: dict[str, Tensor]) -> Tensor:
    """Weight and bias of the first layer as the block orders them, flat or as rows."""
    weight, bias = values["first.weight"], values["first.bias"]
    if weight.ndim == 2 and weight.shape == (4, 3):
        return torch.cat([weight, bias[:, None]], 1).flatten()
    return torch.cat([weight.view(-1, 4, 3), bias[:, :, None]], 2).flatten(1)


def test_the_kronecker_factors_are_the_dense_moments() -> None:
    net, factors, _ = recorded(7)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    homogeneous = torch.cat([x, torch.ones(7, 1, dtype=torch.float64)], 1)
    output = net.first(x).detach().requires_grad_()
    hidden = output.tanh()
    tokens = net.second(torch.stack([hidden, hidden.square()], 1))
    (d,) = torch.autograd.grad((tokens.sum(1) * net.free(x)).sin().sum(), output)
    inputs = sum(torch.outer(a, a) for a in homogeneous) / 7
    outputs = sum(torch.outer(row, row) for row in d) / 7
    ratio = (inputs.trace() / 4) / (outputs.trace() / 4)
    eye = torch.eye(4, dtype=torch.float64)
    damped = torch.kron(outputs + (DAMPING / ratio) ** 0.5 * eye, inputs + (DAMPING * ratio) ** 0.5 * eye)
    gradient = gradient_of(net)
    kfac = KFAC(DAMPING)
    kfac.update(factors)
    direction = kfac.precondition(factors, gradient)
    torch.testing.assert_close(first_layer(direction), torch.linalg.solve(damped, first_layer(gradient)))


@pytest.mark.parametrize("chunk_bytes", [1, 4 * 2**20])
def test_the_kronecker_factors_of_a_convolution_sum_over_locations_and_average_over_them(
    chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratpg.natgrad.patches.PATCH_BYTES", chunk_bytes)
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=1).double()
    x = torch.randn(5, 2, 6, 4, dtype=torch.float64)
    recorder = Recorder.over(convolution, keep_tokens=True)
    with recorder.record():
        output = convolution(x)
        scalar = output.sin().sum((1, 2, 3))
    factors = recorder.factors(scalar)
    (d,) = torch.autograd.grad(scalar.sum(), output)
    locations = d.shape[2] * d.shape[3]
    # The patches from torch's own unfolding, each with a one for the bias.
    patches = F.unfold(x, (3, 2), padding=1, stride=(2, 1)).transpose(1, 2)
    homogeneous = torch.cat([patches, torch.ones(5, locations, 1, dtype=torch.float64)], 2)
    inputs = sum(torch.outer(a, a) for a in homogeneous.flatten(0, 1)) / 5
    outputs = sum(torch.outer(row, row) for row in d.permute(0, 2, 3, 1).flatten(0, 2)) / (5 * locations)
    kfac = KFAC(DAMPING)
    kfac.update(factors)
    averaged = {key: average / (1 - kfac.decay) for key, average in kfac._averages.items()}
    torch.testing.assert_close(averaged, {"input weight bias": inputs, "output weight bias": outputs})

    ratio = (inputs.trace() / len(inputs)) / (outputs.trace() / len(outputs))
    damped_outputs = outputs + (DAMPING / ratio) ** 0.5 * torch.eye(3)
    damped = torch.kron(damped_outputs, inputs + (DAMPING * ratio) ** 0.5 * torch.eye(len(inputs)))
    gradient = gradient_of(convolution)
    direction = kfac.precondition(factors, gradient)
    joint = [torch.cat([g["weight"].flatten(1), g["bias"][:, None]], 1).flatten() for g in (gradient, direction)]
    torch.testing.assert_close(joint[1], torch.linalg.solve(damped, joint[0]))
    assert direction["weight"].shape == convolution.weight.shape

    corrected = KFAC(DAMPING, eigenvalue_corrected=True)
    corrected.update(factors)
    names = ("input", "output")
    right, left = (corrected._inverses[f"{name} weight bias"] for name in names)
    h = torch.einsum("bto,bti->boi", d.flatten(2).transpose(1, 2), homogeneous).flatten(1)
    expected = (h @ torch.kron(left, right)).square().mean(0)
    torch.testing.assert_close(corrected._scales["weight bias"].flatten(), expected)


def test_a_convolution_in_groups_is_refused() -> None:
    convolution = nn.Conv1d(4, 4, 2, groups=2)
    recorder = Recorder.over(convolution, keep_tokens=True)
    with recorder.record():
        scalar = convolution(torch.randn(3, 4, 5)).sin().sum((1, 2))
    with pytest.raises(TypeError, match=r"groups: 'weight bias'"):
        KFAC(DAMPING).update(recorder.factors(scalar))


def test_of_one_sample_the_corrected_block_is_exact() -> None:
    net, factors, rows = recorded(1)
    kfac = KFAC(DAMPING, eigenvalue_corrected=True)
    kfac.update(factors)
    gradient = gradient_of(net)
    direction = kfac.precondition(factors, gradient)
    h = first_layer(rows)
    fisher = h.T @ h + DAMPING * torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(first_layer(direction), torch.linalg.solve(fisher, first_layer(gradient)))


@pytest.mark.parametrize("corrected", [False, True])
def test_the_block_of_a_free_parameter_is_exact(corrected: bool) -> None:
    net, factors, rows = recorded(7)
    kfac = KFAC(DAMPING, eigenvalue_corrected=corrected)
    kfac.update(factors)
    gradient = gradient_of(net)
    direction = kfac.precondition(factors, gradient)
    h = rows["free.value"]
    fisher = h.T @ h / 7 + DAMPING * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(direction["free.value"], torch.linalg.solve(fisher, gradient["free.value"]))


def test_the_corrected_diagonal_is_that_of_the_true_block_in_the_eigenbasis() -> None:
    _net, factors, rows = recorded(7)
    kfac = KFAC(DAMPING, eigenvalue_corrected=True)
    kfac.update(factors)
    for layer, block in {"first.weight first.bias": first_layer(rows), "second.weight": rows["second.weight"]}.items():
        basis = torch.kron(kfac._inverses[f"output {layer}"], kfac._inverses[f"input {layer}"])
        expected = (block @ basis).square().mean(0)
        torch.testing.assert_close(kfac._scales[layer].flatten(), expected)


def test_averages_are_bias_corrected_and_inverted_at_the_interval() -> None:
    (_, first, _), (net, second, _) = recorded(7, seed=0), recorded(7, seed=1)
    gradient = gradient_of(net)
    slow, always = KFAC(DAMPING, decay=0.5, interval=2), KFAC(DAMPING, decay=0.5)
    directions = []
    for factors in (first, second, second):
        for kfac in (slow, always):
            kfac.update(factors)
        directions.append([kfac.precondition(factors, gradient)["free.value"] for kfac in (slow, always)])
    assert torch.equal(directions[0][0], directions[0][1])
    assert torch.equal(directions[1][0], directions[0][0])
    assert not torch.equal(directions[1][1], directions[0][1])
    assert torch.equal(directions[2][0], directions[2][1])
    rows = [factor.rows for factors in (first, second) for factor in factors if factor.names == ("free.value",)]
    old, new = (r.T @ r / 7 for r in rows)
    expected = torch.linalg.solve((old + 2 * new) / 3 + DAMPING * torch.eye(2), gradient["free.value"])
    torch.testing.assert_close(directions[1][1], expected)


@pytest.mark.parametrize("corrected", [False, True])
def test_a_restored_state_goes_on_to_the_bit(corrected: bool) -> None:
    (net, first, _), (_, second, _) = recorded(7, seed=0), recorded(7, seed=1)
    kfac = KFAC(DAMPING, interval=2, eigenvalue_corrected=corrected)
    kfac.update(first)
    file = io.BytesIO()
    torch.save(kfac.state_dict(), file)
    file.seek(0)
    restored = KFAC(DAMPING, interval=2, eigenvalue_corrected=corrected)
    restored.load_state_dict(torch.load(file, weights_only=True), torch.device("cpu"))
    gradient = gradient_of(net)
    for instance in (kfac, restored):
        instance.update(second)
    ours, theirs = (instance.precondition(second, gradient) for instance in (kfac, restored))
    assert all(torch.equal(ours[name], theirs[name]) for name in gradient)


def test_a_state_that_was_handed_out_stays_as_it_was() -> None:
    (net, first, _), (_, second, _) = recorded(7, seed=0), recorded(7, seed=1)
    kfac, restored = KFAC(DAMPING), KFAC(DAMPING)
    kfac.update(first)
    restored.load_state_dict(kfac.state_dict(), torch.device("cpu"))
    gradient = gradient_of(net)
    before = restored.precondition(first, gradient)
    kfac.update(second)
    restored.update(second)
    after, ours = (instance.precondition(second, gradient) for instance in (restored, kfac))
    assert all(torch.equal(after[name], ours[name]) for name in gradient)
    assert not any(torch.equal(after[name], before[name]) for name in gradient)


def test_a_parameter_of_no_linear_layer_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratpg.optim.kfac.LARGEST_BLOCK", 1)
    _, factors, _ = recorded(3)
    with pytest.raises(TypeError, match=r"free\.value"):
        KFAC(DAMPING).update(factors)


def test_a_linear_network_has_the_kfac_of_curvlinops() -> None:
    net, (inputs, actions) = curvlinops_kfac.network(), curvlinops_kfac.data()
    recorder = Recorder.over(net)
    with recorder.record():
        log_prob = torch.distributions.Categorical(logits=net(inputs)).log_prob(actions)
    factors = recorder.factors(log_prob)
    kfac = KFAC(curvlinops_kfac.DAMPING)
    kfac.update(factors)
    direction = kfac.precondition(factors, curvlinops_kfac.gradient())
    theirs = json.loads(curvlinops_kfac.OUTPUT.read_text())
    for name, ours in direction.items():
        torch.testing.assert_close(ours, torch.tensor(theirs[name], dtype=torch.float64), rtol=1e-10, atol=1e-10)


def test_a_layer_that_changes_its_form_starts_anew() -> None:
    net, factors, rows = recorded(7)
    kfac = KFAC(DAMPING, interval=5)
    kfac.update(factors)
    dense = [DenseFactor(rows[name].view(-1, *p.shape), name) for name, p in net.named_parameters()]
    kfac.update(dense)
    gradient = gradient_of(net)
    h = rows["second.weight"]
    fisher = h.T @ h / 7 + DAMPING * torch.eye(8, dtype=torch.float64)
    expected = torch.linalg.solve(fisher, gradient["second.weight"].flatten())
    torch.testing.assert_close(kfac.precondition(dense, gradient)["second.weight"].flatten(), expected)
