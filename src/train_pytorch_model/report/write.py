"""Writes the report: one self-contained HTML page, and its figures and tables as separate files."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from train_pytorch_model import __version__
from train_pytorch_model.evaluation.answered import AnsweredCurve, answered_curve, threshold_for
from train_pytorch_model.evaluation.metrics import compute_metrics, confusion_matrix, reliability
from train_pytorch_model.evaluation.multilabel_metrics import (
    CURVE_COLUMNS,
    compute_multilabel_metrics,
    curve_rows,
    precision_recall_curves,
)
from train_pytorch_model.report import figures
from train_pytorch_model.report.contents import (
    ANSWERED,
    CALIBRATION,
    CLASS_COUNTS,
    CONFUSION_MATRIX,
    FIGURES,
    LABEL_CONFUSION,
    LABEL_FIGURES,
    LABEL_TABLES,
    LEARNING_CURVES,
    PRECISION_RECALL,
    REPORT_FILE,
    TABLES,
)
from train_pytorch_model.report.suspicious import MAX_SHOWN, SUSPICIOUS_IMAGES, TITLES, write_suspicious_images
from train_pytorch_model.report.tables import (
    LabelRow,
    class_rows,
    confused_pairs,
    epoch_rows,
    label_rows,
    time_facts,
)
from train_pytorch_model.text.csv_cells import write_sheet

if TYPE_CHECKING:
    from train_pytorch_model.report.contents import Report

# By path rather than importlib.resources, so that a copied folder of sources works.
_TEMPLATES = Path(__file__).parent / "templates"
_TEMPLATE = "report.html"
_SCRIPT = "sorting.js"
WANTED_ACCURACIES = (0.95, 0.99)
"""The report names the thresholds with which the answered images reach them."""
# Of a curve in a table.
_MAX_POINTS = 1000


@dataclass(frozen=True)
class _Figure:
    """A figure as the page embeds it."""

    data_uri: str
    alternative_text: str
    width: int
    """In pixels."""
    height: int
    """In pixels."""


def write_report(report: Report, folder: Path) -> Path:
    """Write report.html, and a PNG and a CSV file for each figure.

    Args:
        report: the report to write.
        folder: where to write it. It is created if it does not exist; files of an earlier report are replaced.

    Returns:
        The path of report.html.

    Raises:
        ValueError: if the shapes of the report's arrays do not match.
        OSError: if the folder cannot be written.
    """
    _check(report)
    folder.mkdir(parents=True, exist_ok=True)
    content = _write_classes(report, folder) if report.thresholds is None else _write_labels(report, folder)
    if report.suspicions is not None:
        write_suspicious_images(report.suspicions, folder)
        content["files"] = (*content["files"], SUSPICIOUS_IMAGES)
    epochs = epoch_rows(report)
    write_sheet(folder / "learning_curves.csv", [field.name for field in fields(epochs[0])], map(astuple, epochs))
    script = (_TEMPLATES / _SCRIPT).read_text(encoding="utf-8")
    page = (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            report=report,
            epochs=epochs,
            time_facts=time_facts(report),
            script=Markup(script),  # a constant, so it needs no escaping
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            version=__version__,
            suspicious_kinds=TITLES,
            max_suspects=MAX_SHOWN,
            **content,
        )
    )
    path = folder / REPORT_FILE
    # File names may contain lone surrogates, which UTF-8 cannot encode.
    path.write_bytes(page.encode("utf-8", errors="backslashreplace"))
    return path


def _check(report: Report) -> None:
    num_classes, num_images = len(report.classes), len(report.truth)
    is_multilabel = report.thresholds is not None
    if not num_classes or not num_images or not report.records:
        raise ValueError("Expected a report of at least one class, one validation image and one epoch")
    for name, found, expected in (
        ("truth", report.truth.shape, (num_images, num_classes) if is_multilabel else (num_images,)),
        ("probabilities", report.probabilities.shape, (num_images, num_classes)),
        ("train_counts", report.train_counts.shape, (num_classes,)),
        ("valid_counts", report.valid_counts.shape, (num_classes,)),
    ):
        if found != expected:
            raise ValueError(f"Expected `{name}` to be of shape {expected}, but got {found}")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(shown=_shown, number=_number, fixed=_fixed, percent=_percent, data_uri=_data_uri)
    return environment


def _shown(text: str) -> str:
    """Replace each control character of a text by a visible symbol."""
    return "".join(chr(0x2400 + ord(letter)) if letter < " " else letter for letter in text)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _fixed(value: float | None, decimals: int = 3) -> str:
    return "–" if value is None else f"{value:.{decimals}f}" if value < 1e6 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _write_classes(report: Report, folder: Path) -> dict[str, Any]:
    """Write the tables and figures of a report of one class per image; return what the page shows of them."""
    # The areas under curves would take longer than the rest of the report.
    metrics = compute_metrics(report.truth, report.probabilities, report.classes, with_areas=False)
    confusion = confusion_matrix(report.truth, report.probabilities.argmax(axis=1), len(report.classes))
    curve = answered_curve(report.truth, report.probabilities)
    wanted = [threshold_for(curve, accuracy) for accuracy in WANTED_ACCURACIES]
    thresholds = [threshold for threshold in wanted if threshold is not None]
    _write_class_tables(report, metrics, confusion, curve, folder)
    figures.draw_figures(report, confusion, metrics["expected_calibration_error"], curve, thresholds, folder)
    pairs = confused_pairs(confusion, report.classes)
    most = f" The most frequent mistake: {pairs[0].label} is predicted as {pairs[0].predicted}." if pairs else ""
    words = {
        CONFUSION_MATRIX: (
            f"Confusion matrix of {len(report.classes)} classes: {_percent(metrics['accuracy'])} of "
            f"{len(report.truth)} validation images are on the diagonal.{most}"
        ),
        CALIBRATION: (
            "Accuracy against confidence. The expected calibration error is "
            f"{metrics['expected_calibration_error']:.3f}."
        ),
        ANSWERED: (
            f"Accuracy against the fraction of images that are answered: {_percent(metrics['accuracy'])} if all are. "
            "The table beside it names thresholds."
        ),
    }
    return {
        "metrics": metrics,
        "rows": class_rows(report, metrics["per_class"], confusion),
        "pairs": pairs,
        "thresholds": list(zip(WANTED_ACCURACIES, wanted)),
        "num_wrong": int(confusion.sum() - confusion.trace()),
        "figures": _embed({**_common_words(report, "class"), **words}, folder),
        "files": (*FIGURES, *TABLES),
    }


def _write_labels(report: Report, folder: Path) -> dict[str, Any]:
    """Write the tables and figures of a report of several labels per image; return what the page shows of them."""
    found = report.probabilities >= np.asarray(report.thresholds)
    metrics = compute_multilabel_metrics(report.truth, found, report.probabilities, report.classes)
    curves = precision_recall_curves(report.truth, report.probabilities, report.classes)
    rows = label_rows(report, metrics["per_label"])
    write_sheet(folder / "per_label.csv", [field.name for field in fields(LabelRow)], map(astuple, rows))
    write_sheet(folder / "precision_recall.csv", CURVE_COLUMNS, curve_rows(curves))
    figures.draw_label_figures(report, metrics, curves, folder)
    words = {
        LABEL_CONFUSION: (
            f"Correctly found, wrongly found and missed images of {len(report.classes)} labels. All numbers are in the "
            "table of labels."
        ),
        PRECISION_RECALL: (
            "Precision against recall of each label. The mean average precision is "
            f"{_fixed(metrics['average_precision'])}."
        ),
    }
    return {
        "metrics": metrics,
        "rows": rows,
        "num_wrong_images": int((report.truth != found).any(axis=1).sum()),
        "figures": _embed({**_common_words(report, "label"), **words}, folder),
        "files": (*LABEL_FIGURES, *LABEL_TABLES),
    }


def _write_class_tables(
    report: Report, metrics: dict[str, Any], confusion: np.ndarray, curve: AnsweredCurve, folder: Path
) -> None:
    write_sheet(
        folder / "confusion_matrix.csv",
        ["true label", *report.classes],
        ([label, *counts] for label, counts in zip(report.classes, confusion.tolist())),
    )
    bins = reliability(report.truth, report.probabilities)
    write_sheet(
        folder / "calibration.csv", ["confidence", "accuracy", "images"], zip(*(part.tolist() for part in bins))
    )
    shown = np.unique(np.linspace(0, len(curve.fraction) - 1, _MAX_POINTS).round().astype(int))
    write_sheet(folder / "answered.csv", curve._fields, zip(*(part[shown].tolist() for part in curve)))
    write_sheet(
        folder / "per_class.csv",
        ["label", "precision", "recall", "f1", "support", "train_images"],
        (
            [label, *metrics["per_class"][label].values(), count]
            for label, count in zip(report.classes, report.train_counts.tolist())
        ),
    )


def _common_words(report: Report, noun: str) -> dict[str, str]:
    """Alternative texts of the figures that all reports have, by file name."""
    last = report.records[-1]
    counts = report.train_counts
    precision = "" if noun == "class" else ", average precision"
    return {
        LEARNING_CURVES: (
            f"Curves of loss, error{precision} and learning rate over {last.epoch} epochs. In the last epoch, the "
            f"training loss is {_number(last.train_loss)} and the validation loss {_number(last.valid_loss)}. The best "
            f"epoch is {report.best_epoch}. All numbers are in the table of epochs."
        ),
        CLASS_COUNTS: (
            f"Number of images of each {noun}: from {counts.min()} to {counts.max()} training images. All numbers are "
            f"in the table of {'classes' if noun == 'class' else 'labels'}."
        ),
    }


def _embed(words: dict[str, str], folder: Path) -> dict[str, _Figure]:
    """The figures by the stems of their file names.

    Args:
        words: alternative texts, by file name.
        folder: the folder of the figures.
    """
    embedded = {}
    for name, alternative in words.items():
        data = (folder / name).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            embedded[Path(name).stem] = _Figure(_data_uri(data, "png"), alternative, *image.size)
    return embedded


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
