"""The designer's report of how a run ended."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_pytorch_model.errors import ToldError
from train_pytorch_model.text.masking import masked

if TYPE_CHECKING:
    from train_pytorch_model.errors import ModuleError

logger = logging.getLogger(__name__)

ERROR_INFO_PATH = Path("module_statistics") / "error_info.json"
# The designer's service refuses an error_info of 9,000 characters or more; this is its own cut.
_MAX_ERROR_INFO_CHARACTERS = 9000
_MAX_MESSAGE_CHARACTERS = 4096


def describe(error: ModuleError) -> dict[str, object]:
    """An error as the designer's report has it."""
    return {
        "ErrorId": error.error_id,
        "ErrorCode": error.code,
        "ExceptionType": error.exception_type,
        "Traceback": "",
        "Message": masked(error.message),
    }


def told(description: dict[str, Any]) -> ToldError:
    """The error that another process has described."""
    keys = ("ErrorId", "ErrorCode", "ExceptionType", "Message")
    return ToldError(*(description[key] for key in keys), exit_code=description.get("ExitCode", 1))


def write_error_info(outputs_path: Path, error: ModuleError | None) -> Path:
    """Write `<outputs_path>/module_statistics/error_info.json`, the designer's report of how a run ended.

    Args:
        outputs_path: the folder that Azure uploads for a job.
        error: what ended the run; None for a success.

    Returns:
        The file, which is not there when it could not be written.
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
        # The run's own outcome matters more than the report about it.
        logger.warning("%s could not be written: %s", path, error_of_report)
    return path
