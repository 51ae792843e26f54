from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch.amp.grad_scaler import GradScaler

from tests.scripted import script_validation
from tests.small_training import Recorder, make_images, make_network, make_plan, run
from train_pytorch_model.distributed import device as hardware
from train_pytorch_model.distributed.world import World
from train_pytorch_model.models.description import NetworkDescription
from train_pytorch_model.models.network import has_narrow_convolution
from train_pytorch_model.training.callbacks import NoCheckpointer
from train_pytorch_model.training.early_stopping import BestModel
from train_pytorch_model.training.loop import fit
from train_pytorch_model.training.precision import Precision, choose_precision, validating_in
from train_pytorch_model.training.step import TrainingStep
from train_pytorch_model.training.validation import evaluate

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("network", "flags", "dtype"),
    [
        ("resnet18", {"amx_bf16"}, torch.bfloat16),
        ("resnet18", {"avx512_bf16"}, torch.bfloat16),
        ("resnet18", {"avx512f"}, torch.float32),
        ("resnext50_32x4d", {"amx_bf16"}, torch.bfloat16),
        ("mobilenet_v3_small", {"amx_bf16"}, torch.float32),
        ("efficientnet_b0", {"amx_bf16"}, torch.float32),
        ("efficientnet_b0", {"amx_bf16", "avx512_bf16"}, torch.float32),
        ("mobilenet_v2", {"amx_bf16", "avx512_bf16"}, torch.float32),
        ("mobilenet_v2", {"avx512_bf16"}, torch.bfloat16),
        ("efficientnet_b0", {"avx512_bf16"}, torch.float32),
        ("mobilenet_v3_small", {"avx512_bf16"}, torch.float32),
        ("convnext_tiny", {"avx512_bf16"}, torch.bfloat16),
        ("convnext_tiny", {"amx_bf16", "avx512_bf16"}, torch.float32),
        ("efficientnet_b0", {"avx512f"}, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_the_cpu_is_fast_at_it(
    network: str, flags: set[str], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: flags)
    assert choose_precision("auto", CPU, torchvision.models.get_model(network)).dtype == dtype


@pytest.mark.parametrize("network", ["convnext_tiny", "mobilenetv3_small_050", "efficientnet_b0", "mobilenetv2_050"])
def test_auto_is_the_same_for_networks_of_timm(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: {"avx512_bf16"})
    with torch.device("meta"):
        built = timm.create_model(network)
    expected = torch.bfloat16 if network in ("convnext_tiny", "mobilenetv2_050") else torch.float32
    assert choose_precision("auto", CPU, built).dtype == expected


@pytest.mark.parametrize(
    ("network", "size", "is_narrow"),
    [
        ("resnet18", (16, 16), True),
        ("resnet18", (64, 8), True),
        ("resnet18", (16, 64), False),
        ("resnet18", (32, 32), False),
        ("shufflenet_v2_x0_5", (16, 16), False),  # its convolutions with a stride are depthwise
    ],
)
def test_convolutions_of_a_single_column_of_pixels_are_found(
    network: str, size: tuple[int, int], is_narrow: bool
) -> None:
    assert has_narrow_convolution(NetworkDescription("torchvision.models", network), size) == is_narrow


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((9, 0), torch.bfloat16),
        ((8, 0), torch.bfloat16),
        ((7, 5), torch.float16),
        ((7, 0), torch.float16),
        ((6, 1), torch.float32),
    ],
)
def test_auto_goes_by_the_generation_of_the_gpu(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda", 0), make_network()).dtype == dtype


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_what_is_asked_for_is_taken(name: str) -> None:
    precision = choose_precision(name, CPU, make_network())
    assert str(precision) == name
    assert precision.make_scaler().is_enabled() is (name == "float16")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns_what_float32_learns(dtype: torch.dtype) -> None:
    network, train, valid = make_network(), make_images(80), make_images(21, seed=1)
    given: dict[torch.dtype, Any] = {}
    for each in (torch.float32, dtype):
        copied = copy.deepcopy(network)
        given[each] = run(copied, make_plan(precision=Precision(each, "cpu")), train, valid)[0]
        assert all(value.dtype == torch.float32 for value in copied.parameters())
    assert given[dtype].losses == pytest.approx(given[torch.float32].losses, rel=0.05)
    assert given[dtype].losses != given[torch.float32].losses
    # The weights differ by little, and what is computed from them on the validation images not at all by rounding.
    assert given[dtype].records[-1].valid_loss == pytest.approx(given[torch.float32].records[-1].valid_loss, rel=0.02)


def test_a_step_skipped_for_infinite_gradients_does_not_change_the_weights() -> None:
    network = make_network()
    fresh = copy.deepcopy(network)
    precision, images = Precision(torch.float16, "cpu"), make_images(8)
    interrupted = TrainingStep(network, make_plan(precision=precision), CPU)
    interrupted.begin_epoch(0.1)
    interrupted.scaler = GradScaler("cpu", init_scale=2.0**100)
    before = [value.clone() for value in network.parameters()]
    interrupted(images.pixels, images.labels)
    assert all(torch.equal(value, old) for value, old in zip(network.parameters(), before))
    interrupted.scaler.update(1024.0)
    expected = TrainingStep(fresh, make_plan(precision=precision), CPU)
    expected.begin_epoch(0.1)
    for step in (interrupted, expected):
        step(images.pixels, images.labels)
    assert all(torch.equal(value, other) for value, other in zip(network.parameters(), fresh.parameters()))
    assert not all(torch.equal(value, old) for value, old in zip(network.parameters(), before))


def tf32() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("before", [(False, False), (True, False), (False, True)])
def test_tf32_is_allowed_on_a_gpu_and_only_within_the_block(before: tuple[bool, bool]) -> None:
    seen: list[tuple[bool, bool]] = []

    def fail() -> None:
        with validating_in("tf32", "cuda"):
            seen.append(tf32())
            raise ZeroDivisionError

    with hardware.torch_settings_restored():
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
        with pytest.raises(ZeroDivisionError):
            fail()
        assert seen == [(True, True)]
        assert tf32() == before
        for name, device in (("float32", "cpu"), ("bfloat16", "cpu"), ("tf32", "cpu")):
            with validating_in(name, device):
                assert tf32() == before


def trained(validation_precision: str, train: int = 80, valid: int = 61) -> tuple[Recorder, BestModel]:
    network, plan = make_network(), make_plan(validation_precision=validation_precision, epochs=4)
    recorder, best, _ = run(network, plan, make_images(train), make_images(valid, seed=1))
    return recorder, best


def test_on_a_cpu_tf32_is_float32() -> None:
    (full, best), (other, other_best) = trained("float32"), trained("tf32")
    assert other.records == full.records
    assert all(torch.equal(value, best.state[name]) for name, value in other_best.state.items())
    assert full.final is None
    assert other.final == full.records[best.epoch - 1]


def test_the_best_epoch_is_validated_again_in_float32() -> None:
    (full, _), (half, best) = trained("float32"), trained("bfloat16")
    # The weights are the same; the figures of all epochs are not.
    assert [record.train_loss for record in half.records] == [record.train_loss for record in full.records]
    assert all(one.valid_loss != other.valid_loss for one, other in zip(half.records, full.records))
    assert [record.valid_loss for record in half.records] == pytest.approx(
        [record.valid_loss for record in full.records], rel=0.02
    )
    network = make_network()
    network.load_state_dict(best.state)
    alone = evaluate(network, make_images(61, seed=1), make_plan(), World())
    assert half.final is not None
    assert half.final.epoch == best.epoch
    assert (best.valid_loss, best.top1_acc) == (half.final.valid_loss, half.final.top1_acc) == alone[:2]
    assert half.final.train_loss == half.records[best.epoch - 1].train_loss


class Preempted(NoCheckpointer):
    """Is asked to stop while the best weights are validated."""

    def __init__(self, recorder: Recorder, num_epochs: int) -> None:
        self.snapshot: dict[str, Any] = {}
        self._recorder, self._num_epochs, self._num_asked = recorder, num_epochs, 0

    @property
    def is_stop_requested(self) -> bool:  # type: ignore[override]
        self._num_asked += len(self._recorder.records) == self._num_epochs
        return self._num_asked > 1

    def save_and_stop(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        self.snapshot = snapshot()
        raise InterruptedError


def test_a_checkpoint_of_the_last_validation_has_the_last_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(validation_precision="bfloat16", epochs=4, learning_rate=0.1)
    images, recorder, best = (make_images(80), make_images(61, seed=1)), Recorder(), BestModel()
    last = make_network()
    accuracies = (0.2, 0.5, 0.3, 0.1)
    script_validation(monkeypatch, accuracies=accuracies)
    _, reached, _ = run(last, make_plan(epochs=4, learning_rate=0.1), *images)
    assert reached.epoch < 4  # otherwise this test shows nothing
    checkpointer = Preempted(recorder, 4)
    script_validation(monkeypatch, accuracies=accuracies)
    with pytest.raises(InterruptedError):
        fit(make_network(), *images, plan, World(), best, recorder, checkpointer)
    assert recorder.final is None
    assert all(torch.equal(value, checkpointer.snapshot["network"][name]) for name, value in last.state_dict().items())
    resumed = NoCheckpointer()
    resumed.resume_from, resumed.is_resuming = checkpointer.snapshot, True
    again, found, _ = run(make_network(5), plan, *images, resumed)
    assert again.losses == []
    assert again.final is not None
    assert found.valid_loss == again.final.valid_loss
    assert again.records == recorder.records
