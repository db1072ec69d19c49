"""Cases: convolutions of every kind, the networks agents see images with, and the layers that go with them."""

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from ratpg.rl.networks.impala import IMPALA
from ratpg.rl.networks.nature_cnn import NatureCNN

from .case import BATCH, Case, case, gaussian, gaussian_case


def _pooled(*layers: nn.Module, channels: int, axes: int = 2, shape: tuple[int, ...]) -> Case:
    """Layers, a mean over pixels, and a linear layer."""
    actor = nn.Sequential(*layers, nn.Linear(channels, 3))
    dims = tuple(range(2, 2 + axes))
    return gaussian_case(actor, shape, forward=lambda obs: actor[-1](actor[:-1](obs).mean(dims)))


@case
def conv1d_net() -> Case:
    actor = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 3, 3), nn.Flatten(), nn.Linear(12, 3))
    return gaussian_case(actor, (2, 8))


@case
def conv2d_net() -> Case:
    actor = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Flatten(), nn.Linear(12, 3))
    return gaussian_case(actor, (2, 7, 7))


@case
def conv3d_net() -> Case:
    layers = nn.Conv3d(2, 4, (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 1)), nn.Tanh(), nn.Conv3d(4, 3, 2)
    return _pooled(*layers, channels=3, axes=3, shape=(2, 3, 5, 4))


@case
def conv1d_with_all_options() -> Case:
    layer = nn.Conv1d(4, 6, 3, stride=2, padding=3, dilation=2, groups=2, bias=False, padding_mode="replicate")
    return _pooled(layer, nn.Tanh(), channels=6, axes=1, shape=(4, 9))


@case
def conv2d_with_all_options() -> Case:
    layer = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 3), groups=2, padding_mode="reflect")
    return _pooled(layer, nn.Tanh(), channels=6, shape=(4, 7, 6))


@case
def conv3d_with_all_options() -> Case:
    layer = nn.Conv3d(
        2, 4, (2, 1, 3), stride=(1, 2, 1), padding=(1, 0, 2), dilation=(1, 1, 2), groups=2, padding_mode="circular"
    )
    return _pooled(layer, nn.Tanh(), channels=4, axes=3, shape=(2, 3, 4, 5))


@case
def conv_padded_to_the_same_size() -> Case:
    layers = nn.Conv2d(2, 4, (3, 5), padding="same", dilation=(1, 2)), nn.Tanh(), nn.Conv2d(4, 3, 2, padding="valid")
    return _pooled(*layers, channels=3, shape=(2, 5, 6))


@case
def depthwise_separable_convolution() -> Case:
    layers = nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.ReLU()
    return _pooled(*layers, channels=5, shape=(4, 6, 6))


@case
def wide_convolution_of_few_pixels() -> Case:
    # The contraction is the cheaper way.
    layers = nn.Conv2d(12, 16, 2, groups=2), nn.Tanh(), nn.Conv2d(16, 16, (1, 2))
    return _pooled(*layers, channels=16, shape=(12, 2, 3))


@case
def inplace_relu_after_convolutions() -> Case:
    layers = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 3), nn.ReLU(inplace=True)
    return _pooled(*layers, channels=3, shape=(2, 5, 5))


@case
def frozen_convolution_trainable_bias() -> Case:
    actor = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 2), nn.Flatten(), nn.Linear(12, 3))
    actor[2].weight.requires_grad_(False)
    actor[0].bias.requires_grad_(False)
    return gaussian_case(actor, (2, 5, 5))


@case
def convolution_of_frames_folded_into_the_batch() -> Case:
    actor = nn.ModuleList([nn.Conv2d(1, 4, 2), nn.Linear(4, 3)])

    def forward(obs: Tensor) -> Tensor:
        features = actor[0](obs.flatten(0, 1)).tanh().mean((2, 3)).unflatten(0, obs.shape[:2])
        return actor[1](features.sum(1))

    return gaussian_case(actor, (3, 1, 4, 5), forward=forward)


@case
def convolution_called_at_two_sizes() -> Case:
    actor = nn.ModuleList([nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3)])

    def forward(obs: Tensor) -> Tensor:
        whole, half = actor[0](obs), actor[0](obs[:, :, ::2, ::2])
        return actor[1](whole.tanh().mean((2, 3)) - half.tanh().mean((2, 3)))

    return gaussian_case(actor, (2, 5, 6), forward=forward)


@case
def tied_convolutions_of_different_strides() -> Case:
    actor = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, stride=2), nn.Linear(3, 3)])
    actor[1].weight, actor[1].bias = actor[0].weight, actor[0].bias
    return gaussian_case(
        actor, (3, 6, 6), forward=lambda obs: actor[2](actor[1](actor[0](obs).tanh()).tanh().mean((2, 3)))
    )


@case
def channels_last_images() -> Case:
    actor = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Flatten(), nn.Linear(12, 3))
    actor.to(memory_format=torch.channels_last)
    return gaussian_case(actor, (2, 5, 5), forward=lambda obs: actor(obs.contiguous(memory_format=torch.channels_last)))


@case
def one_image() -> Case:
    actor = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    return gaussian_case(actor, (2, 5, 5), batch=1)


@case
def image_without_a_batch_dimension() -> Case:
    actor = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(0), nn.Linear(36, 3))
    return gaussian_case(actor, (2, 5, 5), batch=1, forward=lambda obs: actor(obs[0])[None])


@case
def image_common_to_all_samples() -> Case:
    # A convolution over one map, whatever the batch.
    actor = nn.ModuleList([nn.Conv2d(2, 4, 3), nn.Linear(10, 3)])
    data = torch.randn(BATCH, 6), torch.randn(BATCH, 3), torch.randn(1, 2, 4, 4)

    def compute(obs: Tensor, action: Tensor, chart: Tensor) -> Tensor:
        seen = actor[0](chart).tanh().mean((2, 3)).expand(len(obs), -1)
        return gaussian(actor[1](torch.cat([obs, seen], 1)), action)

    return Case(actor, data, compute)


@case
def transposed_convolution() -> Case:
    return _pooled(nn.ConvTranspose2d(2, 4, 3, stride=2), nn.Tanh(), channels=4, shape=(2, 3, 4))


@case
def batch_norm_between_convolutions_in_eval_mode() -> Case:
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.randn(4), torch.rand(4) + 0.5
    actor = _pooled(nn.Conv2d(2, 4, 3), norm, nn.ReLU(), channels=4, shape=(2, 5, 5))
    actor.actor.eval()
    return actor


@case
def group_norm_net() -> Case:
    layers = nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.GroupNorm(1, 4)
    return _pooled(*layers, channels=4, shape=(2, 5, 5))


@case
def group_norm_of_each_channel() -> Case:
    # It takes away what the bias before it adds.
    layers = nn.Conv2d(2, 4, 3), nn.GroupNorm(4, 4), nn.Tanh(), nn.Conv2d(4, 4, 2)
    return _pooled(*layers, channels=4, shape=(2, 5, 5))


@case
def instance_norm_net() -> Case:
    return _pooled(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ReLU(), channels=4, shape=(2, 5, 5))


@case
def layer_norm_over_whole_images() -> Case:
    return _pooled(nn.Conv2d(2, 4, 3), nn.LayerNorm((4, 3, 3)), nn.ReLU(), channels=4, shape=(2, 5, 5))


@case
def nature_cnn() -> Case:
    actor = nn.Sequential(NatureCNN((1, 36, 44), (2, 3, 4), 8), nn.Linear(8, 4))
    data = torch.rand(BATCH, 1, 36, 44), torch.randint(4, (BATCH,))
    return Case(actor, data, lambda obs, action: Categorical(logits=actor(obs)).log_prob(action))


@case
def impala_actor_critic() -> Case:
    actor = nn.ModuleList([IMPALA((3, 9, 8), (2, 4, 3), 8), nn.Linear(8, 5), nn.Linear(8, 1)])
    data = torch.rand(BATCH, 3, 9, 8), torch.randint(5, (BATCH,)), torch.randn(BATCH, 1)

    def compute(obs: Tensor, action: Tensor, target: Tensor) -> Tensor:
        features = actor[0](obs)
        return Categorical(logits=actor[1](features)).log_prob(action) + gaussian(actor[2](features), target, 0.0)

    return Case(actor, data, compute)


@case
def impala_with_a_frozen_first_section() -> Case:
    actor = nn.Sequential(IMPALA((3, 9, 8), (2, 4), 8), nn.Linear(8, 3))
    actor[0].sections[:4].requires_grad_(False)
    return gaussian_case(actor, (3, 9, 8))
