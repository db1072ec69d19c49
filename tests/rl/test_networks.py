"""Image networks: the published sizes, and what they are fed."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from ratpg.rl.networks.impala import IMPALA
from ratpg.rl.networks.nature_cnn import NatureCNN

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "nature": lambda: NatureCNN((2, 40, 36), (2, 3, 4), 5),
    "impala": lambda: IMPALA((2, 40, 36), (2, 3), 5),
}


def test_nature_cnn_has_the_published_size() -> None:
    network = NatureCNN((4, 84, 84))
    # 4 x 8 x 8 x 32, 32 x 4 x 4 x 64, 64 x 3 x 3 x 64 and 3136 x 512 weights, and a bias a channel.
    assert sum(p.numel() for p in network.parameters()) == 8192 + 32768 + 36864 + 1605632 + 32 + 64 + 64 + 512
    assert network(torch.rand(2, 4, 84, 84)).shape == (2, 512)


def test_impala_has_the_published_size() -> None:
    network = IMPALA((3, 64, 64))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [16] * 5 + [32] * 10
    assert network.head.weight.shape == (256, 8 * 8 * 32)
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 256)


@pytest.mark.parametrize("kind", NETWORKS)
def test_bytes_are_the_same_images_as_floats(kind: str) -> None:
    network = NETWORKS[kind]()
    images = torch.randint(256, (3, 2, 40, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(images), network(images.float() / 255))
    with pytest.raises(TypeError, match="int64"):
        network(images.long())


@pytest.mark.parametrize("kind", NETWORKS)
def test_per_sample_gradients_by_vmap_are_those_of_a_loop(kind: str) -> None:
    network = NETWORKS[kind]().double()
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    images = torch.rand(3, 2, 40, 36, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(values: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return functional_call(network, values, (image[None],)).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, images)
    for index, image in enumerate(images):
        for name, gradient in grad(loss)(parameters, image).items():
            torch.testing.assert_close(together[name][index], gradient)


def test_images_too_small_for_the_kernels_are_refused() -> None:
    NatureCNN((1, 36, 36), (1, 1, 1), 1)
    with pytest.raises(ValueError, match="35 x 84"):
        NatureCNN((1, 35, 84))
