from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from tests.small_training import CPU, PARTS, StoppedError, Stopping, make_images, make_network, make_plan, run
from train_pytorch_model.training.augmentation import Augmentation
from train_pytorch_model.training.averaging import WeightAverage, _approach
from train_pytorch_model.training.precision import Precision
from train_pytorch_model.training.step import TrainingStep


def test_the_decay_grows_from_a_tenth_to_its_limit() -> None:
    value = torch.zeros(1)
    average = WeightAverage([value], 0.3, CPU)
    expected, decays = 0.0, (1 / 10, 2 / 11, 3 / 12, 0.3, 0.3)
    for number, decay in enumerate(decays, start=1):
        value.fill_(number)
        average.update()
        expected = decay * expected + (1 - decay) * number
        assert average.tensors[0].item() == pytest.approx(expected)
    average.restart()
    assert average.tensors[0].item() == 5
    value.fill_(6)
    average.update()
    assert average.tensors[0].item() == pytest.approx(5 / 10 + 6 * 9 / 10)


def test_averages_move_on_a_gpu_as_on_a_cpu() -> None:
    torch.manual_seed(0)
    sources = [torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last), torch.randn(7), torch.zeros(())]
    average = WeightAverage(sources, 0.9, CPU)
    others = [source.clone() for source in sources]
    for number in range(12):
        for source in sources:
            source.normal_()
        average.update()
        _approach(others, sources, torch.tensor(max(0.1, 9 / (10 + number))))
    for one, other in zip(average.tensors, others):
        torch.testing.assert_close(one, other)


def test_weights_and_averages_change_places_and_back_bit_for_bit() -> None:
    step = TrainingStep(make_network(), make_plan(**PARTS), CPU)
    images = make_images(8)
    step.begin_epoch(0.1)
    for _ in range(3):
        step(images.pixels, images.labels)
    assert step.average is not None
    network = step.network
    trained, averages = copy.deepcopy((network.state_dict(), step.average.tensors))
    addresses = [value.data_ptr() for value in network.state_dict().values()]

    def interrupted() -> None:
        with step.weights(averaged=True):
            with step.weights(averaged=True):
                assert torch.equal(network[0].weight, averages[0])
                assert torch.equal(network[1].running_mean, averages[-3])
                assert torch.equal(network[1].num_batches_tracked, torch.tensor(3))
                with step.weights(averaged=False):
                    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), trained.values()))
            assert torch.equal(network[0].weight, averages[0])
            raise StoppedError

    with pytest.raises(StoppedError):
        interrupted()
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), trained.values()))
    assert all(torch.equal(a, b) for a, b in zip(step.average.tensors, averages))
    assert [value.data_ptr() for value in network.state_dict().values()] == addresses


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_skipped_for_infinite_gradients_changes_neither_weights_nor_averages(optimizer: str) -> None:
    step = TrainingStep(
        make_network(), make_plan(**PARTS, optimizer=optimizer, precision=Precision(torch.float16, "cpu")), CPU
    )
    images = make_images(8)
    step.begin_epoch(0.1)
    step(images.pixels, images.labels)
    assert step.average is not None
    parameters = list(step.network.parameters())
    kept = [*parameters, *step.average.tensors, *step.optimizer_tensors]
    before = copy.deepcopy(kept)
    enough, step.scaler = step.scaler, GradScaler("cpu", init_scale=2.0**100)
    step(images.pixels, images.labels)
    assert all(torch.equal(a, b) for a, b in zip(kept, before))
    step.scaler = enough
    step(images.pixels, images.labels)
    assert step.average.tensors[-1].item() == 2
    assert not torch.equal(step.average.tensors[0], before[len(parameters)])


def test_frozen_statistics_and_frozen_layers_are_not_averaged() -> None:
    values: dict[str, Any] = {**PARTS, "freeze_batch_norm": True, "layers_to_freeze": 1}
    step = TrainingStep(make_network(), make_plan(**values), CPU)
    assert step.average is not None
    assert [tuple(value.shape) for value in step.average.tensors] == [(4, 32), (4,), ()]


class Noisy(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(*make_network()[:5], nn.Linear(32, 4))
        self.insert(4, nn.Dropout(0.3))


@pytest.mark.parametrize(
    ("optimizer", "microbatch_size", "fits_head", "task"),
    [
        *itertools.product(("sgd", "adamw"), ("off", 3), (False, True), ("multiclass",)),
        *[("sgd", "off", False, "multilabel"), ("adamw", "off", True, "multilabel")],
    ],
)
def test_a_training_that_resumes_at_any_step_ends_with_the_same_bits(
    optimizer: str, microbatch_size: int | str, fits_head: bool, task: str
) -> None:
    values: dict[str, Any] = {**PARTS, "head_names": frozenset({"6.weight", "6.bias"}), "learning_rate": 0.002}
    if fits_head:
        values |= {"fits_head": True, "freeze_batch_norm": True, "augmentation": Augmentation((12, 12))}
    if task == "multilabel":
        values |= {"task": task, "metric_for_best_model": "average_precision"}
    plan = make_plan(**values, epochs=3, optimizer=optimizer, microbatch_size=microbatch_size)
    # Enough validation images for thresholds, and the stops that they take.
    num_valid, num_stops = (9, 16) if task == "multiclass" else (24, 20)
    train, valid = make_images(28, task=task), make_images(num_valid, 1, task)

    def make() -> nn.Module:
        torch.manual_seed(0)
        return Noisy()

    whole = make()
    expected, expected_best, _ = run(whole, plan, train, valid)
    stops = []
    for stop_after in range(1, num_stops + 1):
        stopping = Stopping(stop_after, is_resuming=False)
        with pytest.raises(StoppedError):
            run(make(), plan, train, valid, stopping)
        assert stopping.snapshot is not None
        stops.append((stopping.snapshot["epoch"], stopping.snapshot["iteration"]))
        network = make()
        given, best, _ = run(network, plan, train, valid, Stopping(0, stopping.snapshot, is_resuming=True))
        assert given.records == expected.records
        assert (best.epoch, best.value, best.thresholds) == (
            *(expected_best.epoch, expected_best.value, expected_best.thresholds),
        )
        for ours, theirs in ((network.state_dict(), whole.state_dict()), (best.state, expected_best.state)):
            assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    assert [record.epoch for record in expected.records] == ([0, 1, 2, 3] if fits_head else [1, 2, 3])
    # Before the head is fitted, between steps, and during the validation after the last step of an epoch.
    assert {(1, 0)} & set(stops) == ({(1, 0)} if fits_head else set())
    assert {(1, 1), (1, 4), (2, 1)} <= set(stops)
    assert stops.count((1, 4)) > 1


def test_a_snapshot_has_new_entries_only_where_there_is_more_to_keep() -> None:
    keys = []
    for values in ({}, {"model_ema": 0.9}):
        stopping = Stopping(3, is_resuming=False)
        with pytest.raises(StoppedError):
            run(make_network(), make_plan(**values), make_images(40), make_images(8), stopping)
        assert stopping.snapshot is not None
        keys.append(set(stopping.snapshot))
    assert keys[0] == {
        *("epoch", "iteration", "seconds", "network", "momentum", "scaler", "part_size", "best", "best_state"),
        *("stopping", "records", "of_processes"),
    }
    assert keys[1] - keys[0] == {"average"}
