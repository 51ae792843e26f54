"""The epochs that train the head alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.optim import param_groups_layer_decay
from torch import nn

from tests.small_training import CPU, PARTS, StoppedError, Stopping, make_images, make_plan, run
from train_pytorch_model.data.batches import derive_seed, shuffled
from train_pytorch_model.data.image_store import DecodedImages
from train_pytorch_model.distributed.world import World
from train_pytorch_model.training.augmentation import Augmentation
from train_pytorch_model.training.freezing import FeatureStore, Phases
from train_pytorch_model.training.layers import rate_factors
from train_pytorch_model.training.microbatches import BatchTooLargeError
from train_pytorch_model.training.mixing import Mixing
from train_pytorch_model.training.schedule import rate_of
from train_pytorch_model.training.step import TrainingStep

AUGMENTED: dict[str, Any] = {"augmentation": Augmentation((12, 12))}


class Counting(nn.Sequential):
    """Counts the images in training mode."""

    num_images = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.num_images += len(images) if self.training else 0
        return super().forward(images)  # type: ignore[no-any-return]


def make_network() -> Counting:
    torch.manual_seed(0)
    return Counting(
        *(nn.Conv2d(3, 4, 3), nn.Dropout2d(0.2), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3, inplace=True), nn.Linear(32, 4)),
    )


def changed(before: dict[str, torch.Tensor], network: nn.Module) -> set[str]:
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("parts", [{}, {"microbatch_size": 3}, {"model_ema": 0.9, "clip_grad_norm": 0.5}])
def test_the_first_epochs_train_the_head_alone_as_a_plain_loop_does(parts: dict[str, Any]) -> None:
    network, images = make_network(), make_images(40)
    reference = copy.deepcopy(network)
    plan = make_plan(epochs=2, freeze_epochs=2, lr_schedule="cosine", **parts)
    before = copy.deepcopy(network.state_dict())
    run(network, plan, images, make_images(8, seed=1))
    assert changed(before, network) == {"8.weight", "8.bias"}
    assert network.num_images <= 2  # a trial of two images; everything else is computed once, in evaluation mode
    body, (dropout, head) = reference[:7].eval(), reference[7:]
    head.train()
    optimizer = torch.optim.SGD(head.parameters(), momentum=0.9, nesterov=True, weight_decay=1e-4)
    number = 0
    for epoch in (1, 2):
        torch.manual_seed(derive_seed(plan.seed, "epoch", epoch))
        for batch in shuffled(40, plan.seed, epoch).split(8):
            optimizer.param_groups[0]["lr"] = rate_of(number, 10, plan)
            with torch.no_grad():
                features = body((images.pixels[batch].float() / 255 - 0.5) / 0.5)
            parts_of_batch = zip(features.tensor_split(2), images.labels[batch].tensor_split(2))
            for given, labels in parts_of_batch if "microbatch_size" in parts else [(features, images.labels[batch])]:
                loss = nn.functional.cross_entropy(head(dropout.train()(given.clone())), labels)
                (loss * len(labels) / len(batch)).backward()
            if "clip_grad_norm" in parts:
                nn.utils.clip_grad_norm_(head.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            number += 1
    assert torch.allclose(network[8].weight, head.weight, atol=1e-6)


@pytest.mark.parametrize("augmentation", [{}, AUGMENTED])
def test_afterwards_all_layers_are_trained(augmentation: dict[str, Any]) -> None:
    network = make_network()
    before = copy.deepcopy(network.state_dict())
    run(network, make_plan(epochs=2, freeze_epochs=1, **augmentation), make_images(40), make_images(8, seed=1))
    assert changed(before, network) == set(before)


@pytest.mark.parametrize("parts", [AUGMENTED, {"mixing": Mixing(mixup_alpha=0.2)}], ids=["augmented", "mixed"])
def test_augmented_images_are_computed_in_each_epoch(parts: dict[str, Any]) -> None:
    network = make_network()
    before = copy.deepcopy(network.state_dict())
    run(network, make_plan(epochs=2, freeze_epochs=5, **parts), make_images(40), make_images(8, seed=1))
    assert changed(before, network) == {"8.weight", "8.bias"}
    assert network.num_images == 80


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("augmentation", [{}, AUGMENTED], ids=["plain", "augmented"])
def test_a_resumed_run_ends_with_the_same_bits_wherever_it_stopped(
    optimizer: str, augmentation: dict[str, Any]
) -> None:
    parts = {**PARTS, "head_names": frozenset({"8.weight", "8.bias"}), "optimizer": optimizer, **augmentation}
    plan = make_plan(epochs=3, freeze_epochs=2, layer_decay=0.7, **parts)
    train, valid = make_images(24), make_images(8, seed=1)
    expected = make_network()
    run(expected, plan, train, valid)
    for stop_after in range(1, 40):
        stopping = Stopping(stop_after, is_resuming=False)
        try:
            run(make_network(), plan, train, valid, stopping)
        except StoppedError:
            network = make_network()
            run(network, plan, train, valid, Stopping(0, stopping.snapshot, is_resuming=True))
            assert not changed(expected.state_dict(), network), stop_after
        else:
            break
    assert 12 < stop_after < 39


@pytest.mark.parametrize("augmentation", [{}, AUGMENTED], ids=["features", "images"])
def test_when_memory_runs_out_in_these_epochs_the_error_names_a_batch_size_for_the_later_ones(
    augmentation: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(step: TrainingStep, pixels: torch.Tensor, labels: torch.Tensor, weight: float = 1.0) -> None:
        assert pixels.dim() == (4 if augmentation else 2)
        raise MemoryError

    tried: list[tuple[int, bool]] = []
    dry_run = TrainingStep.dry_run

    def try_size(step: TrainingStep, pixels: torch.Tensor, labels: torch.Tensor, *, alone: bool = False) -> None:
        trains_all = all(parameter.requires_grad for parameter in step.network.parameters())
        tried.append((step.microbatch_size or 0, trains_all))
        if tried[-1][0] > 4:
            raise MemoryError
        dry_run(step, pixels, labels, alone=alone)

    monkeypatch.setattr(TrainingStep, "__call__", train)
    monkeypatch.setattr(TrainingStep, "dry_run", try_size)
    with pytest.raises(BatchTooLargeError) as raised:
        run(make_network(), make_plan(freeze_epochs=1, **augmentation), make_images(40), make_images(8, seed=1))
    assert raised.value.fitting == 4
    assert tried == [(8, True), (4, True)]


def test_a_graph_is_used_only_after_the_epochs_of_the_head() -> None:
    train, plan = make_images(16), make_plan(freeze_epochs=1)
    step = TrainingStep(make_network(), plan, CPU)

    def replay(pixels: torch.Tensor, labels: torch.Tensor, weight: float) -> None:
        """Stand for the replay of a graph."""

    phases = Phases(step, replay, train, plan, World())
    run_step, images = phases.enter(1, lambda batch, num_batches: None)
    assert run_step is step
    assert isinstance(images, FeatureStore)
    assert phases.enter(2, lambda batch, num_batches: None) == (replay, train)


@pytest.mark.parametrize(
    ("name", "is_cached"),
    [("mobilenet_v2", True), ("tf_efficientnet_lite0", True), ("densenet121", True), ("squeezenet1_1", False)],
)
def test_the_features_of_known_networks_are_computed_once(name: str, is_cached: bool) -> None:
    torch.manual_seed(0)
    make = timm.create_model if name.startswith("tf_") else torchvision.models.get_model
    network = make(name, num_classes=4)
    images = DecodedImages(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1, 1, 2]))
    plan = make_plan(freeze_epochs=1)
    step = TrainingStep(network, plan, CPU)
    step.begin_epoch(0.1)
    _, store = Phases(step, step, images, plan, World()).enter(1, lambda batch, num_batches: None)
    assert isinstance(store, FeatureStore) is is_cached
    before = copy.deepcopy(network.state_dict())
    for given, labels in store.batches([torch.arange(4)], CPU):
        step(given, labels)
    head = [name for name, _ in network.named_parameters()][-2:]
    assert changed(before, network) == set(head)


def test_the_auxiliary_heads_rest_while_the_head_is_trained_alone() -> None:
    network = torchvision.models.googlenet(num_classes=4, init_weights=False, aux_logits=True)
    step = TrainingStep(network, make_plan(freeze_epochs=1, auxiliary_heads=frozenset({"aux1", "aux2"})), CPU)
    step.train_head_alone(True)
    before = copy.deepcopy(network.state_dict())
    step(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1]))
    assert changed(before, network) <= {"fc.weight", "fc.bias"}
    step.train_head_alone(False)
    step.set_learning_rate(0.1)
    step(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1]))
    assert {"conv1.conv.weight", "aux1.fc2.weight"} <= changed(before, network)


def test_both_heads_of_a_distilled_transformer_are_the_head() -> None:
    torch.manual_seed(0)
    network = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=4, depth=2, img_size=32)
    heads = frozenset({"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"})
    plan = make_plan(freeze_epochs=1, head_names=heads, layer_decay=0.5, weight_decay=0.0, momentum=0.0)
    step = TrainingStep(network, plan, CPU)
    step.train_head_alone(True)
    step.set_learning_rate(0.1)
    before = copy.deepcopy(network.state_dict())
    step(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), torch.tensor([0, 1, 1, 2]))
    assert changed(before, network) == heads
    # Both get the same gradient, as the mean of their logits is trained.
    given, distilled = (network.state_dict()[name] - before[name] for name in ("head.bias", "head_dist.bias"))
    assert torch.allclose(given, distilled, rtol=1e-3, atol=1e-6)


def test_statistics_of_batches_in_the_head_are_those_of_training_images_alone() -> None:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*body, nn.BatchNorm1d(8, affine=False), nn.Linear(8, 4))
    images, plan = make_images(16), make_plan(freeze_epochs=1)
    step = TrainingStep(network, plan, CPU)
    before = copy.deepcopy(network.state_dict())
    step.begin_epoch(0.1)
    _, shown = Phases(step, step, images, plan, World()).enter(1, lambda batch, num_batches: None)
    assert not changed(before, network)
    assert shown is images  # what the head gets depends on its batch


def test_layer_decay_gives_each_layer_of_a_transformer_the_rate_that_timm_gives_it() -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    wanted = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(network, layer_decay=0.75)
        for parameter in group["params"]
    }
    factors = rate_factors(network, 0.75)
    assert len(factors) == len(wanted)
    for name, parameter in network.named_parameters():
        assert factors[name] == pytest.approx(wanted[id(parameter)])


def test_layer_decay_changes_the_first_step_of_each_stage() -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=4)
    images = make_images(8)
    steps = {}
    for decay in (None, 0.5):
        copied = copy.deepcopy(network)
        plan = make_plan(layer_decay=decay, momentum=0.0, weight_decay=0.0, head_learning_rate_factor=3.0)
        step = TrainingStep(copied, make_plan(**{**vars(plan), "head_names": frozenset({"fc.weight"})}), CPU)
        step.begin_epoch(0.1)
        step(images.pixels, images.labels)
        steps[decay] = {
            name: after.detach() - before.detach()
            for (name, after), (_, before) in zip(copied.named_parameters(), network.named_parameters())
        }
    for name, factor in {"fc.weight": 1, "fc.bias": 1, "layer4.0.conv1.weight": 0.5, "conv1.weight": 0.5**5}.items():
        whole, decayed = steps[None][name], steps[0.5][name]
        assert torch.allclose(decayed, factor * whole, rtol=1e-2, atol=1e-6), name
