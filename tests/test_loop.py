from __future__ import annotations

import copy

import pytest
import torch
from sklearn.metrics import accuracy_score
from torch import nn
from torch.nn import functional
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs

from tests.scripted import script_validation
from tests.small_training import make_images, make_network, make_plan, run
from train_pytorch_model.data.batches import shuffled
from train_pytorch_model.training.loop import DivergedError
from train_pytorch_model.training.losses import logits_and_loss


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_losses_and_weights_equal_a_plain_pytorch_loop_over_20_steps(task: str) -> None:
    network = make_network()
    reference = copy.deepcopy(network)
    train, valid = make_images(80, task=task), make_images(21, 1, task)
    recorder, _, _ = run(network, make_plan(task=task), train, valid)
    criterion: nn.Module = nn.CrossEntropyLoss() if task == "multiclass" else nn.BCEWithLogitsLoss()
    train_labels, valid_labels = (
        images.labels if task == "multiclass" else images.labels.float() for images in (train, valid)
    )

    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    losses = []
    for epoch, rate in ((1, 0.05), (2, 1e-7 + (0.05 - 1e-7) * 0.25)):
        optimizer.param_groups[0]["lr"] = rate
        reference.train()
        for batch in shuffled(80, 3, epoch).split(8):
            images = (train.pixels[batch].float() / 255 - 0.5) / 0.5
            loss = criterion(reference(images), train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert len(losses) == 20
    assert recorder.losses == pytest.approx(losses, rel=1e-6)
    for ours, theirs in zip(network.state_dict().values(), reference.state_dict().values()):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)

    reference.eval()
    with torch.no_grad():
        logits = reference((valid.pixels.float() / 255 - 0.5) / 0.5)
    last = recorder.records[-1]
    assert last.valid_loss == pytest.approx(criterion(logits, valid_labels).item(), rel=1e-5)
    assert last.top1_acc == accuracy_score(valid.labels, logits.argmax(1) if task == "multiclass" else logits >= 0)


def test_dropout_depends_on_seed_and_epoch_alone() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3 * 12 * 12, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.linear(functional.dropout(images.flatten(1), training=self.training))

    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        network = Noisy()
        torch.rand(len(losses) + 5)  # whatever the generator was used for before
        losses.append(run(network, make_plan(), make_images(16), make_images(8))[0].losses)
    assert losses[0] == losses[1]


def test_the_last_partial_batch_counts_and_a_single_image_is_skipped() -> None:
    with_rest, _, _ = run(make_network(), make_plan(epochs=1), make_images(18), make_images(8))
    assert len(with_rest.losses) == 3
    with_single, _, _ = run(make_network(), make_plan(epochs=1), make_images(17), make_images(8))
    assert len(with_single.losses) == 2


def test_losses_are_read_at_the_print_frequency_only() -> None:
    recorder, _, _ = run(make_network(), make_plan(epochs=1, print_frequency=3), make_images(56), make_images(8))
    assert [loss is not None for loss in recorder.losses] == [False, False, True, False, False, True, False]


def test_training_stops_early_and_keeps_the_best_epoch_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    # The fifth epoch is as accurate as the second, at a lower loss; the lowest loss is that of the third.
    script_validation(
        monkeypatch, losses=(5.0, 4.0, 2.0, 2.5, 3.0, 2.0), accuracies=(0.125, 0.75, 0.5, 0.25, 0.75, 0.5)
    )
    network = make_network()
    recorder, best, stopped = run(network, make_plan(epochs=60, patience=3), make_images(40), make_images(40, seed=9))
    assert stopped
    assert len(recorder.records) == 6
    assert best.epoch == 5
    assert [record.is_best for record in recorder.records] == [True, True, False, False, True, False]
    assert not torch.equal(best.state["0.weight"], network.state_dict()["0.weight"])


@pytest.mark.parametrize("print_frequency", [1, 1000])
def test_a_loss_that_is_not_finite_ends_the_training(print_frequency: int) -> None:
    plan = make_plan(epochs=5, learning_rate=1e30, print_frequency=print_frequency)
    with pytest.raises(DivergedError) as raised:
        run(make_network(), plan, make_images(40), make_images(8))
    assert raised.value.epoch == 1


def test_auxiliary_heads_count_in_the_loss_by_their_weights() -> None:
    main, first, second = torch.randn(3, 5, 4)
    labels = torch.tensor([0, 1, 2, 3, 0])
    entropies = [functional.cross_entropy(logits, labels) for logits in (main, first, second)]
    logits, loss = logits_and_loss(InceptionOutputs(main, first), labels)
    assert torch.equal(logits, main)
    assert loss.item() == pytest.approx((entropies[0] + 0.4 * entropies[1]).item())
    _, loss = logits_and_loss(GoogLeNetOutputs(main, None, None), labels)  # its heads can be left out
    assert loss.item() == pytest.approx(entropies[0].item())
    _, loss = logits_and_loss(GoogLeNetOutputs(main, second, first), labels)
    assert loss.item() == pytest.approx((entropies[0] + 0.3 * entropies[1] + 0.3 * entropies[2]).item())
