"""All that decides how a training goes on, as one dictionary: what a checkpoint holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming
from train_pytorch_model.models.state_dicts import with_entries

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
    from train_pytorch_model.training.step import TrainingStep

_OF_MAIN_ALONE = ("network", "momentum", "best_state")


def load_weights(network: nn.Module, entries: dict[str, torch.Tensor]) -> None:
    """Put saved weights into a network of the same kind."""
    network.load_state_dict(with_entries(network.state_dict(), entries))


@dataclass
class TrainingState:
    """Where a training stands, between two steps."""

    step: TrainingStep
    """Has the network, the optimizer's buffers and the sums of the epoch."""
    best: BestModel
    stopping: EarlyStopping
    epoch: int = 1
    """That is under way, from 1."""
    iteration: int = 0
    """Steps of it that are done."""
    seconds: float = 0.0
    """That they took."""
    records: list[tuple[EpochRecord, EpochTiming]] = field(default_factory=list)
    """Of the epochs before."""

    def snapshot(self, world: World) -> dict[str, Any]:
        """Copy everything to the CPU. All processes call it; the copies of process 0 are the ones to keep.

        Returns:
            Numbers, texts, lists, dictionaries and tensors, nothing else.
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
        return {
            "epoch": self.epoch,
            "iteration": self.iteration,
            "seconds": self.seconds,
            "network": _copied(self.step.network.state_dict()),
            "momentum": [buffer.to("cpu", copy=True) for buffer in self.step.momentum],
            "scaler": self.step.scaler.state_dict(),
            "part_size": self.step.microbatch_size,
            "best": {"epoch": self.best.epoch, "top1_acc": self.best.top1_acc, "valid_loss": self.best.valid_loss},
            "best_state": dict(self.best.state),  # on the CPU, and never written to
            "stopping": {"lowest_loss": self.stopping.lowest_loss, "num_bad_epochs": self.stopping.num_bad_epochs},
            "records": [(asdict(record), asdict(timing)) for record, timing in self.records],
            "of_processes": of_processes,
        }

    def restore(self, saved: dict[str, Any] | None, world: World) -> None:
        """Go back to where `snapshot` was called. All processes call it, the others without what process 0 has.

        The weights are in the network already, and with several processes the same in all of them.

        Args:
            saved: from `snapshot`; of process 0.
            world: the processes, as many as there were.
        """
        common = world.broadcast({key: value for key, value in (saved or {}).items() if key not in _OF_MAIN_ALONE})
        momentum = self.step.momentum
        with torch.no_grad():
            for buffer, values in zip(momentum, saved["momentum"] if saved else ()):
                buffer.copy_(values)
        world.copy_from_main(momentum)
        self.step.scaler.load_state_dict(common["scaler"])
        if self.step.microbatch_size and common.get("part_size"):
            # The same parts give the same bits, where the memory holds them still.
            self.step.microbatch_size = min(self.step.microbatch_size, common["part_size"])
        self.epoch, self.iteration, self.seconds = common["epoch"], common["iteration"], common["seconds"]
        for name, value in common["best"].items():
            setattr(self.best, name, value)
        for name, value in common["stopping"].items():
            setattr(self.stopping, name, value)
        if saved:
            self.best.state = with_entries(self.step.network.state_dict(), saved["best_state"])
        self.records = [(EpochRecord(**record), EpochTiming(**timing)) for record, timing in common["records"]]
        self._of_process = common["of_processes"][world.rank]

    def resume_epoch(self, device: torch.device) -> None:
        """Take up the epoch where it was left: its sums, and the random numbers yet to come."""
        self.step.sums.totals.copy_(self._of_process["totals"])
        torch.set_rng_state(self._of_process["random"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(self._of_process["cuda_random"], device)


def _copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.detach().to("cpu", copy=True) for key, value in state.items()}
