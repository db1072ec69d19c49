"""Cases: attention and recurrence, from the bare layers to the blocks policies are built of."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .case import BATCH, Case, case, gaussian, gaussian_case, perceptron


@case
def gru() -> Case:
    actor = nn.ModuleList([nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)])
    return gaussian_case(actor, (4, 6), forward=lambda obs: actor[1](actor[0](obs)[0][:, -1]))


@case
def lstm() -> Case:
    actor = nn.ModuleList([nn.LSTM(6, 5), nn.Linear(5, 3)])
    return gaussian_case(actor, (4, 6), forward=lambda obs: actor[1](actor[0](obs.transpose(0, 1))[0][-1]))


@case
def packed_lstm() -> Case:
    actor = nn.ModuleList([nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)])
    lengths = torch.arange(BATCH) % 4 + 1

    def forward(obs: Tensor) -> Tensor:
        packed = pack_padded_sequence(obs, lengths[: len(obs)], batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(actor[0](packed)[0], batch_first=True)
        return actor[1](outputs.sum(1))

    return gaussian_case(actor, (4, 6), forward=forward)


@case
def deep_bidirectional_gru() -> Case:
    actor = nn.ModuleList([nn.GRU(6, 4, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(8, 3)])
    return gaussian_case(actor, (3, 6), forward=lambda obs: actor[1](actor[0](obs)[0].mean(1)))


@case
def lstm_cell_over_time() -> Case:
    actor = nn.ModuleList([nn.Linear(6, 5), nn.LSTMCell(5, 4), nn.Linear(4, 3)])

    def forward(obs: Tensor) -> Tensor:
        state = None
        for observation in obs.unbind(1):
            state = actor[1](actor[0](observation).tanh(), state)
        return actor[2](state[0])

    return gaussian_case(actor, (3, 6), forward=forward)


@case
def lstm_policy_whose_steps_are_samples() -> Case:
    # Three environments of four steps are twelve samples, and each depends on the steps before it.
    actor = nn.ModuleList([nn.Linear(6, 5), nn.LSTM(5, 4), nn.Linear(4, 3)])

    def forward(obs: Tensor) -> Tensor:
        steps = actor[0](obs).tanh().view(4, 3, 5)
        return actor[2](actor[1](steps)[0].flatten(0, 1))

    return gaussian_case(actor, forward=forward)


@case
def attention_block() -> Case:
    actor = nn.ModuleList([nn.MultiheadAttention(6, 2, batch_first=True), nn.LayerNorm(6), perceptron(6, 8, 3)])

    def forward(obs: Tensor) -> Tensor:
        h = actor[1](obs + actor[0](obs, obs, obs, need_weights=False)[0])
        return actor[2](h).mean(1)

    return gaussian_case(actor, (4, 6), forward=forward)


@case
def cross_attention_of_other_widths() -> Case:
    actor = nn.ModuleList([nn.MultiheadAttention(6, 2, kdim=4, vdim=5, batch_first=True), nn.Linear(6, 3)])

    def forward(obs: Tensor) -> Tensor:
        return actor[1](actor[0](obs, obs[..., :4].tanh(), obs[..., :5])[0].mean(1))

    return gaussian_case(actor, (3, 6), forward=forward)


@case
def transformer_encoder_layer() -> Case:
    actor = nn.Sequential(nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True), nn.Linear(6, 3))
    return gaussian_case(actor, (3, 6), forward=lambda obs: actor(obs).mean(1))


class Block(nn.Module):
    """A pre-norm transformer block of linear layers, with an attention that may be causal."""

    def __init__(self, width: int, heads: int, causal: bool, norm: type[nn.Module] = nn.LayerNorm):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norms = nn.ModuleList([norm(width), norm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = perceptron(width, 2 * width, width, activation=nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # [B, heads, T, width / heads]
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class ViT(nn.Module):
    """Patches by a convolution, a class token and positions, one block, a head on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.block, self.head = nn.Conv2d(3, 6, 2, stride=2), Block(6, 2, causal=False), nn.Linear(6, 3)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.position = nn.Parameter(torch.randn(1, 7, 6))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)
        return self.head(self.block(x + self.position)[:, 0])


@case
def vit() -> Case:
    return gaussian_case(ViT(), (3, 4, 6))


class GPT(nn.Module):
    """Token and position embeddings, causal blocks, a head; log-probability of all tokens but the first."""

    def __init__(self, tied: bool, norm: type[nn.Module] = nn.LayerNorm):
        super().__init__()
        self.token, self.position = nn.Embedding(7, 6), nn.Embedding(9, 6)
        self.blocks = nn.Sequential(Block(6, 2, True, norm), Block(6, 2, True, norm))
        self.norm, self.head = norm(6), nn.Linear(6, 7, bias=False)
        if tied:
            self.head.weight = self.token.weight

    def log_prob(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1] - 1, device=tokens.device).expand(len(tokens), -1)
        x = self.token(tokens[:, :-1]) + self.position(positions)
        logits = self.head(self.norm(self.blocks(x)))
        return Categorical(logits=logits).log_prob(tokens[:, 1:]).sum(1)


def _gpt(tied: bool, norm: type[nn.Module] = nn.LayerNorm) -> Case:
    actor = GPT(tied, norm)
    return Case(actor, (torch.randint(7, (BATCH, 6)),), actor.log_prob)


@case
def gpt() -> Case:
    return _gpt(tied=False)


@case
def gpt_with_tied_embeddings() -> Case:
    return _gpt(tied=True)


@case
def gpt_with_rms_norm() -> Case:
    return _gpt(tied=False, norm=nn.RMSNorm)


def _embedded(layer: nn.Embedding, tokens: int, ids: int | None = None) -> Case:
    """The mean of embedded tokens, and a linear layer."""
    actor = nn.ModuleList([layer, nn.Linear(layer.embedding_dim, 3)])
    data = torch.randint(ids or layer.num_embeddings, (BATCH, tokens)), torch.randn(BATCH, 3)
    return Case(actor, data, lambda ids, action: gaussian(actor[1](actor[0](ids).tanh().mean(1)), action))


@case
def embedding_of_a_large_vocabulary() -> Case:
    return _embedded(nn.Embedding(300, 4), 3)


@case
def embedding_of_few_ids() -> Case:
    # Rows over the ids that occur are the cheaper way.
    return _embedded(nn.Embedding(300, 4), 8, ids=3)


@case
def embedding_with_padding() -> Case:
    return _embedded(nn.Embedding(5, 4, padding_idx=2), 4)


@case
def embedding_of_one_id_a_sample() -> Case:
    actor = nn.Sequential(nn.Embedding(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return Case(
        actor, (torch.randint(6, (BATCH,)), torch.randn(BATCH, 3)), lambda ids, action: gaussian(actor(ids), action)
    )


def _bag(mode: str, padding: int | None, weighted: bool = False) -> Case:
    actor = nn.ModuleList([nn.EmbeddingBag(6, 5, mode=mode, padding_idx=padding), nn.Linear(5, 3)])
    data = torch.randint(6, (BATCH, 4)), torch.randn(BATCH, 3), torch.rand(BATCH, 4)

    def compute(ids: Tensor, action: Tensor, share: Tensor) -> Tensor:
        bags = actor[0](ids, per_sample_weights=share if weighted else None)
        return gaussian(actor[1](bags.tanh()), action)

    return Case(actor, data, compute)


@case
def embedding_bag_of_means() -> Case:
    return _bag("mean", padding=1)


@case
def embedding_bag_of_sums() -> Case:
    return _bag("sum", padding=None)


@case
def embedding_bag_of_maxima() -> Case:
    return _bag("max", padding=None)


@case
def embedding_bag_with_weights() -> Case:
    return _bag("sum", padding=None, weighted=True)


@case
def embedding_bag_with_offsets() -> Case:
    actor = nn.ModuleList([nn.EmbeddingBag(6, 5), nn.Linear(5, 3)])
    data = torch.randint(6, (3 * BATCH,)), torch.arange(BATCH) * 3 - torch.arange(BATCH) % 2, torch.randn(BATCH, 3)
    return Case(actor, data, lambda ids, offsets, action: gaussian(actor[1](actor[0](ids, offsets).tanh()), action))
