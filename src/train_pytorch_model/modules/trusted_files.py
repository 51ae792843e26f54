"""Decides which files of labels are used, and refuses what would give wrong labels."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.modules.labels_files import LabelsFiles, is_called_labels
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from train_pytorch_model.modules.conversion_options import ConversionOptions
    from train_pytorch_model.modules.conversion_summary import LeftOut
    from train_pytorch_model.modules.folder_labels import FolderLabels
    from train_pytorch_model.modules.table_labels import TableLabels

# Formats of tables and annotations that are not read.
_UNREAD_TABLES = frozenset(
    (
        *(".xlsx", ".xls", ".xlsm", ".ods", ".parquet", ".feather", ".arrow", ".pkl", ".pickle", ".mat", ".npy"),
        *(".npz", ".h5", ".hdf5", ".db", ".sqlite", ".sqlite3", ".tfrecord", ".tfrecords", ".lmdb", ".rec"),
    )
)
_HINT = "Correct or remove the file, or give --allow-partial to convert without it."


def choose_files(
    where: str, files: LabelsFiles, by_folders: FolderLabels, options: ConversionOptions, left_out: LeftOut
) -> dict[str, TableLabels]:
    """Choose the files whose labels are used.

    Args:
        where: the dataset, for messages.
        files: the text files of the dataset.
        by_folders: the classes by the folders.
        options: what may be left out.
        left_out: receives the files that are not used.

    Raises:
        InvalidDatasetError: if a file has labels that cannot be used, or may have labels and is not understood.
    """
    faults = dict(files.unusable)
    used = dict(files.with_labels)
    has_classes = len(by_folders.classes) > 1
    for name in [name for name, read in used.items() if has_classes and read.are_flags]:
        faults[name] = (
            f"the labels could be its {used.pop(name).label_column}, or the folders "
            f"{name_some(sorted(by_folders.classes))}; put all images in one folder if the file is right"
        )
    if used or has_classes:
        left_out.add_files("beside images", [*files.beside, *files.unclear_beside])
    else:
        used.update(files.beside)
        faults.update(files.unclear_beside)
    if used:
        unclear = (*files.guessed, *files.unclear, *files.unclear_numbers, *files.suspects)
        left_out.add_files("without a known column of labels", unclear)
    else:
        faults.update(files.unclear)
        if has_classes:
            left_out.add_files("without a known column of labels", files.unclear_numbers)
        else:
            faults.update(files.unclear_numbers)
        for name, read in files.guessed.items():
            if not has_classes:
                used[name] = read
            elif _agrees(read, by_folders):
                left_out.add_files("with the labels of the folders", [name])
            else:
                faults[name] = (
                    f"the classes could be its column {read.label_column!r} or the folders "
                    f"{name_some(sorted(by_folders.classes))}; call the column 'label' if it is right"
                )
    if not options.allow_partial:
        for name in [name for name, read in used.items() if read.missing]:
            missing = used.pop(name).missing
            faults[name] = f"{len(missing)} labelled files do not exist: {name_some(missing)}"
    if faults and not options.allow_partial:
        name, fault = next(iter(faults.items()))
        more = f" ({len(faults) - 1} more cannot be used: {name_some(list(faults)[1:])})" if len(faults) > 1 else ""
        raise InvalidDatasetError(where, f"the labels in {name} cannot be used: {fault}{more}", _HINT)
    left_out.add_files("of labels that cannot be used", faults)
    used = {name: read for name, read in used.items() if read.labels}
    empty = {name: read for name, read in files.empty.items() if _says_more(read, used)}
    if options.task == MULTICLASS or not (used or (options.reading == MULTILABEL and not has_classes)):
        empty = {}
    left_out.add_files("without labels", [name for name in files.empty if name not in empty])
    return {**used, **empty}


def _says_more(read: TableLabels, used: Mapping[str, TableLabels]) -> bool:
    """Whether a file of empty lists is of other images than the files with labels, or contradicts them.

    Columns of zeros beside the labels of the same images are facts on these.
    """
    return not (read.columns and any(number in other.labels for other in used.values() for number in read.lists))


def _agrees(read: TableLabels, by_folders: FolderLabels) -> bool:
    """Whether the labels of a file and of the folders stand for each other, one by one."""
    if read.several:
        return False
    pairs = {(label, by_folders.labels.get(number)) for number, label in read.labels.items()}
    return len({one for one, _ in pairs}) == len({two for _, two in pairs}) == len(pairs)


def refuse_unread_labels(
    where: str,
    files: LabelsFiles,
    others: Sequence[str],
    by_folders: FolderLabels,
    options: ConversionOptions,
    left_out: LeftOut,
) -> None:
    """Refuse images of at most one class beside a file that may have their labels, and is not read.

    Args:
        where: the dataset, for messages.
        files: the text files of the dataset; none has labels.
        others: names of files that are neither images nor texts.
        by_folders: the classes by the folders.
        options: what may be left out.
        left_out: receives the files.

    Raises:
        InvalidDatasetError: if so.
    """
    tables = [name for name in others if PurePosixPath(name).suffix.lower() in _UNREAD_TABLES]
    left_out.add_files("of a format that is not read", tables)
    left_out.add_files("without labels that are understood", files.suspects)
    classes = by_folders.classes
    suspects = [*files.suspects, *tables]
    if not classes:
        suspects = [name for name in suspects if is_called_labels(name)]
    if suspects and len(classes) < 2 and not options.allow_partial:
        found = f"all images are in the one folder {min(classes)!r}" if classes else "no image has a label"
        raise InvalidDatasetError(
            where,
            f"{found}, and the labels may be in {name_some(suspects)}, which is not read",
            "Save the labels as a CSV with the columns file and label; or remove the file, or give --allow-partial.",
        )
