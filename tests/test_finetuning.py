"""Fine-tuning in the training loop: the fitted head before it, and the mixed weights after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from tests.small_training import CPU, Recorder, StoppedError, Stopping, make_images, make_network, make_plan, run
from train_pytorch_model.data.batches import shuffled
from train_pytorch_model.data.image_store import DecodedImages
from train_pytorch_model.distributed.world import World
from train_pytorch_model.evaluation.records import EpochTiming
from train_pytorch_model.job.history import History
from train_pytorch_model.training import finetuning, head_fit, loop
from train_pytorch_model.training.callbacks import NoCheckpointer
from train_pytorch_model.training.early_stopping import BestModel
from train_pytorch_model.training.finetuning import best_mixture, start_from_head
from train_pytorch_model.training.loop import fit
from train_pytorch_model.training.metrics import Averages
from train_pytorch_model.training.step import TrainingStep
from train_pytorch_model.training.validation import evaluate

FINETUNE: dict[str, Any] = {"fits_head": True, "freeze_batch_norm": True}


def test_mixed_weights_do_not_prolong_a_training_that_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "best_mixture", lambda whole, *_: (0.5, whole[1]._replace(loss=0.01), whole[0]))
    plan = make_plan(**FINETUNE, epochs=8, patience=1)
    recorder, _, stopped_early = run(make_network(), plan, make_images(40), make_images(40, seed=1))
    history = History()
    for record in recorder.records:
        history.epoch_done(record, EpochTiming(record.epoch, 1, 1, 1))
    assert stopped_early
    *before, last = recorder.records
    assert [record.interpolation for record in before] == [None] * len(before)
    assert (last.interpolation, last.valid_loss) == (0.5, 0.01)
    assert last.epoch < 8
    assert history.lowest in before


def test_the_loss_of_the_head_alone_is_measured_in_microbatches() -> None:
    images = make_images(80)
    sizes: list[int] = []
    losses: list[float] = []
    for microbatch_size in ("off", 3):
        plan = make_plan(**FINETUNE, keeps_head=True, microbatch_size=microbatch_size)
        step = TrainingStep(make_network(), plan, CPU)
        step.microbatch_size = None if microbatch_size == "off" else 3
        step.network.register_forward_hook(lambda *given: sizes.append(len(given[2])))
        head = start_from_head(step, images, plan, World())
        assert head is not None
        losses.append(head.train_loss)
        assert head.num_images == 64  # eight batches
    assert sizes[:8] == [8] * 8
    assert max(sizes[8:]) == 3
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_head_that_cannot_be_fitted_is_not_tried_again_after_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(loop, "start_from_head", lambda *_: calls.append(1))
    plan, train, valid = make_plan(**FINETUNE), make_images(40), make_images(8)
    stopping = Stopping(3, is_resuming=False)
    with pytest.raises(StoppedError):
        run(make_network(), plan, train, valid, stopping)
    run(make_network(), plan, train, valid, Stopping(0, stopping.snapshot, is_resuming=True))
    assert len(calls) == 1


def test_a_fit_of_the_head_answers_a_request_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_fit, "_SECONDS_BETWEEN", 0.0)
    plan, train, valid = make_plan(**FINETUNE), make_images(40), make_images(8)
    expected = make_network()
    run(expected, plan, train, valid)
    stopping = Stopping(20, is_resuming=False)  # there are five batches of images before the fit
    with pytest.raises(StoppedError):
        run(make_network(), plan, train, valid, stopping)
    assert stopping.snapshot is not None
    assert (stopping.snapshot["epoch"], stopping.snapshot["records"]) == (1, [])
    network = make_network()
    run(network, plan, train, valid, Stopping(0, stopping.snapshot, is_resuming=True))
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in network.state_dict().items())


class DelayedWorld(World):
    """Agrees on the flags of the previous step, as several processes do."""

    previous: tuple[bool, ...] = (False,) * 3

    def any_of(self, flags: Sequence[bool]) -> tuple[bool, ...]:
        self.previous, found = tuple(flags), self.previous
        return found


def test_the_best_model_is_validated_after_fine_tuning_that_diverges() -> None:
    plan = make_plan(**FINETUNE, epochs=3, learning_rate=1e30, validation_precision="bfloat16")
    recorder, best = Recorder(), BestModel()
    images, network = make_images(80), make_network()
    assert not fit(network, images, images, plan, DelayedWorld(), best, recorder, NoCheckpointer())
    assert [record.epoch for record in recorder.records] == [0]
    assert best.epoch == 0
    assert recorder.final is not None


def test_after_the_fit_the_network_computes_what_was_fitted() -> None:
    """The loss of the fit is that of the network itself on the training images, before any step."""
    images, plan = make_images(40), make_plan(**FINETUNE)
    step = TrainingStep(make_network(), plan, CPU)
    before = evaluate(step.network, images, plan, World())
    head = start_from_head(step, images, plan, World())
    assert head is not None
    after = evaluate(step.network, images, plan, World())
    assert after.loss == pytest.approx(head.fit_loss, rel=1e-4)
    assert 1 - after.top1_acc == pytest.approx(head.fit_error)
    assert after.loss < before.loss


def rare_images() -> tuple[DecodedImages, tuple[float, ...]]:
    """400 images of noise, 8 of a rare class, which none of the first 8 batches has, and balanced class weights."""
    images = make_images(400)
    images.labels.zero_()
    images.labels[shuffled(400, make_plan().seed, 1)[-8:]] = 1
    return images, (400 / 2 / 392, 400 / 2 / 8, 1.0, 1.0)


@pytest.mark.parametrize(("rate", "epochs"), [(1e-6, [0, 1, 2, 3]), (0.05, [0, 1, 2])])
def test_fine_tuning_is_abandoned_only_where_all_images_are_worse(
    rate: float, epochs: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    images, weights = rare_images()
    plan = make_plan(**FINETUNE, epochs=3, learning_rate=rate, class_weights=weights)
    recorder, _, _ = run(make_network(), plan, images, make_images(8))
    assert [record.epoch for record in recorder.records] == epochs
    assert ("Fine-tuning is abandoned: the training loss is" in caplog.text) is (len(epochs) == 3)


def test_a_run_that_is_stopped_while_the_head_is_measured_again_ends_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, weights = rare_images()
    plan = make_plan(**FINETUNE, epochs=3, learning_rate=1e-6, class_weights=weights)
    expected = make_network()
    recorder, _, _ = run(expected, plan, images, make_images(8))
    measured: list[int] = []
    measure = finetuning._training_loss
    monkeypatch.setattr(finetuning, "_training_loss", lambda *given: [measured.append(1), measure(*given)][1])

    class WhileMeasuring(Stopping):
        @property
        def is_stop_requested(self) -> bool:  # type: ignore[override]
            return len(measured) == 2

    stopping = WhileMeasuring(is_resuming=False)
    with pytest.raises(StoppedError):
        run(make_network(), plan, images, make_images(8), stopping)
    assert stopping.snapshot is not None
    assert (stopping.snapshot["epoch"], stopping.snapshot["iteration"]) == (3, 0)
    network = make_network()
    resumed, _, _ = run(network, plan, images, make_images(8), Stopping(0, stopping.snapshot, is_resuming=True))
    assert len(measured) == 3
    assert resumed.records == recorder.records
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("favourite", [0.5, None])
def test_the_best_mixture_has_the_weights_that_were_validated(favourite: float | None) -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 4.0)
    start = {"weight": torch.zeros(1, 1)}

    def validate(mixed: nn.Module) -> Averages:
        return Averages(1.0, float(mixed.weight.item() == 4.0 * (favourite or 1.0)), None, 10)

    whole = (network, validate(network))
    interpolation, validated, best = best_mixture(whole, start, validate, lambda values: values.top1_acc)
    assert interpolation == favourite
    assert validated.top1_acc == 1.0
    assert best.weight.item() == 4.0 * (favourite or 1.0)
    assert network.weight.item() == 4.0
