"""The head fitted on features of the frozen network, against scikit-learn's logistic regression."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import nn

from tests.jobs import Job
from tests.small_training import make_images, make_network, make_plan
from train_pytorch_model.data.batches import normalised
from train_pytorch_model.data.image_store import DecodedImages
from train_pytorch_model.distributed.world import World
from train_pytorch_model.models.heads import Head, find_head
from train_pytorch_model.training import head_fit, logistic_regression
from train_pytorch_model.training.head_fit import FeaturesNotFiniteError, HeadFit, fit_head
from train_pytorch_model.training.logistic_regression import (
    L2_PENALTIES,
    LinearModel,
    cross_validate,
    minimise,
)
from train_pytorch_model.training.precision import Precision
from train_pytorch_model.training.stratification import strata_of, stratified_folds, stratified_sample
from train_pytorch_model.training.validation import evaluate


def fitted(network: nn.Module, images: DecodedImages, **plan: Any) -> HeadFit:
    """Fit the head and load it into the network."""
    size = plan.get("image_size") or images.size
    head = find_head(network, size)
    assert isinstance(head, Head)
    result = fit_head(network, head, images, make_plan(**plan), World())
    assert set(result.state) == head.parameter_names
    assert not network.load_state_dict(result.state, strict=False).unexpected_keys
    return result


def probabilities(network: nn.Module, images: DecodedImages, mean: float = 0.5, std: float = 0.5) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = network.eval()(normalised(images.pixels, torch.contiguous_format, mean, std)).softmax(1)
    return result


def features(network: nn.Sequential, images: DecodedImages) -> np.ndarray:
    """Standardized features, computed without the product."""
    with torch.no_grad():
        rows = network[:-1].eval()(images.pixels.float() / 255 * 2 - 1).double().numpy()
    return np.asarray((rows - rows.mean(0)) / rows.std(0))


def coloured(count: int, seed: int = 0, num_classes: int = 4, side: int = 12) -> DecodedImages:
    """Images of noise around a colour that the label decides for most of them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (count,), generator=generator)
    colours = torch.tensor([[180, 90, 90], [90, 180, 90], [90, 90, 180], [120, 120, 120], [200, 200, 90]])
    noise = 40 * torch.randn(count, 3, side, side, generator=generator) + 50 * torch.randn(
        count, 3, 1, 1, generator=generator
    )
    pixels = (colours[labels][:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)
    return DecodedImages(pixels, labels)


def rows_and_labels(count: int, num_features: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, num_classes, (count,), generator=generator)
    means = torch.randn(num_classes, num_features, generator=generator)
    rows = means[labels] * 0.2 + torch.randn(count, num_features, generator=generator)
    return (rows - rows.mean(0)) / rows.std(0, correction=0), labels


@pytest.mark.parametrize("num_features", [8, 300])
@pytest.mark.parametrize("l2", [1.0, 0.01, 0.001])
def test_the_solution_is_that_of_scikit_learn(num_features: int, l2: float) -> None:
    rows, labels = rows_and_labels(150, num_features, 3)
    weights = torch.tensor([0.5, 1.0, 2.0])[labels]
    zero = LinearModel.zero(1, 3, rows)
    model = minimise(
        *(zero, rows, labels, weights[:, None] / 150, torch.tensor([l2])),
        has_bias=True,
        max_iterations=head_fit._MAX_ITERATIONS,
        tolerance=head_fit._TOLERANCE,
    )
    found = (rows @ model.weight[0].T + model.bias[0]).softmax(1)
    reference = LogisticRegression(C=1 / (150 * l2), tol=1e-9, max_iter=10_000)
    expected = reference.fit(rows.double().numpy(), labels.numpy(), weights.double().numpy())
    np.testing.assert_allclose(found.numpy(), expected.predict_proba(rows.double().numpy()), atol=1e-3)


def test_the_network_gives_scikit_learns_probabilities() -> None:
    network, images = make_network(), coloured(90)
    given = features(network, images)
    result = fitted(network, images)
    reference = LogisticRegression(C=1 / (90 * result.l2), tol=1e-9, max_iter=10_000).fit(given, images.labels.numpy())
    np.testing.assert_allclose(probabilities(network, images).numpy(), reference.predict_proba(given), atol=1e-3)


def test_the_networks_validation_is_that_of_the_fit() -> None:
    network, images = make_network(), coloured(90)
    result = fitted(network, images)
    measured = evaluate(network, images, make_plan(), World())
    assert measured.loss == pytest.approx(result.train_loss, rel=1e-4)
    assert 1 - measured.top1_acc == pytest.approx(result.train_error)
    assert 0 < result.train_error < 0.5
    assert result.seconds > 0


def test_the_penalty_is_the_one_with_the_lowest_loss_on_held_out_rows() -> None:
    rows, labels = rows_and_labels(120, 200, 3)
    chosen = cross_validate(rows, labels, torch.ones(3), 3, has_bias=True)
    assert chosen.num_folds == 5
    folds = stratified_folds(labels, 5, 3).numpy()
    given, targets = rows.double().numpy(), labels.numpy()
    losses = {}
    for l2 in L2_PENALTIES:
        predicted = np.empty((120, 3))
        for fold in range(5):
            reference = LogisticRegression(C=1 / (120 * l2), tol=1e-6, max_iter=10_000)
            reference.fit(given[folds != fold], targets[folds != fold])
            predicted[folds == fold] = reference.predict_proba(given[folds == fold])
        losses[l2] = log_loss(targets, predicted)
    assert chosen.l2 == min(losses, key=lambda l2: losses[l2])
    assert chosen.l2 not in (L2_PENALTIES[0], L2_PENALTIES[-1])
    assert chosen.loss == pytest.approx(losses[chosen.l2], rel=1e-2)


def test_noise_gets_a_strong_penalty() -> None:
    rows, labels = rows_and_labels(100, 50, 4)
    labels = labels[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    chosen = cross_validate(rows, labels, torch.ones(4), 3, has_bias=True)
    assert chosen.l2 in L2_PENALTIES[:3]
    assert chosen.loss == pytest.approx(math.log(4), abs=0.05)


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_squeezenet_computes_the_probabilities_of_the_linear_model_of_pooled_features(name: str) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, num_classes=4)
    images = coloured(40, side=64)
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    result = fitted(network, images, batch_size=16)

    def keep(_: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        inputs.append(given[0].clone())
        outputs.append(output.clone())  # before ReLU changes it in place

    handle = network.classifier[1].register_forward_hook(keep)
    found = probabilities(network, images)
    handle.remove()
    weight, bias = result.state["classifier.1.weight"], result.state["classifier.1.bias"]
    assert weight.shape == (4, 512, 1, 1)
    expected = (inputs[0].mean((2, 3)) @ weight[:, :, 0, 0].T + bias).softmax(1)
    assert (found - expected).abs().max() < 1e-5
    assert evaluate(network, images, make_plan(), World()).loss == pytest.approx(result.train_loss, rel=1e-4)
    # ReLU changes nothing, and the added constant is not larger than that needs.
    assert abs(outputs[0].min()) < 1e-4
    assert found.std() > 0.05


class WithoutBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = make_network()[:-1]
        self.head = nn.Linear(32, 4, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.body(images))
        return result


def test_a_head_without_bias_is_fitted_without_one() -> None:
    network, images = WithoutBias(), coloured(90)
    result = fitted(network, images)
    assert set(result.state) == {"head.weight"}
    assert evaluate(network, images, make_plan(), World()).loss == pytest.approx(result.train_loss, rel=1e-4)
    with torch.no_grad():
        rows = network.body(images.pixels.float() / 255 * 2 - 1).double().numpy()
    rows /= np.sqrt((rows**2).mean(0))
    reference = LogisticRegression(C=1 / (90 * result.l2), fit_intercept=False, tol=1e-9, max_iter=10_000)
    expected = reference.fit(rows, images.labels.numpy()).predict_proba(rows)
    np.testing.assert_allclose(probabilities(network, images).numpy(), expected, atol=1e-3)


def test_the_network_is_left_as_it_was() -> None:
    network, images = make_network().train(), coloured(30)
    network[1].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    random = torch.random.get_rng_state()
    head = find_head(network, images.size)
    assert isinstance(head, Head)
    fit_head(network, head, images, make_plan(), World())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [module.training for module in network] == [True, False, True, True, True, True]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_features_are_those_of_the_plans_pixels() -> None:
    large = coloured(60, side=16)
    cut = DecodedImages(large.pixels[:, :, 2:14, 2:14], large.labels)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    network = make_network()
    result = fitted(network, large, image_size=(12, 12), mean=mean, std=std)
    shaped = [torch.tensor(values).reshape(3, 1, 1) for values in (mean, std)]
    with torch.no_grad():
        logits = network.eval()(normalised(cut.pixels, torch.contiguous_format, *shaped))
    assert nn.functional.cross_entropy(logits, cut.labels).item() == pytest.approx(result.train_loss, rel=1e-4)


def test_class_weights_count_rare_classes_more() -> None:
    images = coloured(120)
    few = torch.cat([torch.nonzero(images.labels != 0)[:, 0], torch.nonzero(images.labels == 0)[:3, 0]])
    images = DecodedImages(images.pixels[few], images.labels[few])
    plain, weighted = make_network(), make_network()
    fitted(plain, images)
    fitted(weighted, images, class_weights=(10.0, 0.7, 0.7, 0.7))
    rare = images.labels == 0
    assert (probabilities(weighted, images)[rare, 0] > probabilities(plain, images)[rare, 0]).all()


@pytest.mark.parametrize(("count", "task"), [(5, "multiclass"), (61, "multiclass"), (61, "multilabel")])
def test_two_processes_fit_what_one_fits(count: int, task: str, tmp_path: Path) -> None:
    results = []
    for world_size in (1, 2):
        job = Job(tmp_path, ["tests.head_job", f"{world_size}", str(count), task], world_size)
        assert job.wait() == [0] * world_size, job.log()
        results += [torch.load(tmp_path / f"{world_size}.{rank}") for rank in range(world_size)]
    for result in results[1:]:
        assert all(torch.equal(value, results[0]["state"][key]) for key, value in result["state"].items())
        assert all(result[key] == results[0][key] for key in ("l2", "train_loss", "train_error"))
    num_batches = math.ceil(math.ceil(count / 8) / 2)
    assert results[1]["calls"] == results[2]["calls"]
    of_batches = [call for call in results[1]["calls"] if call != (0, 0)]
    assert of_batches == [(n, num_batches) for n in range(1, num_batches + 1)]
    assert len(results[1]["calls"]) > len(of_batches)


class Constant(nn.Module):
    """Features of which some are constant, except for rounding."""

    def __init__(self, num_constant: int) -> None:
        super().__init__()
        self.body = make_network()[:-1]
        self.constant = num_constant
        self.head = nn.Linear(32, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)
        rounding = 1 + 1e-7 * torch.rand_like(features[:, : self.constant])
        result: torch.Tensor = self.head(torch.cat((3 * rounding, features[:, self.constant :]), 1))
        return result


@pytest.mark.parametrize("num_constant", [1, 31, 32])
def test_constant_features_get_no_weight(num_constant: int) -> None:
    network, images = Constant(num_constant), coloured(60)
    result = fitted(network, images)
    assert result.state["head.weight"][:, :num_constant].abs().max() == 0
    measured = evaluate(network, images, make_plan(), World())
    assert measured.loss == pytest.approx(result.train_loss, abs=1e-3)
    if num_constant == 32:
        fractions = torch.bincount(images.labels) / 60
        assert result.train_loss == pytest.approx(-(fractions * fractions.log()).sum().item(), abs=1e-3)


@pytest.mark.parametrize("labels", [[2] * 12, [0] * 11 + [3], [0, 1, 2, 3], [0, 0, 3, 3], [1], [0, 3]])
def test_classes_with_few_or_no_images(labels: list[int], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    images = DecodedImages(make_images(len(labels)).pixels, torch.tensor(labels))
    network = make_network()
    result = fitted(network, images)
    assert all(value.isfinite().all() for value in result.state.values())
    assert evaluate(network, images, make_plan(), World()).loss == pytest.approx(result.train_loss, abs=1e-3)
    has_two = len(set(labels)) < len(labels)
    assert ("cross-validation" in caplog.text) == has_two
    assert ("No class has two images" in caplog.text) != has_two


class Overflowing(nn.Module):
    """Has features that are too large for float16."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.body = make_network()[:-1]
        self.factor = factor
        self.head = nn.Linear(32, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.body(images) * self.factor)
        return result


def test_features_that_overflow_in_half_precision_are_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    # Autocast of float16 on a CPU leaves too much in float32 to overflow.
    half = Precision(torch.float16, "cpu")
    computed: list[str] = []
    original = head_fit.head_values

    def head_values(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        precision = arguments[8]
        computed.append(str(precision))
        values, labels = original(*arguments)
        return values * math.inf if precision == half else values, labels

    monkeypatch.setattr(head_fit, "head_values", head_values)
    network = make_network()
    result = fitted(network, coloured(30), precision=half)
    assert computed == ["float16", "float32"]
    assert result.state["5.weight"].isfinite().all()


def test_features_that_are_not_finite_raise_an_error() -> None:
    network, images = Overflowing(math.inf), coloured(20)
    head = Head("head", (4, 32), has_bias=True, is_rectified=False)
    with pytest.raises(FeaturesNotFiniteError, match="not finite"):
        fit_head(network, head, images, make_plan(), World())


class Hungry(nn.Module):
    """Runs out of memory for more than two images."""

    def __init__(self) -> None:
        super().__init__()
        self.body = make_network()[:-1]
        self.head = nn.Linear(32, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        result: torch.Tensor = self.head(self.body(images))
        return result


def test_batches_that_do_not_fit_in_memory_are_computed_in_parts() -> None:
    hungry, images = Hungry(), coloured(21)
    result = fitted(hungry, images)
    plain = fitted(make_network(), images)
    assert result.train_loss == pytest.approx(plain.train_loss, rel=1e-5)


def test_large_problems_use_a_stratified_sample(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(logistic_regression, "_CROSS_VALIDATION_PRODUCTS", 32 * 4 * 2 * 60)
    monkeypatch.setattr(logistic_regression, "_LOGITS_AT_ONCE", 4 * 7)
    images = coloured(100)
    all_of_them = fitted(make_network(), images)
    assert "2-fold cross-validation of the training images on a stratified sample of 60 images" in caplog.text
    assert "features of 100 training images" in caplog.text
    monkeypatch.undo()
    assert all_of_them.train_loss == pytest.approx(fitted(make_network(), images).train_loss, abs=0.1)
    monkeypatch.setattr(head_fit, "_MAX_FEATURE_BYTES", 4 * 32 * 80)
    caplog.set_level(logging.INFO)
    fitted(make_network(), images)
    assert "features of 80 of 100 training images" in caplog.text


def test_very_large_fits_end_early_near_the_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    images = coloured(100)
    exact = fitted(make_network(), images)
    monkeypatch.setattr(head_fit, "_MAX_PRODUCTS", 1)
    monkeypatch.setattr(head_fit, "_MIN_ITERATIONS", 3)
    early = fitted(make_network(), images)
    assert early.train_loss != exact.train_loss
    assert early.train_loss == pytest.approx(exact.train_loss, abs=0.05)


def test_a_stratified_sample_has_the_same_fraction_of_each_class() -> None:
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 10 + [3])
    labels = labels[torch.randperm(161, generator=torch.Generator().manual_seed(1))]
    sample = stratified_sample(labels, 81, 5)
    assert torch.equal(sample, sample.unique())
    assert torch.bincount(labels[sample]).tolist() == [50, 25, 5, 1]
    assert torch.equal(stratified_sample(labels, 81, 5), sample)
    assert not torch.equal(stratified_sample(labels, 81, 6), sample)
    assert torch.bincount(labels[stratified_sample(labels, 4, 5)]).tolist() == [1, 1, 1, 1]
    assert torch.equal(stratified_sample(labels, 161, 5), torch.arange(161))


def test_folds_are_stratified() -> None:
    labels = torch.tensor([0] * 33 + [1] * 12 + [2] * 3 + [3])
    labels = labels[torch.randperm(49, generator=torch.Generator().manual_seed(1))]
    folds = stratified_folds(labels, 5, 7)
    assert folds[labels == 3].tolist() == [-1]
    assert len(folds[labels == 2].unique()) == 3
    for label in (0, 1):
        counts = torch.bincount(folds[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    counts = torch.bincount(folds[folds >= 0], minlength=5)
    assert counts.max() - counts.min() <= 1
    assert torch.equal(stratified_folds(labels, 5, 7), folds)
    assert not torch.equal(stratified_folds(labels, 5, 8), folds)


def several_labels(count: int, num_features: int, num_labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardized rows, and labels that they partly tell: float32 of shape (N, labels)."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(count, num_features, generator=generator)
    logits = rows @ torch.randn(num_features, num_labels, generator=generator) / num_features**0.5 * 2
    labels = logits + torch.randn(count, num_labels, generator=generator) > torch.linspace(-1, 2, num_labels)
    return (rows - rows.mean(0)) / rows.std(0, correction=0), labels.float()


@pytest.mark.parametrize("l2", [1.0, 0.01, 0.001])
@pytest.mark.parametrize("positive_weights", [None, torch.tensor([0.5, 1.0, 3.0])])
def test_several_labels_are_scikit_learns_regressions_one_label_at_a_time(
    l2: float, positive_weights: torch.Tensor | None
) -> None:
    rows, labels = several_labels(150, 40, 3)
    model = minimise(
        *(LinearModel.zero(1, 3, rows), rows, labels, torch.full((150, 1), 1 / 150), torch.tensor([l2])),
        has_bias=True,
        max_iterations=head_fit._MAX_ITERATIONS,
        tolerance=head_fit._TOLERANCE,
        positive_weights=positive_weights,
    )
    found = (rows @ model.weight[0].T + model.bias[0]).sigmoid()
    given = rows.double().numpy()
    for label in range(3):
        weight = 1.0 if positive_weights is None else float(positive_weights[label])
        reference = LogisticRegression(C=1 / (150 * l2), tol=1e-9, max_iter=10_000, class_weight={0: 1, 1: weight})
        expected = reference.fit(given, labels[:, label].numpy()).predict_proba(given)[:, 1]
        np.testing.assert_allclose(found[:, label].numpy(), expected, atol=1e-3)


def test_the_penalty_of_several_labels_is_the_one_with_the_lowest_loss_on_held_out_rows() -> None:
    rows, labels = several_labels(120, 200, 3)
    chosen = cross_validate(rows, labels, torch.ones(3), 3, has_bias=True)
    folds = stratified_folds(strata_of(labels), 5, 3).numpy()
    given, targets = rows.double().numpy(), labels.numpy()
    losses = {}
    for l2 in L2_PENALTIES:
        predicted = np.empty((120, 3))
        for fold, label in np.ndindex(5, 3):
            reference = LogisticRegression(C=1 / (120 * l2), tol=1e-6, max_iter=10_000)
            reference.fit(given[folds != fold], targets[folds != fold, label])
            predicted[folds == fold, label] = reference.predict_proba(given[folds == fold])[:, 1]
        losses[l2] = np.mean([log_loss(targets[:, label], predicted[:, label]) for label in range(3)])
    assert chosen.l2 == min(losses, key=lambda l2: losses[l2])
    assert chosen.loss == pytest.approx(losses[chosen.l2], rel=1e-2)


def labelled(images: DecodedImages) -> DecodedImages:
    """The images of `coloured` with four labels: two colours, one that all images have, one that none has."""
    red, green = images.labels == 0, images.labels == 1
    ones = torch.ones(len(images), dtype=torch.bool)
    return DecodedImages(images.pixels, torch.stack((red, green, ones, ~ones), 1))


def test_the_network_of_several_labels_gives_scikit_learns_probabilities() -> None:
    network, images = make_network(), labelled(coloured(90))
    given = features(network, images)
    result = fitted(network, images, task="multilabel")
    with torch.no_grad():
        found = network.eval()(normalised(images.pixels, torch.contiguous_format)).sigmoid().numpy()
    for label in (0, 1):
        reference = LogisticRegression(C=1 / (90 * result.l2), tol=1e-9, max_iter=10_000)
        expected = reference.fit(given, images.labels[:, label].numpy()).predict_proba(given)[:, 1]
        np.testing.assert_allclose(found[:, label], expected, atol=1e-3)
    # Regression has no solution for a label that all images have, or none.
    np.testing.assert_allclose(found[:, 2], 90.5 / 91, rtol=1e-5)
    np.testing.assert_allclose(found[:, 3], 0.5 / 91, rtol=1e-4)
    measured = evaluate(network, images, make_plan(task="multilabel"), World())
    assert measured.loss == pytest.approx(result.train_loss, rel=1e-4)
    assert 1 - measured.top1_acc == pytest.approx(result.train_error)


def test_a_head_without_bias_is_fitted_to_every_label() -> None:
    network, images = make_network(), labelled(coloured(90))
    network[5] = nn.Linear(32, 4, bias=False)
    fitted(network, images, task="multilabel")
    with torch.no_grad():
        found = network.eval()(normalised(images.pixels, torch.contiguous_format)).sigmoid().mean(0)
    assert found[2] > 0.7 > 0.3 > found[3]


def test_the_folds_of_several_labels_have_about_as_many_of_each() -> None:
    _, labels = several_labels(200, 40, 6)
    labels[0, 5], labels[1:, 5] = 1, 0
    strata = strata_of(labels)
    assert strata[0] == 5
    assert all(labels[row, stratum] == 1 for row, stratum in enumerate(strata) if stratum < 6)
    assert (strata == 6).equal(labels.sum(1) == 0)
    folds = stratified_folds(strata, 5, 3)
    assert folds[0] == -1  # without this row, no model would know the label
    for label in range(5):
        counts = torch.bincount(folds[(labels[:, label] == 1) & (folds >= 0)], minlength=5)
        assert counts.max() <= 1.5 * counts.float().mean() + 1
