"""Reads the files of a folder or an archive one by one. Archives are not unpacked; names in them are never paths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, Callable

from train_pytorch_model.data.decoding import UnreadableImageError
from train_pytorch_model.data.file_systems import temporary_folder
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.modules.archive_members import ArchiveError
from train_pytorch_model.modules.archives import (
    ARCHIVE_FAULTS,
    archived_files,
    damaged,
    is_archive_file,
    is_archive_name,
)
from train_pytorch_model.modules.label_tables import TABLE_ENDINGS
from train_pytorch_model.ports.folder_files import files_below
from train_pytorch_model.ports.image_names import could_be_image, is_hidden, is_image_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from train_pytorch_model.modules.conversion_options import ConversionOptions
    from train_pytorch_model.modules.conversion_summary import LeftOut

DATASET = "Input"
# What people keep beside an archive: texts about the dataset, and checksums.
_DOCUMENTS = frozenset((".md", ".rst", ".pdf", ".html", ".htm", ".docx", ".url", ".md5", ".sha1", ".sha256"))
_DOCUMENT_NAMES = re.compile(
    r"(read[-_ ]?me|licen[cs]e|citation|copying|copyright|notice|changelog|(md5|sha1|sha256|check)sums?)"
    r"([-_. ]\w+)*$",
    re.IGNORECASE,
)
_CHUNK_BYTES = 2**20


class SourceFile:
    """A file in a folder or an archive."""

    original = ""
    """The name of the same file without links, if a link leads to it."""
    path: Path | None = None
    """The path of a file in a folder."""

    def __init__(
        self, name: str, open_file: Callable[[], IO[bytes]], archive: str | None = None, *, is_archive: bool = False
    ) -> None:
        """Keep the name of a file and how to open it.

        Args:
            name: relative name, with forward slashes, without `.` and `..`.
            open_file: opens the file for reading. A file in an archive must be read before the next one.
            archive: the name of its archive in messages; None for a file in a folder.
            is_archive: whether the file is an archive itself.
        """
        self.name = name
        self.is_archive = is_archive
        self._open = open_file
        self._archive = archive

    def chunks(self) -> Iterator[bytes]:
        """Read the content, piece by piece.

        Raises:
            InvalidDatasetError: if the archive is damaged.
            UnreadableImageError: if a file in a folder cannot be read.
        """
        try:
            with self._open() as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    yield chunk
        except ARCHIVE_FAULTS as error:
            if self._archive is None:
                raise UnreadableImageError(str(error)) from error
            raise _error(self._archive, damaged(error)) from error


def files_of(path: Path, options: ConversionOptions, left_out: LeftOut) -> Iterator[SourceFile]:
    """Iterate over the files of a folder, of an archive, or of an archive that is alone in a folder but for documents.

    Hidden files and folders and metadata of operating systems are skipped. `files_below` describes links in a folder,
    and `name_files` those in an archive.

    Args:
        path: a folder or an archive.
        options: which links are followed, the encoding of names, and whether archives within may be left out.
        left_out: receives archives within the input that are not read.

    Raises:
        InvalidDatasetError: if the input does not exist, cannot be read, or has an archive within that may hold images.
    """
    where = f"{DATASET} {path}"
    if not path.exists():
        raise InvalidDatasetError(where, "the input path does not exist", "Give a folder or an archive of images.")
    if not path.is_dir() and not path.is_file():
        raise InvalidDatasetError(where, "it is not a regular file", "Give a folder or an archive of images.")
    visible = [entry for entry in path.iterdir() if not is_hidden(entry.name)] if path.is_dir() else [path]
    documents = [entry for entry in visible if path.is_dir() and _is_document(entry)]
    contents = [entry for entry in visible if entry not in documents]
    if len(contents) == 1 and contents[0].is_file() and (contents[0] == path or _is_archive(contents[0])):
        files = _archive(contents[0], where, options)
        left_out.add_files("beside the archive", sorted(entry.name for entry in documents))
    else:
        files = _folder(path, where, options)
    for file in files:
        if file.is_archive:
            _leave_out_archive(file, where, options, left_out)
        else:
            yield file


def _is_archive(path: Path) -> bool:
    """Whether the name of a file, or its content if the name tells nothing, is that of an archive."""
    return is_archive_name(path.name) or (could_be_image(path.name) and is_archive_file(path))


def _is_document(path: Path) -> bool:
    """Whether the name of a file is that of a text about the dataset, which has no labels."""
    ending = path.suffix.lower()
    is_named = ending in ("", ".txt") and _DOCUMENT_NAMES.match(path.stem)  # unlike license_plates.zip and .csv
    return path.is_file() and (ending in _DOCUMENTS or bool(is_named))


def _folder(path: Path, where: str, options: ConversionOptions) -> Iterator[SourceFile]:
    for file in files_below(path, where, follow_links=options.follow_links):
        source = SourceFile(
            file.name,
            lambda path=file.path: path.open("rb"),  # type: ignore[misc]
            is_archive=_is_archive(file.path),
        )
        source.original, source.path = file.original, file.path
        yield source


def _archive(path: Path, where: str, options: ConversionOptions) -> Iterator[SourceFile]:
    archive = f"{where}: the archive {path.name}"
    try:
        for file in archived_files(path, options.archive_encoding, archive):
            source = SourceFile(file.name, file.open, archive, is_archive=is_archive_name(file.name))
            source.original = file.original
            yield source
    except ArchiveError as error:
        raise _error(archive, error) from error


def _error(archive: str, error: ArchiveError) -> InvalidDatasetError:
    return InvalidDatasetError(archive, str(error), error.hint)


def _leave_out_archive(file: SourceFile, where: str, options: ConversionOptions, left_out: LeftOut) -> None:
    """Leave out an archive within the input if it may be left out.

    Raises:
        InvalidDatasetError: if it may hold images or labels.
    """
    if file.path is not None:
        fault = _fault_of_archive(file.path, options, where)
    else:
        with temporary_folder("archive-") as folder:
            copy = folder / Path(file.name).name[-100:]
            with copy.open("wb") as target:
                target.writelines(file.chunks())
            fault = _fault_of_archive(copy, options, where)
    if fault is not None and not options.allow_partial:
        hint = f"{fault.hint} Or leave it out with --allow-partial."
        raise InvalidDatasetError(where, f"it contains the archive {file.name!r}: {fault}", hint)
    left_out.add_files("that are archives", [file.name])


def _fault_of_archive(path: Path, options: ConversionOptions, where: str) -> ArchiveError | None:
    """Why an archive must not be left out; None if it has neither images nor labels."""
    hint = "Unpack it into a folder of its own and remove it."
    try:
        for file in archived_files(path, options.archive_encoding, where):
            if is_image_name(file.name) or is_archive_name(file.name) or file.name.lower().endswith(TABLE_ENDINGS):
                return ArchiveError(f"{file.name!r} and other files are in it", hint)
    except ArchiveError as error:
        return error
    return None
