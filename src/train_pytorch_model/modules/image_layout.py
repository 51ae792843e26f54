"""Finds the label of each image: from files of labels, from its folder, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.modules.conversion_options import AUTO
from train_pytorch_model.modules.folder_labels import FolderLabels, read_folder_labels
from train_pytorch_model.modules.label_task import LabelTask, task_of_names
from train_pytorch_model.modules.labels_files import read_labels_files
from train_pytorch_model.modules.merged_labels import Label, MergedLabels, labels_in_names, merge_labels
from train_pytorch_model.modules.named_images import NamedImages
from train_pytorch_model.modules.splits import Splits, find_splits
from train_pytorch_model.modules.trusted_files import choose_files, refuse_unread_labels
from train_pytorch_model.ports.split_names import is_unlabelled_part, split_of
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from train_pytorch_model.modules.conversion_options import ConversionOptions
    from train_pytorch_model.modules.conversion_summary import LeftOut


@dataclass(frozen=True)
class Labelling:
    """The labels of images."""

    labels: list[Optional[Label]]
    """One per image: None for a skipped image, an empty text for an unlabelled one, a tuple if there may be several."""
    categories: Optional[tuple[str, ...]]
    """All categories, in order; empty for those that occur in `labels`; None for unlabelled images."""
    labels_from: tuple[str, ...] = ()
    """The files that gave the labels; empty if the folders did, or if there are none."""
    class_root: Optional[str] = None
    """The folder of the class folders; None if the folders did not give the labels, or there are splits."""
    task: Optional[LabelTask] = None
    """Whether an image has one label or several; None for unlabelled images."""
    folders: Sequence[Optional[str]] = ()
    """The class folder of each image, None if it is in none or skipped; empty if the labels are not from folders."""


def find_labels(
    where: str,
    names: Sequence[str],
    texts: Mapping[str, Path],
    others: Sequence[str],
    options: ConversionOptions,
    left_out: LeftOut,
) -> Labelling:
    """Find the labels of images.

    Args:
        where: the dataset, for messages.
        names: relative names of the images, with forward slashes.
        texts: paths of text files that may hold labels, by name.
        others: names of files that are neither images nor texts.
        options: what is converted, and what may be left out.
        left_out: receives what is not converted.

    Raises:
        InvalidDatasetError: if files of labels cannot be used or contradict each other, or the folders are ambiguous.
    """
    splits = find_splits(names)
    if options.class_level is not None:
        left_out.add_files("because --class-level was given", texts)
        texts = {}
    chosen = _chosen_folders(splits, options.split)
    images = NamedImages(names)
    files = read_labels_files(images, _texts_of(chosen, texts, splits, left_out), left_out, options)
    numbers = [number for number, folder in enumerate(splits.folders) if not chosen or folder in chosen]
    by_folders = read_folder_labels(where, names, splits, numbers, options.class_level)
    used = choose_files(where, files, by_folders, options, left_out)
    if used:
        merged = merge_labels(where, used, names, options)
        left_out.add_files("without labels", [name for name in used if name not in merged.files])
        if options.split is not None and not chosen:
            numbers = _of_split(where, merged, options.split)
        _leave_out_others(names, numbers, left_out)
        return _by_files(where, names, numbers, merged, splits, options, left_out)
    if options.split is not None and not chosen:
        raise _no_such_split(where, options.split, splits.folders)
    _leave_out_others(names, numbers, left_out)
    refuse_unread_labels(where, files, others, by_folders, options, left_out)
    return _by_folders(where, names, numbers, by_folders, splits, options, left_out)


def _chosen_folders(splits: Splits, split: str | None) -> set[str]:
    """The names of the folders of a split: those called so, or else by another word for it."""
    folders = {folder for folder in splits.folders if folder is not None}
    if split is None:
        return set()
    exact = {folder for folder in folders if folder.casefold() == split.casefold()}
    return exact or {folder for folder in folders if split_of(split) and split_of(folder) == split_of(split)}


def _texts_of(chosen: set[str], texts: Mapping[str, Path], splits: Splits, left_out: LeftOut) -> dict[str, Path]:
    """The texts that are not in the folder of another split than the chosen one."""
    others = tuple(f"{path}/" for path in splits.paths if chosen and path.rpartition("/")[2] not in chosen)
    left_out.add_files("of other splits", [name for name in texts if name.startswith(others)])
    return {name: path for name, path in texts.items() if not name.startswith(others)}


def _of_split(where: str, merged: MergedLabels, split: str) -> list[int]:
    exact = [number for number, name in merged.splits.items() if name.casefold() == split.casefold()]
    found = exact or [
        number for number, name in merged.splits.items() if split_of(split) and split_of(name) == split_of(split)
    ]
    if not found:
        raise _no_such_split(where, split, merged.splits.values())
    return sorted(found)


def _no_such_split(where: str, split: str, names: Iterable[Optional[str]]) -> InvalidDatasetError:
    found = sorted({name for name in names if name})
    shown = f"its splits are {name_some(found)}" if found else "it has no folders or column of splits"
    return InvalidDatasetError(
        where, f"it has no split {split!r}: {shown}", "Give --split the name of one, or omit it."
    )


def _leave_out_others(names: Sequence[str], numbers: Sequence[int], left_out: LeftOut) -> None:
    wanted = set(numbers)
    others = [names[number] for number in range(len(names)) if number not in wanted]
    left_out.add_images("of other splits", others, is_loss=False)


def _by_files(
    where: str,
    names: Sequence[str],
    numbers: Sequence[int],
    merged: MergedLabels,
    splits: Splits,
    options: ConversionOptions,
    left_out: LeftOut,
) -> Labelling:
    labels: list[Optional[Label]] = [None] * len(names)
    unlabelled = []
    for number in numbers:
        labels[number] = merged.labels.get(number)
        if labels[number] is None:
            unlabelled.append(number)
    if len(unlabelled) == len(numbers) and options.split is not None:
        for number in numbers:
            labels[number] = ""
        return Labelling(labels, None)
    expected = _in_unlabelled_folders(names, unlabelled, merged)
    left_out.add_images("in folders without labels", [names[number] for number in expected], is_loss=False)
    rest = [number for number in unlabelled if number not in expected]
    if options.reading == AUTO and merged.task.name == MULTICLASS and not merged.without.isdisjoint(rest):
        left_out.advice = f"If an image may have no label, give --task {MULTILABEL}."
    if not options.allow_partial:
        _check_splits(where, splits, rest, merged, left_out.advice)
    files = name_some(merged.files, 3) if len(merged.files) > 1 else merged.files[0]
    what = "without a label or an empty list" if merged.task.name == MULTILABEL else "without a label"
    left_out.add_images(f"{what} in {files}", [names[number] for number in rest])
    return Labelling(labels, merged.categories, merged.files, task=merged.task)


def _in_unlabelled_folders(names: Sequence[str], unlabelled: Sequence[int], merged: MergedLabels) -> set[int]:
    """The images in folders such as `test` in which no image has a label."""
    labelled = {folder for number in merged.labels for folder in _folders_of(names[number])}
    return {
        number
        for number in unlabelled
        if any(
            is_unlabelled_part(folder.rpartition("/")[2]) and folder not in labelled
            for folder in _folders_of(names[number])
        )
    }


def _folders_of(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _check_splits(where: str, splits: Splits, unlabelled: Sequence[int], merged: MergedLabels, advice: str) -> None:
    """Refuse to drop a whole split because it has no labels."""
    labelled = {splits.folders[number] for number in merged.labels}
    without = {splits.folders[number] for number in unlabelled} - labelled - {None}
    if without:
        raise InvalidDatasetError(
            where,
            f"its splits {name_some(sorted(filter(None, without)))} have no labels in {', '.join(merged.files[:5])}, "
            f"but {name_some(sorted(filter(None, labelled)))} has",
            f"Add their files of labels, or choose one split with --split. {advice}".rstrip(),
        )


def _by_folders(
    where: str,
    names: Sequence[str],
    numbers: Sequence[int],
    by_folders: FolderLabels,
    splits: Splits,
    options: ConversionOptions,
    left_out: LeftOut,
) -> Labelling:
    if by_folders.error is not None:
        raise by_folders.error
    labels: list[Optional[Label]] = [None] * len(names)
    folders: list[Optional[str]] = [None] * len(names)
    if not by_folders.is_labelled:
        flat = sorted(by_folders.flat_splits)
        if len(flat) > 1:
            raise InvalidDatasetError(
                where,
                f"its folders {name_some(flat)} are splits, not classes, and no file has labels",
                "Choose one split with --split, or add a file of labels.",
            )
        for number in numbers:
            labels[number] = ""
        return Labelling(labels, None)
    flat = sorted(by_folders.flat_splits)
    expected = {folder for folder in flat if is_unlabelled_part(folder)}
    missing = [folder for folder in flat if folder not in expected]
    if missing and not options.allow_partial:
        raise InvalidDatasetError(
            where,
            f"its split {name_some(missing)} has no class folders, but the others have",
            "Add its labels, or choose one split with --split.",
        )
    outside = []
    for number in numbers:
        labels[number] = folders[number] = by_folders.labels.get(number)
        if labels[number] is None and splits.folders[number] not in expected:
            outside.append(names[number])
    unlabelled = [names[number] for number in numbers if splits.folders[number] in expected]
    left_out.add_images("in folders without labels", unlabelled, is_loss=False)
    left_out.add_images("outside of class folders", outside)
    task = LabelTask(MULTICLASS, "each image is in the folder of its class")
    if options.reading == MULTILABEL:
        if len(by_folders.classes) < 2 and not options.allow_partial:
            raise InvalidDatasetError(
                where,
                f"all images are in the one folder {min(by_folders.classes)!r}, and no file has their labels",
                f"Add a file of labels. Without one, --task {MULTILABEL} and --label-separator have no meaning.",
            )
        task = task_of_names(
            where,
            "the names of its folders",
            sorted(by_folders.classes),
            options,
            reason="that was given, and each image is in the folder of its labels",
        )
        split = labels_in_names(where, by_folders.classes, task.separator)
        labels = [None if folder is None else split[folder] for folder in folders]
    return Labelling(labels, (), class_root=by_folders.root, task=task, folders=folders)
