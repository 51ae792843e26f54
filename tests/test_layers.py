from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.models.volo import VOLO
from torch import nn

from tests.small_training import CPU, make_images, make_network, make_plan
from train_pytorch_model.models.heads import auxiliary_heads
from train_pytorch_model.training.layers import TrainableLayers, stages_of
from train_pytorch_model.training.step import TrainingStep

VISION = {
    "resnet18": "conv1 layer1 layer2 layer3 layer4 fc",
    "densenet121": "features.conv0 features.denseblock1 features.transition1 features.denseblock2 features.transition2 "
    "features.denseblock3 features.transition3 features.denseblock4 classifier",
    "efficientnet_b0": " ".join(f"features.{number}" for number in range(9)) + " classifier.1",
    "mobilenet_v2": " ".join(f"features.{number}" for number in range(19)) + " classifier.1",
    "mobilenet_v3_small": " ".join(f"features.{number}" for number in range(13)) + " classifier.0 classifier.3",
    "squeezenet1_1": " ".join(f"features.{number}" for number in (0, 3, 4, 6, 7, 9, 10, 11, 12)) + " classifier.1",
    "vgg11": " ".join(f"features.{number}" for number in (0, 3, 6, 8, 11, 13, 16, 18))
    + " classifier.0 classifier.3 classifier.6",
    "regnet_y_400mf": "stem trunk_output.block1 trunk_output.block2 trunk_output.block3 trunk_output.block4 fc",
    "convnext_tiny": " ".join(f"features.{number}" for number in range(8)) + " classifier.2",
    "swin_t": " ".join(f"features.{number}" for number in range(8)) + " head",
    "vit_b_16": "conv_proj "
    + " ".join(f"encoder.layers.encoder_layer_{number}" for number in range(12))
    + " heads.head",
    "googlenet": "conv1 conv2 conv3 inception3a inception3b inception4a inception4b inception4c inception4d "
    "inception4e inception5a inception5b fc",
    "inception_v3": "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Conv2d_3b_1x1 Conv2d_4a_3x3 Mixed_5b Mixed_5c Mixed_5d "
    "Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c fc",
}
TIMM = {
    "tf_efficientnet_lite0": "conv_stem blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5 blocks.6 conv_head "
    "classifier",
    "mobilenetv3_small_050": "conv_stem blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5 conv_head classifier",
    "resnet18": "conv1 layer1 layer2 layer3 layer4 fc",
    "vgg11": " ".join(f"features.{number}" for number in (0, 3, 6, 8, 11, 13, 16, 18)) + " pre_logits head.fc",
    "regnetx_002": "stem s1 s2 s3 s4 head.fc",
    "convnext_atto": "stem stages.0 stages.1 stages.2 stages.3 head.fc",
    "swin_tiny_patch4_window7_224": "patch_embed layers.0 layers.1 layers.2 layers.3 head.fc",
    "vit_tiny_patch16_224": "patch_embed " + " ".join(f"blocks.{number}" for number in range(12)) + " head",
    "vit_small_patch32_224": "patch_embed " + " ".join(f"blocks.{number}" for number in range(12)) + " head",
    "inception_v3": "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Conv2d_3b_1x1 Conv2d_4a_3x3 Mixed_5b Mixed_5c Mixed_5d "
    "Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c fc",
}


def make(library: str, name: str) -> nn.Module:
    if library == "timm":
        return timm.create_model(name, num_classes=3)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, num_classes=3, **options)


def order_of_execution(network: nn.Module, side: int) -> list[str]:
    """The names of the modules with weights of their own, in the order in which they run."""
    names: list[str] = []
    for name, module in network.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda module, inputs, name=name: names.append(name))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, side, side))
    return names


@pytest.mark.parametrize(
    ("library", "name"), [*(("torchvision", name) for name in VISION), *(("timm", name) for name in TIMM)]
)
def test_stages_are_in_the_order_of_execution_and_have_each_weight_once(library: str, name: str) -> None:
    network = make(library, name)
    stages = stages_of(network)
    assert [stage.name for stage in stages] == (TIMM if library == "timm" else VISION)[name].split()
    listed = [key for stage in stages for key in stage.parameter_names]
    auxiliary = ("aux1.", "aux2.", "AuxLogits.")
    assert sorted(listed) == sorted(key for key, _ in network.named_parameters() if not key.startswith(auxiliary))
    run = order_of_execution(network, 299 if name == "inception_v3" else 224)
    numbers = [
        number
        for layer in run
        for number, stage in enumerate(stages)
        if any(layer == module or layer.startswith(f"{module}.") for module in stage.module_names)
    ]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(len(stages)))


def test_frozen_stages_do_not_change_and_normalize_with_their_statistics() -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=4)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    step = TrainingStep(network, make_plan(layers_to_freeze=3, weight_decay=0.1), CPU)
    step.begin_epoch(0.1)
    images = make_images(8)
    step.dry_run(images.pixels, images.labels)
    for _ in range(2):
        step(images.pixels, images.labels)
    unchanged = {key for key, value in network.state_dict().items() if torch.equal(value, before[key])}
    assert unchanged == {key for key in before if key.startswith(("conv1", "bn1", "layer1", "layer2"))}
    assert len(step.optimizer_tensors) == len([key for key, _ in network.named_parameters() if key not in unchanged])
    assert not network.layer2[0].bn1.training
    assert network.layer3[0].bn1.training


def test_all_but_the_head_can_be_frozen(caplog: pytest.LogCaptureFixture) -> None:
    network = make_network()
    layers = TrainableLayers(network, make_plan(layers_to_freeze=1))
    assert [name for name, _ in layers.named_parameters()] == ["5.weight", "5.bias"]
    assert not caplog.text
    layers = TrainableLayers(make_network(), make_plan(layers_to_freeze=7))
    assert [name for name, _ in layers.named_parameters()] == ["5.weight", "5.bias"]
    assert "The network has 1 layers before its head. All of them are frozen." in caplog.text


def test_frozen_batch_norm_statistics_are_those_of_the_beginning_and_weights_are_trained() -> None:
    network = make_network()
    network[1].running_mean.uniform_(-1, 1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    step = TrainingStep(network, make_plan(freeze_batch_norm=True), CPU)
    step.begin_epoch(0.1)
    images = make_images(8)
    network.eval()
    expected = nn.functional.cross_entropy(network((images.pixels.float() / 255 - 0.5) / 0.5), images.labels)
    step.begin_epoch(0.1)
    step(images.pixels, images.labels)
    assert step.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"0.weight", "0.bias", "1.weight", "1.bias", "5.weight", "5.bias"}


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_left_out_where_the_head_is_fitted(name: str) -> None:
    side = {"googlenet": 64, "inception_v3": 299}[name]
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    ran = []
    for fits_head in (False, True):
        network = torchvision.models.get_model(name, num_classes=4, init_weights=False, aux_logits=True)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        head = network.aux2 if name == "googlenet" else network.AuxLogits
        head.register_forward_hook(lambda *_, fits_head=fits_head: ran.append(fits_head))
        auxiliary = auxiliary_heads(network, (side, side))
        plan = make_plan(
            fits_head=fits_head,
            freeze_batch_norm=fits_head,
            layers_to_freeze=10 * fits_head,
            auxiliary_heads=auxiliary,
        )
        step = TrainingStep(network, plan, CPU)
        step.begin_epoch(0.01)
        step(pixels, torch.tensor([0, 1]))
        changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
        assert any(key.startswith(("aux", "Aux")) for key in changed) is not fits_head
        assert "fc.weight" in changed
    assert set(ran) == {False}


class HeadFirst(nn.Module):
    """A network that registers its head before its body."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(8, num_classes)
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(images)).mean((2, 3)))


def heads_of(build: Callable[[int], nn.Module]) -> frozenset[str]:
    """The names of the parameters whose shapes depend on the number of classes."""
    three, four = ({key: value.shape for key, value in build(count).named_parameters()} for count in (3, 4))
    return frozenset(key for key in three if three[key] != four[key])


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("deit_tiny_distilled_patch16_224", {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}),
        ("levit_128s", {f"{name}.linear.{part}" for name in ("head", "head_dist") for part in ("weight", "bias")}),
        ("crossvit_tiny_240", {"head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"}),
        ("own", {"head.weight", "head.bias"}),
    ],
)
def test_no_head_is_frozen_whatever_its_place(name: str, heads: set[str]) -> None:
    def build(num_classes: int) -> nn.Module:
        if name == "own":
            return HeadFirst(num_classes)
        network: nn.Module = timm.create_model(name, num_classes=num_classes)
        return network

    network = build(3)
    assert heads_of(build) == heads
    layers = TrainableLayers(network, make_plan(layers_to_freeze=99, head_names=heads_of(build)))
    trained = {key for key, _ in layers.named_parameters()}
    assert trained >= heads
    assert {key for key in trained if not key.startswith("head")} == set()


def test_a_head_that_comes_first_is_no_layer_before_itself() -> None:
    network = HeadFirst(3)
    layers = TrainableLayers(network, make_plan(layers_to_freeze=1, head_names=heads_of(HeadFirst)))
    frozen = {key for key, _ in network.named_parameters()} - {key for key, _ in layers.named_parameters()}
    assert frozen == {"first.weight", "first.bias"}
    layers.train_head_alone(True)
    trained = {key for key, value in network.named_parameters() if value.requires_grad}
    assert trained == layers.head_names == {"head.weight", "head.bias"}


def test_a_head_that_contributes_to_the_logits_is_trained_whatever_its_name() -> None:
    def build(num_classes: int) -> nn.Module:
        options: dict[str, Any] = {"layers": (1, 1, 1, 1), "embed_dims": (24, 24, 24, 24), "num_heads": (2, 2, 2, 2)}
        network: nn.Module = VOLO(img_size=64, num_classes=num_classes, mlp_ratio=2.0, **options)
        return network

    torch.manual_seed(0)
    network, size = build(3), (64, 64)
    assert auxiliary_heads(network, size) == frozenset()
    plan = make_plan(
        num_classes=3, fits_head=True, head_names=heads_of(build), auxiliary_heads=auxiliary_heads(network, size)
    )
    step = TrainingStep(network, plan, CPU)
    before = network.aux_head.weight.clone()
    step.begin_epoch(0.1)
    step(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1, 1, 2]))
    assert not torch.equal(network.aux_head.weight, before)


@pytest.mark.parametrize("is_training", [False, True])
def test_auxiliary_heads_are_those_that_the_logits_do_not_depend_on(is_training: bool) -> None:
    network = torchvision.models.googlenet(num_classes=4, init_weights=False, aux_logits=True).train(is_training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert auxiliary_heads(network, (64, 64)) == {"aux1", "aux2"}
    assert network.aux1.training is is_training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert auxiliary_heads(network, (1, 1)) == frozenset()  # it does not accept such images
    assert auxiliary_heads(torchvision.models.resnet18(), (64, 64)) == frozenset()
