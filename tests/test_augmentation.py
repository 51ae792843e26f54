"""Random views of training images, compared with torchvision's, and to the bit in every batch, store and process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as transforms

from tests.jobs import results
from tests.making import Inputs, write_class_folders
from tests.small_training import CPU, make_images, make_network, make_plan, run
from train_pytorch_model.checkpoints.writer import CheckpointWriter
from train_pytorch_model.data.batches import shuffled, training_shards
from train_pytorch_model.data.image_geometry import Geometry
from train_pytorch_model.data.image_store import DecodedImages, decode_all
from train_pytorch_model.distributed.world import World
from train_pytorch_model.job import run as training_run
from train_pytorch_model.training import resampling
from train_pytorch_model.training.augmentation import Augmentation, augmented, centre, plain
from train_pytorch_model.training.callbacks import Callback
from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
from train_pytorch_model.training.loop import train_epoch
from train_pytorch_model.training.plan import Plan
from train_pytorch_model.training.state import TrainingState
from train_pytorch_model.training.step import TrainingStep

FORMATS = (torch.contiguous_format, torch.channels_last)


def make_pixels(count: int, *size: int, memory_format: torch.memory_format = torch.channels_last) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)
    return pixels.contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(
    ("stored", "size"), [((64, 64), (56, 56)), ((40, 60), (32, 48)), ((30, 30), (30, 30)), ((61, 47), (20, 33))]
)
def test_crops_equal_those_of_torchvision(
    stored: tuple[int, int], size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    augmentation = Augmentation(size, crop_scale=(0.08, 1.0))
    pixels = make_pixels(24, *stored, memory_format=memory_format)
    views = augmentation.draw(stored, 24, seed=1, epoch=1)
    given = augmentation.apply(pixels, views)
    assert given.dtype == torch.uint8
    assert given.is_contiguous(memory_format=memory_format)
    assert 0 < views[:, 4].sum() < 24
    for image, result, (*box, is_mirrored) in zip(pixels, given, views.tolist()):
        expected = transforms.resized_crop(image.float(), *box, list(size), antialias=False)
        if is_mirrored:
            expected = expected.flip(2)
        assert (result.float() - expected).abs().max() <= 0.51  # half of a grey value, and the last bits of float32


def test_boxes_are_distributed_as_those_of_torchvision() -> None:
    for stored, scale in (((256, 256), (0.5, 1.0)), ((120, 200), (0.08, 1.0)), ((150, 100), (0.3, 0.6))):
        views = Augmentation((32, 32), crop_scale=scale).draw(stored, 50_000, seed=1, epoch=1).double()
        torch.manual_seed(0)
        image = torch.empty(3, *stored)
        drawn = [RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(5_000)]
        expected = torch.tensor(drawn).double()
        error = (expected.var(0) * (1 / 5_000 + 1 / 50_000)).sqrt()
        assert ((views[:, :4].mean(0) - expected.mean(0)).abs() <= 4 * error + 1e-9).all()
        assert views[:, :4].std(0).tolist() == pytest.approx(expected.std(0).tolist(), rel=0.08, abs=1e-9)
        assert views[:, 4].mean().item() == pytest.approx(0.5, abs=0.01)
        for axis in (0, 1):
            assert views[:, axis].min() == 0
            assert (views[:, axis] + views[:, 2 + axis]).max() == stored[axis]


def test_where_no_box_fits_the_largest_one_is_taken() -> None:
    views = Augmentation((8, 8), crop_scale=(1.0, 1.0)).draw((20, 100), 50, seed=1, epoch=1)
    assert views[:, 2:4].tolist() == [[20, 27]] * 50  # the largest with an aspect ratio of 4/3
    assert len(set(views[:, 1].tolist())) > 10
    views = Augmentation((8, 8), crop_scale=(1.0, 1.0)).draw((100, 20), 50, seed=1, epoch=1)
    assert views[:, 2:4].tolist() == [[27, 20]] * 50


def test_views_depend_on_seed_and_epoch_and_those_without_mirroring_have_the_same_boxes() -> None:
    augmentation = Augmentation((24, 24))

    def draw(seed: int, epoch: int, **fields: Any) -> torch.Tensor:
        return Augmentation((24, 24), **fields).draw((32, 32), 100, seed, epoch)

    first = draw(3, 1)
    torch.rand(5)  # whatever the global generator is used for
    assert torch.equal(augmentation.draw((32, 32), 100, 3, 1), first)
    for other in (draw(3, 2), draw(4, 1)):
        assert (other == first).all(1).sum() < 10
    assert torch.equal(draw(3, 1, flips=False)[:, :4], first[:, :4])
    assert not draw(3, 1, flips=False)[:, 4].any()


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("crops", [True, False])
def test_an_image_has_the_same_bits_in_any_batch_and_with_any_number_of_threads(
    crops: bool, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmentation = Augmentation((56, 50), crops=crops)
    pixels = make_pixels(33, 64, 60, memory_format=memory_format)
    views = augmentation.draw((64, 60), 33, seed=1, epoch=1)
    expected = augmentation.apply(pixels, views)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            for size in (1, 2, 7, 33):
                for indices in order.split(size):
                    assert torch.equal(augmentation.apply(pixels[indices], views[indices]), expected[indices])
            for other in FORMATS:
                assert torch.equal(augmentation.apply(pixels.contiguous(memory_format=other), views), expected)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(resampling, "_GROUP_BYTES", 200_000)  # four images at a time
    in_groups = augmentation.apply(pixels, views)
    assert torch.equal(in_groups, expected)
    assert in_groups.is_contiguous(memory_format=memory_format)


def test_without_crops_the_centre_is_mirrored_and_not_resampled() -> None:
    augmentation = Augmentation((24, 20), crops=False)
    pixels = make_pixels(40, 32, 32)
    views = augmentation.draw((32, 32), 40, seed=1, epoch=1)
    given = augmentation.apply(pixels, views)
    middle = pixels[:, :, 4:28, 6:26]
    mirrored = views[:, 4].bool()
    assert 10 < mirrored.sum() < 30
    assert torch.equal(given[~mirrored], middle[~mirrored])
    assert torch.equal(given[mirrored], middle[mirrored].flip(3))


def test_the_largest_box_shows_the_image_itself() -> None:
    augmentation = Augmentation((32, 32), crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flips=False)
    pixels = make_pixels(10, 32, 32)
    assert torch.equal(augmentation.apply(pixels, augmentation.draw((32, 32), 10, 1, 1)), pixels)


def test_the_centre_is_a_view_and_images_of_the_size_are_not_touched() -> None:
    pixels = make_pixels(4, 32, 30)
    assert centre(pixels, (32, 30)) is pixels
    cut = centre(pixels, (24, 24))
    assert torch.equal(cut, pixels[:, :, 4:28, 3:27])
    assert cut.untyped_storage().data_ptr() == pixels.untyped_storage().data_ptr()
    images = DecodedImages(pixels, torch.arange(4))
    assert plain(images, None) is images
    assert plain(images, (32, 30)) is images
    assert augmented(images, make_plan(), 1) is images
    cropped = plain(images, (24, 24))
    assert (cropped.size, len(cropped)) == ((24, 24), 4)
    ((given, labels),) = cropped.batches([torch.tensor([2, 0])], CPU)
    assert torch.equal(given, cut[[2, 0]])
    assert labels.tolist() == [2, 0]


def seen_by(plan: Plan, images: Any, rank: int = 0, world_size: int = 1, first: int = 0) -> dict[int, torch.Tensor]:
    """What a process shows its network in the second epoch, by the index of the image."""
    shards = training_shards(shuffled(len(images), plan.seed, 2), plan.batch_size, rank, world_size)[first:]
    indices = [shard.indices for shard in shards]
    batches = augmented(images, plan, 2).batches(indices, CPU)
    return {index: image for part, (pixels, _) in zip(indices, batches) for index, image in zip(part.tolist(), pixels)}


def test_every_store_process_and_resumed_epoch_has_the_same_pixels(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "images", ["a", "b"], per_class=10)
    paths = sorted(folder.rglob("*.png"))
    labels = np.repeat([0, 1], 10)
    stores = [
        decode_all(lambda index: paths[index], labels, Geometry((32, 32)), place=place)[0]
        for place in ("memory", "disk", "none")
    ]
    plan = make_plan(batch_size=4, image_size=(28, 28), augmentation=Augmentation((28, 28)))
    expected = seen_by(plan, stores[0])
    assert len(expected) == 20
    given = [
        *(seen_by(plan, store) for store in stores[1:]),
        {**seen_by(plan, stores[0], 0, 2), **seen_by(plan, stores[2], 1, 2)},
        {**expected, **seen_by(plan, stores[0], first=3)},
    ]
    for images in given:
        assert images.keys() == expected.keys()
        assert all(torch.equal(image, expected[index]) for index, image in images.items())
    assert not list(augmented(stores[0], plan, 1).batches([], CPU))


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


def test_an_epoch_shows_each_image_by_its_view_and_goes_on_where_it_was_resumed() -> None:
    train = make_images(24)
    plan = make_plan(batch_size=8, image_size=(10, 10), augmentation=Augmentation((10, 10)))

    def epoch(number: int, first: int = 0) -> list[torch.Tensor]:
        network = Recording()
        step = TrainingStep(network, plan, CPU)
        state = TrainingState(step, BestModel(), EarlyStopping(9), epoch=number, iteration=first)
        step.begin_epoch(0.01)
        train_epoch(state, step, train, plan, World(), Callback())
        return network.seen

    shown = epoch(2)
    views = plan.augmentation.draw((12, 12), 24, plan.seed, 2)  # type: ignore[union-attr]
    expected = plan.augmentation.apply(train.pixels, views)[shuffled(24, plan.seed, 2)]  # type: ignore[union-attr]
    assert torch.equal(torch.cat(shown), (expected.float() / 255 - 0.5) / 0.5)
    assert torch.equal(torch.cat(epoch(2, first=2)), shown[2])
    assert not torch.equal(torch.cat(epoch(1)), torch.cat(shown))


def test_training_sees_the_size_of_the_network_alone_also_before_the_first_step() -> None:
    valid = make_images(8, seed=1)
    cut = DecodedImages(valid.pixels[:, :, 1:11, 1:11], valid.labels)
    for augmentation in (None, Augmentation((10, 10)), Augmentation((10, 10), crops=False)):
        network = Recording()
        plan = make_plan(image_size=(10, 10), augmentation=augmentation, microbatch_size="auto")
        run(network, plan, make_images(24), cut)
        assert {tuple(images.shape[2:]) for images in network.seen} == {(10, 10)}


def test_a_network_of_the_stored_size_trains_as_without_a_size() -> None:
    weights = []
    for fields in ({}, {"image_size": (12, 12)}):
        network = make_network()
        run(network, make_plan(**fields), make_images(24), make_images(8, seed=1))
        weights.append(network.state_dict())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


@pytest.mark.parametrize(
    "parts", [{"auto_augment": "crop"}, {"recipe": "large", "batch_size": 8}], ids=["crop", "large"]
)
def test_a_run_ends_with_the_same_bits_in_every_store_and_after_a_stop(
    parts: dict[str, Any], inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {**parts, "image_size": 28, "epochs": 2, "checkpoint_minutes": 0}
    assert inputs.fit(**flags, image_store="memory") == 0
    expected = results(inputs)
    for store in ("disk", "none"):
        assert inputs.fit(**flags, image_store=store) == 0
        assert results(inputs) == expected
    looks: list[int] = []

    class Asked(CheckpointWriter):
        @property
        def is_stop_requested(self) -> bool:
            looks.append(1)
            return len(looks) == 2

    with monkeypatch.context() as patched:
        patched.setattr(training_run, "CheckpointWriter", Asked)
        assert inputs.fit(**flags) == 75
    assert inputs.fit(**flags, resume="require", image_store="none") == 0
    assert results(inputs) == expected
    assert inputs.fit(**{**flags, "auto_augment": "flip"}) == 0
    assert results(inputs) != expected
