from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    log_loss,
    recall_score,
    top_k_accuracy_score,
)
from torch import nn
from torch.nn import functional

from tests.small_training import make_plan
from train_pytorch_model.data.image_store import DecodedImages
from train_pytorch_model.distributed.world import World
from train_pytorch_model.training.label_metrics import label_values
from train_pytorch_model.training.metrics import RunningSums
from train_pytorch_model.training.thresholds import best_threshold, ranked
from train_pytorch_model.training.validation import evaluate


class Rows(nn.Module):
    """Returns the rows of a table, from the first on, whatever the images."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self._rows, self._start = rows, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self._start += len(images)
        return self._rows[self._start - len(images) : self._start]


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


def test_the_class_of_mixed_labels_is_the_largest_part() -> None:
    sums = RunningSums.zero(3, torch.device("cpu"))
    labels = torch.tensor([[0.6, 0.4, 0.0], [0.2, 0.0, 0.8], [0.0, 1.0, 0.0]])
    sums.add(torch.tensor(1.0), torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), labels)
    assert sums.read(World()).top1_acc == pytest.approx(2 / 3)


def several_labels(count: int, num_labels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that partly tell the labels, with equal ones among them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(count, num_labels, generator=generator) < torch.linspace(0.1, 0.7, num_labels)
    logits = (2 * torch.randn(count, num_labels, generator=generator) + 2 * labels - 1).round(decimals=1)
    return logits, labels


def test_metrics_of_several_labels_equal_scikit_learns() -> None:
    logits, labels = several_labels(200, 6)
    labels[:, 2] = False
    images = DecodedImages(torch.zeros(200, 3, 1, 1, dtype=torch.uint8), labels)
    averages = evaluate(Rows(logits), images, make_plan(task="multilabel", num_classes=6, batch_size=17), World())
    found, present = logits >= 0, [0, 1, 3, 4, 5]
    probabilities = logits.sigmoid()
    assert averages.loss == pytest.approx(functional.binary_cross_entropy(probabilities, labels.float()).item())
    assert averages.top1_acc == accuracy_score(labels, found)
    assert averages.top5_acc is None
    assert averages.balanced_accuracy is None
    assert averages.average_precision == pytest.approx(
        average_precision_score(labels[:, present], probabilities[:, present], average="macro")
    )
    assert averages.macro_f1 == pytest.approx(f1_score(labels[:, present], found[:, present], average="macro"))
    assert averages.micro_f1 == pytest.approx(f1_score(labels, found, average="micro"))


def test_without_any_label_the_metrics_are_zero() -> None:
    values = label_values(np.full((3, 2), 0.2, dtype=np.float32), np.zeros((3, 2), dtype=bool))
    assert values == (0.0, 0.0, 0.0, (0.5, 0.5))


def best_of_all(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """The best threshold by trying the middles between all probabilities, and 0.5."""
    edges = np.unique(np.append(probabilities.astype(np.float64), 0.0))
    tried = [*((edges[1:] + edges[:-1]) / 2), 0.5]
    scores = [f1_score(truth, probabilities >= threshold, zero_division=0) for threshold in tried]
    best = [threshold for threshold, score in zip(tried, scores) if score == max(scores)]
    return min(best, key=lambda threshold: (abs(threshold - 0.5), -threshold))


@pytest.mark.parametrize("seed", range(20))
def test_thresholds_are_the_best_ones_of_all(seed: int) -> None:
    logits, labels = several_labels(60, 5, seed)
    shifted = (logits + torch.linspace(-3, 3, 5)).sigmoid().numpy()
    truth = labels.numpy()
    truth[:, 0], truth[:, 1], truth[:, 4] = np.arange(60) < 10, np.arange(60) < 9, np.arange(60) >= 9
    thresholds = label_values(shifted, truth).thresholds
    for label in (0, 2, 3):
        assert thresholds[label] == best_of_all(shifted[:, label], truth[:, label])
    assert thresholds[1] == thresholds[4] == 0.5  # 9 images have it, or do not


def test_where_all_thresholds_are_as_good_half_is_kept() -> None:
    truth = np.arange(40) < 20
    assert best_threshold(ranked(np.where(truth, 0.9, 0.1), truth)) == 0.5
    assert best_threshold(ranked(np.where(truth, 0.4, 0.2), truth)) == pytest.approx(0.3)
    assert best_threshold(ranked(np.full(40, 0.2), truth)) == 0.1
