"""error_info.json, the designer's report of how a run ended."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_pytorch_model.errors import RemoteError
from train_pytorch_model.text.masking import masked

if TYPE_CHECKING:
    from train_pytorch_model.errors import ModuleError

logger = logging.getLogger(__name__)

ERROR_INFO_PATH = Path("module_statistics") / "error_info.json"
# The designer's service refuses reports of 9,000 characters or more, and cuts messages to this length.
_MAX_ERROR_INFO_CHARACTERS = 9000
_MAX_MESSAGE_CHARACTERS = 4096


def describe(error: ModuleError) -> dict[str, object]:
    """Return the description of an error in the form of the designer's report."""
    return {
        "ErrorId": error.error_id,
        "ErrorCode": error.code,
        "ExceptionType": error.exception_type,
        "Traceback": "",
        "Message": masked(error.message),
    }


def restore(description: dict[str, Any]) -> RemoteError:
    """Return the error that another process has described."""
    keys = ("ErrorId", "ErrorCode", "ExceptionType", "Message")
    return RemoteError(*(description[key] for key in keys), exit_code=description.get("ExitCode", 1))


def write_error_info(outputs_path: Path, error: ModuleError | None) -> Path:
    """Write `<outputs_path>/module_statistics/error_info.json`.

    Args:
        outputs_path: the folder that Azure uploads for a job.
        error: the error that ended the run; None for success.

    Returns:
        The path of the file. There is no file if it could not be written.
    """
    report: dict[str, object] = {"Exception": None}
    if error is not None:
        exception = describe(error)
        report = {"Exception": exception}
        if len(json.dumps(report)) >= _MAX_ERROR_INFO_CHARACTERS:
            exception["Message"] = str(exception["Message"])[:_MAX_MESSAGE_CHARACTERS]
    path = outputs_path / ERROR_INFO_PATH
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2), encoding="utf-8")
    except OSError as error_of_report:
        # A missing report must not change the outcome of the run.
        logger.warning("%s could not be written: %s", path, error_of_report)
    return path
