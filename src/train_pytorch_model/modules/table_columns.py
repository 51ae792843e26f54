"""The columns of a table, and what their titles and values say of them."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from train_pytorch_model.modules.label_lists import is_empty_list, labels_in, separations
from train_pytorch_model.ports.split_names import split_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from train_pytorch_model.modules.label_tables import Cell, Table

# Titles are compared without case, spaces and punctuation: `file_name`, "File Name" and `data.fileName` are one.
FILE_TITLES = (
    *("file", "filename", "image", "imagefile", "imagefilename", "imagename", "imagepath", "filepath", "path"),
    *(
        "img",
        "imgname",
        "imgpath",
        "imgfile",
        "fname",
        "imageurl",
        "url",
        "uri",
        "imageuri",
        "imagegcsuri",
        "sourceref",
    ),
    *("imageid", "imgid", "picture", "photo", "externalid", "content", "id", "key"),
)
VAGUE_FILE_TITLES = frozenset(("content", "id", "key", "path", "url", "uri"))
"""Titles of a column of files that other tables have, too."""
LABEL_TITLES = frozenset(
    (
        *("label", "labels", "labelname", "labelid", "labelidx", "labelindex", "labeltext", "truelabel", "targetlabel"),
        *("class", "classes", "classname", "classlabel", "classid", "classidx", "classindex", "objectclass"),
        *("category", "categories", "categoryname", "categoryid", "categoryidx", "categorylabel"),
        *("choice", "choices", "tag", "tags", "tagname", "tagsname", "breed", "species", "variety", "diagnosis", "dx"),
        *("target", "targets", "truth", "groundtruth", "gt", "y", "ytrue", "annotation", "annotations"),
        *("annotationsname", "displayname", "radioanswername", "accept", "emotion", "disease", "findinglabels"),
    )
)
_SPLIT_TITLES = frozenset(("split", "subset", "set", "partition", "phase", "usage", "mluse", "datasplit", "fold"))
_SPLIT_SWITCHES = {"isvalid": ("valid", "train"), "istest": ("test", "train"), "istrain": ("train", "valid")}
# Facts about an image or a row that are no class, unless they are columns of 0 and 1 beside others.
_FACT_TITLES = frozenset(
    (
        *("createdat", "updatedat", "leadtime", "width", "height", "imagewidth", "imageheight", "imgwidth"),
        *("imgheight", "size", "filesize", "bytes", "sizebytes", "resolution", "format", "mimetype", "ext"),
        *("extension", "dpi", "md5", "sha1", "sha256", "hash", "phash", "checksum", "crc32", "etag"),
        *("date", "datetime", "datecaptured", "datetaken", "timestamp", "time", "year", "month", "day", "mtime"),
        *("author", "photographer", "owner", "creator", "source", "attribution", "copyright"),
        *("camera", "make", "iso", "exposure", "exposuretime", "aperture", "fnumber", "focallength", "lens"),
        *("lat", "latitude", "lon", "long", "lng", "longitude", "altitude", "gps", "location", "country", "city"),
        *("caption", "description", "comment", "comments", "note", "notes", "title", "text", "prompt", "alt"),
        *("number", "x", "w", "h", "cocourl", "flickrurl", "thumbnail", "originalurl"),
    )
)
# Facts that may be 0 and 1 as well: codes, counts, coordinates, probabilities.
_CODE_TITLES = frozenset(
    (
        *("", "annotationid", "annotator", "createdby", "completedby", "user", "depth", "channels", "mode"),
        *("orientation", "version", "license", "licence", "confidence", "score", "probability", "prob", "index"),
        *("idx", "row", "rownumber", "unnamed0", "bbox", "area", "iscrowd", "segmentation", "xmin", "xmax", "ymin"),
        *("ymax", "x1", "y1", "x2", "y2", "regioncount", "regionid", "regionshapeattributes", "id", "uuid", "guid"),
        *("rowid", "imageid", "lesionid", "patientid", "projectid", "age", "sex", "gender"),
    )
)
_RESULTS = frozenset(("annotationsresult", "completionsresult"))
"""Label Studio: a column only if all results are empty."""
_REVIEWS = frozenset(("annotationsgroundtruth", "completionsgroundtruth"))
"""Label Studio: whether an annotation is the right one, not its label."""
_ATTRIBUTES = ("fileattributes", "regionattributes")  # VGG Image Annotator: the user chooses the keys in them
_EMPTY = ("", "{}", "[]", ())
_TRUE = frozenset(("1", "1.0", "true", "yes"))
_FALSE = frozenset(("0", "0.0", "false", "no", "", "-1", "-1.0"))
_NUM_SAMPLES = 1000
_MAX_CODES = 20


class Column:
    """A column of a table."""

    def __init__(self, number: int, title: str, table: Table) -> None:
        """Look at the title and at some of the values."""
        self.number = number
        self.title = title
        self.parent = title.rpartition(".")[0]
        """Of a path of keys in JSON, all but the last one."""
        parts = [plain(part) for part in title.split(".")]
        self.key = parts[-1] if table.has_header else ""
        """The title for comparison; of a path of keys, the last one."""
        is_prediction = any(part.startswith(("prediction", "draft")) for part in parts)
        last_two = "".join(parts[-2:])
        is_review = last_two in _REVIEWS
        self.is_result = last_two in _RESULTS
        """Whether these are the labels of a labeling tool, all of which are empty."""
        is_named = table.has_header and not is_review and not LABEL_TITLES.isdisjoint((self.key, last_two))
        self.is_label = not is_prediction and (is_named or self.is_result or not set(_ATTRIBUTES).isdisjoint(parts))
        """Whether the title says that these are labels."""
        step = max(1, len(table.rows) // _NUM_SAMPLES)
        self.sample = [row[number] for row in table.rows[::step] if row[number] not in _EMPTY]
        """Some of the values, without empty ones."""
        is_code = table.has_header and self.key in _CODE_TITLES
        is_fact = table.has_header and self.key in _FACT_TITLES
        is_fold = self.key in _SPLIT_TITLES and self.are_numbers()
        self.is_other = not self.is_label and (is_prediction or is_review or is_code or is_fact or is_fold)
        """Whether the title says that these are no labels."""
        truths = self.truths(table) if (is_fact or is_code) and self.sample and self.is_binary() else set()
        is_fact_as_flag = is_fact and not is_prediction and False in truths
        self.is_flag = bool(self.sample) and self.is_binary() and (not self.is_other or is_fact_as_flag)
        """Whether the column may be one of several of 0 and 1 that each are a label."""
        self.is_doubtful = bool(truths) and not (self.is_label or self.is_flag) and (is_fact or len(truths) > 1)
        """Whether it is a column of 0 and 1 that is no label because of its title."""
        self.is_split = self._is_split(table)
        """Whether the values are names of splits."""

    def _is_split(self, table: Table) -> bool:
        if self.key in _SPLIT_SWITCHES:
            return self.is_binary()
        if table.has_header and self.key not in _SPLIT_TITLES:
            return False
        texts = {str(text).casefold() for text in self.sample}
        return bool(texts) and all(split_of(text) or text == "unassigned" for text in texts)

    def split_name(self, text: Cell) -> str:
        """Return the split that a cell means: in `is_valid`, True is "valid" and False is "train"."""
        yes, no = _SPLIT_SWITCHES.get(self.key, (str(text), str(text)))
        return yes if str(text).casefold() in _TRUE else no

    def is_binary(self) -> bool:
        """Whether all values are 0 or 1, or the like."""
        return all(map(is_binary, self.sample))

    def could_be_blank_label(self) -> bool:
        """Whether it may be the column of a label that no image has, where a blank stands for 0."""
        return not (self.sample or self.is_other or self.is_label) and bool(self.title)

    def has_empty_lists(self, table: Table) -> bool:
        """Whether no row has a label, and some have an empty list."""
        return not self.sample and any(is_empty_list(row[self.number]) for row in table.rows)

    def truths(self, table: Table) -> set[bool]:
        """Return which values a column of 0 and 1 has."""
        return {str(row[self.number]).casefold() in _TRUE for row in table.rows}

    def are_fractions(self) -> bool:
        """Whether the values are numbers from 0 to 1, and not only 0 and 1."""
        return self.are_numbers() and not self.is_binary() and all(0 <= float(str(text)) <= 1 for text in self.sample)

    def are_numbers(self) -> bool:
        """Whether all values are numbers."""
        return all(map(_is_number, self.sample))

    def could_be_classes(self, table: Table) -> bool:
        """Whether the values could be classes: not all different, and no measurements."""
        texts = self._texts(table)
        are_numbers = all(map(_is_number, texts))
        if are_numbers and not all(map(_is_integer, texts)):
            return False
        return len(set(texts)) < len(texts) or (len(texts) <= 3 and not are_numbers)

    def could_be_lists(self) -> bool:
        """Whether the values could be lists of classes, which may all be different."""
        texts = [text for text in self.sample if isinstance(text, str)]
        return any(found.is_list for found in separations(texts)) or any(
            listed.is_list and not all(map(_is_number, listed.labels)) for listed in map(labels_in, self.sample)
        )

    def are_measurements(self, table: Table) -> bool:
        """Whether the values are numbers with fractions, most of which are different."""
        texts = self._texts(table)
        if not texts or not all(map(_is_number, texts)) or all(map(_is_integer, texts)):
            return False
        return len(set(texts)) > len(texts) / 2

    def could_be_counts(self, table: Table) -> bool:
        """Whether the values are integers that may count something: they are not few, or not all are repeated."""
        texts = self._texts(table)
        if not all(map(_is_number, texts)):
            return False
        values = Counter(float(str(text)) for text in texts)
        in_sequence = (set(range(len(values))), set(range(1, len(values) + 1)))
        are_codes = len(values) <= _MAX_CODES or set(values) in in_sequence
        are_repeated = len(values) <= max(2, len(texts) / 3) or min(values.values()) > 1
        return not (are_codes and are_repeated)

    def is_another_label(self) -> bool:
        """Whether the title is that of labels with a number behind it, such as `label2`."""
        title = self.key.rstrip("0123456789")
        return not self.is_other and title not in (self.key, "y") and title in LABEL_TITLES  # y3 is a coordinate

    def _texts(self, table: Table) -> list[Cell]:
        return [row[self.number] for row in table.rows if row[self.number]]


def is_binary(cell: Cell) -> bool:
    """Whether a cell is 0 or 1, or the like."""
    return isinstance(cell, str) and cell.casefold() in _TRUE | _FALSE


def is_false(cell: Cell) -> bool:
    """Whether a cell is 0, or the like, and not blank."""
    return isinstance(cell, str) and cell != "" and cell.casefold() in _FALSE


def plain(title: str) -> str:
    """Return a title without case, spaces and punctuation."""
    return "".join(letter for letter in title.casefold() if letter.isalnum())


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True


def _is_integer(text: object) -> bool:
    return bool(re.fullmatch(r"[+-]?\d+(\.0+)?", str(text)))


def are_equivalent(column: Column, other: Column, table: Table) -> bool:
    """Whether the values of two columns stand for each other, one by one."""
    pairs = {(row[column.number] or "", row[other.number] or "") for row in table.rows}
    return len({one for one, _ in pairs}) == len({two for _, two in pairs}) == len(pairs)


def ones(columns: Iterable[Column], row: Sequence[Cell]) -> list[Column]:
    """Return the columns that have 1, or the like, in a row."""
    return [column for column in columns if str(row[column.number]).casefold() in _TRUE]
