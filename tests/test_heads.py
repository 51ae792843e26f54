"""Heads: which layer of a network computes its logits."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from tests.small_training import make_network
from train_pytorch_model.models.heads import Head, find_head
from train_pytorch_model.models.libraries import Torchvision

# The smallest network of each family, the size of its images here, and what its library calls the head.
TORCHVISION = [
    ("alexnet", 64, "classifier.6"),
    ("convnext_tiny", 32, "classifier.2"),
    ("densenet121", 32, "classifier"),
    ("efficientnet_b0", 32, "classifier.1"),
    ("efficientnet_v2_s", 32, "classifier.1"),
    ("googlenet", 64, "fc"),
    ("inception_v3", 96, "fc"),
    ("maxvit_t", 224, "classifier.5"),
    ("mnasnet0_5", 32, "classifier.1"),
    ("mobilenet_v2", 32, "classifier.1"),
    ("mobilenet_v3_small", 32, "classifier.3"),
    ("regnet_x_400mf", 32, "fc"),
    ("regnet_y_400mf", 32, "fc"),
    ("resnet18", 32, "fc"),
    ("resnext50_32x4d", 32, "fc"),
    ("shufflenet_v2_x0_5", 32, "fc"),
    ("squeezenet1_0", 64, "classifier.1"),
    ("squeezenet1_1", 64, "classifier.1"),
    ("swin_t", 32, "head"),
    ("swin_v2_t", 32, "head"),
    ("vgg11", 32, "classifier.6"),
    ("vit_b_32", 224, "heads.head"),
    ("wide_resnet50_2", 32, "fc"),
]
TIMM = [
    ("resnet10t", 32),
    ("tf_efficientnet_lite0", 32),
    ("mobilenetv4_conv_small_035", 32),
    ("vit_tiny_patch16_224", 224),
    ("convnext_atto", 32),
    ("regnetx_002", 32),
    ("lcnet_035", 32),
    ("test_vit", 160),
    ("test_byobnet", 160),
    ("test_resnet", 160),
    ("test_efficientnet", 160),
    ("test_nfnet", 160),
    ("test_mambaout", 160),
]


@pytest.mark.parametrize(("name", "side", "head"), TORCHVISION)
def test_the_head_of_torchvisions_networks_is_found(name: str, side: int, head: str) -> None:
    fast = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = Torchvision().describe(name, {"num_classes": 7, **fast}).build()
    found = find_head(network, (side, side))
    assert isinstance(found, Head)
    assert found.name == head
    assert found.is_rectified == name.startswith("squeezenet")
    state = network.state_dict()
    assert found.shape == tuple(state[f"{head}.weight"].shape)
    assert found.parameter_names == {key for key in state if key.startswith(f"{head}.")}


def test_every_family_of_torchvision_is_tried() -> None:
    def family(name: str) -> str:
        return name.rstrip("0123456789_").split("_")[0].rstrip("0123456789")

    names = torchvision.models.list_models(module=torchvision.models)
    assert {family(name) for name in names} == {family(name) for name, _, _ in TORCHVISION}


@pytest.mark.parametrize(("name", "side"), TIMM)
def test_the_head_of_timms_networks_is_its_classifier(name: str, side: int) -> None:
    network = timm.create_model(name, num_classes=7)
    found = find_head(network, (side, side))
    assert isinstance(found, Head)
    assert network.get_submodule(found.name) is network.get_classifier()


def test_a_network_is_left_as_it_was() -> None:
    network = make_network().train()
    network[1].eval()  # as a network whose statistics are frozen
    before = {key: value.clone() for key, value in network.state_dict().items()}
    random = torch.random.get_rng_state()
    assert isinstance(find_head(network, (12, 12)), Head)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [module.training for module in network] == [True, False, True, True, True, True]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())


class Ends(nn.Module):
    """A network with the given end after its head."""

    def __init__(self, *end: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(6, 4, bias=bias)
        self.end = nn.Sequential(*end)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.end(self.head(self.body(images)))
        return result


class Distilled(Ends):
    """Averages two heads, as distilled vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        return (self.head(features) + self.other(features)) / 2


def test_dropout_after_the_head_does_nothing_in_evaluation() -> None:
    assert find_head(Ends(nn.Dropout(0.5)), (8, 8)) == Head("head", (4, 6), has_bias=True, is_rectified=False)


def test_a_head_of_zeros_is_found() -> None:
    network = Ends()
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    assert isinstance(find_head(network, (8, 8)), Head)


def test_a_head_without_bias_is_found() -> None:
    head = find_head(Ends(bias=False), (8, 8))
    assert head == Head("head", (4, 6), has_bias=False, is_rectified=False)
    assert head.parameter_names == {"head.weight"}


@pytest.mark.parametrize(
    "network",
    [
        Ends(nn.Softmax(1)),
        Ends(nn.ReLU()),
        Ends(nn.LayerNorm(4)),
        Distilled(),
        nn.utils.parametrizations.weight_norm(nn.Sequential(nn.Flatten(), nn.Linear(192, 4))[1]),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten()),
    ],
)
def test_other_ends_of_networks_are_refused_with_a_reason(network: nn.Module) -> None:
    if isinstance(network, nn.Linear):
        network = nn.Sequential(nn.Flatten(), network)
    before = network.state_dict().keys()
    reason = find_head(network, (8, 8))
    assert isinstance(reason, str)
    assert network.state_dict().keys() == before


@pytest.mark.parametrize("seed", range(10))
def test_a_relu_behind_the_head_is_seen_with_any_weights_of_the_body(seed: int) -> None:
    """With few classes, all logits of the trial are often positive, and the ReLU changes none of them."""
    torch.manual_seed(seed)
    network = Ends(nn.ReLU())
    network.head = nn.Linear(6, 1)
    assert isinstance(find_head(network, (8, 8)), str)
