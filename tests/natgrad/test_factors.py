"""The factored products K, Hg, Hᵀv and (H∘H)ᵀv equal those of the full score matrix, over the whole table of cases."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from ratpg.natgrad import tokens as module
from ratpg.natgrad.capture import Recorder
from ratpg.natgrad.embedding import EmbeddingFactor
from ratpg.natgrad.factors import DenseFactor, OuterFactor, gram
from ratpg.natgrad.lower import LowerTriangle
from ratpg.natgrad.tokens import TokenFactor

from .cases import CASES
from .oracle import flat, problem, record, relative_error, unflat

TOLERANCES = [(torch.float64, 1e-10), (torch.float32, 1e-4)]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES, ids=["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_score_matrix(name: str, dtype: torch.dtype, tolerance: float) -> None:
    case, scores = CASES[name]().to(dtype), problem(name).scores
    transform, log_prob = record(case)
    vector = problem(name).advantages.to(dtype)
    g = torch.randn(scores.shape[1], generator=torch.Generator().manual_seed(2))
    named_g = unflat(g.to(dtype), transform.parameters)

    # The second pass finds the structure known, and takes another way through the recorder.
    for _ in range(2):
        found = transform._recorder.factors(log_prob)
        assert sorted(n for factor in found for n in factor.names) == sorted(transform.parameters)
        products: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        for factor in found:
            products.update(factor.rmatvec(vector))
            squares.update(factor.squares(vector.abs()))
        along = sum((factor.matvec(named_g) for factor in found), torch.zeros_like(vector))
        norms = {name: norm for factor in found for name, norm in factor.norms().items()}

        assert relative_error(gram(found, vector), scores @ scores.T) <= tolerance
        assert relative_error(along, scores @ g.double()) <= tolerance
        assert {n: p.shape for n, p in products.items()} == {n: p.shape for n, p in transform.parameters.items()}
        in_order = flat(products[n] for n in transform.parameters)
        assert relative_error(in_order, scores.T @ vector.double()) <= tolerance
        assert_norms_bound_the_rows(norms, scores, transform.parameters)
        in_order = flat(squares[n] for n in transform.parameters)
        assert relative_error(in_order, scores.square().T @ vector.abs().double()) <= tolerance

        with transform.record():
            log_prob = case.log_prob()


def assert_norms_bound_the_rows(
    norms: Mapping[str, Tensor], scores: Tensor, parameters: Mapping[str, Tensor], slack: float = 30.0
) -> None:
    """No norm is below that of its row, but for rounding, nor far above all of them; rows may cancel to nothing."""
    rows = dict(zip(parameters, scores.split([p.numel() for p in parameters.values()], 1), strict=True))
    assert norms.keys() == rows.keys()
    for name, norm in norms.items():
        exact = rows[name].norm(dim=1)
        assert (norm >= exact * (1 - 1e-3) - 1e-6 * scores.norm()).all(), name
        assert norm.norm() <= slack * exact.norm() + scores.norm(), name


KEPT = [
    "many_tokens",
    "module_called_twice",
    "conv1d_with_all_options",
    "conv2d_with_all_options",
    "conv3d_with_all_options",
    "wide_convolution_of_few_pixels",
    "convolution_of_frames_folded_into_the_batch",
    "convolution_called_at_two_sizes",
    "frozen_convolution_trainable_bias",
]


@pytest.mark.parametrize("chunk_bytes", [1, 3000, None])
@pytest.mark.parametrize("name", KEPT)
def test_layers_too_large_for_their_rows_give_the_same_products(
    name: str, chunk_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk_bytes is not None:
        monkeypatch.setattr(module, "GRAM_CHUNK_BYTES", chunk_bytes)
        monkeypatch.setattr("ratpg.natgrad.patches.PATCH_BYTES", chunk_bytes)
    case, scores, vector = CASES[name](), problem(name).scores, problem(name).advantages
    recorder = Recorder.over(case.actor, keep_tokens=True)
    with recorder.record():
        log_prob = case.log_prob()
    found = recorder.factors(log_prob)
    assert any(isinstance(factor, TokenFactor) for factor in found)
    g = torch.randn(scores.shape[1], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    named = unflat(g, recorder.parameters)
    products = {n: p for factor in found for n, p in factor.rmatvec(vector).items()}
    squares = {n: p for factor in found for n, p in factor.squares(vector).items()}
    heads = [factor.head(5) for factor in found]
    assert relative_error(gram(found, vector), scores @ scores.T) <= 1e-10
    assert relative_error(gram(heads, vector[:5]), scores[:5] @ scores[:5].T) <= 1e-10
    assert relative_error(torch.stack([f.matvec(named) for f in found]).sum(0), scores @ g) <= 1e-10
    norms = {name: norm for factor in found for name, norm in factor.norms().items()}
    assert_norms_bound_the_rows(norms, scores, recorder.parameters)
    assert relative_error(flat(products[n] for n in recorder.parameters), scores.T @ vector) <= 1e-10
    assert relative_error(flat(squares[n] for n in recorder.parameters), scores.square().T @ vector) <= 1e-10


@pytest.mark.parametrize("chunk_bytes", [1, None])
@pytest.mark.parametrize(("ids", "contracted"), [(3, False), (50, True)])
def test_embedding_gram_is_that_of_its_rows_however_it_is_cut(
    ids: int, contracted: bool, chunk_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk_bytes is not None:
        monkeypatch.setattr(module, "GRAM_CHUNK_BYTES", chunk_bytes)
        monkeypatch.setattr("ratpg.natgrad.embedding.GRAM_CHUNK_BYTES", chunk_bytes)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(ids, (40, 3), generator=generator)
    gradients = torch.randn(40, 3, 4, generator=generator, dtype=torch.float64)
    rows = torch.zeros(40, 60, 4, dtype=torch.float64)
    for sample in range(40):
        for token, gradient in zip(tokens[sample], gradients[sample], strict=True):
            rows[sample, token] += gradient
    factor, flat_rows, v = EmbeddingFactor(tokens, gradients, "weight", 60), rows.flatten(1), gradients[:, 0, 0]
    assert factor.cost().way == ("contraction of equal ids" if contracted else "rows of the ids that occur")
    assert relative_error(gram([factor], v), flat_rows @ flat_rows.T) <= 1e-12
    assert relative_error(factor.squares(v)["weight"], torch.tensordot(v, rows.square(), 1)) <= 1e-12
    assert (factor.norms()["weight"] >= flat_rows.norm(dim=1) * (1 - 1e-12)).all()


def test_no_embedding_factor_is_of_the_size_of_batch_times_vocabulary() -> None:
    # Rows over this vocabulary would take 400 TB.
    tokens = torch.randint(10**9, (1000, 2), generator=torch.Generator().manual_seed(0))
    gradients = torch.ones(1000, 2, 1)
    factor = EmbeddingFactor(tokens, gradients, "weight", 10**11)
    assert torch.equal(gram([factor], gradients[:, 0, 0]), 2 * torch.eye(1000))


def _token_factor(samples: int, tokens: int, d_in: int, d_out: int, bias: str | None = "bias") -> TokenFactor:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, 1, tokens, d_in, generator=generator, dtype=torch.float64)
    gradients = torch.randn(samples, 1, tokens, d_out, generator=generator, dtype=torch.float64)
    return TokenFactor(inputs, gradients, "weight", bias, (d_out, d_in))


def _rows(factor: TokenFactor) -> Tensor:
    """The rows ``Σₜ dᵢₜ aᵢₜᵀ`` and ``Σₜ dᵢₜ``, sample by sample."""
    pairs = zip(factor.inputs[:][:, 0], factor.gradients[:, 0], strict=True)
    return torch.stack([torch.cat([(d.T @ a).flatten(), d.sum(0)]) for a, d in pairs])


@pytest.mark.parametrize("chunk_bytes", [None, 10_000, 1])
@pytest.mark.parametrize("samples", [7, 60, 300])
@pytest.mark.parametrize(("tokens", "d_in", "d_out"), [(2, 16, 12), (9, 3, 2)], ids=["contraction", "rows"])
def test_token_gram_is_that_of_its_rows_however_it_is_cut(
    samples: int, tokens: int, d_in: int, d_out: int, chunk_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk_bytes is not None:
        monkeypatch.setattr(module, "GRAM_CHUNK_BYTES", chunk_bytes)
    factor = _token_factor(samples, tokens, d_in, d_out)
    rows = _rows(factor)
    assert relative_error(gram([factor], rows[:, 0]), rows @ rows.T) <= 1e-12


@pytest.mark.parametrize(("tokens", "d", "contracted"), [(2, 16, True), (20, 6, False)])
def test_token_factor_takes_the_cheaper_way(
    tokens: int, d: int, contracted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(TokenFactor, "_add_contraction", lambda self, gram: calls.append("contraction"))
    monkeypatch.setattr(TokenFactor, "row_slices", lambda self: calls.append("rows") or iter(()))
    factor = _token_factor(12, tokens, d, d, bias=None)
    factor.add_gram(LowerTriangle.of(torch.zeros(12, 12, dtype=torch.float64)))
    assert calls == (["contraction"] if contracted else ["rows"])


@pytest.mark.parametrize("chunk_bytes", [None, 1])
def test_both_ways_of_a_token_factor_agree(chunk_bytes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if chunk_bytes is not None:
        monkeypatch.setattr(module, "GRAM_CHUNK_BYTES", chunk_bytes)
    factor = _token_factor(40, 3, 4, 5, bias=None)
    by_rows = sum(rows.flatten(1) @ rows.flatten(1).T for rows in factor.row_slices())
    by_contraction = LowerTriangle.of(torch.zeros(40, 40, dtype=torch.float64))
    factor._add_contraction(by_contraction)
    assert relative_error(by_contraction.dense(), by_rows) <= 1e-12


def test_one_token_is_an_outer_factor() -> None:
    tokens = _token_factor(30, 1, 4, 5)
    outer = OuterFactor(tokens.inputs[:][:, 0, 0], tokens.gradients[:, 0, 0], "weight", "bias")
    like = outer.inputs[:, 0]
    assert relative_error(gram([outer], like), gram([tokens], like)) <= 1e-12
    assert relative_error(flat(outer.rmatvec(like)), flat(tokens.rmatvec(like))) <= 1e-12
    assert relative_error(flat(outer.norms().values()), flat(tokens.norms().values())) <= 1e-12


def test_gram_is_the_sum_over_factors() -> None:
    tokens, rows = _token_factor(300, 2, 4, 5), _token_factor(300, 4, 2, 1).inputs[:][:, 0]
    dense = DenseFactor(rows, "other")
    expected = gram([tokens], rows[:, 0, 0]) + rows.flatten(1) @ rows.flatten(1).T
    assert relative_error(gram([tokens, dense], rows[:, 0, 0]), expected) <= 1e-12


@pytest.mark.parametrize("size", [1, 255, 256, 257, 600])
def test_gram_is_exactly_symmetric(size: int) -> None:
    rows = torch.randn(size, 3, generator=torch.Generator().manual_seed(0))
    k = gram([DenseFactor(rows, "p"), OuterFactor(rows, rows, "w", "b")], rows[:, 0])
    assert torch.equal(k.tril(-1), k.triu(1).T)
