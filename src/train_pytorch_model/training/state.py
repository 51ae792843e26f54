"""The complete state of a training, which checkpoints save and restore."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming
from train_pytorch_model.models.state_dicts import with_entries
from train_pytorch_model.training.finetuning import FittedHead

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
    from train_pytorch_model.training.step import TrainingStep

_RANK_0_ONLY = ("network", "momentum", "average", "best_state")


def load_weights(network: nn.Module, entries: dict[str, torch.Tensor]) -> None:
    """Load saved weights into a network with the same architecture."""
    network.load_state_dict(with_entries(network.state_dict(), entries))


@dataclass
class TrainingState:
    """The state of a training between two steps."""

    step: TrainingStep
    """Has the network, the state of the optimizer, the averages and the sums of the epoch."""
    best: BestModel
    stopping: EarlyStopping
    epoch: int = 1
    """The current epoch, counted from 1."""
    iteration: int = 0
    """Completed iterations of the current epoch."""
    seconds: float = 0.0
    """Training time of the current epoch so far."""
    records: list[tuple[EpochRecord, EpochTiming]] = field(default_factory=list)
    """Results of the completed epochs."""
    head: FittedHead | None = None
    """The start of fine-tuning; None in other trainings, and before it is there."""

    def snapshot(self, world: World) -> dict[str, Any]:
        """Copy the state to the CPU. All processes call this method.

        Returns:
            In rank 0, a dictionary of numbers, strings, lists, dictionaries and tensors; in other ranks an empty one.
        """
        cuda = world.device.type == "cuda"
        of_process = {
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(world.device) if cuda else None,
            "totals": self.step.sums.totals.to("cpu", copy=True),
        }
        of_processes = world.gather(of_process)
        if not world.is_main:
            return {}
        with self.step.weights(averaged=False):
            tensors = {
                "network": _copied(self.step.network.state_dict()),
                # The name from when SGD was the only optimizer.
                "momentum": [tensor.to("cpu", copy=True) for tensor in self.step.optimizer_tensors],
            }
            if self.step.average is not None:
                tensors["average"] = [tensor.to("cpu", copy=True) for tensor in self.step.average.tensors]
        return {
            "epoch": self.epoch,
            "iteration": self.iteration,
            "seconds": self.seconds,
            **tensors,
            "scaler": self.step.scaler.state_dict(),
            "part_size": self.step.microbatch_size,
            "best": self._saved_best(),
            "best_state": dict(self.best.state),  # already on the CPU, and its tensors are never modified
            "stopping": {"lowest_loss": self.stopping.lowest_loss, "num_bad_epochs": self.stopping.num_bad_epochs},
            "records": [(record.written(), asdict(timing)) for record, timing in self.records],
            **({} if self.head is None else {"head": self.head.saved()}),
            "of_processes": of_processes,
        }

    def restore(self, saved: dict[str, Any] | None, world: World) -> None:
        """Restore the state that `snapshot` copied. All processes call this method.

        The weights must already be loaded into the network of every process.

        Args:
            saved: the snapshot of rank 0; None in other ranks.
            world: the processes, as many as when the snapshot was made.
        """
        common = world.broadcast({key: value for key, value in (saved or {}).items() if key not in _RANK_0_ONLY})
        _restore_tensors(self.step.optimizer_tensors, saved, "momentum", world)
        if self.step.average is not None:
            _restore_tensors(self.step.average.tensors, saved, "average", world)
        self.step.scaler.load_state_dict(common["scaler"])
        if self.step.microbatch_size and common.get("part_size"):
            # The same microbatches give bit-identical results. They are used if they still fit in memory.
            self.step.microbatch_size = min(self.step.microbatch_size, common["part_size"])
        self.epoch, self.iteration, self.seconds = common["epoch"], common["iteration"], common["seconds"]
        for name, value in {"value": common["best"]["top1_acc"], **common["best"]}.items():
            setattr(self.best, name, value)
        if self.best.value == -math.inf:
            self.best.epoch = None
        self.head = None if common.get("head") is None else FittedHead.restored(common["head"])
        for name, value in common["stopping"].items():
            setattr(self.stopping, name, value)
        if saved:
            self.best.state = with_entries(self.step.network.state_dict(), saved["best_state"])
        self.records = [(EpochRecord(**record), EpochTiming(**timing)) for record, timing in common["records"]]
        self._of_process = common["of_processes"][world.rank]

    def _saved_best(self) -> dict[str, Any]:
        """Return the epoch and the results of the best model, without the metric where that is the accuracy."""
        best = self.best
        saved: dict[str, Any] = {"epoch": best.epoch or 0, "top1_acc": best.top1_acc, "valid_loss": best.valid_loss}
        if best.thresholds is not None:
            saved["thresholds"] = best.thresholds
        return saved if best.metric == "accuracy" else {**saved, "value": best.value}

    def resume_epoch(self, device: torch.device) -> None:
        """Restore the sums of the epoch and the state of the random number generators."""
        self.step.sums.totals.copy_(self._of_process["totals"])
        torch.set_rng_state(self._of_process["random"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(self._of_process["cuda_random"], device)


def _copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.detach().to("cpu", copy=True) for key, value in state.items()}


def _restore_tensors(tensors: list[torch.Tensor], saved: dict[str, Any] | None, key: str, world: World) -> None:
    """Copy the tensors that rank 0 saved into those of all processes."""
    with torch.no_grad():
        for tensor, values in zip(tensors, saved[key] if saved else ()):
            tensor.copy_(values)
    world.broadcast_tensors(tensors)
