from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score, top_k_accuracy_score
from torch.nn import functional

from train_pytorch_model.distributed.world import World
from train_pytorch_model.training.metrics import RunningSums


def test_metrics_over_uneven_batches_equal_scikit_learns_over_all_images() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 8, generator=generator)
    labels = torch.randint(0, 8, (50,), generator=generator)
    sums = RunningSums.zero(8, torch.device("cpu"))
    for part in torch.arange(50).split(16):
        sums.add(functional.cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    averages = sums.read(World())
    probabilities = logits.softmax(1).double().numpy()
    probabilities /= probabilities.sum(1, keepdims=True)
    assert averages.loss == pytest.approx(log_loss(labels, probabilities), rel=1e-6)
    assert averages.top1_acc == accuracy_score(labels, logits.argmax(1))
    assert averages.top5_acc == top_k_accuracy_score(labels, logits, k=5)
    assert averages.num_images == 50


@pytest.mark.parametrize(("num_classes", "told"), [(1, False), (5, False), (6, True)])
def test_top5_is_shown_only_for_more_than_five_classes(num_classes: int, told: bool) -> None:
    sums = RunningSums.zero(num_classes, torch.device("cpu"))
    sums.add(torch.tensor(1.0), torch.randn(3, num_classes), torch.zeros(3, dtype=torch.int64))
    assert (sums.read(World()).top5_acc is not None) is told


@pytest.mark.parametrize("num_classes", [3, 8])
def test_means_over_classes_are_those_of_scikit_learn(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    sums = RunningSums.zero(num_classes, torch.device("cpu"), counts_classes=True)
    labels = torch.randint(num_classes - 1, (60,), generator=generator)  # the last class has no image
    logits = torch.randn(60, num_classes, generator=generator) + 2 * functional.one_hot(labels, num_classes)
    for part in range(0, 60, 16):
        sums.add(torch.tensor(1.0), logits[part : part + 16], labels[part : part + 16])
    averages = sums.read(World())
    predictions = logits.argmax(1)
    assert averages.balanced_accuracy == pytest.approx(
        recall_score(labels, predictions, average="macro", labels=range(num_classes - 1))
    )
    assert averages.macro_f1 == pytest.approx(f1_score(labels, predictions, average="macro"))


def test_without_need_nothing_is_counted_by_class() -> None:
    sums = RunningSums.zero(3, torch.device("cpu"))
    sums.add(torch.tensor(1.0), torch.eye(3), torch.arange(3))
    assert sums.by_class is None
    assert sums.read(World()).balanced_accuracy is None
