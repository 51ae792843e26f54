"""Whether a checkpoint is of the same training, and whether to go on from it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from train_pytorch_model.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from train_pytorch_model.checkpoints.folder import CheckpointFolder

logger = logging.getLogger(__name__)


def choose_start(
    folder: CheckpointFolder,
    candidate: dict[str, Any] | None,
    fingerprint: Mapping[str, object],
    epochs: int,
    *,
    is_required: bool,
) -> dict[str, Any] | None:
    """Choose the checkpoint to go on from, None to start anew, and log why.

    Args:
        folder: where it was looked for.
        candidate: the newest that is whole.
        fingerprint: of the training that is to begin.
        epochs: of the training that is to begin.
        is_required: whether starting anew is a fault.

    Raises:
        UserError: when one is required and there is none of this training.
    """
    reason = why_not(folder, candidate, fingerprint, epochs)
    if reason and is_required:
        raise refusal(folder, candidate, reason)
    if candidate is None:
        return None
    if not reason:
        logger.info("Going on from %s.", name_of(folder, candidate))
        folder.adopt()
        return candidate
    logger.warning(
        "Starting anew: the checkpoint in %s is of another training: %s. It stays until this run has two of its own.",
        folder.path,
        reason,
    )
    return None


def drawn_before(candidate: Mapping[str, Any] | None, drawn: int) -> int:
    """The seed of a run that draws its own: the one drawn by the run that it goes on from, else `drawn`."""
    try:
        is_drawn = candidate is not None and candidate["fingerprint"]["random seed"] is None
        return int(candidate["seed"]) if candidate and is_drawn else drawn
    except (KeyError, TypeError, ValueError):  # no checkpoint of a training, as will be told
        return drawn


def name_of(folder: CheckpointFolder, candidate: Mapping[str, Any]) -> str:
    """A checkpoint in words."""
    return f"the checkpoint of epoch {candidate['epoch']}, iteration {candidate['iteration']}, in {folder.path}"


def refusal(folder: CheckpointFolder, candidate: dict[str, Any] | None, reason: str) -> UserError:
    """The error of a run that must go on and cannot."""
    if candidate is None:
        return UserError(
            f"--resume require: {reason}. Name its folder with --checkpoint-path, or start anew with --resume auto."
        )
    return UserError(
        f"--resume require: the checkpoint in {folder.path} is of another training: {reason}. "
        "Give what that one was given, or start anew with --resume auto."
    )


def why_not(
    folder: CheckpointFolder, candidate: dict[str, Any] | None, fingerprint: Mapping[str, object], epochs: int
) -> str:
    """Why a training cannot go on from a checkpoint; empty when it can.

    Args:
        folder: where it was looked for.
        candidate: the newest that is whole.
        fingerprint: of the training that is to begin.
        epochs: likewise.
    """
    if candidate is None:
        return f"there is no checkpoint in {folder.path} that can be used"
    return _difference(candidate, fingerprint, epochs)


def _difference(candidate: Mapping[str, Any], fingerprint: Mapping[str, object], epochs: int) -> str:
    try:
        theirs = candidate["fingerprint"]
        differing = [name for name in fingerprint if theirs.get(name) != fingerprint[name]]
        last = int(candidate["epoch"]) - (0 if candidate["iteration"] else 1)
    except (KeyError, TypeError, ValueError, AttributeError):
        return "it lacks what a checkpoint has"
    if differing:
        return "; ".join(_told(name, theirs.get(name), fingerprint[name]) for name in differing)
    if last > epochs:
        return f"it has begun epoch {last}, of {epochs} that are asked for"
    return ""


def _told(name: str, theirs: object, ours: object) -> str:
    # Digests say nothing to a person.
    is_digest = isinstance(ours, str) and len(ours) == 64
    return f"{name} differ" if is_digest else f"{name} was {theirs}, and is {ours}"
