"""One step: forward, loss, backward, update."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Callable

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs

from train_pytorch_model.data.batches import normalised
from train_pytorch_model.training.metrics import RunningSums

if TYPE_CHECKING:
    from train_pytorch_model.training.precision import Precision

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
# Share of an auxiliary head in the loss: 0.3 of each in GoogLeNet (Szegedy et al. 2015, "Going deeper with
# convolutions", section 5); 0.4 for Inception v3, as in PyTorch's tutorial on fine-tuning torchvision's networks.
GOOGLENET_AUXILIARY_WEIGHT = 0.3
INCEPTION_AUXILIARY_WEIGHT = 0.4


def logits_and_loss(output: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a network's output into logits and the mean cross-entropy, auxiliary heads included.

    Args:
        output: (B, num_classes) logits, or the named tuple of GoogLeNet or Inception v3 in training mode.
        labels: int64 of shape (B,).

    Returns:
        Logits of shape (B, num_classes) and a scalar loss, both float32 whatever the network computed in.
    """
    if isinstance(output, torch.Tensor):
        output = (output,)
    logits = output[0].float()
    loss = functional.cross_entropy(logits, labels)
    if isinstance(output, InceptionOutputs) and output.aux_logits is not None:
        loss = loss + INCEPTION_AUXILIARY_WEIGHT * functional.cross_entropy(output.aux_logits.float(), labels)
    if isinstance(output, GoogLeNetOutputs):
        for auxiliary in (output.aux_logits1, output.aux_logits2):
            if auxiliary is not None:
                loss = loss + GOOGLENET_AUXILIARY_WEIGHT * functional.cross_entropy(auxiliary.float(), labels)
    return logits, loss


class TrainingStep:
    """Learns from one batch after another, and keeps the sums of the epoch on the device.

    Whatever it writes lies at one address from the first step to the last, so that a CUDA graph can hold it, and
    nothing in it makes the host wait for the device.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        device: torch.device,
        memory_format: torch.memory_format,
        precision: Precision,
        parallel: Callable[[nn.Module], nn.Module] = lambda network: network,
    ) -> None:
        """Make a step.

        Args:
            network: on the device; trained in place.
            num_classes: of its outputs.
            device: where.
            memory_format: that the network computes in.
            precision: that it computes in.
            parallel: makes of the network one whose gradients are those of all processes.
        """
        self.network = network.to(memory_format=memory_format)  # type: ignore[call-overload]
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        """Of the last batch."""
        self.microbatch_size: int | None = None
        """Images of a batch that are learnt from at a time, where the memory holds no more; None for all."""
        self._forward = parallel(self.network)
        self.sums = RunningSums.zero(num_classes, device)
        """Of the epoch."""
        self.learning_rate = 0.0
        """Of the epoch."""
        self._memory_format = memory_format
        self._precision = precision
        self.scaler = precision.make_scaler()
        # A graph reads the learning rate anew in each replay, so on a GPU it lies there.
        learning_rate = torch.zeros((), device=device) if device.type == "cuda" else 0.0
        self._optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=learning_rate,
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=WEIGHT_DECAY,
            fused=True,
        )
        # Made by the first step, they would hold whatever the memory held where float16's first step is left out for
        # its infinite gradients. From zero, the first step is the same.
        for parameter in self.network.parameters():
            self._optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @property
    def momentum(self) -> list[torch.Tensor]:
        """The optimizer's buffer of each weight, in the network's order."""
        return [self._optimizer.state[parameter]["momentum_buffer"] for parameter in self.network.parameters()]

    def rehearse(self, pixels: torch.Tensor, labels: torch.Tensor, *, alone: bool = False) -> None:
        """Do a step that changes nothing, between epochs.

        With several processes PyTorch sums gradients in one layout in the first step and in another from then on,
        which differ in the last bits; after a rehearsal all steps are alike, those of a run that goes on too.

        Args:
            pixels: uint8 of shape (B, 3, height, width), on the device.
            labels: int64 of shape (B,), likewise.
            alone: without the other processes.
        """
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        self.network.train()
        try:
            self._add_gradients(self.network if alone else self._forward, pixels, labels, 1.0)
        finally:
            self._optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                for buffer, before in zip(self.network.buffers(), buffers):
                    buffer.copy_(before)

    def begin_epoch(self, learning_rate: float) -> None:
        """Set the learning rate, put the network into training mode and begin the sums anew."""
        self.network.train()
        self.sums.reset()
        self.learning_rate = learning_rate
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(learning_rate)
            else:
                group["lr"] = learning_rate

    def __call__(self, pixels: torch.Tensor, labels: torch.Tensor, weight: float = 1.0) -> None:
        """Learn from one batch.

        Args:
            pixels: uint8 of shape (B, 3, height, width), on the device.
            labels: int64 of shape (B,), likewise.
            weight: of this process's part of the batch, as `Share` has it.
        """
        self._optimizer.zero_grad(set_to_none=True)
        self._add_gradients(self._forward, pixels, labels, weight)
        self.scaler.step(self._optimizer)
        self.scaler.update()

    def _add_gradients(
        self, forward: Callable[[torch.Tensor], Any], pixels: torch.Tensor, labels: torch.Tensor, weight: float
    ) -> None:
        """Forward, loss and backward, part by part; each image counts the same."""
        num_parts = _num_parts(len(labels), self.microbatch_size or len(labels))
        parts = zip(pixels.tensor_split(num_parts), labels.tensor_split(num_parts))
        self.loss.zero_()
        for number, (part, part_labels) in enumerate(parts, start=1):
            share = len(part_labels) / len(labels)
            part_weight = weight * share
            # The gradients of all parts go to the other processes together, with the last.
            waiting = getattr(forward, "no_sync", nullcontext) if number < num_parts else nullcontext
            with waiting():
                images = normalised(part, self._memory_format)
                with self._precision.context():
                    output = forward(images)
                logits, loss = logits_and_loss(output, part_labels)
                scaled = self.scaler.scale(loss if part_weight == 1 else loss * part_weight)
                scaled.backward()  # type: ignore[no-untyped-call]
            self.loss.add_(loss.detach(), alpha=share)
            self.sums.add(loss.detach(), logits.detach(), part_labels)


def _num_parts(num_images: int, microbatch_size: int) -> int:
    """Parts of a batch; none is of a single image, over which nothing can be normalised, unless the batch is."""
    return max(1, min(-(-num_images // microbatch_size), num_images // 2))
