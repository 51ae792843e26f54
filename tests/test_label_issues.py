"""Labels that look wrong: probabilities by models that have not seen an image, and what confident learning says."""

from __future__ import annotations

import sys
from importlib import util

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import StandardScaler

from train_pytorch_model.evaluation import label_issues
from train_pytorch_model.evaluation.label_issues import classes_alike, find_label_issues, why_no_label_issues
from train_pytorch_model.training.out_of_fold import out_of_fold_probabilities


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels of 1,797 digits as features, and their classes."""
    pixels, labels = load_digits(return_X_y=True)
    return pixels.astype(np.float32), labels


def probabilities_of(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    rows = torch.from_numpy(features.copy())
    return out_of_fold_probabilities(rows, torch.from_numpy(labels), int(labels.max()) + 1, seed).numpy()


def with_flips(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which a fraction is another class, and which ones."""
    random = np.random.default_rng(seed)
    flipped = random.choice(len(labels), round(fraction * len(labels)), replace=False)
    changed = labels.copy()
    changed[flipped] = (labels[flipped] + random.integers(1, labels.max() + 1, len(flipped))) % (labels.max() + 1)
    return changed, flipped


def test_the_probabilities_are_as_good_as_scikit_learns(digits: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = digits
    found = probabilities_of(features, labels)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = LogisticRegression(C=10 / features.shape[1], max_iter=300)
    rows = StandardScaler().fit_transform(features)
    wanted = cross_val_predict(model, rows, labels, cv=folds, method="predict_proba")
    assert found.sum(1) == pytest.approx(1, abs=1e-5)
    assert log_loss(labels, found) < 1.15 * log_loss(labels, wanted)
    assert (found.argmax(1) == labels).mean() == pytest.approx((wanted.argmax(1) == labels).mean(), abs=0.01)


def test_flipped_labels_are_the_most_suspicious(digits: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = digits
    changed, flipped = with_flips(labels, 0.05, seed=1)
    issues, num_wrong = find_label_issues(changed, probabilities_of(features, changed))
    assert 0.5 * len(flipped) < num_wrong < 1.5 * len(flipped)
    images = [image for image, _, _ in issues]
    first = set(images[: len(labels) // 10])
    assert len(first & set(flipped.tolist())) >= 0.9 * len(flipped)
    scores = [score for _, _, score in issues]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    suggested = {image: label for image, label, _ in issues}
    right = [suggested[image] == labels[image] for image in flipped.tolist() if image in suggested]
    assert np.mean(right) > 0.9


def test_nothing_is_suspicious_where_a_model_is_sure() -> None:
    labels = np.arange(40) % 2
    probabilities = np.full((40, 2), 0.02)
    probabilities[np.arange(40), labels] = 0.98
    assert find_label_issues(labels, probabilities) == ([], 0)


def test_images_without_probabilities_and_single_images_are_left_out(digits: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = digits
    labels = labels[:300].copy()
    labels[5] = 10  # the only one of its class
    probabilities = probabilities_of(features[:300], labels)
    assert np.isnan(probabilities[5]).all()
    assert np.isfinite(np.delete(probabilities, 5, axis=0)).all()
    assert 5 not in [image for image, _, _ in find_label_issues(labels, probabilities)[0]]
    assert find_label_issues(labels, np.full((300, 11), np.nan)) == ([], 0)
    assert find_label_issues(np.zeros(5, dtype=int), np.ones((5, 1))) == ([], 0)


def test_two_halves_of_a_class_should_be_one(digits: tuple[np.ndarray, np.ndarray]) -> None:
    features, labels = digits
    assert classes_alike(labels, probabilities_of(features, labels)) == []
    split = labels.copy()
    split[np.flatnonzero(labels == 3)[::2]] = 10
    ((first, second, there, back),) = classes_alike(split, probabilities_of(features, split))
    assert (first, second) == (3, 10)
    assert 0.3 <= min(there, back) <= max(there, back) <= 0.8


@pytest.mark.parametrize("fraction", [1 / 2, 1 / 3, 1 / 4, 1 / 6])
@pytest.mark.parametrize("digit", [1, 3, 8])
def test_parts_of_a_class_should_be_one_whatever_their_sizes(
    digit: int, fraction: float, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    features, labels = digits
    split = labels.copy()
    of_digit = np.random.default_rng(0).permutation(np.flatnonzero(labels == digit))
    split[of_digit[: int(fraction * len(of_digit))]] = 10
    ((first, second, there, back),) = classes_alike(split, probabilities_of(features, split))
    assert (first, second) == (digit, 10)
    assert 0.3 <= min(there, back) <= max(there, back) <= 0.8


@pytest.mark.parametrize("noise", [0.0, 6.0])
@pytest.mark.parametrize("num_images", [100, 50, 25, 12])
def test_different_classes_of_other_sizes_are_not_one(
    num_images: int, noise: float, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    """With noise, at least a third of the images of small classes is predicted as another class."""
    features, labels = digits
    kept = [np.flatnonzero(labels == digit)[: num_images if digit % 2 else None] for digit in range(10)]
    index = np.sort(np.concatenate(kept))
    rows = features[index] + noise * np.random.default_rng(0).standard_normal((len(index), 64)).astype(np.float32)
    assert classes_alike(labels[index], probabilities_of(rows, labels[index])) == []


def test_without_cleanlab_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_no_label_issues() == ""
    monkeypatch.setattr(label_issues, "find_spec", lambda name: None if name == "cleanlab" else util.find_spec(name))
    assert "pip install 'train-pytorch-model[label-issues]'" in why_no_label_issues()
    monkeypatch.setattr(sys, "version_info", (3, 9, 0))
    assert why_no_label_issues() == "cleanlab needs Python 3.10 or later"
