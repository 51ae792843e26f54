from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.optim.swa_utils import AveragedModel

from tests.small_training import CPU, PARTS, DecodedImages, make_images, make_network, make_plan, run
from train_pytorch_model.data.batches import shuffled
from train_pytorch_model.training.optimizers import build_optimizer, set_learning_rate

_RATES = {"sgd": 0.05, "adamw": 0.005}


def averaged(average: torch.Tensor, value: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
    """TensorFlow's moving average, for AveragedModel, which counts the copy of the first weights too."""
    if not value.is_floating_point():
        return value
    decay = min(0.9, int(count) / (9 + int(count)))
    return decay * average + (1 - decay) * value


def train_plainly(
    network: nn.Module, train: DecodedImages, valid: DecodedImages, optimizer_name: str
) -> tuple[list[float], list[float], list[dict[str, torch.Tensor]]]:
    """Train with PyTorch's own parts for 20 steps; return losses, validation losses and averages of each epoch."""
    weights = [network[0].weight]
    others = [network[1].weight, network[1].bias]
    rate = _RATES[optimizer_name]
    groups = [
        {"params": weights, "weight_decay": 0.01, "lr": rate},
        {"params": others, "weight_decay": 0.0, "lr": rate},
        {"params": [network[5].weight], "weight_decay": 0.01, "lr": 10 * rate},
        {"params": [network[5].bias], "weight_decay": 0.0, "lr": 10 * rate},
    ]
    optimizer: torch.optim.Optimizer
    if optimizer_name == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    else:
        optimizer = torch.optim.AdamW(groups)
    warmup = LinearLR(optimizer, start_factor=1 / 5, total_iters=4)
    scheduler = SequentialLR(optimizer, [warmup, CosineAnnealingLR(optimizer, T_max=16)], milestones=[4])
    entropy = nn.CrossEntropyLoss(label_smoothing=0.1, reduction="none")
    class_weights = torch.tensor(PARTS["class_weights"])
    average = AveragedModel(network, avg_fn=averaged, use_buffers=True)
    average.update_parameters(network)
    losses, valid_losses, averages = [], [], []
    for epoch in (1, 2):
        network.train()
        for batch in shuffled(80, 3, epoch).split(8):
            logits = network((train.pixels[batch].float() / 255 - 0.5) / 0.5)
            labels = train.labels[batch]
            loss = (entropy(logits, labels) * class_weights[labels]).sum() / 8
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            average.update_parameters(network)
            losses.append(loss.item())
        average.module.eval()
        with torch.no_grad():
            logits = average((valid.pixels.float() / 255 - 0.5) / 0.5)
        valid_losses.append(nn.functional.cross_entropy(logits, valid.labels).item())
        averages.append(copy.deepcopy(average.module.state_dict()))
    return losses, valid_losses, averages


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_all_parts_together_equal_those_of_pytorch_over_20_steps(optimizer: str) -> None:
    network = make_network()
    network[0].bias = None  # its gradient before batch normalization is only rounding, which AdamW would enlarge
    reference = copy.deepcopy(network)
    train, valid = make_images(80), make_images(21, seed=1)
    plan = make_plan(learning_rate=_RATES[optimizer], optimizer=optimizer, **PARTS)
    recorder, best, _ = run(network, plan, train, valid)
    losses, valid_losses, averages = train_plainly(reference, train, valid, optimizer)
    assert len(losses) == 20
    assert recorder.losses == pytest.approx(losses, rel=1e-6)
    assert [record.train_loss for record in recorder.records] == pytest.approx(
        [sum(losses[:10]) / 10, sum(losses[10:]) / 10]
    )
    # Validation and the best model use the averaged weights and the loss without smoothing and class weights.
    assert [record.valid_loss for record in recorder.records] == pytest.approx(valid_losses, rel=1e-5)
    for key, value in reference.state_dict().items():
        assert torch.allclose(network.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    for key, value in averages[best.epoch - 1].items():
        assert torch.allclose(best.state[key], value, rtol=1e-5, atol=1e-6)
    # Recorded is the rate of the last step of each epoch.
    assert recorder.records[0].learning_rate > recorder.records[1].learning_rate > 0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimizer_without_parts_has_the_same_bits_as_pytorch(name: str) -> None:
    network, images = make_network(), make_images(8)
    reference = copy.deepcopy(network)
    ours = build_optimizer(network.named_parameters(), make_plan(optimizer=name), CPU)
    set_learning_rate(ours, 0.05)
    settings: dict[str, Any] = {"lr": 0.05, "weight_decay": 1e-4, "fused": True}
    theirs = (
        torch.optim.SGD(reference.parameters(), momentum=0.9, nesterov=True, **settings)
        if name == "sgd"
        else torch.optim.AdamW(reference.parameters(), **settings)
    )
    assert len(ours.param_groups) == 1
    for network_of, optimizer in ((network, ours), (reference, theirs)):
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network_of(images.pixels.float() / 255), images.labels).backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), reference.state_dict().values()))


def test_groups_have_their_learning_rates_and_weight_decay() -> None:
    network = make_network()
    plan = make_plan(**PARTS)
    optimizer = build_optimizer(network.named_parameters(), plan, CPU)
    set_learning_rate(optimizer, 0.5)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    given = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert given == {
        "0.weight": (0.5, 0.01),
        "0.bias": (0.5, 0.0),
        "1.weight": (0.5, 0.0),
        "1.bias": (0.5, 0.0),
        "5.weight": (5.0, 0.01),
        "5.bias": (5.0, 0.0),
    }


def test_sgd_without_momentum_is_plain_gradient_descent() -> None:
    network = make_network()
    before = network[5].weight.detach().clone()
    optimizer = build_optimizer(network.named_parameters(), make_plan(momentum=0.0, weight_decay=0.0), CPU)
    set_learning_rate(optimizer, 0.5)
    network[5].weight.grad = torch.ones_like(before)
    optimizer.step()
    assert torch.equal(network[5].weight, before - 0.5)
