from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.small_training import CPU, make_plan
from train_pytorch_model.models.description import NetworkDescription, describe, torchvision_builders
from train_pytorch_model.models.memory_format import preferred_memory_format
from train_pytorch_model.models.network import check_image_size, head_keys, output_for, with_head, with_outputs_in_order
from train_pytorch_model.models.network_rules import NetworkError
from train_pytorch_model.training.losses import logits_and_loss
from train_pytorch_model.training.precision import Precision, has_depthwise_convolutions
from train_pytorch_model.training.step import TrainingStep

# The smallest of each family, and the side of the smallest images it is tried on.
FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "googlenet": 96,
    "inception_v3": 299,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 64,
    "swin_t": 32,
    "swin_v2_t": 64,
    "vgg11": 32,
    "vit_b_16": 224,
    "wide_resnet50_2": 32,
}
# Others are of the same kinds, or take longer than a second.
QUICK = (
    "alexnet",
    "efficientnet_b0",
    "googlenet",
    "mobilenet_v3_small",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
)
FAMILY_CASES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.thorough) for name in FAMILIES]
AUXILIARY_HEADS = {
    "inception_v3": {"AuxLogits.fc.weight", "AuxLogits.fc.bias"},
    "googlenet": {"aux1.fc2.weight", "aux1.fc2.bias", "aux2.fc2.weight", "aux2.fc2.bias"},
}


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_every_familys_head_is_fitted_around_the_given_weights(name: str) -> None:
    description = describe("torchvision.models", name, {})
    given = description.build().state_dict()
    network, wanted = with_head(description, given, 7, keep_head=True)
    head = head_keys(description, 7)
    fitted = network.state_dict()
    assert AUXILIARY_HEADS.get(name, set()) <= head
    assert all(torch.equal(fitted[key], given[key]) for key in given if key not in head)
    assert all(fitted[key].shape[0] == 7 for key in head)
    # What is written is enough to build and load the network again, as Score Image Model does.
    again = wanted.build()
    again.load_state_dict(fitted)
    side = FAMILIES[name]
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    logits, loss = logits_and_loss(again.train()(images), torch.tensor([1, 6]))
    assert logits.shape == (2, 7)
    assert torch.isfinite(loss)
    check_image_size(wanted, (side, side), 2, 7, nn.Module.train)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.thorough) for name in torchvision_builders()]
)
def test_every_builder_has_a_head_and_takes_images_of_its_usual_size(name: str) -> None:
    description = describe("torchvision.models", name, {}).with_num_classes(3)
    assert 1 <= len(head_keys(description, 3)) <= 6
    # Inception v3 was made for 299, and its auxiliary head takes no less.
    side = 299 if name == "inception_v3" else 224
    check_image_size(description, (side, side), 2, 3, nn.Module.train)


@pytest.mark.parametrize(("name", "side"), [("vit_b_16", 64), ("inception_v3", 224), ("alexnet", 16), ("maxvit_t", 64)])
def test_images_that_a_network_cannot_take_are_found_without_training(name: str, side: int) -> None:
    description = describe("torchvision.models", name, {}).with_num_classes(3)
    with pytest.raises(NetworkError):
        check_image_size(description, (side, side), 2, 3, nn.Module.train)


def test_a_batch_of_one_value_a_channel_is_found_without_training() -> None:
    description = describe("torchvision.models", "resnet18", {}).with_num_classes(3)
    with pytest.raises(NetworkError, match="more than 1 value per channel"):
        check_image_size(description, (32, 32), 1, 3, nn.Module.train)
    check_image_size(description, (64, 64), 1, 3, nn.Module.train)
    check_image_size(description, (32, 32), 1, 3, nn.Module.eval)


class Chain(nn.Module):
    """A network with a head of two layers that both depend on the number of classes."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        head = [nn.Linear(3, num_classes), nn.BatchNorm1d(num_classes), nn.ReLU(), nn.Linear(num_classes, num_classes)]
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)  # type: ignore[no-any-return]


class Pairs(Chain):
    """A network with two values for each class, of which the order cannot be told."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__(num_classes)
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2 * num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).unflatten(1, (-1, 2)).sum(2)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("torchvision.models", "squeezenet1_1", {}),
        ("torchvision.models", "googlenet", {"init_weights": False, "aux_logits": True}),
        ("timm", "create_model", {"model_name": "deit_tiny_distilled_patch16_224", "depth": 1, "img_size": 64}),
        (__name__, "Chain", {}),
    ],
)
def test_outputs_in_another_order_are_those_of_the_network(module: str, name: str, arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    given = NetworkDescription(module, name, arguments)
    description = given.with_num_classes(5)
    network, order = description.build().eval(), [3, 0, 4, 1, 2]
    state = with_outputs_in_order(given, network.state_dict(), order)
    assert state is not None
    assert list(state) == list(network.state_dict())
    images = torch.randn(2, 3, 64, 64)
    expected = network(images)[:, order]
    network.load_state_dict(state)
    assert torch.allclose(network(images), expected, atol=1e-6)


def test_outputs_that_cannot_be_told_apart_have_no_other_order() -> None:
    pairs, chain = NetworkDescription(__name__, "Pairs"), NetworkDescription(__name__, "Chain")
    assert with_outputs_in_order(pairs, Pairs(5).state_dict(), [3, 0, 4, 1, 2]) is None
    assert with_outputs_in_order(chain, Chain(6).state_dict(), [3, 0, 4, 1, 2]) is None


def test_a_head_that_fits_is_kept_only_on_request() -> None:
    description = describe("torchvision.models", "resnet18", {"num_classes": 4})
    given = description.build().state_dict()
    kept, _ = with_head(description, given, 4, keep_head=True)
    drawn, _ = with_head(description, given, 4, keep_head=False)
    assert torch.equal(kept.state_dict()["fc.weight"], given["fc.weight"])
    assert not torch.equal(drawn.state_dict()["fc.weight"], given["fc.weight"])


def test_the_seed_covers_the_new_head() -> None:
    description = describe("torchvision.models", "resnet18", {})
    given = description.build().state_dict()
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(with_head(description, given, 4, keep_head=True)[0].state_dict()["fc.weight"])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_weights_that_do_not_fit_are_named() -> None:
    description = describe("torchvision.models", "resnet18", {})
    given = dict(description.build().state_dict())
    given["fc.bias"] = torch.zeros(3)
    given["more"] = given.pop("conv1.weight")
    with pytest.raises(NetworkError, match=r"missing \['conv1.weight'\]; unexpected \['more'\]; fc.bias is \(3,\)"):
        with_head(description, given, 4, keep_head=True)


@pytest.mark.parametrize(
    ("module", "name", "init_params"),
    [
        ("torchvision.models", "get_model", {"name": "resnet18"}),
        ("torchvision.models.resnet", "resnet18", {"weights": "DEFAULT", "progress": True}),
        ("torchvision.models", "resnet18", {"pretrained": True}),
    ],
)
def test_every_way_to_name_a_builder_becomes_one_that_downloads_nothing(
    module: str, name: str, init_params: dict[str, object]
) -> None:
    assert describe(module, name, init_params) == NetworkDescription("torchvision.models", "resnet18", {})


@pytest.mark.parametrize(
    ("module", "name", "init_params"),
    [
        ("torchvision.models", "MobileNetV2", {}),
        (
            "torchvision.models",
            "VisionTransformer",
            {"image_size": 32, "patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16},
        ),
        (
            "timm.models.vision_transformer",
            "VisionTransformer",
            {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
        ),
    ],
    ids=["torchvision", "torchvision with arguments", "timm"],
)
def test_network_classes_of_known_packages_are_taken(module: str, name: str, init_params: dict[str, object]) -> None:
    description = describe(module, name, init_params)
    network, _ = with_head(description, description.build().state_dict(), 3, keep_head=True)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("torchvision.datasets", "CIFAR10"),
        ("torchvision.models", "list_models"),
        ("nowhere", "Net"),
        ("timm.task.distillation", "DistillationTeacher"),
        ("train_pytorch_model.__main__", "Net"),
        ("torchvision.ops.misc", "FrozenBatchNorm2d"),
    ],
)
def test_other_code_is_not_called_without_trust(module: str, name: str) -> None:
    with pytest.raises(NetworkError, match="--trust-model-code"):
        describe(module, name, {})


@pytest.mark.parametrize(("name", "error"), [("ResNet", "missing 2 required"), ("resnet18", "unexpected keyword")])
def test_arguments_that_do_not_fit_are_named(name: str, error: str) -> None:
    with pytest.raises(NetworkError, match=error):
        describe("torchvision.models", name, {"nonsense": 1} if name == "resnet18" else {}).build()


class Reshaping(nn.Module):
    """Takes its images in the usual order of memory alone, as networks of users' own may."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(4 * 6 * 6, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.convolution(images)
        return self.linear(features.view(len(images), -1))


class Flat(nn.Module):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1))


class Resizing(Flat):
    def __init__(self) -> None:
        super().__init__()
        torch.empty(0).resize_(2**20, 2**20)


class Deep(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(*[nn.Identity()] * 20_001)


class Timed(Flat):
    """Is built with an operation that has neither tensors nor a device."""

    def __init__(self) -> None:
        with torch.profiler.record_function("building"):
            super().__init__()


class Fixed(Flat):
    """Has as many outputs whatever is asked for."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()


class Growing(nn.Sequential):
    """Has a layer for each class."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(*[nn.Linear(2, 2) for _ in range(num_classes)], nn.Linear(2, num_classes))


class Choosing(Flat):
    """Does what no one can say the shape of without the numbers."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images[torch.nonzero(images[:, 0, 0, 0] > 0)[:, 0]])


class Hidden(nn.Sequential):
    """Has a layer before its head that is as wide as there are classes, but for a few of them."""

    def __init__(self, num_classes: int = 100) -> None:
        width = max(16, num_classes)
        super().__init__(nn.Linear(2, width), nn.Linear(width, num_classes))


def of_their_own(name: str, module: str = __name__) -> NetworkDescription:
    """A network of a user's own code."""
    return describe(module, name, {}, trust_code=True)


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        (__name__, "Resizing", "needs 4,096.0 GiB of memory"),
        (__name__, "Deep", "more than 20000 layers"),
        ("builtins", "dict", "returns a dict, not a torch.nn.Module"),
    ],
)
def test_what_is_no_network_of_sense_is_named_as_it_is_built(module: str, name: str, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        of_their_own(name, module).build_without_weights()


@pytest.mark.parametrize(
    ("module", "words"),
    [("nowhere", "ModuleNotFoundError"), ("broken_network", "ZeroDivisionError"), ("json", "has no callable 'Flat'")],
)
def test_code_that_cannot_be_had_is_named(
    module: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_network.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NetworkError, match=words):
        of_their_own("Flat", module)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Fixed", "no layer of .* depends on num_classes"),
        ("Growing", r"more than the head of .* depends on num_classes: \['3.bias', '3.weight', '4.bias'\]"),
        ("Hidden", r"more than the head of .* depends on num_classes: \['0.bias', '0.weight'\]"),
    ],
)
def test_a_head_that_cannot_be_fitted_is_named(name: str, words: str) -> None:
    description = of_their_own(name)
    with pytest.raises(NetworkError, match=words):
        with_head(description, description.build().state_dict(), 5, keep_head=True)


def test_what_cannot_be_said_without_the_numbers_is_left_to_the_training() -> None:
    description = of_their_own("Choosing")
    check_image_size(description, (8, 8), 2, 3, nn.Module.train)
    with pytest.raises(NetworkError):
        check_image_size(of_their_own("Flat"), (9, 9), 2, 3, nn.Module.train)
    assert of_their_own("Timed").shapes() == description.shapes()


def test_without_timm_none_of_its_networks_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe("timm", "create_model", {"model_name": "resnet18"})
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(NetworkError, match="create_model is not a network of torchvision or timm"):
        describe("timm", "create_model", {"model_name": "resnet18"})


@pytest.mark.parametrize("network", [Reshaping, Flat])
def test_a_network_that_gains_nothing_from_channels_last_or_cannot_take_it_keeps_the_usual_order(
    network: type[nn.Module],
) -> None:
    built = network()
    before = {key: value.clone() for key, value in built.state_dict().items()}
    assert preferred_memory_format(built, (8, 8)) == torch.contiguous_format
    assert built.training
    for key, value in built.state_dict().items():
        assert torch.equal(value, before[key])
        assert value.is_contiguous()


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_every_family_trains_in_bfloat16_and_channels_last(name: str) -> None:
    side = FAMILIES[name]
    description = describe("torchvision.models", name, {"num_classes": 3})
    torch.manual_seed(0)
    network = description.build()
    memory_format = preferred_memory_format(network, (side, side))
    assert memory_format == torch.channels_last
    before = {key: value.clone() for key, value in network.state_dict().items()}
    plan = make_plan(num_classes=3, memory_format=memory_format, precision=Precision(torch.bfloat16, "cpu"))
    step = TrainingStep(network, plan, CPU)
    step.begin_epoch(0.01)
    step(torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8), torch.tensor([0, 2]))
    assert step.loss.isfinite()
    changed = [key for key, value in network.named_parameters() if not torch.equal(value, before[key])]
    assert len(changed) > 0.5 * len(list(network.parameters()))
    assert all(value.dtype == torch.float32 for value in network.parameters())


@pytest.mark.parametrize(
    ("name", "depthwise"),
    [
        ("resnet18", False),
        ("resnext50_32x4d", False),
        ("densenet121", False),
        ("mobilenet_v2", True),
        ("convnext_tiny", True),
    ],
)
def test_depthwise_convolutions_are_distinguished_from_grouped_ones(name: str, depthwise: bool) -> None:
    assert has_depthwise_convolutions(describe("torchvision.models", name, {}).build_without_weights()) is depthwise


@pytest.mark.parametrize("is_multilabel", [False, True])
def test_the_output_with_mirror_images_has_the_mean_of_the_probabilities(is_multilabel: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 6)).double()
    network[1].weight.data *= 30  # also probabilities that are 0 or 1 up to rounding
    images = torch.randn(8, 3, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        output = output_for(network, images, averages_mirrored=True, is_multilabel=is_multilabel)
        views = network(images), network(images.flip(3))
        plain = output_for(network, images, averages_mirrored=False, is_multilabel=is_multilabel)
    of_logits = torch.sigmoid if is_multilabel else (lambda logits: logits.softmax(1))
    expected = (of_logits(views[0]) + of_logits(views[1])) / 2
    assert output.isfinite().all()
    assert torch.allclose(of_logits(output).double(), expected, atol=1e-6)
    assert torch.equal(plain, views[0])
