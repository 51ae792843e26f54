"""Whether a checkpoint belongs to the same run, and whether to resume from it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from train_pytorch_model.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from train_pytorch_model.checkpoints.folder import CheckpointFolder

logger = logging.getLogger(__name__)

# Entries that a fingerprint has only if they differ from the behavior of version 0.1, which did not write them. An
# entry that is missing from a checkpoint or from this run's fingerprint has the value given here, or is not set.
_DEFAULTS: dict[str, object] = {"validation precision": "float32", "recipe": "classic", "task": "multiclass"}
_NOT_SET = "not set"
# Entries that say what a run starts from, whatever its recipe.
_STARTS_FROM = ("training images", "validation images", "classes", "network", "initial weights")


def choose_start(
    folder: CheckpointFolder,
    candidate: dict[str, Any] | None,
    fingerprint: Mapping[str, object],
    epochs: int,
    *,
    is_required: bool,
) -> dict[str, Any] | None:
    """Return the checkpoint to resume from, None to start from scratch, and log the reason.

    Args:
        folder: the checkpoint folder.
        candidate: the newest valid checkpoint in it.
        fingerprint: of the run that starts.
        epochs: number of epochs of the run that starts.
        is_required: whether starting from scratch is an error.

    Raises:
        UserError: when resuming is required and there is no checkpoint of this run.
    """
    reason = why_not(folder, candidate, fingerprint, epochs)
    if reason and is_required:
        raise refusal(folder, candidate, reason)
    if candidate is None:
        return None
    if not reason:
        logger.info("Resuming from %s.", name_of(folder, candidate))
        folder.adopt()
        return candidate
    logger.warning(
        "Starting from scratch: the checkpoint in %s belongs to a different run (%s). It is kept until this run has "
        "saved two checkpoints.",
        folder.path,
        reason,
    )
    return None


def drawn_before(candidate: Mapping[str, Any] | None, drawn: int) -> int:
    """Return the random seed of a run without a given one: the seed that the checkpoint's run drew, else `drawn`."""
    try:
        is_drawn = candidate is not None and candidate["fingerprint"]["random seed"] is None
        return int(candidate["seed"]) if candidate and is_drawn else drawn
    except (KeyError, TypeError, ValueError):  # not a checkpoint of a training, which `why_not` reports
        return drawn


def is_of_classic_run(
    candidate: Mapping[str, Any] | None, data: Mapping[str, object], chosen: Mapping[str, object]
) -> bool:
    """Return whether a checkpoint was written by the same run as a classic one, such as one of version 0.1.

    Args:
        candidate: the newest valid checkpoint.
        data: the entries of a fingerprint that say what a run starts from.
        chosen: entries that this run has as a classic one.
    """
    fingerprint = candidate.get("fingerprint") if candidate else None
    if not isinstance(fingerprint, dict) or "recipe" in fingerprint:
        return False
    wanted = {**{name: data.get(name) for name in _STARTS_FROM}, **chosen}
    return all(fingerprint[name] == value for name, value in wanted.items() if name in fingerprint)


def name_of(folder: CheckpointFolder, candidate: Mapping[str, Any]) -> str:
    """Return a description of a checkpoint for messages."""
    return f"the checkpoint of epoch {candidate['epoch']}, iteration {candidate['iteration']}, in {folder.path}"


def refusal(folder: CheckpointFolder, candidate: dict[str, Any] | None, reason: str) -> UserError:
    """Return the error of a run that must resume and cannot."""
    if candidate is None:
        return UserError(
            f"--resume require: {reason}. Name the checkpoint folder with --checkpoint-path, or start from scratch "
            "with --resume auto."
        )
    return UserError(
        f"--resume require: the checkpoint in {folder.path} belongs to a different run ({reason}). "
        "Use the inputs and options of that run, or start from scratch with --resume auto."
    )


def why_not(
    folder: CheckpointFolder, candidate: dict[str, Any] | None, fingerprint: Mapping[str, object], epochs: int
) -> str:
    """Return why a run cannot resume from a checkpoint; "" if it can.

    Args:
        folder: the checkpoint folder.
        candidate: the newest valid checkpoint in it.
        fingerprint: of the run that starts.
        epochs: number of epochs of the run that starts.
    """
    if candidate is None:
        return f"there is no usable checkpoint in {folder.path}"
    return _difference(candidate, fingerprint, epochs)


def _difference(candidate: Mapping[str, Any], fingerprint: Mapping[str, object], epochs: int) -> str:
    try:
        theirs = {**_DEFAULTS, **candidate["fingerprint"]}
        ours = {**_DEFAULTS, **fingerprint}
        differing = [name for name in {**ours, **theirs} if theirs.get(name, _NOT_SET) != ours.get(name, _NOT_SET)]
        last = int(candidate["epoch"]) - (0 if candidate["iteration"] else 1)
    except (KeyError, TypeError, ValueError, AttributeError):
        return "it lacks entries that every checkpoint has"
    if differing:
        return "; ".join(_describe(name, theirs.get(name, _NOT_SET), ours.get(name, _NOT_SET)) for name in differing)
    if last > epochs:
        return f"it has reached epoch {last}, but only {epochs} epochs are requested"
    return ""


def _describe(name: str, theirs: object, ours: object) -> str:
    # A person cannot read anything from a digest.
    is_digest = isinstance(ours, str) and len(ours) == 64
    return f"{name} differ" if is_digest else f"{name} was {theirs} and is {ours}"
