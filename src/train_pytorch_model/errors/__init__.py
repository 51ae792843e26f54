"""The designer's named errors: ids, codes and message templates.

Pipelines and people match on these names, so an id, a code or a template never changes its meaning.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from train_pytorch_model.errors.library_faults import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNTRAINED_MODEL = "Untrained model"
TRAINING_DATASET = "Training dataset"
VALIDATION_DATASET = "Validation dataset"
TRAINED_MODEL = "Trained model"


class ModuleError(Exception):
    """An error for the user: what was found, where, and what to do."""

    error_id: str = "UserError"
    """The designer's name of the error."""
    code: int = 2000
    """The designer's number of the error."""
    exception_type: str = "ModuleException"
    exit_code: int = 1
    """What the command exits with."""
    is_common: bool = False
    """Whether all processes of a training raise it together, and rank 0 knows most about it."""

    @property
    def message(self) -> str:
        """The message as the designer shows it: the id, a colon, the text."""
        return f"{self.error_id}: {self}"


class UserError(ModuleError):
    """An error that has no name of its own among the designer's errors."""


class MultipleFaultsError(ModuleError):
    """Several errors found together. The id and the code are those of the first; the message contains all of them."""

    def __init__(self, faults: tuple[ModuleError, ...]) -> None:
        super().__init__("\n".join(fault.message for fault in faults))
        self.error_id = faults[0].error_id
        self.code = faults[0].code

    @property
    def message(self) -> str:
        """One line per error."""
        return str(self)


class GreaterThanError(ModuleError):
    """A parameter is not greater than its bound."""

    error_id = "GreaterThan"
    code = 4

    def __init__(self, name: str, value: object, bound: object) -> None:
        super().__init__(f'Parameter "{name}" has value "{value}" which should be greater than {bound}.')


class GreaterThanOrEqualToError(ModuleError):
    """A parameter is below its lowest value."""

    error_id = "GreaterThanOrEqualTo"
    code = 5

    def __init__(self, name: str, bound: object, *, detail: str = "") -> None:
        text = f'Parameter "{name}" value should be greater than or equal to {bound}.'
        super().__init__(f"{text} {detail}".rstrip())


class LessThanOrEqualToError(ModuleError):
    """A parameter is above a value that depends on the input."""

    error_id = "LessThanOrEqualTo"
    code = 7

    def __init__(self, name: str, value: object, bound_meaning: str, bound: object) -> None:
        super().__init__(
            f'Parameter "{name}" value {value} should be less than or equal to {bound_meaning} value {bound}.'
        )


class NotInRangeValueError(ModuleError):
    """A parameter lies outside its range."""

    error_id = "NotInRangeValue"
    code = 8

    def __init__(self, name: str, lower: object, upper: object) -> None:
        super().__init__(f'Parameter "{name}" value should be in the range of [{lower}, {upper}].')


class InvalidDatasetError(ModuleError):
    """A dataset cannot be used."""

    error_id = "InvalidDataset"
    code = 18

    def __init__(self, dataset: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{dataset} is not valid, reason: {_sentence(reason)} {hint}".rstrip())


class NotLabeledDatasetError(ModuleError):
    """A dataset has no labels."""

    error_id = "NotLabeledDataset"
    code = 24

    def __init__(self, dataset: str, hint: str = "") -> None:
        super().__init__(f'There is no label column in "{dataset}". {hint}'.rstrip())


class ModuleOutOfMemoryError(ModuleError):
    """Host or device memory ran out."""

    error_id = "ModuleOutOfMemory"
    code = 138

    def __init__(self, details: str) -> None:
        super().__init__(f"Memory has been exhausted, unable to complete running of module. Details: {details}")


class InvalidTransformationDirectoryError(ModuleError):
    """A TransformationDirectory cannot be used."""

    error_id = "InvalidTransformationDirectory"
    code = 158

    def __init__(self, argument: str, reason: str, hint: str = "") -> None:
        super().__init__(
            f'TransformationDirectory "{argument}" is invalid. Reason: {_sentence(reason)} {hint}'.rstrip()
        )


class InvalidModelDirectoryError(ModuleError):
    """A model directory cannot be used."""

    error_id = "InvalidModelDirectory"
    code = 159

    def __init__(self, argument: str, reason: str, hint: str = "") -> None:
        super().__init__(f'ModelDirectory "{argument}" is invalid. Reason: {_sentence(reason)} {hint}'.rstrip())


class FailedToDownloadFilesError(ModuleError):
    """Files could not be downloaded."""

    error_id = "FailedToDownloadFiles"
    code = 162

    def __init__(self, file_names: str, hint: str = "") -> None:
        super().__init__(
            f'Failed to download "{file_names}" due to internet error. '
            f"Please check compute network settings. {hint}".rstrip()
        )


class LibraryError(ModuleError):
    """The module or a library that it uses failed; the input is not at fault."""

    code = 1000
    exception_type = "LibraryException"

    def __init__(self, exception: BaseException) -> None:
        super().__init__(f"{exception}")
        self.error_id = type(exception).__name__

    @property
    def message(self) -> str:
        """The designer's form for errors of libraries."""
        return f"Library Error - {self.error_id}: {self}"


class InterruptedRunError(UserError):
    """The run was preempted. The same command resumes it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again
    is_common = True

    def __init__(self, last: str, signal_name: str = "SIGTERM") -> None:
        super().__init__(f"Interrupted by {signal_name}. {last} Run the same command again to resume.")


class DivergedRunError(UserError):
    """The training loss is no longer a finite number."""

    is_common = True


class HungReadError(UserError):
    """Reading a file does not end."""


class RemoteError(ModuleError):
    """An error of another process, with the names that the other process gave it."""

    def __init__(self, error_id: str, code: int, exception_type: str, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.error_id = error_id
        self.code = code
        self.exception_type = exception_type
        self.exit_code = exit_code

    @property
    def message(self) -> str:
        """The message, which already begins with the id."""
        return str(self)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def as_module_error(error: BaseException) -> ModuleError:
    """Return the named error for any exception that ended a run."""
    if isinstance(error, ModuleError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return UserError("Interrupted.")
    if is_out_of_memory(error):
        return ModuleOutOfMemoryError(first_line(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModuleOutOfMemoryError(f"The disk is full: {error.filename or error} cannot be written.")
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):  # of the module tempfile
        return UserError(f"{error.strerror}. Set the environment variable TMPDIR to a folder that can be written to.")
    if isinstance(error, OSError) and error.filename:  # mostly errors of the folder of reports
        return UserError(f"{error.filename} cannot be used: {error.strerror}.")
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return UserError(
            f"A file could not be read or written: {error.strerror}. Inputs, outputs and temporary files (TMPDIR) must "
            "be on file systems that support this."
        )
    return LibraryError(error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without a full stop, or the name of its class if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


class StepFailedError(ModuleError):
    """A step of a pipeline failed. The id and the code are those of the step's own error."""

    def __init__(self, step: str, error_id: str, code: int, text: str, log: Path) -> None:
        end = "" if text.endswith((".", "!", "?")) else "."
        super().__init__(f"Step {step!r}: {text}{end} Its log is {log}.")
        self.error_id = error_id
        self.code = code
        self.text = text
        """What happened, without the names of the step and the log."""
        self.log = log


class FaultCollector:
    """Collects the errors of several checks, so that a user sees all of them at once."""

    def __init__(self) -> None:
        self.faults: list[ModuleError] = []

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep a `ModuleError` raised inside the block instead of letting it through."""
        try:
            yield
        except ModuleError as error:
            self.faults.append(error)

    def raise_any(self) -> None:
        """Raise the collected errors.

        Raises:
            ModuleError: the only error, or a `MultipleFaultsError` with all of them.
        """
        if len(self.faults) == 1:
            raise self.faults[0]
        if self.faults:
            raise MultipleFaultsError(tuple(self.faults))
