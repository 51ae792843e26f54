"""Training on several labels per image, compared with a plain loop of PyTorch over 20 steps."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch import nn

from tests.small_training import DecodedImages, make_images, make_network, make_plan, run
from train_pytorch_model.data.batches import shuffled

WEIGHTS = (3.0, 1.0, 0.5, 1.5)


def labelled(count: int, seed: int = 0) -> DecodedImages:
    """Images with random labels of four: about a quarter of the images have each; some have none."""
    generator = torch.Generator().manual_seed(seed + 100)
    labels = torch.rand(count, 4, generator=generator) < 0.25
    return DecodedImages(make_images(count, seed).pixels, labels)


def train_plainly(
    network: nn.Module, train: DecodedImages, valid: DecodedImages, smoothing: float, weights: tuple[float, ...] | None
) -> tuple[list[float], list[tuple[float, float, float]]]:
    """Train for two epochs of 10 steps; return the loss of each step, and loss, mAP and micro F1 of each epoch."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights) if weights else None)
    losses, epochs = [], []
    for epoch in (1, 2):
        optimizer.param_groups[0]["lr"] = 1e-7 + (0.05 - 1e-7) * (1 - (epoch - 1) / 2) ** 2
        network.train()
        for batch in shuffled(80, 3, epoch).split(8):
            logits = network((train.pixels[batch].float() / 255 - 0.5) / 0.5)
            targets = train.labels[batch].float() * (1 - smoothing) + smoothing / 2
            loss = criterion(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        network.eval()
        with torch.no_grad():
            logits = network((valid.pixels.float() / 255 - 0.5) / 0.5)
        truth = valid.labels.bool().numpy()
        epochs.append(
            (
                nn.functional.binary_cross_entropy_with_logits(logits, valid.labels.float()).item(),
                average_precision_score(truth, logits.sigmoid().numpy(), average="macro"),
                f1_score(truth, (logits >= 0).numpy(), average="micro", zero_division=0),
            )
        )
    return losses, epochs


@pytest.mark.parametrize(
    ("smoothing", "weights", "microbatch_size"),
    [(0.0, None, "off"), (0.1, None, "off"), (0.0, WEIGHTS, "off"), (0.1, WEIGHTS, 3)],
    ids=["as it is", "label smoothing", "class weights", "all, in microbatches"],
)
def test_losses_and_metrics_equal_those_of_a_plain_loop_over_20_steps(
    smoothing: float, weights: tuple[float, ...] | None, microbatch_size: int | str
) -> None:
    network = make_network()
    if microbatch_size != "off":  # batch normalization would see other batches
        network[1] = nn.GroupNorm(2, 8)
    reference = copy.deepcopy(network)
    train, valid = labelled(80), labelled(41, seed=1)
    plan = make_plan(task="multilabel", label_smoothing=smoothing, class_weights=weights)
    recorder, _, _ = run(network, replace(plan, microbatch_size=microbatch_size), train, valid)
    losses, epochs = train_plainly(reference, train, valid, smoothing, weights)
    assert len(losses) == 20
    assert recorder.losses == pytest.approx(losses, rel=1e-6)
    for record, (loss, precision, micro_f1) in zip(recorder.records, epochs):
        assert record.valid_loss == pytest.approx(loss, rel=1e-5)
        assert record.average_precision == pytest.approx(precision)
        assert record.micro_f1 == pytest.approx(micro_f1)
    for key, value in reference.state_dict().items():
        assert torch.allclose(network.state_dict()[key], value, rtol=1e-5, atol=1e-6)
