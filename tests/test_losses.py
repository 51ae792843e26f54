from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.googlenet import GoogLeNetOutputs

from tests.small_training import CPU, make_plan
from train_pytorch_model.training.losses import logits_and_loss, training_loss, validation_loss


def test_without_smoothing_and_class_weights_it_is_the_cross_entropy_bit_for_bit() -> None:
    logits, labels = torch.randn(9, 4), torch.randint(0, 4, (9,))
    loss = training_loss(make_plan(), CPU)(logits, labels)
    assert torch.equal(loss, nn.functional.cross_entropy(logits, labels))


def test_smoothing_is_that_of_pytorch() -> None:
    logits, labels = torch.randn(9, 4), torch.randint(0, 4, (9,))
    loss = training_loss(make_plan(label_smoothing=0.1), CPU)(logits, labels)
    assert torch.equal(loss, nn.CrossEntropyLoss(label_smoothing=0.1)(logits, labels))


def test_class_weights_weigh_the_images_of_a_batch_and_the_mean_is_over_their_number() -> None:
    logits, labels = torch.randn(9, 4), torch.randint(0, 4, (9,))
    weights = (0.5, 1.0, 2.0, 0.25)
    loss_of = training_loss(make_plan(class_weights=weights), CPU)
    summed = nn.CrossEntropyLoss(torch.tensor(weights), reduction="sum")(logits, labels)
    assert loss_of(logits, labels).item() == pytest.approx(summed.item() / 9)
    # So the mean over parts of a batch is that of the batch.
    parts = [loss_of(*part).item() * len(part[1]) for part in ((logits[:4], labels[:4]), (logits[4:], labels[4:]))]
    assert sum(parts) / 9 == pytest.approx(summed.item() / 9)
    smoothed = training_loss(make_plan(class_weights=weights, label_smoothing=0.2), CPU)(logits, labels)
    each = nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none")(logits, labels)
    assert smoothed.item() == pytest.approx((each * torch.tensor(weights)[labels]).mean().item())


def test_auxiliary_heads_have_the_same_smoothing() -> None:
    main, first, second = torch.randn(3, 5, 4)
    labels = torch.tensor([0, 1, 2, 3, 0])
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    loss_of = training_loss(make_plan(label_smoothing=0.1), CPU)
    _, loss = logits_and_loss(GoogLeNetOutputs(main, second, first), labels, loss_of)
    expected = smoothed(main, labels) + 0.3 * smoothed(first, labels) + 0.3 * smoothed(second, labels)
    assert loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0, 0.25)])
def test_the_loss_of_one_hot_labels_is_that_of_indices(smoothing: float, weights: tuple[float, ...] | None) -> None:
    logits, labels = torch.randn(9, 4), torch.randint(0, 4, (9,))
    loss_of = training_loss(make_plan(label_smoothing=smoothing, class_weights=weights), CPU)
    vectors = nn.functional.one_hot(labels, 4).float()
    assert loss_of(logits, vectors).item() == pytest.approx(loss_of(logits, labels).item(), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0, 0.25)])
def test_the_loss_of_mixed_labels_is_the_mixture_of_the_losses(
    smoothing: float, weights: tuple[float, ...] | None
) -> None:
    logits, (first, second) = torch.randn(9, 4), torch.randint(0, 4, (2, 9))
    loss_of = training_loss(make_plan(label_smoothing=smoothing, class_weights=weights), CPU)
    vectors = 0.3 * nn.functional.one_hot(first, 4) + 0.7 * nn.functional.one_hot(second, 4)
    expected = 0.3 * loss_of(logits, first) + 0.7 * loss_of(logits, second)
    assert loss_of(logits, vectors).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0, 0.25)])
def test_the_loss_of_several_labels_is_pytorchs_binary_cross_entropy(weights: tuple[float, ...] | None) -> None:
    logits, labels = torch.randn(9, 4), torch.rand(9, 4).round()
    plan = make_plan(task="multilabel", class_weights=weights)
    criterion = nn.BCEWithLogitsLoss(pos_weight=None if weights is None else torch.tensor(weights))
    assert torch.equal(training_loss(plan, CPU)(logits, labels), criterion(logits, labels))
    assert torch.equal(validation_loss(plan)(logits, labels), nn.BCEWithLogitsLoss()(logits, labels))
    smoothed = training_loss(make_plan(task="multilabel", class_weights=weights, label_smoothing=0.2), CPU)
    assert smoothed(logits, labels).item() == pytest.approx(criterion(logits, 0.1 + 0.8 * labels).item())
    # So the mean over parts of a batch is that of the batch.
    whole = training_loss(plan, CPU)
    parts = (4 * whole(logits[:4], labels[:4]) + 5 * whole(logits[4:], labels[4:])) / 9
    assert parts.item() == pytest.approx(criterion(logits, labels).item())
