"""Names of files in an archive: their encoding, their form, files stored twice, and links within the archive."""

from __future__ import annotations

import logging
import posixpath
from bisect import bisect_left
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional

from train_pytorch_model.modules.label_tables import TABLE_ENDINGS
from train_pytorch_model.ports.image_names import could_be_image, is_hidden, is_image_name, is_known_metadata
from train_pytorch_model.text.wording import join_some, name_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO

logger = logging.getLogger(__name__)

FILE, HARD_LINK, LINK, SPECIAL = "file", "hard link", "link", "special file"
_MAX_LINKS = 40
_LEGACY_ENCODINGS = ("cp437", "cp850", "cp932", "cp936", "cp949", "cp866", "cp1252")


class ArchiveError(Exception):
    """An archive cannot be used."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint
        """What to do."""


class Member(NamedTuple):
    """An entry of an archive."""

    name: str
    """As it is stored, decoded as UTF-8; other bytes are surrogates."""
    is_unicode: bool
    """Whether the archive says that the name is Unicode."""
    kind: str = FILE
    target: str = ""
    """Where a link leads: relative to its folder, or to the archive for a hard link."""


class ArchivedFile(NamedTuple):
    """A file of an archive. It must be read before the next one."""

    name: str
    """With forward slashes, without `.` and `..`."""
    open: Callable[[], IO[bytes]]
    original: str = ""
    """The name of the same file without links, if a link leads to it."""


def name_files(members: Iterable[Member], encoding: Optional[str], where: str) -> dict[int, list[tuple[str, str]]]:
    """Find the names of the files of an archive as they would be after unpacking it.

    Hidden files and metadata are left out. Of several files with the same name, the last one counts. Links within the
    archive are names of the files that they lead to.

    Args:
        members: all entries, in the order of the archive.
        encoding: of names that are neither marked as Unicode nor UTF-8; None if it is unknown.
        where: the archive, for warnings.

    Returns:
        By the index in `members` of each file that is needed, its names, each with the name without symbolic links on
        its path; that is empty if there is no such link.

    Raises:
        ArchiveError: if the encoding of names is unknown, or a link leads out of the archive or to nothing.
    """
    files: dict[str, int] = {}
    links: dict[str, str] = {}
    special = []
    broken = []
    for index, member in enumerate(_decoded(list(members), encoding)):
        name = _plain_name(member.name)
        if not name:
            continue
        if member.kind == SPECIAL:
            special.append(name)
            continue
        files.pop(name, None)
        links.pop(name, None)
        source = _plain_name(member.target)
        if member.kind == FILE:
            files[name] = index
        elif member.kind == LINK:
            links[name] = member.target
        elif source in files:
            files[name] = files[source]
        elif source in links:
            links[name] = posixpath.relpath(posixpath.join(posixpath.dirname(source), links[source]), name + "/..")
        else:
            broken.append(f"{name!r} leads to {member.target!r}, which is not before it in the archive")
    if special:
        logger.warning("%s: skipped pipes, devices and the like: %s.", where, name_some(special))
    originals = _Links(files, links).originals(broken, where) if links or broken else {}
    files.update({name: files[original] for name, original in originals.items()})
    return _visible(files, originals, where)


def _decoded(members: list[Member], encoding: Optional[str]) -> list[Member]:
    """Decode names that are not Unicode. Names of one archive have one encoding: some may be UTF-8 only by chance."""
    unmarked = [member for member in members if not member.is_unicode and not member.name.isascii()]
    if all(_is_unicode(member.name) for member in unmarked):
        return members
    if encoding is None:
        raise _unknown_encoding([_bytes_of(member.name) for member in unmarked])
    try:
        return [
            member
            if member.is_unicode
            else member._replace(
                name=_bytes_of(member.name).decode(encoding), target=_bytes_of(member.target).decode(encoding)
            )
            for member in members
        ]
    except UnicodeDecodeError as error:
        raise ArchiveError(
            f"the name {bytes(error.object)!r} is not {encoding}", "Give another encoding with --archive-encoding."
        ) from error


def _is_unicode(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _bytes_of(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _unknown_encoding(names: list[bytes]) -> ArchiveError:
    first = next(name for name in names if not _is_unicode(name.decode("utf-8", "surrogateescape")))
    readings = []
    for encoding in _LEGACY_ENCODINGS:
        try:
            readings.append(f"{encoding} for {first.decode(encoding)!r}")
        except UnicodeDecodeError:
            continue
    examples = f", such as {', '.join(readings)}" if readings else ""
    return ArchiveError(
        f"the encoding of its names is unknown: {first!r} is not UTF-8",
        f"Give the encoding with --archive-encoding{examples}; or create the archive again with a current program.",
    )


def _plain_name(name: str) -> str:
    """`a/b.jpg` for `./a/b.jpg`, `/a/b.jpg` and `../a/b.jpg`, as tar and unzip read them. A NUL byte ends a name."""
    parts = [part for part in name.partition("\0")[0].replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    return "/".join(parts)


def _visible(files: dict[str, int], originals: dict[str, str], where: str) -> dict[int, list[tuple[str, str]]]:
    names: dict[int, list[tuple[str, str]]] = {}
    unexpected = []
    for name, index in files.items():
        hidden = [part for part in name.split("/") if is_hidden(part)]
        if not hidden:
            names.setdefault(index, []).append((name, originals.get(name, "")))
        elif is_image_name(name) and not all(map(is_known_metadata, hidden)):
            unexpected.append((name, index))
    hidden = [name for name, index in unexpected if index not in names]  # links may lead to the others
    if hidden:
        logger.warning("%s: skipped %d hidden images: %s.", where, len(hidden), name_some(hidden))
    return names


class _Links:
    """The symbolic links of an archive."""

    def __init__(self, files: dict[str, int], links: dict[str, str]) -> None:
        self._files = files
        self._links = links
        self._names = sorted([*files, *links])

    def originals(self, faults: list[str], where: str) -> dict[str, str]:
        """Return the file of each name that leads through a link.

        Args:
            faults: descriptions of other links that lead nowhere.
            where: the archive, for warnings.

        Raises:
            ArchiveError: if a link that is needed leads out of the archive, to nothing, or to a folder above itself.
        """
        found: dict[str, str] = {}
        faults = list(faults)
        unneeded = []
        for name, target in self._links.items():
            if any(map(is_hidden, name.split("/"))):
                continue
            try:
                found.update(self._below(name, name, ()))
            except _LinkError as error:
                if _is_needed(name):
                    faults.append(f"{name!r} leads to {target!r}{error}")
                else:
                    unneeded.append(name)
        if faults:
            raise ArchiveError(
                f"it has links that cannot be followed: {join_some(faults)}",
                "Create the archive again with the files that the links lead to (tar -h, or zip without -y).",
            )
        if unneeded:
            logger.warning("%s: skipped links that cannot be followed: %s.", where, name_some(unneeded))
        return found

    def _below(self, name: str, path: str, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """The files that a name leads to, each with its name: one for a file, all below it for a folder.

        Args:
            name: the name in the result.
            path: the link in the archive.
            above: real paths of the folders through which the name leads.
        """
        real = self._real_path(path)
        if real in self._files:
            yield name, real
            return
        below = self._names_below(real)
        if not below:
            raise _LinkError(", which the archive does not contain")
        if real in above or path.startswith(real + "/"):
            raise _LinkError(", a folder that contains the link")
        for child in below:
            full = name + child[len(real) :]
            if child in self._files:
                yield full, child
            else:
                yield from self._below(full, child, (*above, real))

    def _names_below(self, folder: str) -> list[str]:
        prefix = f"{folder}/" if folder else ""
        start = bisect_left(self._names, prefix)
        end = bisect_left(self._names, prefix[:-1] + "0") if prefix else len(self._names)  # "0" comes after "/"
        return self._names[start:end]

    def _real_path(self, path: str) -> str:
        for _ in range(_MAX_LINKS):
            parts = path.split("/")
            heads = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
            link = next((head for head in heads if head in self._links), None)
            if link is None:
                return "" if path == "." else path
            target = self._links[link].replace("\\", "/")
            path = posixpath.normpath(posixpath.join(posixpath.dirname(link), target, path[len(link) + 1 :]))
            if path.startswith(("/", "../")) or path == "..":
                raise _LinkError(", which is out of the archive")
        raise _LinkError(", through too many links")


class _LinkError(Exception):
    """A link cannot be followed; the message ends a sentence that says where it leads."""


def _is_needed(name: str) -> bool:
    return is_image_name(name) or could_be_image(name) or name.lower().endswith(TABLE_ENDINGS)
