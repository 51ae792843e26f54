"""Mixup and cutmix, compared with torchvision's, and to the bit after a resume, in every store and process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torchvision.transforms.v2 import CutMix, MixUp

from tests.small_training import CPU, StoppedError, Stopping, make_images, make_network, make_plan, run
from train_pytorch_model.data.batches import shuffled, training_shards
from train_pytorch_model.data.image_store import DecodedImages
from train_pytorch_model.distributed.world import World
from train_pytorch_model.training import resampling
from train_pytorch_model.training.augmentation import Augmentation, augmented
from train_pytorch_model.training.callbacks import Callback
from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
from train_pytorch_model.training.epoch import train_epoch
from train_pytorch_model.training.mixing import Mix, Mixing, mix_batch, shown_in_epoch
from train_pytorch_model.training.random_erasing import RandomErasing
from train_pytorch_model.training.state import TrainingState
from train_pytorch_model.training.step import TrainingStep
from train_pytorch_model.training.trivial_augment import TrivialAugment

FORMATS = (torch.contiguous_format, torch.channels_last)
WHOLE = Augmentation((10, 10), operations=TrivialAugment(), erasing=RandomErasing(0.5, (128, 128, 128)))
BOTH = Mixing(mixup_alpha=0.2, cutmix_alpha=1.0)


def make_batch(count: int, *, is_multilabel: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 3, 30, 22), dtype=torch.uint8, generator=generator)
    if is_multilabel:
        return pixels, torch.randint(0, 2, (count, 4), generator=generator).float()
    return pixels, torch.randint(0, 4, (count,), generator=generator)


@pytest.mark.parametrize("is_multilabel", [False, True])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("count", [1, 2, 9])
def test_batches_are_mixed_as_torchvision_mixes_them(
    count: int,
    memory_format: torch.memory_format,
    is_multilabel: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resampling, "_GROUP_BYTES", 20_000)  # two images at a time
    pixels, labels = make_batch(count, is_multilabel=is_multilabel)
    pixels = pixels.contiguous(memory_format=memory_format)
    kept = pixels.clone()
    vectors = labels if is_multilabel else functional.one_hot(labels, 4).float()
    for fraction in (0.0, 0.137, 0.5, 1.0):
        given, given_labels = mix_batch(pixels, labels, Mix(fraction, None), 4)
        expected = MixUp().transform(pixels.float(), {"labels": None, "batch_size": count, "lam": fraction})
        assert given.dtype == torch.uint8
        assert given.stride() == pixels.stride()
        assert (given.float() - expected).abs().max() <= 0.5001
        torch.testing.assert_close(given_labels, MixUp()._mixup_label(vectors, lam=fraction))
        for centre in ((0.0, 0.0), (0.5, 0.5), (0.99, 0.3)):
            given, given_labels = mix_batch(pixels, labels, Mix(fraction, centre), 4)
            cutmix = CutMix()
            with monkeypatch.context() as patched:
                patched.setattr(cutmix._dist, "sample", lambda _, fraction=fraction: torch.tensor([fraction]).double())
                places = iter([int(centre[1] * 22), int(centre[0] * 30)])  # torchvision draws x first
                patched.setattr(torch, "randint", lambda *_, places=places, **__: torch.tensor([next(places)]))
                params = cutmix.make_params([pixels])
            expected = cutmix.transform(pixels, {"labels": None, "batch_size": count, **params})
            assert torch.equal(given, expected)
            assert given_labels.dtype == torch.float32
            torch.testing.assert_close(given_labels, cutmix._mixup_label(vectors, lam=params["lam_adjusted"]))
    assert torch.equal(pixels, kept)


def test_fractions_have_the_beta_distribution_and_both_kinds_are_equally_frequent() -> None:
    mixes = Mixing(0.2, 1.0).draw(40_000, seed=1, epoch=1, rank=0)
    mixup = np.array([mix.fraction for mix in mixes if mix.centre is None])
    cutmix = np.array([mix.fraction for mix in mixes if mix.centre is not None])
    assert len(mixup) == pytest.approx(20_000, rel=0.03)
    for given, alpha in ((mixup, 0.2), (cutmix, 1.0)):
        expected = torch.distributions.Beta(alpha, alpha)
        assert given.mean() == pytest.approx(0.5, abs=0.01)
        assert given.var() == pytest.approx(float(expected.variance), rel=0.03)
    centres = np.array([mix.centre for mix in mixes if mix.centre is not None])
    assert centres.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    assert centres.var(0).tolist() == pytest.approx([1 / 12, 1 / 12], rel=0.03)
    assert all(mix.centre is None for mix in Mixing(mixup_alpha=0.4).draw(50, 1, 1, 0))
    assert all(mix.centre is not None for mix in Mixing(cutmix_alpha=0.4).draw(50, 1, 1, 0))
    for alpha in (1e-300, 1e30):
        assert all(0 <= mix.fraction <= 1 for mix in Mixing(alpha, alpha).draw(50, 1, 1, 0))


def test_draws_depend_on_seed_epoch_step_and_rank_alone() -> None:
    first = BOTH.draw(20, 1, 1, 0)
    np.random.random(3)
    assert BOTH.draw(20, 1, 1, 0) == first
    for other in (BOTH.draw(20, 2, 1, 0), BOTH.draw(20, 1, 2, 0), BOTH.draw(20, 1, 1, 1)):
        assert not set(other) & set(first)


class Recording(nn.Module):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.network = make_network()
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(images.detach().clone())
        result: torch.Tensor = self.network(images)
        return result


def shown(plan: Any, *, first: int = 0, microbatch_size: int | None = None) -> torch.Tensor:
    """What the network sees in the second epoch, from one of its steps on."""
    network = Recording()
    step = TrainingStep(network, plan, CPU)
    step.microbatch_size = microbatch_size
    state = TrainingState(step, BestModel(), EarlyStopping(9), epoch=2, iteration=first)
    step.begin_epoch(0.01)
    train_epoch(state, step, make_images(24), plan, World(), Callback())
    return torch.cat(network.seen)


def test_an_epoch_goes_on_with_the_same_pixels_and_microbatches_are_mixed_before_they_are_split() -> None:
    plan = make_plan(batch_size=8, image_size=(10, 10), augmentation=WHOLE, mixing=BOTH)
    expected = shown(plan)
    assert torch.equal(shown(plan, first=2), expected[16:])
    assert torch.equal(shown(plan, microbatch_size=3), expected)
    for other in (make_plan(batch_size=8, image_size=(10, 10), augmentation=WHOLE), make_plan(mixing=BOTH)):
        assert other.seed == plan.seed
        assert shown(other).shape != expected.shape or not torch.equal(shown(other), expected)
    # The report shows the same.
    train = make_images(24)
    order = shuffled(24, plan.seed, 2)
    for place in (0, 7, 8, 23):
        image = shown_in_epoch(augmented(train, plan, 2), plan, 2, int(order[place]), 1, CPU)
        assert torch.equal((image.float() / 255 - 0.5) / 0.5, expected[place])


def test_the_report_finds_the_batch_of_an_image_among_several_processes() -> None:
    """The last batch is filled up with images of the first, which the report shows in their first one."""
    train, plan = make_images(25), make_plan(batch_size=4, mixing=BOTH)
    for rank in (0, 1):
        shards = training_shards(shuffled(25, plan.seed, 1), 4, rank, 2)
        mixes = BOTH.draw(len(shards), plan.seed, 1, rank)
        for shard, mix in zip(shards[:-1], mixes):
            pixels, _ = mix_batch(train.pixels[shard.indices], train.labels[shard.indices], mix, 4)
            for index, expected in zip(shard.indices.tolist(), pixels):
                assert torch.equal(shown_in_epoch(train, plan, 1, index, 2, CPU), expected)


@pytest.mark.parametrize("stop_after", [2, 5])
def test_a_training_that_resumes_within_an_epoch_ends_with_the_same_bits(stop_after: int) -> None:
    plan = make_plan(image_size=(10, 10), augmentation=WHOLE, mixing=BOTH, label_smoothing=0.1, model_ema=0.9)
    train, whole = make_images(24), make_images(8, seed=1)
    valid = DecodedImages(whole.pixels[:, :, 1:11, 1:11], whole.labels)
    network = make_network()
    recorder, _, _ = run(network, plan, train, valid)
    stopping = Stopping(stop_after, is_resuming=False)
    with pytest.raises(StoppedError):
        run(make_network(), plan, train, valid, stopping)
    resumed = make_network(seed=5)
    again, _, _ = run(resumed, plan, train, valid, Stopping(snapshot=stopping.snapshot, is_resuming=True))
    assert again.records == recorder.records
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("class_weights", [None, (0.5, 1.0, 1.5, 1.0)])
def test_a_step_minimizes_the_loss_of_both_labels(class_weights: tuple[float, ...] | None) -> None:
    """The loss of a mixed batch is the mixture of the losses with the labels of each image, as in the papers."""
    plan = make_plan(batch_size=8, mixing=Mixing(mixup_alpha=1.0), label_smoothing=0.1, class_weights=class_weights)
    train = make_images(8)
    step = TrainingStep(make_network(), plan, CPU)
    state = TrainingState(step, BestModel(), EarlyStopping(9))
    step.begin_epoch(0.0)
    averages = train_epoch(state, step, train, plan, World(), Callback())
    order = shuffled(8, plan.seed, 1)
    (mix,) = plan.mixing.draw(1, plan.seed, 1, 0)  # type: ignore[union-attr]
    pixels, labels = train.pixels[order].float(), train.labels[order]
    blended = (mix.fraction * pixels + (1 - mix.fraction) * pixels.roll(1, 0)).round() / 255
    logits = make_network().train()((blended - 0.5) / 0.5)
    weights = torch.ones(4) if class_weights is None else torch.tensor(class_weights)
    both = [
        weights[one] * functional.cross_entropy(logits, one, label_smoothing=0.1, reduction="none")
        for one in (labels, labels.roll(1))
    ]
    expected = (mix.fraction * both[0] + (1 - mix.fraction) * both[1]).mean().item()
    assert averages.loss == pytest.approx(expected, rel=1e-5)


def test_a_network_learns_digits_from_images_with_every_part() -> None:
    digits = load_digits()
    pixels = torch.from_numpy((digits.images * 15.9).astype(np.uint8))[:, None].expand(-1, 3, -1, -1)
    pixels = functional.interpolate(pixels.float(), (20, 20), mode="bilinear").round().to(torch.uint8)
    labels = torch.from_numpy(digits.target)
    train = DecodedImages(pixels[:1437], labels[:1437])
    valid = DecodedImages(pixels[1437:, :, 2:18, 2:18], labels[1437:])
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3)]
    network = nn.Sequential(*layers, nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    plan = make_plan(
        num_classes=10,
        epochs=3,
        batch_size=16,
        learning_rate=0.03,
        lr_schedule="cosine",
        warmup_steps=20,
        label_smoothing=0.1,
        model_ema=0.99997,
        image_size=(16, 16),
        augmentation=replace(WHOLE, size=(16, 16), flips=False, erasing=RandomErasing(0.1, (128, 128, 128))),
        mixing=BOTH,
    )
    recorder, best, _ = run(network.append(nn.Linear(1024, 10)), plan, train, valid)
    losses = [record.train_loss for record in recorder.records]
    assert losses == sorted(losses, reverse=True)
    assert best.top1_acc > 0.8
