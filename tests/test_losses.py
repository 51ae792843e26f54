from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.googlenet import GoogLeNetOutputs

from tests.small_training import CPU, make_plan
from train_pytorch_model.training.losses import logits_and_loss, training_cross_entropy


def test_without_smoothing_and_class_weights_it_is_the_cross_entropy_bit_for_bit() -> None:
    logits, labels = torch.randn(9, 4), torch.randint(0, 4, (9,))
    loss = training_cross_entropy(make_plan(), CPU)(logits, labels)
    assert torch.equal(loss, nn.functional.cross_entropy(logits, labels))


def test_smoothing_is_that_of_pytorch() -> None:
    logits, labels = torch.randn(9, 4), torch.randint(0, 4, (9,))
    loss = training_cross_entropy(make_plan(label_smoothing=0.1), CPU)(logits, labels)
    assert torch.equal(loss, nn.CrossEntropyLoss(label_smoothing=0.1)(logits, labels))


def test_class_weights_weigh_the_images_of_a_batch_and_the_mean_is_over_their_number() -> None:
    logits, labels = torch.randn(9, 4), torch.randint(0, 4, (9,))
    weights = (0.5, 1.0, 2.0, 0.25)
    cross_entropy = training_cross_entropy(make_plan(class_weights=weights), CPU)
    summed = nn.CrossEntropyLoss(torch.tensor(weights), reduction="sum")(logits, labels)
    assert cross_entropy(logits, labels).item() == pytest.approx(summed.item() / 9)
    # So the mean over parts of a batch is that of the batch.
    parts = [
        cross_entropy(*part).item() * len(part[1]) for part in ((logits[:4], labels[:4]), (logits[4:], labels[4:]))
    ]
    assert sum(parts) / 9 == pytest.approx(summed.item() / 9)
    smoothed = training_cross_entropy(make_plan(class_weights=weights, label_smoothing=0.2), CPU)(logits, labels)
    each = nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none")(logits, labels)
    assert smoothed.item() == pytest.approx((each * torch.tensor(weights)[labels]).mean().item())


def test_auxiliary_heads_have_the_same_smoothing() -> None:
    main, first, second = torch.randn(3, 5, 4)
    labels = torch.tensor([0, 1, 2, 3, 0])
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    cross_entropy = training_cross_entropy(make_plan(label_smoothing=0.1), CPU)
    _, loss = logits_and_loss(GoogLeNetOutputs(main, second, first), labels, cross_entropy)
    expected = smoothed(main, labels) + 0.3 * smoothed(first, labels) + 0.3 * smoothed(second, labels)
    assert loss.item() == pytest.approx(expected.item())
