"""Worlds of processes that are not there."""

from __future__ import annotations

import pytest
import torch

from train_pytorch_model.distributed.world import World


def met(monkeypatch: pytest.MonkeyPatch, *processes: tuple[str, str | None]) -> World:
    """The second of processes with these hosts and GPUs, once it knows the others."""

    def gather(values: list[object], own: object) -> None:
        values[:] = processes

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    monkeypatch.setattr(torch.distributed, "new_group", lambda ranks=None, **_: ranks)
    world = World(1, 0, len(processes))
    world.join()
    return world
