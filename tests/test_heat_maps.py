"""Heat maps are right on planted marks, equal to Grad-CAM computed by hand, and leave the network as it was."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn import functional

from train_pytorch_model.serving.heat_maps import Grid, HeatMapError, HeatMaps, find_grid
from train_pytorch_model.serving.heat_pictures import draw_explanation, draw_heat

pytest.importorskip("captum")

SIDE = 48
MARK = 10


def marked_images(count: int, seed: int = 0, side: int = SIDE) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise whose class is decided by a mark near the upper left corner alone: dark in class 0, bright in class 1."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, side, side, generator=generator) * 0.4
    labels = torch.arange(count) % 2
    for image, label in zip(images, labels):
        top, left = torch.randint(0, side // 2 - MARK, (2,), generator=generator).tolist()
        image[:, top : top + MARK, left : left + MARK] += 3.0 * label - 1.5
    return images, labels


def small_cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2)),
    )


def cnn_of_full_size() -> nn.Module:
    """A network whose features have as many rows and columns as the image."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
    )


def small_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(SIDE, 8, 2, 2, 32, 64, num_classes=2)


def network_of_pixels() -> nn.Module:
    return nn.Sequential(
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3 * (SIDE // 2) ** 2, 16), nn.ReLU(), nn.Linear(16, 2)
    )


def alexnet() -> nn.Module:
    network = torchvision.models.alexnet()
    network.classifier = nn.Linear(256 * 6 * 6, 2)
    return network


def narrow_vgg11() -> nn.Module:
    layers = (16, "M", 32, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M")
    network = torchvision.models.VGG(torchvision.models.vgg.make_layers(list(layers)))
    network.classifier = nn.Linear(64 * 7 * 7, 2)
    return network


def trained(make: Callable[[], nn.Module], steps: int = 150, side: int = SIDE) -> nn.Module:
    torch.manual_seed(0)
    network = make().train()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for step in range(steps):
        images, labels = marked_images(32, seed=step, side=side)
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = marked_images(64, seed=10_000, side=side)
    assert (network.eval()(images).argmax(1) == labels).float().mean() > 0.95
    return network


def fractions_in_the_corner(network: nn.Module, side: int) -> list[float]:
    """For each class, the mean fraction of the heat that is in the upper left quarter."""
    heat_maps = HeatMaps(network)
    images, labels = marked_images(20, seed=20_000, side=side)
    fractions: dict[int, list[float]] = {0: [], 1: []}
    for image, label in zip(images, labels.tolist()):
        heat = heat_maps.heat(image[None], label)
        assert heat.shape == (side, side)
        assert heat.min() >= 0
        fractions[label].append(float(heat[: side // 2, : side // 2].sum() / heat.sum()))
    return [float(np.mean(fractions[label])) for label in (0, 1)]


@pytest.mark.parametrize("make", [small_cnn, cnn_of_full_size, small_vit, network_of_pixels])
def test_the_corner_that_decides_lights_up(make: Callable[[], nn.Module]) -> None:
    # By chance, a quarter of the image has a quarter of the heat.
    assert min(fractions_in_the_corner(trained(make), SIDE)) > 0.6


@pytest.mark.parametrize(("make", "side"), [(alexnet, 64), (narrow_vgg11, 32)])
def test_the_corner_lights_up_where_the_last_features_have_one_position(
    make: Callable[[], nn.Module], side: int
) -> None:
    """Such a network may know one of the two classes by the lack of the mark of the other one."""
    assert max(fractions_in_the_corner(trained(make, 80, side), side)) > 0.6


def test_heat_is_grad_cam_for_a_network_that_averages_its_features() -> None:
    torch.manual_seed(1)
    network = torchvision.models.resnet18(num_classes=5).eval()
    image = torch.randn(1, 3, 128, 160)
    kept: list[torch.Tensor] = []
    handle = network.layer4.register_forward_hook(lambda _, __, output: kept.append(output))
    logit = network(image)[0, 3]
    handle.remove()
    (gradient,) = torch.autograd.grad(logit, kept[0])
    by_hand = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1).relu()
    expected = functional.interpolate(by_hand[None], (128, 160), mode="bilinear")[0, 0].detach()
    assert expected.max() > 0
    torch.testing.assert_close(HeatMaps(network).heat(image, 3), expected)


def test_the_network_is_left_as_it_was() -> None:
    network = small_cnn().train()
    network[1].eval()
    network[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    image = torch.randn(1, 3, SIDE, SIDE)
    first, again = (HeatMaps(network).heat(image, 0) for _ in range(2))
    assert torch.equal(first, again)
    assert [module.training for module in network] == [True, False, *[True] * 7]
    assert [parameter.requires_grad for parameter in network.parameters()] == wanted
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert not image.requires_grad


def test_heat_of_a_model_that_averages_mirrored_images_is_symmetric() -> None:
    heat_maps = HeatMaps(small_cnn(), averages_mirrored=True)
    image = torch.randn(1, 3, SIDE, SIDE)
    torch.testing.assert_close(heat_maps.heat(image, 1), heat_maps.heat(image.flip(3), 1).flip(1))


def test_heat_is_computed_where_gradients_are_off() -> None:
    network = small_cnn().eval()
    image = torch.randn(1, 3, SIDE, SIDE)
    expected = HeatMaps(network).heat(image, 0)
    with torch.inference_mode():
        assert torch.equal(HeatMaps(network).heat(image.clone(), 0), expected)


LAYERS = {
    "resnet18": Grid("layer4"),
    "densenet121": Grid("features"),
    "squeezenet1_1": Grid("classifier.0"),
    "mobilenet_v3_small": Grid("features"),
    "efficientnet_b0": Grid("features"),
    "googlenet": Grid("inception5b"),
    "vgg11": Grid("avgpool"),
    "alexnet": Grid("avgpool"),
    "convnext_tiny": Grid("features"),
    "shufflenet_v2_x0_5": Grid("conv5"),
    "mnasnet0_5": Grid("layers"),
    "regnet_y_400mf": Grid("trunk_output"),
    "swin_t": Grid("permute"),
    "maxvit_t": Grid("blocks.3"),
    "vit_b_32": Grid("conv_proj", is_mixed_later=True),
}
TIMM_LAYERS = {
    "resnet10t": Grid("layer4"),
    "convnext_atto": Grid("norm_pre"),
    "vit_tiny_patch16_224": Grid("patch_embed.proj", is_mixed_later=True),
    "swin_tiny_patch4_window7_224": Grid("norm", is_channels_last=True),
    "mixer_s32_224": Grid("stem.proj", is_mixed_later=True),
}


def grid_of(make: Callable[..., nn.Module], side: int = 224, **arguments: object) -> Grid:
    network = make(num_classes=3, **arguments).to("meta").eval().requires_grad_(False)  # shapes alone tell
    return find_grid(network, torch.empty(1, 3, side, side, device="meta"))


@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_of_each_family_of_torchvision(name: str) -> None:
    aux = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # the latter needs no time for random weights
        assert grid_of(getattr(torchvision.models, name), **aux) == LAYERS[name]


def test_the_layer_of_inception() -> None:
    with torch.device("meta"):
        assert grid_of(torchvision.models.inception_v3, 299, init_weights=False) == Grid("Mixed_7c")


@pytest.mark.parametrize("name", TIMM_LAYERS)
def test_the_layer_of_each_family_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    assert grid_of(lambda num_classes: timm.create_model(name, num_classes=num_classes)) == TIMM_LAYERS[name]


@pytest.mark.parametrize("name", ["squeezenet1_1", "timm/test_vit", "timm/test_convnext"])
def test_networks_of_the_libraries_have_heat(name: str) -> None:
    torch.manual_seed(0)
    if name.startswith("timm/"):
        network = pytest.importorskip("timm").create_model(name.partition("/")[2], num_classes=3)
        nn.init.normal_(network.get_classifier().weight)
    else:
        network = torchvision.models.squeezenet1_1(num_classes=3)
    heat = HeatMaps(network).heat(torch.randn(1, 3, 160, 160), 1)
    assert heat.shape == (160, 160)
    assert heat.isfinite().all()
    assert heat.max() > 0


def test_small_images_are_explained_by_a_layer_with_enough_positions() -> None:
    network = torchvision.models.resnet18(num_classes=2).eval().requires_grad_(False)
    # Its last features have one position for 32x32 pixels, and 2x2 for 64x64.
    assert find_grid(network, torch.randn(1, 3, 32, 32)) == Grid("layer2")
    assert find_grid(network, torch.randn(1, 3, 64, 64)) == Grid("layer3")
    assert find_grid(network, torch.randn(1, 3, 8, 8)) == Grid("relu")


SMALL_LAYERS = [("alexnet", 64, "features.4"), ("vgg11", 32, "features.14"), ("vgg11", 48, "features.14")]


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize(("name", "side", "layer"), SMALL_LAYERS)
def test_a_pooling_that_repeats_positions_is_not_a_grid(name: str, side: int, layer: str, is_nested: bool) -> None:
    """AlexNet and VGG have one position for such images, which their adaptive pooling repeats 36 or 49 times."""

    def make(num_classes: int) -> nn.Module:
        network = getattr(torchvision.models, name)(num_classes=num_classes)
        if not is_nested:
            return network
        return nn.Sequential(
            nn.Sequential(network.features, network.avgpool, nn.Dropout()), nn.Flatten(), network.classifier
        )

    with torch.device("meta"):
        found = grid_of(make, side)
    assert found == Grid(layer.replace("features", "0.0") if is_nested else layer)


def test_a_network_without_a_grid_is_explained_by_its_pixels() -> None:
    class TwoWays(nn.Module):
        """No layer sees everything: two branches of the image are joined in the logits."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = small_cnn(), small_cnn()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.first(images) + self.second(images)

    network = TwoWays().eval().requires_grad_(False)
    assert find_grid(network, torch.randn(1, 3, SIDE, SIDE)) == Grid("", is_mixed_later=True)
    assert HeatMaps(network).heat(torch.randn(1, 3, SIDE, SIDE), 0).max() > 0


def test_a_missing_captum_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(HeatMapError, match=r"need the package captum, which is not installed.*\[explain\]"):
        HeatMaps(small_cnn()).heat(torch.randn(1, 3, SIDE, SIDE), 0)
    module = importlib.import_module("train_pytorch_model.serving.heat_maps")
    monkeypatch.setattr(module.sys, "version_info", (3, 9, 25))
    with pytest.raises(HeatMapError, match=r"need captum and Python 3\.10 or later, and this is Python 3\.9"):
        HeatMaps(small_cnn()).heat(torch.randn(1, 3, SIDE, SIDE), 0)


def test_the_picture_shows_the_image_and_its_heat() -> None:
    pixels = np.full((32, 40, 3), 100, dtype=np.uint8)
    heat = np.zeros((32, 40))
    heat[:8, :10] = 5.0
    drawn = np.asarray(draw_heat(pixels, heat)).astype(int)
    assert (drawn[16:, 20:] == 100).all()  # no heat, and a grey image
    assert drawn[0, 0].min() > 100  # the strongest heat is light yellow
    assert drawn[0, 0, 0] > drawn[0, 0, 2] + 30
    with Image.open(io.BytesIO(draw_explanation(pixels, heat, "98.0 %  cat"))) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 224
    no_heat = draw_explanation(pixels, np.zeros((32, 40)), "98.0 %  図")
    with Image.open(io.BytesIO(no_heat)) as picture:
        assert picture.mode == "RGB"


@pytest.mark.parametrize(
    ("title", "drawn"), [("9 %  Grünspan", "9 %  Grunspan"), ("9 %  ß図", "9 %  ??"), ("9 %  a\nb\ud800", "9 %  a?b?")]
)
def test_letters_that_the_font_lacks_are_replaced(title: str, drawn: str) -> None:
    pixels, heat = np.zeros((8, 8, 3), dtype=np.uint8), np.zeros((8, 8))
    assert draw_explanation(pixels, heat, title) == draw_explanation(pixels, heat, drawn)


def test_a_picture_of_a_narrow_image_has_room_for_the_words() -> None:
    with Image.open(io.BytesIO(draw_explanation(np.zeros((600, 20, 3), np.uint8), np.zeros((600, 20)), ""))) as tall:
        assert tall.width >= 2 * 224


@pytest.mark.parametrize(("make", "expected"), [(small_cnn, 1), (small_vit, 32)])
def test_the_number_of_passes(make: Callable[[], nn.Module], expected: int) -> None:
    network, images = make(), torch.randn(1, 3, SIDE, SIDE)
    calls: list[int] = []
    network.register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    heat_maps = HeatMaps(network)
    assert heat_maps.num_passes(images) == expected
    calls.clear()
    heat_maps.heat(images, 0)
    assert expected <= sum(calls) <= 2 * expected
    assert HeatMaps(network, averages_mirrored=True).num_passes(images) == 2 * expected
