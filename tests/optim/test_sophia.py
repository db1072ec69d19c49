"""Sophia's step in closed form, and its estimates against the diagonals that they are meant for."""

import pytest
import torch
from torch import nn

from ratpg.natgrad.dense import score_matrix
from ratpg.optim.sophia import Sophia, gauss_newton_bartlett, hutchinson


def test_two_steps_are_those_of_the_definition() -> None:
    parameter = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    optimizer = Sophia([parameter], lr=0.1, betas=(0.9, 0.8), gamma=0.5, eps=1e-12)
    expected, m, h = parameter.detach().clone(), torch.zeros(3), torch.zeros(3)
    for diagonal, gradient in [([4.0, 0.5, 0.0], [0.1, -2.0, 1e-3]), ([9.0, 9.0, -1.0], [0.3, 0.2, 0.0])]:
        optimizer.update_hessian([torch.tensor(diagonal, dtype=torch.float64)])
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        h = 0.8 * h + 0.2 * torch.tensor(diagonal)
        m = 0.9 * m + 0.1 * torch.tensor(gradient)
        for i in range(3):
            ratio = float(m[i]) / max(0.5 * float(h[i]), 1e-12)
            expected[i] -= 0.1 * max(-1.0, min(1.0, ratio))
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-9)


def test_no_entry_moves_further_than_the_learning_rate() -> None:
    parameter = torch.zeros(100, requires_grad=True)
    optimizer = Sophia([parameter], lr=0.01)
    parameter.grad = torch.randn(100) * 1e3
    optimizer.step()
    torch.testing.assert_close(parameter.detach().abs(), torch.full((100,), 0.01))


def test_gauss_newton_bartlett_is_in_expectation_the_fisher_diagonal() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(2, 3).double(), torch.randn(40, 2, dtype=torch.float64)
    parameters = list(net.parameters())
    log_p = net(x).log_softmax(1)
    exact = torch.zeros(9, dtype=torch.float64)
    for action in range(3):  # the sum over actions of p times the squared score, averaged over samples
        exact += log_p[:, action].detach().exp() @ score_matrix(log_p[:, action], parameters).square() / 40
    generator, estimates = torch.Generator().manual_seed(0), []
    for _ in range(3000):
        sampled = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
        log_prob = net(x).log_softmax(1).gather(1, sampled).squeeze(1)
        estimates.append(torch.cat([e.flatten() for e in gauss_newton_bartlett(log_prob, parameters)]))
    mean, error = torch.stack(estimates).mean(0), torch.stack(estimates).std(0) / 3000**0.5
    assert ((mean - exact).abs() < 5 * error).all()


def test_hutchinson_is_in_expectation_the_hessian_diagonal() -> None:
    torch.manual_seed(0)
    root = torch.randn(4, 4, dtype=torch.float64)
    matrix, theta = root + root.T, torch.randn(4, dtype=torch.float64, requires_grad=True)
    generator, estimates = torch.Generator().manual_seed(0), []
    for _ in range(3000):
        (estimate,) = hutchinson(0.5 * theta @ matrix @ theta, [theta], generator)
        estimates.append(estimate)
    mean, error = torch.stack(estimates).mean(0), torch.stack(estimates).std(0) / 3000**0.5
    assert ((mean - matrix.diagonal()).abs() < 5 * error).all()


@pytest.mark.parametrize("lr", [0.0, 0.1])
def test_parameters_without_a_gradient_stay(lr: float) -> None:
    moved, still = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    moved.grad = torch.ones(2)
    Sophia([moved, still], lr=lr).step()
    assert torch.equal(still, torch.ones(2))
    torch.testing.assert_close(moved.detach(), torch.full((2,), 1 - lr))


def test_a_closure_computes_loss_and_gradients() -> None:
    parameter = torch.full((2,), 3.0, requires_grad=True)
    optimizer = Sophia([parameter], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 18.0
    torch.testing.assert_close(parameter.detach(), torch.full((2,), 2.9))
