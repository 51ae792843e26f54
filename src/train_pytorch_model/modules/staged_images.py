"""Copies the files of a source until the names of its images are known."""

from __future__ import annotations

from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from train_pytorch_model.data.decoding import UnreadableImageError, read_size
from train_pytorch_model.data.image_formats import starts_as_image
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.modules.label_tables import ENDINGS, MAX_BYTES, TABLE_ENDINGS
from train_pytorch_model.ports.file_names import FileNames
from train_pytorch_model.ports.image_names import check_encoding, could_be_image, is_image_name

if TYPE_CHECKING:
    from train_pytorch_model.modules.image_sources import SourceFile


class StagedImages:
    """Copies of images, by number in the order in which they were added, and of text files that may hold labels."""

    def __init__(self, folder: Path, texts_folder: Path, where: str) -> None:
        """Create the folder of the images.

        Args:
            folder: the ImageDirectory being written; the images are staged in it.
            texts_folder: an empty folder for the text files.
            where: the dataset, for messages.
        """
        self.names = FileNames()
        """Original names of the images."""
        self.texts: dict[str, Path] = {}
        """Copies of the text files, by name."""
        self.others = FileNames()
        """Names of the files that are neither images nor texts that may hold labels."""
        self.links: dict[str, str] = {}
        """The name of the file that a link leads to, by the name of the link."""
        self.unreadable: dict[int, str] = {}
        """Reasons for the images that could not be copied."""
        self._folder = folder
        self._texts_folder = texts_folder
        self._where = where
        (folder / "image").mkdir()

    def add(self, file: SourceFile) -> bool:
        """Copy a file if it is an image or may hold labels.

        Returns:
            Whether it is an image.

        Raises:
            InvalidDatasetError: if the file belongs to an ImageDirectory, or an archive or a text file cannot be read.
        """
        ending = PurePosixPath(file.name).suffix.lower()
        if file.original:
            self.links[file.name] = file.original
        if PurePosixPath(file.name).name == "images.lst":
            raise InvalidDatasetError(
                self._where, f"it contains an ImageDirectory ({file.name})", "Unpack it and give that folder."
            )
        if is_image_name(file.name):
            self._add_image(file)
            return True
        if ending not in ENDINGS:
            if could_be_image(file.name) and self._add_if_image(file):
                return True
            self.others.append(file.name)
        else:
            self._add_text(file)
        return False

    def _add_image(self, file: SourceFile) -> None:
        number = len(self.names)
        self._add_name(file.name)
        try:
            _copy(file, staged_path(self._folder, number))
        except UnreadableImageError as error:
            staged_path(self._folder, number).touch()
            self.unreadable[number] = str(error)

    def _add_name(self, name: str) -> None:
        check_encoding(name, self._where)
        self.names.append(name)

    def _add_if_image(self, file: SourceFile) -> bool:
        """Copy a file if its content is an image; a file that is none is not copied as a whole."""
        target = staged_path(self._folder, len(self.names))
        try:
            chunks = file.chunks()
            start = next(chunks, b"")
            if not starts_as_image(start):
                return False
            with target.open("wb") as copy:
                copy.writelines(chain((start,), chunks))
            read_size(target)
        except UnreadableImageError:
            target.unlink(missing_ok=True)
            return False
        self._add_name(file.name)
        return True

    def _add_text(self, file: SourceFile) -> None:
        check_encoding(file.name, self._where)
        target = self._texts_folder / str(len(self.texts))
        try:
            _copy(file, target, MAX_BYTES + 1)
        except UnreadableImageError as error:
            if file.name.lower().endswith(TABLE_ENDINGS):
                raise InvalidDatasetError(self._where, f"{file.name} cannot be read: {error}") from error
            self.others.append(file.name)
        else:
            self.texts[file.name] = target


def _copy(file: SourceFile, target: Path, max_bytes: int | None = None) -> None:
    """Copy a file, or only its start if it has more bytes."""
    with target.open("wb") as copy:
        for chunk in file.chunks():
            copy.write(chunk)
            if max_bytes is not None and copy.tell() >= max_bytes:
                break


def staged_path(folder: Path, number: int) -> Path:
    """Return the path of the copy of an image."""
    return folder / "image" / f".{number}"
