"""One training step: forward, loss, backward, update."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Callable

import torch
from torch import nn

from train_pytorch_model.data.batches import normalised, per_channel
from train_pytorch_model.training.averaging import WeightAverage
from train_pytorch_model.training.layers import TrainableLayers, rate_factors
from train_pytorch_model.training.losses import logits_and_loss, training_loss
from train_pytorch_model.training.metrics import RunningSums
from train_pytorch_model.training.optimizers import build_optimizer, set_learning_rate

if TYPE_CHECKING:
    from train_pytorch_model.training.plan import Plan


class TrainingStep:
    """Trains a network on one batch per call, and accumulates loss and accuracy of the epoch on the device.

    All tensors that it writes keep their addresses, so that a CUDA graph can replay it, and no operation in it makes
    the host wait for the device.
    """

    def __init__(
        self,
        network: nn.Module,
        plan: Plan,
        device: torch.device,
        parallel: Callable[[nn.Module], nn.Module] = lambda network: network,
    ) -> None:
        """Create the optimizer and its buffers.

        Args:
            network: on the device; trained in place.
            plan: the hyperparameters.
            device: the device to train on.
            parallel: wraps the network so that gradients are averaged over all processes.
        """
        self.network = network.to(memory_format=plan.memory_format)  # type: ignore[call-overload]
        self.device = device
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        """Mean loss of the last batch, a float64 scalar."""
        self.microbatch_size: int | None = None
        """The largest number of images in a forward and backward pass; None for the whole batch."""
        self.layers = TrainableLayers(self.network, plan)
        """Which layers are trained."""
        self._parallel = parallel
        self._forward = parallel(self.network)
        self._from_features: nn.Module | None = None
        self.sums = RunningSums.zero(plan.num_classes, device, task=plan.task)
        """Loss and accuracy of the epoch so far."""
        self.learning_rate = 0.0
        """The learning rate of the last step."""
        self.memory_format = plan.memory_format
        self._precision = plan.precision
        self._mean, self._std = (per_channel(values, device) for values in (plan.mean, plan.std))
        self.scaler = plan.precision.make_scaler()
        self._loss_of = training_loss(plan, device)
        self._max_norm = plan.clip_grad_norm
        named_parameters = list(self.layers.named_parameters())
        self._parameters = [parameter for _, parameter in named_parameters]
        factors = {**rate_factors(self.network, plan.layer_decay), **dict.fromkeys(plan.head_names, 1.0)}
        self._optimizer = build_optimizer(named_parameters, plan, device, factors)
        self.average: WeightAverage | None = None
        """The average of the weights after each step; None if training keeps none."""
        if plan.model_ema is not None:
            self.average = average = WeightAverage(self._averaged_tensors(plan), plan.model_ema, device)
            # The gradient scaler tells the optimizer, and nothing else, whether it skips a step.
            self._optimizer.register_step_post_hook(
                lambda optimizer, args, kwargs: average.update(getattr(optimizer, "found_inf", None))
            )

    @property
    def optimizer_tensors(self) -> list[torch.Tensor]:
        """The state of the optimizer, in the network's order: with SGD the momentum buffer of each parameter."""
        state = self._optimizer.state
        return [tensor for parameter in self._parameters for tensor in state[parameter].values()]

    def weights(self, *, averaged: bool) -> AbstractContextManager[None]:
        """Return a context in which the network has averaged weights, or the trained ones; the same without averages.

        Afterwards the network has the weights that it had before, bit for bit and at the same addresses.
        """
        return nullcontext() if self.average is None else self.average.weights(averaged=averaged)

    def buffers(self) -> list[torch.Tensor]:
        """Return the statistics of the network and their averages, which may differ between processes."""
        averages = [] if self.average is None else self.average.tensors
        return [*self.network.buffers(), *averages[len(self._parameters) :]]

    def dry_run(self, pixels: torch.Tensor, labels: torch.Tensor, *, alone: bool = False) -> None:
        """Run forward and backward without changing weights, statistics, sums or random number generators.

        With several processes, DistributedDataParallel reduces gradients in a different bucket layout in its first
        step than in all later ones, and the results differ in the last bits. After a dry run all steps use the same
        layout, also in a run that resumes.

        Args:
            pixels: uint8 of shape (B, 3, height, width), on the device.
            labels: int64 of shape (B,), or float32 of shape (B, num_classes), on the device.
            alone: do not communicate with the other processes.
        """
        kept = [*self.network.buffers(), self.sums.totals]
        before = [tensor.clone() for tensor in kept]
        self.layers.set_training_mode()
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                self._add_gradients(self.network if alone else self._forward, pixels, labels, 1.0)
            if self.average is not None:
                self.average.rehearse()
        finally:
            self._optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                for tensor, values in zip(kept, before):
                    tensor.copy_(values)

    def begin_epoch(self, learning_rate: float) -> None:
        """Set the learning rate, put the network into training mode and reset the sums."""
        self.layers.set_training_mode()
        self.sums.reset()
        self.set_learning_rate(learning_rate)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the next steps."""
        self.learning_rate = learning_rate
        set_learning_rate(self._optimizer, learning_rate)

    def __call__(self, pixels: torch.Tensor, labels: torch.Tensor, weight: float = 1.0) -> None:
        """Train on one batch.

        Args:
            pixels: uint8 of shape (B, 3, height, width), on the device.
            labels: int64 of shape (B,), or float32 of shape (B, num_classes), on the device.
            weight: of this process's shard of the batch, see `Shard.weight`.
        """
        self._add_gradients(self._forward, pixels, labels, weight)
        if self._max_norm is not None:
            self.scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self._max_norm, foreach=True)
        self.scaler.step(self._optimizer)
        self.scaler.update()
        # Here and not before the next step: validation needs the memory, and a CUDA graph keeps what it allocates.
        self._optimizer.zero_grad(set_to_none=True)

    def discard(self) -> None:
        """Discard what an unfinished step has left in gradients, the gradient scaler and the exchange of gradients.

        A step that was captured, not run, has changed nothing else. All processes call this method.
        """
        self._optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel cannot be used after a step that it has not finished.
        self._wrap_again()
        scaler = self._precision.make_scaler()
        if scaler.is_enabled():
            scaler.load_state_dict(self.scaler.state_dict())
        self.scaler = scaler
        for name in ("grad_scale", "found_inf"):  # which the scaler gives to the optimizer
            vars(self._optimizer).pop(name, None)

    def train_head_alone(self, alone: bool, from_features: nn.Module | None = None) -> None:
        """Train only the last stage in the next steps, or again all layers. All processes call this method.

        Args:
            alone: whether to train the last stage alone.
            from_features: computes the logits of features, float32 of shape (B, features), which batches then have
                instead of pixels; None for the network and pixels.
        """
        self.layers.train_head_alone(alone)
        self.layers.set_training_mode()
        self._from_features = from_features
        self._wrap_again()

    def _wrap_again(self) -> None:
        """Wrap what is trained for the exchange of gradients."""
        trained = self.network if self._from_features is None else self._from_features
        # The old DistributedDataParallel removes its hooks from the parameters when it is deleted.
        self._forward = trained
        gc.collect()
        self._forward = self._parallel(trained)

    @torch.no_grad()
    def add_training_loss(
        self, network: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, sums: RunningSums
    ) -> None:
        """Add loss and accuracy of a network, such as a copy of the trained one, on a batch to sums; see `__call__`."""
        for micro_pixels, micro_labels in self._microbatches(pixels, labels):
            images = normalised(micro_pixels, self.memory_format, self._mean, self._std)
            logits, loss = self._logits_and_loss(network, images, micro_labels)
            sums.add(loss, logits, micro_labels)

    def _logits_and_loss(
        self, forward: Callable[[torch.Tensor], Any], images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits and the loss of normalized images, or of features."""
        with self._precision.context():
            output = forward(images)
        return logits_and_loss(output, labels, self._loss_of)

    def _microbatches(self, pixels: torch.Tensor, labels: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        count = _num_microbatches(len(labels), self.microbatch_size or len(labels))
        return list(zip(pixels.tensor_split(count), labels.tensor_split(count)))

    def _averaged_tensors(self, plan: Plan) -> list[torch.Tensor]:
        """Return the tensors that training changes: trained parameters first, then statistics of batches."""
        if plan.freeze_batch_norm:
            return list(self._parameters)
        return [*self._parameters, *(value for value in self.network.buffers() if value.is_floating_point())]

    def _add_gradients(
        self, forward: Callable[[torch.Tensor], Any], pixels: torch.Tensor, labels: torch.Tensor, weight: float
    ) -> None:
        """Accumulate the gradients of all microbatches; each image has the same weight."""
        microbatches = self._microbatches(pixels, labels)
        count = len(microbatches)
        self.loss.zero_()
        for number, (micro_pixels, micro_labels) in enumerate(microbatches, start=1):
            fraction = len(micro_labels) / len(labels)
            loss_weight = weight * fraction
            # Gradients are reduced over the processes once, with the last microbatch.
            no_sync = getattr(forward, "no_sync", nullcontext) if number < count else nullcontext
            with no_sync():
                images = micro_pixels
                if self._from_features is None:
                    images = normalised(micro_pixels, self.memory_format, self._mean, self._std)
                logits, loss = self._logits_and_loss(forward, images, micro_labels)
                scaled = self.scaler.scale(loss if loss_weight == 1 else loss * loss_weight)
                scaled.backward()  # type: ignore[no-untyped-call]
            self.loss.add_(loss.detach(), alpha=fraction)
            self.sums.add(loss.detach(), logits.detach(), micro_labels)


def _num_microbatches(num_images: int, microbatch_size: int) -> int:
    """Return the number of microbatches.

    Batch normalization may need two images, so no microbatch has a single one unless the size, or the batch, is 1.
    """
    if microbatch_size == 1:
        return num_images
    return max(1, min(-(-num_images // microbatch_size), num_images // 2))
