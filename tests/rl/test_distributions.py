"""Distributions against `torch.distributions`, and their samples against their moments."""

import pytest
import torch
from torch import Tensor, distributions
from torch.testing import assert_close

from ratpg.rl.distributions import Bernoulli, Categorical, CensoredGaussian, DiagonalGaussian, MultiCategorical

B, A, SAMPLES = 7, 3, 200_000


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(seed: int) -> DiagonalGaussian:
    return DiagonalGaussian(random(B, A, seed=seed), 0.5 * random(B, A, seed=seed + 100))


def reference_gaussian(ours: DiagonalGaussian) -> distributions.Independent:
    return distributions.Independent(distributions.Normal(ours.mean, ours.log_std.exp()), 1)


def censored(seed: int) -> CensoredGaussian:
    return CensoredGaussian(0.6 * random(B, A, seed=seed), 0.3 * random(B, A, seed=seed + 100) - 0.5)


def parts(ours: CensoredGaussian, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Masses ``[B, A]`` on −1 and 1, and the density ``[G, B, A]`` on a grid of actions."""
    normal = distributions.Normal(ours.mean, ours.log_std.exp())
    below, above = normal.cdf(-torch.ones_like(ours.mean)), 1 - normal.cdf(torch.ones_like(ours.mean))
    return below, above, normal.log_prob(grid[:, None, None]).exp()


GRID = torch.linspace(-1, 1, 20_001, dtype=torch.float64)


def categorical(seed: int) -> Categorical:
    return Categorical(2 * random(B, A, seed=seed))


SIZES = (3, 2, 4)


def multi(seed: int) -> MultiCategorical:
    return MultiCategorical(2 * random(B, sum(SIZES), seed=seed), SIZES)


def bernoulli(seed: int) -> Bernoulli:
    return Bernoulli(2 * random(B, A, seed=seed))


def reference_bernoulli(ours: Bernoulli) -> distributions.Independent:
    return distributions.Independent(distributions.Bernoulli(logits=ours.logits), 1)


def test_gaussian_log_prob_is_torchs() -> None:
    ours, actions = gaussian(0), random(B, A, seed=9)
    assert_close(ours.log_prob(actions), reference_gaussian(ours).log_prob(actions))


def test_gaussian_entropy_is_torchs() -> None:
    ours = gaussian(0)
    assert_close(ours.entropy(), reference_gaussian(ours).entropy())


def test_gaussian_kl_is_torchs() -> None:
    p, q = gaussian(0), gaussian(1)
    expected = distributions.kl_divergence(reference_gaussian(p), reference_gaussian(q))
    assert_close(p.kl(q), expected)
    assert not torch.allclose(p.kl(q), q.kl(p))


def test_gaussian_mode_is_the_mean() -> None:
    ours = gaussian(0)
    assert ours.log_prob(ours.mode()).ge(ours.log_prob(ours.mode() + 0.1 * random(B, A, seed=5))).all()


def test_gaussian_samples_have_the_mean_and_covariance() -> None:
    ours = DiagonalGaussian(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, -1.0]]))
    noise = DiagonalGaussian.noise((SAMPLES,), 2, torch.Generator().manual_seed(0))
    samples = ours.sample(noise)
    assert samples.shape == (SAMPLES, 2)
    assert_close(samples.mean(0), ours.mean[0], rtol=0, atol=0.01)
    assert_close(samples.T.cov(), torch.diag(ours.log_std[0].mul(2).exp()), rtol=0, atol=0.02)


def test_a_censored_gaussian_has_a_density_inside_and_masses_on_the_bounds() -> None:
    ours = censored(0)
    below, above, _ = parts(ours, GRID)
    inside = random(B, A, seed=9).tanh()
    uncensored = DiagonalGaussian(ours.mean, ours.log_std)
    assert_close(ours.log_prob(inside), uncensored.log_prob(inside))
    for beyond in (1.0, 7.0):  # however far
        assert_close(ours.log_prob(torch.full_like(inside, -beyond)), below.log().sum(-1))
        assert_close(ours.log_prob(torch.full_like(inside, beyond)), above.log().sum(-1))


def test_censored_entropy_is_the_integral() -> None:
    ours = censored(0)
    below, above, density = parts(ours, GRID)
    integral = -torch.trapezoid(density * density.log(), GRID, dim=0)
    assert_close(ours.entropy(), (integral - below * below.log() - above * above.log()).sum(-1), rtol=1e-7, atol=1e-7)


def test_censored_kl_is_the_integral() -> None:
    p, q = censored(0), censored(1)
    mine, others = parts(p, GRID), parts(q, GRID)
    integral = torch.trapezoid(mine[2] * (mine[2] / others[2]).log(), GRID, dim=0)
    masses = mine[0] * (mine[0] / others[0]).log() + mine[1] * (mine[1] / others[1]).log()
    assert_close(p.kl(q), (integral + masses).sum(-1), rtol=1e-7, atol=1e-7)
    assert not torch.allclose(p.kl(q), q.kl(p))
    assert p.kl(q).le(DiagonalGaussian(p.mean, p.log_std).kl(DiagonalGaussian(q.mean, q.log_std))).all()


@pytest.mark.parametrize("mean", [0.0, 1.0, 5.0, 40.0])
@pytest.mark.parametrize("log_std", [-6.0, -2.0, 0.0])
def test_censored_derivatives_are_finite(mean: float, log_std: float) -> None:
    means, log_stds = (torch.full((1, 2), value, requires_grad=True) for value in (mean, log_std))
    ours = CensoredGaussian(means, log_stds)
    sample = ours.sample(torch.tensor([[-1.5, 2.0]])).detach()
    for value in (ours.entropy(), ours.detach().kl(ours), ours.kl(ours.detach()), ours.log_prob(sample)):
        gradients = torch.autograd.grad(value.sum(), [means, log_stds], retain_graph=True)
        assert all(g.isfinite().all() for g in (value, *gradients))


def test_a_mean_far_beyond_a_bound_has_no_score() -> None:
    mean = torch.tensor([[40.0, -30.0]], requires_grad=True)
    ours = CensoredGaussian(mean, torch.full((1, 2), -1.0))
    (score,) = torch.autograd.grad(ours.log_prob(mean.detach() + 0.1).sum(), mean)
    assert torch.equal(score, torch.zeros(1, 2))
    (back,) = torch.autograd.grad(ours.log_prob(torch.tensor([[0.5, -0.5]])).sum(), mean)
    assert back[0, 0] < 0 < back[0, 1]
    moved = CensoredGaussian(mean + 1, torch.full((1, 2), -1.0))
    assert_close(ours.kl(moved), torch.zeros(1))


def test_categorical_log_prob_is_torchs() -> None:
    ours, actions = categorical(0), torch.arange(B) % A
    assert_close(ours.log_prob(actions), distributions.Categorical(logits=ours.logits).log_prob(actions))


def test_categorical_entropy_is_torchs() -> None:
    ours = categorical(0)
    assert_close(ours.entropy(), distributions.Categorical(logits=ours.logits).entropy())


def test_categorical_kl_is_torchs() -> None:
    p, q = categorical(0), categorical(1)
    reference = [distributions.Categorical(logits=d.logits) for d in (p, q)]
    assert_close(p.kl(q), distributions.kl_divergence(*reference))
    assert not torch.allclose(p.kl(q), q.kl(p))


def test_categorical_mode_is_the_likeliest_action() -> None:
    ours = categorical(0)
    every = torch.stack([ours.log_prob(torch.full((B,), a)) for a in range(A)])
    assert_close(ours.mode(), every.argmax(0))


def test_categorical_samples_come_with_their_probabilities() -> None:
    ours = Categorical(torch.tensor([0.7, 0.2, 0.1]).log()[None] + 3.0)  # logits need not be normalised
    noise = Categorical.noise((SAMPLES,), 3, torch.Generator().manual_seed(0))
    frequencies = ours.sample(noise).bincount(minlength=3) / SAMPLES
    assert_close(frequencies, torch.tensor([0.7, 0.2, 0.1]), rtol=0, atol=0.005)


def test_categorical_noise_is_finite_and_gumbel() -> None:
    noise = Categorical.noise((SAMPLES,), 1, torch.Generator().manual_seed(0))
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)  # Euler's constant
    assert noise.var().item() == pytest.approx(torch.pi**2 / 6, abs=0.03)


def test_several_discrete_actions_are_independent() -> None:
    p, q = multi(0), multi(1)
    actions = torch.stack([torch.arange(B) % size for size in SIZES], 1)
    pairs = [[distributions.Categorical(logits=logits) for logits in d.logits.split(SIZES, 1)] for d in (p, q)]
    assert_close(p.log_prob(actions), sum(d.log_prob(a) for d, a in zip(pairs[0], actions.T, strict=True)))
    assert_close(p.entropy(), sum(d.entropy() for d in pairs[0]))
    assert_close(p.kl(q), sum(distributions.kl_divergence(a, b) for a, b in zip(*pairs, strict=True)))
    assert_close(p.mode(), torch.stack([logits.argmax(1) for logits in p.logits.split(SIZES, 1)], 1))


def test_several_discrete_samples_come_with_their_probabilities() -> None:
    ours = MultiCategorical(torch.tensor([[0.7, 0.2, 0.1, 0.4, 0.6]]).log(), (3, 2))
    samples = ours.sample(MultiCategorical.noise((SAMPLES,), 5, torch.Generator().manual_seed(0)))
    frequencies = torch.stack([(samples == torch.tensor(pair)).all(1).float().mean() for pair in ((0, 0), (2, 1))])
    assert_close(frequencies, torch.tensor([0.28, 0.06]), rtol=0, atol=0.005)


def test_bernoulli_is_torchs() -> None:
    p, q = bernoulli(0), bernoulli(1)
    actions = (random(B, A, seed=9) > 0).long()
    assert_close(p.log_prob(actions), reference_bernoulli(p).log_prob(actions.double()))
    assert_close(p.entropy(), reference_bernoulli(p).entropy())
    assert_close(p.kl(q), distributions.kl_divergence(reference_bernoulli(p), reference_bernoulli(q)))
    assert p.log_prob(p.mode()).ge(p.log_prob(actions)).all()


def test_bernoulli_samples_come_with_their_probabilities() -> None:
    ours = Bernoulli(torch.tensor([[0.9, 0.5, 0.01]]).logit())
    noise = Bernoulli.noise((SAMPLES,), 3, torch.Generator().manual_seed(0))
    assert noise.isfinite().all()
    assert_close(ours.sample(noise).float().mean(0), torch.tensor([0.9, 0.5, 0.01]), rtol=0, atol=0.005)


@pytest.mark.parametrize("kind", [DiagonalGaussian, Categorical, MultiCategorical, Bernoulli])
def test_noise_is_the_generators(kind: type) -> None:
    first, again, other = (kind.noise((4, 2), A, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == (4, 2, A)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("make", [gaussian, censored, categorical, multi, bernoulli])
def test_the_kl_of_a_distribution_with_itself_is_zero(make: object) -> None:
    assert_close(make(0).kl(make(0)), torch.zeros(B, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("make", [gaussian, censored, categorical, multi, bernoulli])
def test_an_indexed_distribution_is_that_of_those_rows(make: object) -> None:
    whole, index = make(0), torch.tensor([5, 1])
    assert_close(whole[index].entropy(), whole.entropy()[index])


def test_a_detached_distribution_has_no_graph() -> None:
    leaf = torch.zeros(B, A, requires_grad=True)
    assert not DiagonalGaussian(leaf, leaf).detach().entropy().requires_grad
    assert not CensoredGaussian(leaf, leaf).detach().entropy().requires_grad
    assert not Categorical(leaf).detach().entropy().requires_grad
    assert not MultiCategorical(leaf, (1, 2)).detach().entropy().requires_grad
    assert not Bernoulli(leaf).detach().entropy().requires_grad
