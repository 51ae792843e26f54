"""Checks a training run before it starts, and writes nothing."""

from __future__ import annotations

import contextlib
import math
import os
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from train_pytorch_model.checkpoints.folder import CheckpointFolder
from train_pytorch_model.checkpoints.resume import name_of, refusal, why_not
from train_pytorch_model.console.logs import kept_warnings
from train_pytorch_model.console.progress import ProgressDisplay
from train_pytorch_model.data.findings import compare_images, imbalance
from train_pytorch_model.data.model_task import MULTILABEL
from train_pytorch_model.data.placement import free_bytes
from train_pytorch_model.distributed.device import choose_device, name_of_device
from train_pytorch_model.distributed.world import World
from train_pytorch_model.errors import ModuleOutOfMemoryError
from train_pytorch_model.errors.library_faults import is_out_of_memory
from train_pytorch_model.job.geometry import what_is_done
from train_pytorch_model.job.inspect import Inspected, check_counts, fit_batch_size, inspect
from train_pytorch_model.job.output import outputs_locked
from train_pytorch_model.job.plan import fingerprint_of, make_plan
from train_pytorch_model.job.prepare import assemble
from train_pytorch_model.job.recipe import with_recipe_of_checkpoint
from train_pytorch_model.job.stores import Decoding, try_decoding
from train_pytorch_model.preflight.result import (
    CheckResult,
    Chosen,
    DatasetFound,
    Estimate,
    ModelFound,
    Need,
    Problem,
)
from train_pytorch_model.preflight.trial import Trial, try_steps
from train_pytorch_model.text.masking import masked
from train_pytorch_model.text.wording import bytes_in_words
from train_pytorch_model.training.microbatches import BatchTooLargeError, out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from rich.console import Console

    from train_pytorch_model.errors import FaultCollector, ModuleError
    from train_pytorch_model.job.datasets import Scanned
    from train_pytorch_model.job.prepare import Prepared
    from train_pytorch_model.job.settings import Settings
    from train_pytorch_model.training.plan import Plan

# For finding images that are in both datasets.
_SEARCH_SECONDS = 30.0
_RESUMES = "resumes from"


def check(settings: Settings, console: Console) -> CheckResult:
    """Check a training run, and leave every folder as it was.

    Args:
        settings: of the training run.
        console: shows the progress.

    Returns:
        The problems that training would end with, the warnings, and what training would use.
    """
    with kept_warnings() as warnings:
        return _check(settings, World(device=choose_device()), ProgressDisplay(console), warnings)


@contextmanager
def _as_found(*folders: Path) -> Iterator[None]:
    """Remove the empty folders that the block creates."""
    absent = {path for folder in folders for path in (folder, *folder.parents) if not os.path.exists(path)}
    try:
        yield
    finally:
        for path in sorted(absent, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):  # it is not empty, or cannot be removed
                path.rmdir()


def _check(settings: Settings, world: World, display: ProgressDisplay, warned: list[str]) -> CheckResult:
    started = time.perf_counter()
    with _as_found(settings.outputs_path, settings.checkpoint_path):
        inspected = inspect(settings, world)
        faults = inspected.faults
        with faults.collecting(), outputs_locked(settings):
            pass
    how = Decoding(world, display, faults, settings.skip_unreadable_images, None)
    decoding = time.perf_counter()
    decoded = try_decoding([inspected.train, inspected.valid], settings.parameters.image_store, how)
    decoding = time.perf_counter() - decoding
    train, valid = decoded.datasets
    inspected = fit_batch_size(replace(inspected, train=train, valid=valid))
    check_counts(inspected.settings, world, train, faults)
    start_seconds = time.perf_counter() - started
    chosen = estimate = start = None
    memory: tuple[Need, ...] = ()
    model = _model(inspected)  # before steps change its weights
    if not faults.faults:
        prepared = assemble(inspected, decoded)
        folder = CheckpointFolder(settings.checkpoint_path)
        candidate = None if settings.parameters.resume == "never" else folder.newest()
        classic = with_recipe_of_checkpoint(settings, prepared.settings, prepared.data, candidate, world)
        if classic:
            resumed = _check(classic, world, display, warned)
            if (resumed.start or "").startswith(_RESUMES):  # otherwise the recipe of the checkpoint does not matter
                return resumed
        plan = make_plan(prepared, world)
        chosen = Chosen(name_of_device(world.device), str(plan.precision), decoded.place, plan.cuda_graph)
        start = _start(prepared, plan, world, faults, folder, candidate)
        free = free_bytes(world.device)
        try:
            trial = try_steps(prepared, plan, world)
        except Exception as error:
            if not (isinstance(error, BatchTooLargeError) or is_out_of_memory(error)):
                raise
            faults.faults.append(out_of_memory(error, plan.batch_size))
        else:
            chosen = replace(chosen, cuda_graph=trial.cuda_graph)
            memory = _memory(prepared, trial, world.device, free)
            faults.faults.extend(_shortages(memory))
            estimate = _estimate(prepared, plan, trial, start_seconds, decoding)
    return CheckResult(
        problems=tuple(Problem(fault.error_id, fault.code, masked(str(fault))) for fault in faults.faults),
        warnings=(*warned, *_warnings(train, valid)),
        classes=train.images.classes if train else (),
        model=model,
        training=_dataset(train),
        validation=_dataset(valid),
        chosen=chosen,
        memory=memory,
        estimate=estimate,
        start=None if start is None else masked(start),
        task=train.images.task if train else None,
    )


def _start(
    prepared: Prepared,
    plan: Plan,
    world: World,
    faults: FaultCollector,
    folder: CheckpointFolder,
    candidate: dict[str, Any] | None,
) -> str:
    """Whether training would resume or start from scratch, in words."""
    parameters = prepared.settings.parameters
    fingerprint = fingerprint_of(prepared, plan, world)
    reason = why_not(folder, candidate, fingerprint, parameters.epochs)
    if reason and parameters.resume == "require":
        faults.faults.append(refusal(folder, candidate, reason))
    if candidate is None:
        return "from scratch"
    if reason:
        return f"from scratch: the checkpoint in {folder.path} belongs to a different run: {reason}"
    return f"{_RESUMES} {name_of(folder, candidate)}"


def _dataset(scanned: Scanned | None) -> DatasetFound | None:
    if scanned is None:
        return None
    height, width = scanned.geometry.size if scanned.geometry else (None, None)
    return DatasetFound(
        path=masked(str(scanned.images.path)),
        images=len(scanned.kept),
        unreadable=len(scanned.unreadable),
        width=width,
        height=height,
        file_bytes=int(scanned.file_bytes.sum()),
        decoded_bytes=scanned.num_bytes,
        counts=dict(zip(scanned.images.classes, scanned.counts().tolist())),
        geometry=what_is_done(scanned),
        without_labels=_num_without_labels(scanned.images.labels[scanned.kept]),
    )


def _num_without_labels(labels: np.ndarray) -> int:
    return int((~labels.any(axis=1)).sum()) if labels.ndim == 2 else 0


def _model(inspected: Inspected) -> ModelFound | None:
    if inspected.model is None or inspected.built is None:
        return None
    network, description, _ = inspected.built
    given = inspected.model.state
    parameters = dict(network.named_parameters())
    new = [name for name, value in parameters.items() if name not in given or not _is_same(given[name], value)]
    num_weights = sum(value.numel() for value in parameters.values())
    pretrained = inspected.model.pretrained
    source = masked(pretrained.source) if pretrained else None
    return ModelFound(masked(str(inspected.model.path)), str(description), num_weights, tuple(new), source)


def _is_same(given: torch.Tensor, value: torch.Tensor) -> bool:
    return given.shape == value.shape and torch.equal(given.to(value.dtype), value.detach())


def _warnings(train: Scanned | None, valid: Scanned | None) -> list[str]:
    if train is None or valid is None:
        return []
    return [
        *imbalance(train.counts(), train.images.classes, is_multilabel=train.images.task == MULTILABEL),
        *compare_images(train.files(), valid.files(), _SEARCH_SECONDS).warnings(valid.name_of),
    ]


def _memory(prepared: Prepared, trial: Trial, device: torch.device, free: Mapping[str, float]) -> tuple[Need, ...]:
    """The memory that training needs, and the memory that was free before the first step."""

    def need(what: str, place: str, num_bytes: int) -> Need:
        place = place if place in free else "memory"
        return Need(what, place, num_bytes, int(free[place]) if math.isfinite(free[place]) else None)

    needs = []
    if prepared.image_store != "none":
        num_bytes = prepared.train_data.num_bytes + prepared.valid_data.num_bytes
        needs.append(need("decoded images", prepared.image_store, num_bytes))
    if trial.peak_bytes is not None:
        what = "network, batches and the CUDA graph" if trial.cuda_graph else "network and a batch"
        needs.append(need(what, "device" if device.type == "cuda" else "memory", trial.peak_bytes))
    return tuple(needs)


def _shortages(needs: Sequence[Need]) -> list[ModuleError]:
    """An error for each place without enough free space."""
    faults: list[ModuleError] = []
    for place in dict.fromkeys(need.place for need in needs):
        there = [need for need in needs if need.place == place]
        needed, free = sum(need.needed_bytes for need in there), there[0].free_bytes
        if free is not None and needed > free:
            named = " and ".join(f"{need.what} {bytes_in_words(need.needed_bytes)}" for need in there)
            faults.append(
                ModuleOutOfMemoryError(
                    f"{place} has {bytes_in_words(free)} free, and training needs {bytes_in_words(needed)} there: "
                    f"{named}. Lower the batch size, choose a smaller network, or keep the images elsewhere with "
                    "--image-store."
                )
            )
    return faults


def _estimate(prepared: Prepared, plan: Plan, trial: Trial, start_seconds: float, decoding: float) -> Estimate:
    seconds = math.ceil(len(prepared.train) / plan.batch_size) * trial.step_seconds + trial.validation_seconds
    if prepared.image_store == "none":  # then images are decoded in every epoch, during the steps
        seconds = max(seconds, decoding)
    before_and_after = 0.0
    if (
        plan.fits_head
    ):  # one pass over the training images and two validations: with the fitted head, and with mixed weights
        num_passes = len(prepared.train) / len(prepared.valid) + 2
        before_and_after = num_passes * trial.validation_seconds
    return Estimate(start_seconds, seconds, start_seconds + plan.epochs * seconds + before_and_after)
