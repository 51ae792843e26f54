"""Each row of docs/broken-input.md, tried for real."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import odd_images
from tests.image_directories import append_to, edit_items, edit_schema, set_categories
from tests.jobs import train_job
from tests.making import (
    CLASSES,
    ROOT,
    Inputs,
    error_code,
    error_text,
    flags_of,
    run_here,
    write_class_folders,
    write_image_directory,
    write_multilabel_directory,
)
from tests.mounts import SMALL_DISK
from tests.test_archive_rows import ROWS as ARCHIVE_ROWS
from tests.test_folder_rows import ROWS as FOLDER_ROWS
from tests.test_image_formats import ROWS as IMAGE_ROWS
from tests.test_label_column_rows import ROWS as LABEL_COLUMN_ROWS
from tests.test_label_rows import ROWS as LABEL_ROWS
from tests.test_multilabel_rows import ROWS as MULTILABEL_ROWS
from tests.test_weight_files import ROWS as WEIGHT_ROWS
from train_pytorch_model.cli.main import main
from train_pytorch_model.data import placement
from train_pytorch_model.data.decoding import UnreadableImageError, decode, read_size
from train_pytorch_model.data.image_geometry import Geometry
from train_pytorch_model.designer_core import load_image_directory
from train_pytorch_model.errors import InvalidDatasetError, UserError
from train_pytorch_model.job.datasets import scan
from train_pytorch_model.ports.labelled_images import read_labelled_images

TABLE = ROOT / "docs" / "broken-input.md"
Change = Callable[[Inputs], object]
OUTCOMES = ("error", "warning", "accepted")


def nothing(inputs: Inputs) -> None:
    """What needs no change, or no look at what has become of it."""


@dataclass(frozen=True)
class Case:
    """One row."""

    outcome: str
    change: Change
    words: str = ""
    """What the user is told."""
    code: int = 18
    """Of the error."""
    then: Change = nothing
    """Looks at what has become of it."""
    flags: dict[str, object] = field(default_factory=dict)


def first_image(inputs: Inputs) -> Path:
    return read_labelled_images(inputs.train, "Training dataset").path_of(0)


def image(content: bytes) -> Change:
    """The first training image has this content, whatever its name says."""
    return lambda inputs: first_image(inputs).write_bytes(content)


def every_image(content: bytes) -> Change:
    return lambda inputs: [file.write_bytes(content) for file in (inputs.train / "image").iterdir()]


def first_item(change: Callable[[dict[str, Any]], object]) -> Change:
    return lambda inputs: edit_items(inputs.train, lambda items: change(items[0]))


def info(**values: object) -> Change:
    return first_item(lambda item: item["image_info"].update(values))


def schema(change: Callable[[list[dict[str, Any]]], object]) -> Change:
    return lambda inputs: edit_schema(inputs.train, change)


def add(name: str, content: bytes) -> Change:
    return lambda inputs: append_to(name, content)(inputs.train)


def both(change: Callable[[Path], None]) -> Change:
    """Both datasets."""
    return lambda inputs: [change(path) for path in (inputs.train, inputs.valid)]


def raw(change: Callable[[Path], object]) -> Change:
    """Raw images in one folder a class, in place of the training dataset."""

    def make(inputs: Inputs) -> None:
        inputs.train = write_class_folders(inputs.path / "raw")
        change(inputs.train)

    return make


def link(path: Path, target: Path | str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def link_folder_out(inputs: Inputs) -> None:
    (inputs.train / "image").rename(inputs.path / "elsewhere")
    (inputs.train / "image").symlink_to(inputs.path / "elsewhere")


def link_file_out(inputs: Inputs) -> None:
    file = first_image(inputs)
    file.rename(inputs.path / "outside.png")
    link(file, inputs.path / "outside.png")


def link_raw_out(path: Path) -> None:
    (path / "cat" / "0.png").rename(path.parent / "outside.png")
    link(path / "cat" / "0.png", path.parent / "outside.png")


def link_file_within(inputs: Inputs) -> None:
    file = first_image(inputs)
    file.rename(inputs.train / "kept.png")
    link(file, Path("..") / "kept.png")


def line_of_a_gigabyte(inputs: Inputs) -> None:
    os.truncate(inputs.train / "images.lst", 2**30)


def add_rows(count: int) -> Change:
    """Rows of images that are not there."""

    def change(inputs: Inputs) -> None:
        with (inputs.train / "images.lst").open("a", encoding="utf-8") as file:
            for number in range(count):
                line = '{"image_info": {"file_name": "image/%d.png"}, "category": "cat", "id": %d}\n'
                file.write(line % (number, number))

    return change


def repeat_key(inputs: Inputs) -> None:
    path = inputs.train / "images.lst"
    text = path.read_text()
    path.write_text(text.replace('"category": "cat"', '"category": "dog", "category": "cat"', 1))


def repeat_row(inputs: Inputs) -> None:
    edit_items(inputs.train, lambda items: items.append(dict(items[0])))


def rows_of(count: int) -> Change:
    def look(inputs: Inputs) -> None:
        images = read_labelled_images(inputs.train, "Training dataset")
        items = load_image_directory(inputs.train).image_list
        assert [images.classes[label] for label in images.labels] == [item["category"] for item in items]
        assert len(images) == count

    return look


def classes_are(*classes: str) -> Change:
    def look(inputs: Inputs) -> None:
        lines = (inputs.trained / "index_to_label.csv").read_text().splitlines()
        assert lines == [",label", *(f"{number},{name}" for number, name in enumerate(classes))]

    return look


def windows_lines(inputs: Inputs) -> None:
    path = inputs.train / "images.lst"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def pixels_as_downstream(inputs: Inputs) -> None:
    """The pixels are those that Pillow and designer-core give."""
    path = first_image(inputs)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB"))
    assert np.array_equal(decode(path), expected)
    assert np.array_equal(np.asarray(load_image_directory(inputs.train).get_image_in_item(0, "image")), expected)


def every_other_size(inputs: Inputs) -> None:
    """Every image has a size of its own."""
    for part in (inputs.train, inputs.valid):
        for number, file in enumerate(sorted((part / "image").iterdir())):
            size = (1, 5000) if number == 0 else (20 + 7 * number, 400 - 11 * number)
            file.write_bytes(odd_images.saved(odd_images.noise().resize(size), "png"))


def size_of_the_network(height: int, width: int) -> Change:
    def look(inputs: Inputs) -> None:
        geometry = json.loads((inputs.trained / "image_geometry.json").read_text())
        assert geometry["size"] == [height, width]

    return look


def turned_images(inputs: Inputs) -> None:
    """All images are JPEGs of 40x24 pixels to be shown as 24x40."""
    for part in (inputs.train, inputs.valid):
        for file in (part / "image").iterdir():
            file.write_bytes(odd_images.rotated((40, 24)))


def levels(*values: int) -> Change:
    """The first pixels of the first image, with the geometry of the trained model, have these values."""

    def look(inputs: Inputs) -> None:
        geometry = Geometry.from_dict(json.loads((inputs.trained / "image_geometry.json").read_text()))
        assert decode(first_image(inputs), geometry)[0, : len(values)].tolist() == [[value] * 3 for value in values]

    return look


def all_upright(inputs: Inputs) -> None:
    scanned = scan(read_labelled_images(inputs.train, "Training dataset"))
    assert (scanned.sizes_of_kept(orients=True) == (40, 24)).all()
    assert json.loads((inputs.trained / "image_geometry.json").read_text())["orients"] is True


def first_of_three(inputs: Inputs) -> None:
    pixels_as_downstream(inputs)
    with Image.open(first_image(inputs)) as opened:
        assert opened.n_frames == 3  # type: ignore[attr-defined]


def one_class(inputs: Inputs) -> None:
    for name, per_class in (("train", 8), ("valid", 4)):
        setattr(inputs, name, write_class_folders(inputs.path / f"one_{name}", ["cat"], per_class))


def many_classes(inputs: Inputs) -> None:
    classes = [f"class {number}" for number in range(1000)]
    for name, seed in (("train", 0), ("valid", 1)):
        folder = write_class_folders(inputs.path / f"many_{name}", classes, per_class=1, seed=seed)
        setattr(inputs, name, folder)


def thousand_labels(inputs: Inputs) -> None:
    assert len((inputs.trained / "index_to_label.csv").read_text().splitlines()) == 1001
    assert inputs.metrics()[0]["top5_acc"] is not None


def with_lists(change: Callable[[list[dict[str, Any]]], object], classes: Sequence[str] = CLASSES) -> Change:
    """Two datasets of lists of labels, whose items are changed."""

    def make(inputs: Inputs) -> None:
        for path in (inputs.train, inputs.valid):
            shutil.rmtree(path)
            write_multilabel_directory(path, categories=classes)
            edit_items(path, change)

    return make


def second_list(label: object) -> Change:
    return with_lists(lambda items: items[1].update(category=label))


def every_list(change: Callable[[int, list[str]], object], classes: Sequence[str] = CLASSES) -> Change:
    return with_lists(
        lambda items: [item.update(category=change(n, item["category"])) for n, item in enumerate(items)], classes
    )


def lists_are_kept(inputs: Inputs) -> None:
    """The trained model has all labels, and each row of the labels is the set of its list."""
    images = read_labelled_images(inputs.train, "Training dataset")
    items = load_image_directory(inputs.train).image_list
    assert [set(images.label_of(number)) for number in range(len(images))] == [set(item["category"]) for item in items]
    assert len(images) == 24
    classes_are(*images.classes)(inputs)


def lists_of_other_labels(inputs: Inputs) -> None:
    with_lists(nothing)(inputs)
    shutil.rmtree(inputs.valid)
    write_multilabel_directory(inputs.valid, categories=(*CLASSES, "cow"))


def lists_for_training_alone(inputs: Inputs) -> None:
    shutil.rmtree(inputs.train)
    write_multilabel_directory(inputs.train)


def with_skip(**flags: object) -> dict[str, object]:
    return {"skip_unreadable_images": "true", **flags}


def pixels(content: Callable[[], bytes], then: Change = pixels_as_downstream) -> Case:
    """An image that is accepted, to the pixels that the modules downstream see."""
    return Case("accepted", lambda inputs: first_image(inputs).write_bytes(content()), then=then)


def clipped(content: Callable[[], bytes]) -> Case:
    """An image that is accepted to the same pixels, with a warning."""
    return replace(pixels(content), outcome="warning", words="have values of more than 8 bits, which are clipped")


def broken(content: Callable[[], bytes], words: str) -> Case:
    return Case("error", lambda inputs: first_image(inputs).write_bytes(content()), words)


LABELS = [f"label {number}" for number in range(1000)]
_LIMIT = "exceeds limit of 178956970 pixels"
_NO_IMAGE = "it cannot be identified as an image"
_TEXT = "it is not an image but text that starts with 'no'"
_LEAVES = "which leaves the directory"
_LEADS_OUT = "which leads out of the directory through a link"
_NO_FILE = "names no file under 'image_info'"
_ADDRESS = "gives an address instead of a file; images are not fetched"

CASES: dict[str, Case] = {
    # The image list.
    "file_name is absolute": Case("error", info(file_name="/etc/passwd"), _LEAVES),
    "file_name leaves the directory (../x.png)": Case("error", info(file_name="image/../../x.png"), _LEAVES),
    "file_name leaves the directory with a backslash (..\\x.png)": Case("error", info(file_name="..\\x.png"), _LEAVES),
    "base_file_name leaves the directory": Case("error", info(base_file_name="../x.png"), _LEAVES),
    "file_name is a link out of the directory": Case("error", link_file_out, _LEADS_OUT),
    "file_name goes through a folder that is a link out of the directory": Case("error", link_folder_out, _LEADS_OUT),
    "file_name is a link within the directory": Case("accepted", link_file_within, then=rows_of(24)),
    "file_name is a link to itself": Case(
        "error", lambda inputs: link(first_image(inputs), first_image(inputs).name), "Too many levels of symbolic links"
    ),
    "file_name contains a NUL byte": Case(
        "error", info(file_name="image/a\0.png"), "which is not a possible file name"
    ),
    "file_name contains a lone surrogate": Case(
        "error", info(file_name="\ud800/a.png"), "which is not a possible file name"
    ),
    "file_name of 5,000 letters": Case("error", info(file_name="x" * 5000 + ".png"), "File name too long"),
    "file_name is a number, a list, null or empty": Case("error", info(file_name=[1]), _NO_FILE),
    "image_info is not an object": Case("error", first_item(lambda item: item.update(image_info="a.png")), _NO_FILE),
    "file_name names the folder itself, or a file of the list": Case(
        "error", info(file_name="./images.lst"), "which is not an image"
    ),
    "file_name names a folder": Case("error", info(file_name="image"), "it is not a regular file"),
    "file_name names a missing image": Case(
        "error", lambda inputs: first_image(inputs).unlink(), "the file is missing"
    ),
    "an address (coco_url) and no file": Case(
        "error", info(file_name="a.png", coco_url="http://127.0.0.1:9/a.png"), _ADDRESS
    ),
    "an address of a local file (file:///…)": Case(
        "error", info(file_name="a.png", coco_url="file:///etc/passwd"), _ADDRESS
    ),
    "an address and a file that exists": Case("accepted", info(coco_url="http://127.0.0.1:9/a.png"), then=rows_of(24)),
    "images.lst with a line of 1 GB": Case("error", line_of_a_gigabyte, "has more than 16777216 characters"),
    "images.lst with invalid UTF-8": Case("error", add("images.lst", b"\xff\n"), "images.lst cannot be read"),
    "images.lst with NUL bytes": Case("error", add("images.lst", bytes(1000) + b"\n"), "line 25 is not JSON"),
    "images.lst that ends in the middle of a line": Case(
        "error", add("images.lst", b'{"image_info": {"file'), "line 25 is not JSON"
    ),
    "images.lst with a blank line": Case("error", add("images.lst", b"\n"), "line 25 is blank"),
    "images.lst with a byte order mark": Case(
        "error",
        lambda inputs: (inputs.train / "images.lst").write_bytes(
            b"\xef\xbb\xbf" + (inputs.train / "images.lst").read_bytes()
        ),
        "line 1 is not JSON",
    ),
    "images.lst with Windows line endings": Case("accepted", windows_lines, then=rows_of(24)),
    "a row that is not an object": Case("error", add("images.lst", b"[]\n"), "line 25 is not a JSON object"),
    "a row with NaN or Infinity": Case("error", add("images.lst", b'{"id": NaN}\n'), "NaN is not a JSON number"),
    "a row with a duplicate key": Case("accepted", repeat_key, then=rows_of(24)),
    "two rows for the same image": Case("accepted", repeat_row, then=rows_of(25)),
    "row ids that repeat, are negative, text or absent": Case(
        "accepted",
        lambda inputs: edit_items(
            inputs.train,
            lambda items: [items[0].update(id=-1), items[1].update(id="x"), items[2].update(id=3), items[4].pop("id")],
        ),
        then=rows_of(24),
    ),
    "a label that is a number, a list or an object": Case(
        "error", first_item(lambda item: item.update(category=0)), "is labelled 0"
    ),
    "a label that is not one of the categories": Case(
        "error", first_item(lambda item: item.update(category="cow")), "is labelled 'cow'"
    ),
    "a label that is absent, null or empty": Case(
        "warning", first_item(lambda item: item.update(category=None)), "1 of 24 images have no label and are not used"
    ),
    "300,000 rows for missing images": Case("error", add_rows(300_000), "300000 of 300024 images cannot be read"),
    # The schema.
    "category ids with gaps": Case(
        "accepted",
        both(set_categories([{"id": 7, "name": "owl"}, {"id": 0, "name": "cat"}, {"id": 3, "name": "dog"}])),
        then=classes_are("cat", "dog", "owl"),
    ),
    "a category id of 2^31 or larger": Case(
        "accepted",
        both(set_categories([{"id": 2**31, "name": "owl"}, {"id": 2**80, "name": "cat"}, {"id": 0, "name": "dog"}])),
        then=classes_are("dog", "owl", "cat"),
    ),
    "a category id that is negative": Case(
        "error", both(set_categories([{"id": -1, "name": "cat"}])), "category id -1 is not an integer from 0"
    ),
    "a category id that is text": Case(
        "error", both(set_categories([{"id": "0", "name": "cat"}])), "category id '0' is not an integer from 0"
    ),
    "a category id that is true, 1.0 or null": Case(
        "error", both(set_categories([{"id": True, "name": "cat"}])), "category id True is not an integer from 0"
    ),
    "a duplicate category id": Case(
        "error", both(set_categories([{"id": 0, "name": "cat"}, {"id": 0, "name": "dog"}])), "id 0 occurs twice"
    ),
    "a duplicate category name": Case(
        "error", both(set_categories([{"id": 0, "name": "cat"}, {"id": 1, "name": "cat"}])), "'cat' occurs twice"
    ),
    "a category name that is not text": Case(
        "error", both(set_categories([{"id": 0, "name": 5}])), "category name 5 is not text"
    ),
    "a category without images": Case(
        "warning",
        both(set_categories([{"id": number, "name": name} for number, name in enumerate([*CLASSES, "emu"])])),
        "has no image of 'emu'",
    ),
    "a schema with columns of the wrong type": Case(
        "error", schema(lambda columns: columns[0].update(properties=[1])), "has a column whose 'properties' is [1]"
    ),
    "a _meta.yaml of deeply nested lists": Case(
        "error", add("_meta.yaml", b"\nx: " + b"[" * 200_000), "values nested more than 100 levels deep"
    ),
    "a _meta.yaml that names a file outside": Case(
        "error",
        lambda inputs: (inputs.train / "_meta.yaml").write_text("type: ImageDirectory\nschema: ../x\nimage_list: y\n"),
        "leaves the directory",
    ),
    # Lists of labels.
    "an image with an empty list of labels": Case("accepted", with_lists(nothing), then=lists_are_kept),
    "a label twice in a list": Case("accepted", second_list(["dog", "cat", "dog"]), then=lists_are_kept),
    "lists of at most one label": Case("accepted", every_list(lambda _, labels: labels[:1]), then=lists_are_kept),
    "1,000 labels in lists": Case("accepted", every_list(lambda n, _: LABELS[n::24], LABELS), then=lists_are_kept),
    "an image without a list, among lists of labels": Case(
        "warning", second_list(None), "1 of 24 images have no list of labels and are not used"
    ),
    "lists of one label only": Case("warning", with_lists(nothing, ("cat",)), "There is one label, 'cat'"),
    "a label that every list has": Case(
        "warning", every_list(lambda _, labels: [*labels, "cat"]), "every image has the label 'cat'"
    ),
    "a label that no list has": Case("warning", with_lists(nothing, (*CLASSES, "emu")), "has no image of 'emu'"),
    "text instead of a list of labels": Case("error", second_list("cat"), "is labelled 'cat'"),
    "a list with a label that is not one of the categories": Case(
        "error", second_list(["cat", "cow"]), "is labelled ['cat', 'cow']"
    ),
    "a list of labels in a dataset of one class per image": Case(
        "error",
        first_item(lambda item: item.update(category=["cat", "dog"])),
        "Lists of labels need the annotation_type COCO_multilabel_classification",
    ),
    "empty lists of labels alone": Case(
        "error",
        every_list(lambda *_: []),
        "None of its 24 images has a label",
        code=24,
    ),
    "lists of labels for training, and one class per image for validation": Case(
        "error", lists_for_training_alone, "but the training dataset has a list of labels per image"
    ),
    "lists of labels with a label that only the validation dataset has": Case(
        "error", lists_of_other_labels, "the training dataset lacks 'cow'"
    ),
    # Raw folders.
    "raw images: a file that is not an image": Case(
        "error", raw(lambda path: (path / "cat" / "x.png").write_bytes(b"no image")), _TEXT
    ),
    "raw images: files of other kinds, such as text": Case(
        "warning",
        raw(lambda path: (path / "cat" / "x.txt").write_text("text")),
        "skipped 1 files of other kinds: 'cat/x.txt'",
    ),
    "raw images: a link out of the folder": Case(
        "error", raw(link_raw_out), "links lead out of the directory: 'cat/0.png'"
    ),
    "raw images: a broken link": Case(
        "error", raw(lambda path: link(path / "cat" / "x.png", "nowhere")), "it has broken links: 'cat/x.png'"
    ),
    "raw images: a pipe": Case(
        "warning", raw(lambda path: os.mkfifo(path / "cat" / "x.png")), "cat/x.png, which is not a regular file"
    ),
    # Images.
    "a file of 0 bytes": Case("error", image(b""), "it is empty"),
    "a file that is not an image: text, SVG, HTML": Case(
        "error", image(odd_images.SVG), "it is not an image but an SVG drawing"
    ),
    "PostScript with the name of an image": Case(
        "error", image(odd_images.POSTSCRIPT), "it is not an image but a PostScript program"
    ),
    "a PNG of 0x0 pixels": broken(lambda: odd_images.EMPTY["png"], _NO_IMAGE),
    "a GIF of 0x0 pixels": broken(lambda: odd_images.EMPTY["gif"], _NO_IMAGE),
    "a BMP of 0x0 pixels": broken(lambda: odd_images.EMPTY["bmp"], _NO_IMAGE),
    "a PPM of 0x0 pixels": broken(lambda: odd_images.EMPTY["ppm"], _NO_IMAGE),
    "a PNG that ends after 60 %": broken(lambda: odd_images.truncated("png"), "image file is truncated"),
    "a JPEG that ends after 60 %": broken(lambda: odd_images.truncated("jpeg"), "image file is truncated"),
    "a GIF that ends after 60 %": broken(lambda: odd_images.truncated("gif"), "image file is truncated"),
    "a BMP that ends after 60 %": broken(lambda: odd_images.truncated("bmp"), "image file is truncated"),
    "a PPM that ends after 60 %": broken(lambda: odd_images.truncated("ppm"), "image file is truncated"),
    "a WebP that ends after 60 %": broken(lambda: odd_images.truncated("webp"), "could not create decoder object"),
    "a TIFF that ends after 60 %": broken(lambda: odd_images.truncated("tiff"), "image file is truncated"),
    "an image of another size than most others": Case(
        "warning",
        image(odd_images.saved(Image.new("RGB", (8, 8)), "png")),
        "most images are 32x32, but 1 of 24 have another size",
        then=size_of_the_network(224, 224),
    ),
    "images of other sizes and aspect ratios, among them 1x5000": Case(
        "accepted", every_other_size, then=size_of_the_network(224, 224)
    ),
    "images of other sizes, with --image-size": Case(
        "accepted", every_other_size, then=size_of_the_network(40, 48), flags={"image_size": "40x48", "resize": "pad"}
    ),
    "images smaller than --image-size, with the recipe scratch": Case(
        "accepted",
        nothing,
        then=size_of_the_network(48, 48),
        flags={"image_size": 48, "recipe": "scratch", "epochs": 1},
    ),
    "--image-size of more than 8192 pixels": Case(
        "error", nothing, "a side can have at most 8192 pixels", flags={"image_size": 9000}, code=UserError.code
    ),
    "an image whose EXIF metadata are damaged": Case(
        "accepted", image(odd_images.with_exif(b"MM\0*\0\0\0\x08\xff\xff"))
    ),
    "a JPEG with an EXIF orientation, with a recipe other than classic": Case(
        "accepted", turned_images, then=all_upright, flags={"recipe": "scratch", "epochs": 1}
    ),
    "16-bit grayscale, with a recipe other than classic": Case(
        "warning",
        image(odd_images.grey_of_16_bits("png")),
        "have values of more than 8 bits, which are scaled to 8 bits",
        flags={"recipe": "scratch", "epochs": 1, "image_size": 32},
    ),
    "floating-point grayscale up to just above 1, with a recipe other than classic": Case(
        "warning",
        image(odd_images.float_tiff_of(0, 0.5, 1, 1.0000002)),
        "which are scaled to 8 bits",
        then=levels(0, 128, 255, 255),
        flags={"recipe": "scratch", "epochs": 1, "image_size": 32},
    ),
    "floating-point grayscale with negative values, infinity and NaN, with a recipe other than classic": Case(
        "warning",
        image(odd_images.float_tiff_of(-1, float("inf"), float("nan"), 255)),
        "scaled to 8 bits (negative values, infinity and NaN become 0)",
        then=levels(0, 0, 0, 255),
        flags={"recipe": "scratch", "epochs": 1, "image_size": 32},
    ),
    "any of these with --skip-unreadable-images": Case(
        "warning", image(b"no image"), "1 of 24 images cannot be read and are skipped", flags=with_skip()
    ),
    "an image of 100 megapixels among small ones": Case(
        "warning",
        image(odd_images.bilevel(10_000, 10_000)),
        "most images are 32x32, but 1 of 24 have another size",
        flags={"image_size": 32},
    ),
    "a small file that claims 50,000x50,000 pixels": Case("error", image(odd_images.claiming(50_000, 50_000)), _LIMIT),
    "a dataset of only such files": Case("error", every_image(odd_images.claiming(50_000, 50_000)), _LIMIT),
    "a PNG with a comment of 10 MB in 10 KB": pixels(lambda: odd_images.text_bomb(10)),
    "a PNG with a comment of 80 MB in 80 KB": broken(
        lambda: odd_images.text_bomb(80), "Too much memory used in text chunks"
    ),
    "a PNG with a colour profile of 200 MB in 200 KB": broken(
        lambda: odd_images.profile_bomb(200), "Decompressed data too large"
    ),
    "a PNG with a comment": pixels(odd_images.with_comment),
    "an image with a colour profile": pixels(odd_images.with_profile),
    "a JPEG with an EXIF orientation": pixels(odd_images.rotated),
    "CMYK, as JPEG": pixels(lambda: odd_images.saved(odd_images.noise().convert("CMYK"), "jpeg")),
    "CMYK, as TIFF": pixels(lambda: odd_images.saved(odd_images.noise().convert("CMYK"), "tiff")),
    "16 bits per channel, as PNG": pixels(odd_images.colours_of_16_bits),
    "16-bit grayscale, as PNG": clipped(lambda: odd_images.grey_of_16_bits("png")),
    "16-bit grayscale, as TIFF": clipped(lambda: odd_images.grey_of_16_bits("tiff")),
    "floating-point grayscale, as TIFF": clipped(odd_images.float_tiff),
    "a palette with transparency": pixels(odd_images.transparent_palette),
    "transparency (RGBA)": pixels(lambda: odd_images.saved(odd_images.noise().convert("RGBA"), "png")),
    "grayscale with transparency (LA)": pixels(lambda: odd_images.saved(odd_images.noise().convert("LA"), "png")),
    "black and white, 1 bit": pixels(lambda: odd_images.saved(odd_images.noise().convert("1"), "png")),
    "an animated GIF": pixels(lambda: odd_images.animated("gif"), first_of_three),
    "an animated WebP": pixels(lambda: odd_images.animated("webp"), first_of_three),
    "an animated PNG": pixels(lambda: odd_images.animated("png"), first_of_three),
    "a TIFF of several pages": pixels(lambda: odd_images.animated("tiff"), first_of_three),
    "an image of another format than its name says": pixels(lambda: odd_images.saved(odd_images.noise(), "bmp")),
    # Classes.
    "one class": Case("warning", one_class, "There is one class, 'cat': every image will be scored as this class"),
    "1,000 classes with one image each": Case(
        "accepted", many_classes, then=thousand_labels, flags={"batch_size": 100}
    ),
    # Resources.
    "an output that cannot be written": Case(
        "error", lambda inputs: setattr(inputs, "trained", Path("/sys/model")), "cannot be written to", code=159
    ),
}

HERE = "tests/test_broken_input.py"
ELSEWHERE: dict[str, tuple[str, str]] = {
    "10 million rows for missing images": (
        "error",
        f"{HERE}::test_ten_million_rows_are_read_in_bounded_memory",
    ),
    "a flipped bit that the decoder notices": ("error", f"{HERE}::test_a_flipped_bit_is_named_or_not_noticed"),
    "a flipped bit that the decoder does not notice": (
        "accepted",
        f"{HERE}::test_a_flipped_bit_is_named_or_not_noticed",
    ),
    "--image-size of 0 or less": ("error", "tests/test_geometry.py::test_a_size_below_1_is_an_error"),
    "a size with --image-size that the network does not accept": (
        "error",
        "tests/test_geometry.py::test_a_size_that_the_network_does_not_accept_is_an_error",
    ),
    "images of 100 megapixels": ("accepted", f"{HERE}::test_images_of_a_hundred_megapixels_are_brought_to_size"),
    "images too large to decode on all cores at once": (
        "accepted",
        f"{HERE}::test_large_images_are_decoded_fewer_at_a_time",
    ),
    "labels such as ../x, a/b, CON, a line break, 5,000 letters": (
        "accepted",
        f"{HERE}::test_no_file_is_called_by_a_label",
    ),
    "an output on a read-only disk": ("error", f"{HERE}::test_a_read_only_disk_is_reported_before_training"),
    "a batch that does not fit in memory": (
        "error",
        "tests/test_batch_memory.py::test_the_error_for_exhausted_host_memory_names_a_batch_size_that_fits",
    ),
    "a batch that does not fit in memory, --microbatch-size auto": (
        "warning",
        "tests/test_batch_memory.py::test_microbatches_train_where_the_whole_batch_does_not_fit",
    ),
    "no shared memory, or none free": ("accepted", f"{HERE}::test_no_shared_memory_is_needed"),
    "an image is deleted during the run, --image-store none": ("error", f"{HERE}::test_files_may_vanish"),
    "images are deleted during the run, any other image store": ("accepted", f"{HERE}::test_files_may_vanish"),
    "a pipe instead of an image": ("error", "tests/test_hung_reads.py::test_a_pipe_instead_of_an_image_is_reported"),
    "a read of an image that hangs": (
        "error",
        "tests/test_hung_reads.py::test_a_read_that_hangs_is_named_and_the_process_ends",
    ),
    "a disk too small for checkpoints": (
        "warning",
        "tests/test_interruptions.py::test_a_disk_too_small_for_checkpoints_warns_and_training_continues",
    ),
    "a disk too small for the model": (
        "error",
        "tests/test_interruptions.py::test_a_disk_too_small_for_the_model_is_reported_and_the_next_run_writes_it_at_once",
    ),
    "chmod, chown, utime, fsync, links or fallocate fail": (
        "accepted",
        "tests/test_faulty_files.py::test_every_command_does_without",
    ),
    "renaming fails, of files or of folders": (
        "accepted",
        "tests/test_faulty_files.py::test_every_command_does_without",
    ),
    "the output cannot be written at the end of a training": (
        "error",
        "tests/test_faulty_files.py::test_a_model_that_cannot_be_written_at_the_end_is_saved_elsewhere",
    ),
    "locks fail": (
        "warning",
        "tests/test_faulty_files.py::test_a_file_system_without_locks_is_told_and_blames_no_other_run",
    ),
    "another training uses the same folder of reports or checkpoints": (
        "error",
        "tests/test_faulty_files.py::test_two_trainings_do_not_share_a_folder_of_reports",
    ),
    "a temporary folder that cannot map files, `--image-store disk`": (
        "error",
        "tests/test_faulty_files.py::test_a_disk_that_cannot_hold_decoded_images",
    ),
    "a disk that does not tell its free space": (
        "accepted",
        "tests/test_faulty_files.py::test_a_disk_that_cannot_hold_decoded_images",
    ),
    "a disk too small for the decoded images": (
        "error",
        "tests/test_placement.py::test_a_place_without_room_is_refused_with_the_sizes",
    ),
    "folders named as packages in the working directory, such as av, onnx or torch": (
        "accepted",
        "tests/test_working_directory.py::test_python_m_imports_nothing_from_the_working_directory",
    ),
    "files named as modules in the working directory, such as json.py or random.py": (
        "accepted",
        "tests/test_working_directory.py::test_python_m_imports_nothing_from_the_working_directory",
    ),
    "such folders and files, with torchrun": (
        "accepted",
        "tests/test_working_directory.py::test_the_processes_of_torchrun_import_nothing_from_there",
    ),
    "code of a model in the working directory, --trust-model-code": (
        "accepted",
        "tests/test_working_directory.py::test_code_of_a_trusted_model_may_lie_in_the_working_directory",
    ),
    "a trained model whose image_geometry.json is damaged": (
        "error",
        "tests/test_same_pixels.py::test_a_damaged_geometry_ends_scoring_with_a_named_error",
    ),
    "an untrained model whose pretrained_weights.json is damaged or of another kind": (
        "error",
        "tests/test_weight_records.py::test_a_damaged_record_is_a_named_error",
    ),
    "--weights-mean or --weights-std without weights, of another number of channels, or for pixels up to 255": (
        "error",
        "tests/test_weight_records.py::test_an_impossible_normalisation_is_a_named_error",
    ),
    "a photo of 200 megapixels": (
        "accepted",
        "tests/test_same_pixels.py::test_a_photo_of_a_phone_is_served_and_scored",
    ),
    "a model with zip bombs, impossible shapes, NaN or endless layers": (
        "error",
        "tests/test_hostile_models.py::test_harmful_files_raise_a_named_error_and_take_little_memory",
    ),
    "code of a model that leaves its folder": (
        "error",
        "tests/test_hostile_models.py::test_code_that_is_trusted_still_stays_in_its_folder",
    ),
    "an archive with names outside its folder": (
        "accepted",
        "tests/test_convert_to_image_directory.py::test_nothing_in_an_archive_escapes_the_output",
    ),
    "fewer images of a class than folds": (
        "error",
        "tests/test_folds.py::test_fewer_images_of_a_class_or_groups_than_folds_are_named",
    ),
    "fewer groups than folds": (
        "error",
        "tests/test_folds.py::test_fewer_images_of_a_class_or_groups_than_folds_are_named",
    ),
    "a table of groups without a row for each image": (
        "error",
        "tests/test_folds.py::test_a_table_without_one_group_per_image_is_named",
    ),
    "an image with two groups": (
        "error",
        "tests/test_folds.py::test_a_table_without_one_group_per_image_is_named",
    ),
    "a table of groups with a name that several images have": (
        "error",
        "tests/test_folds.py::test_a_table_without_one_group_per_image_is_named",
    ),
    "JSON of groups by the name of the image, or with a list of images inside": (
        "accepted",
        "tests/test_folds.py::test_groups_are_read_from_the_json_that_people_have",
    ),
    "JSON of groups without the names of the images": (
        "error",
        "tests/test_folds.py::test_json_without_one_group_per_image_is_named",
    ),
    "several columns that could be the groups": (
        "error",
        "tests/test_folds.py::test_a_table_without_one_group_per_image_is_named",
    ),
    "folds of a cross-validation with other settings": (
        "warning",
        "tests/test_cross_validate.py::test_finished_folds_are_kept_and_a_changed_setting_is_named",
    ),
    "a damaged file in `features` of --folds-path, with --head-only": (
        "warning",
        "tests/test_fold_features.py::test_a_run_that_goes_on_has_the_features",
    ),
    "flags of epochs, such as --epochs or --learning-rate, with --head-only": (
        "warning",
        "tests/test_fold_features.py::test_flags_without_effect_are_named",
    ),
    "fewer training images than the batch size of the recipe": (
        "accepted",
        "tests/test_train_settings.py::test_a_batch_that_nobody_asked_for_holds_at_most_all_images",
    ),
    "fewer training images than --batch-size": (
        "error",
        "tests/test_train_settings.py::test_a_batch_that_nobody_asked_for_holds_at_most_all_images",
    ),
    "one training image, too small for a network that normalizes over the batch": (
        "error",
        "tests/test_train_settings.py::test_one_image_is_not_enough_for_a_network_that_normalizes_over_the_batch",
    ),
    "--batch-size 1 or --microbatch-size 1, likewise": (
        "error",
        "tests/test_train_settings.py::test_single_images_are_enough_where_statistics_of_batches_are_frozen",
    ),
    "a trained model with the labels of the dataset in another order": (
        "accepted",
        "tests/test_finetune_command.py::test_a_trained_model_keeps_its_head_where_the_labels_have_another_order",
    ),
    "a label that one list has, in split-image-directory": (
        "warning",
        "tests/test_label_stratification.py::test_a_label_of_one_image_warns",
    ),
    "a truncated or damaged archive": (
        "error",
        "tests/test_convert_to_image_directory.py::test_an_archive_that_is_cut_anywhere_is_an_error",
    ),
    "a lost or damaged _meta.yaml, images.lst or _schema.json": (
        "error",
        "tests/test_image_directory.py::test_damage_is_named_and_never_read_as_something_else",
    ),
    "a request as multipart/form-data": ("accepted", "tests/test_serving_requests.py::test_multipart_bodies"),
    "a request as a form (image=...)": ("accepted", "tests/test_serving_requests.py::test_forms"),
    "a request in the forms of AutoML, MLflow, TensorFlow Serving or the designer": (
        "accepted",
        "tests/test_serving_requests.py::test_json_of_two_images",
    ),
    "a request with another Content-Type than its content": (
        "accepted",
        "tests/test_serving_requests.py::test_an_image_file_may_be_the_body_whatever_its_content_type",
    ),
    "a request with a byte order mark, in UTF-16 or in UTF-32": (
        "accepted",
        "tests/test_serving_requests.py::test_json_and_text_in_other_encodings",
    ),
    "a request in gzip or deflate, also without the header": (
        "accepted",
        "tests/test_serving_requests.py::test_compressed_bodies",
    ),
    "base64 that is URL-safe, has line breaks, lacks its padding or is a data URL": (
        "accepted",
        "tests/test_serving_requests.py::test_base64_of_every_kind",
    ),
    "a request with an address or a path instead of an image": (
        "error",
        "tests/test_serving_requests.py::test_what_is_no_image_is_named",
    ),
    "a request that contains no image, such as HTML, a PDF, HEIC or half of a file": (
        "error",
        "tests/test_serving_requests.py::test_what_is_no_image_is_named",
    ),
    "a request of more than 1,000 images, or with an image above 16 megapixels": (
        "error",
        "tests/test_serving_requests.py::test_what_is_no_image_is_named",
    ),
    "a request with an image above 90 megapixels, or a JPEG above 268, for a model that resizes images": (
        "error",
        "tests/test_same_pixels.py::test_bombs_and_truncated_images_are_refused",
    ),
    "a request of more than 100 MiB, also after decompression": (
        "error",
        "tests/test_serving_requests.py::test_a_body_that_is_too_large_is_refused",
    ),
    "an image of a size that the network does not support, in a request": (
        "error",
        "tests/test_serving.py::test_an_image_that_the_network_cannot_take_is_named_by_its_size",
    ),
    "more requests at once than the endpoint takes": (
        "error",
        "tests/test_endpoint.py::test_a_busy_server_says_so_and_a_broken_one_starts_again",
    ),
    "a request for which the memory does not suffice": (
        "error",
        "tests/test_endpoint.py::test_faults_of_the_server_are_not_faults_of_the_request",
    ),
    "a GPU that fails while it serves": (
        "error",
        "tests/test_endpoint.py::test_a_busy_server_says_so_and_a_broken_one_starts_again",
    ),
    "an expression in a pipeline that cannot be resolved, or has no end": (
        "error",
        "tests/test_pipelines_in_azure.py::test_what_azure_takes_and_is_not_supported_is_named",
    ),
    "a pipeline or a component that azure-ai-ml refuses": (
        "error",
        "tests/test_pipelines_in_azure.py::test_what_azure_refuses_is_refused",
    ),
    "a pipeline of a kind that is not supported: registered components, data of a workspace, mpi, text outputs": (
        "error",
        "tests/test_pipelines_in_azure.py::test_what_azure_takes_and_is_not_supported_is_named",
    ),
    "a pipeline component that contains itself": (
        "error",
        "tests/test_pipelines_in_azure.py::test_what_azure_refuses_is_refused",
    ),
    "a pipeline component whose output no job writes, and which is used": (
        "error",
        "tests/test_nested_pipelines.py::test_an_output_that_no_job_of_a_pipeline_component_writes_cannot_be_taken",
    ),
    "a wrong value for an input of a pipeline component": (
        "error",
        "tests/test_nested_pipelines.py::test_a_broken_pipeline_component_is_reported_before_anything_runs",
    ),
    "an input that a pipeline component does not have": (
        "warning",
        "tests/test_nested_pipelines.py::test_an_input_that_a_pipeline_component_does_not_have_is_ignored",
    ),
    "a command whose program this machine does not have": (
        "error",
        "tests/test_pipeline_faults.py::test_a_command_whose_program_is_missing_is_refused",
    ),
    "a file at an address that does not answer": (
        "error",
        "tests/test_pipeline_web_files.py::test_a_file_that_cannot_be_downloaded_is_reported_before_anything_runs",
    ),
    "a download that ends early": (
        "error",
        "tests/test_pipeline_web_files.py::test_a_download_that_ends_early_is_no_file",
    ),
    "a folder at an address": (
        "error",
        "tests/test_pipelines_in_azure.py::test_what_azure_takes_and_is_not_supported_is_named",
    ),
    "a conda file with packages that this Python does not have": (
        "warning",
        "tests/test_pipeline_steps.py::test_the_environment_is_that_of_this_python_and_what_it_lacks_is_named",
    ),
    "text around an expression of a pipeline": (
        "accepted",
        "tests/test_pipeline_steps.py::test_text_around_an_input_is_kept",
    ),
    "yes, off, 1e3 and 010 in a pipeline": (
        "accepted",
        "tests/test_pipeline_faults.py::test_yaml_is_read_as_pyyaml_reads_it",
    ),
    "an output of type uri_file": (
        "accepted",
        "tests/test_pipeline_steps.py::test_an_output_of_type_uri_file_is_a_file_that_another_step_reads",
    ),
    "an .amlignore or .gitignore in a step's code": (
        "accepted",
        "tests/test_pipelines_in_azure.py::test_the_code_of_a_step_is_what_azure_uploads",
    ),
    "links in a step's code": (
        "accepted",
        "tests/test_pipeline_steps.py::test_code_behind_links_is_copied",
    ),
    "a field of a job that is unknown to Azure": (
        "warning",
        "tests/test_pipeline_steps.py::test_what_is_not_used_is_logged",
    ),
    "balanced_accuracy as the metric for the best model, with lists of labels": (
        "error",
        "tests/test_multilabel_training.py::test_a_metric_of_the_other_task_is_named",
    ),
    "average_precision or micro_f1 as the metric, with one class per image": (
        "error",
        "tests/test_multilabel_training.py::test_a_metric_of_the_other_task_is_named",
    ),
    "a network that ends with a ReLU, such as SqueezeNet, with lists of labels": (
        "error",
        "tests/test_multilabel_training.py::test_a_network_whose_logits_are_never_negative_is_refused",
    ),
    "a label that no validation image has": (
        "warning",
        "tests/test_multilabel_training.py::test_score_finds_the_metrics_of_the_best_line",
    ),
    "a label that fewer than 10 validation images have": (
        "accepted",
        "tests/test_metrics.py::test_thresholds_are_the_best_ones_of_all",
    ),
    "an ImageDirectory of one class per image, for a model of several labels": (
        "error",
        "tests/test_multilabel_scoring.py::test_labels_of_the_other_task_are_named",
    ),
    "lists of labels, for a model of one class per image": (
        "error",
        "tests/test_multilabel_scoring.py::test_labels_of_the_other_task_are_named",
    ),
    "folders of raw images, for a model of several labels": (
        "warning",
        "tests/test_multilabel_scoring.py::test_folders_of_images_are_scored_and_are_no_true_labels",
    ),
    "text instead of a list of labels, in a dataset to score": (
        "error",
        "tests/test_multilabel_scoring.py::test_true_labels_that_are_no_list_are_named",
    ),
    "an image that cannot be read, --skip-unreadable-images, for a model of several labels": (
        "accepted",
        "tests/test_multilabel_scoring.py::test_unreadable_images_become_rows_without_labels",
    ),
    "task.json of a trained model is damaged, or lacks a label": (
        "error",
        "tests/test_multilabel_model.py::test_damaged_thresholds_are_named",
    ),
    "a trained model of several labels without task.json": (
        "error",
        "tests/test_multilabel_model.py::test_a_model_whose_files_name_two_tasks_is_named",
    ),
    "a model of several labels, in the retired Score Image Model": (
        "error",
        "tests/test_multilabel_model.py::test_the_retired_score_image_model_fails_instead_of_applying_softmax",
    ),
    "a model of several labels, trained further with the same names and one class per image": (
        "accepted",
        "tests/test_multilabel_model.py::test_a_model_of_the_other_task_gets_a_new_head",
    ),
    "a true label that the model does not have, in a table of lists": (
        "error",
        "tests/test_multilabel_evaluation.py::test_a_true_label_that_the_model_does_not_know_is_named",
    ),
    "a label that no image of a scored table has": (
        "warning",
        "tests/test_multilabel_evaluation.py::test_a_label_that_no_image_has_is_left_out_of_the_means_and_named",
    ),
    "a table of one label": (
        "accepted",
        "tests/test_multilabel_evaluation.py::test_one_label_is_a_label_and_not_two_classes",
    ),
    "--unknown-below, for a model of several labels": (
        "error",
        "tests/test_unknown_images.py::test_a_model_of_several_labels_is_refused_by_name",
    ),
    "images whose true label is that of unknown images, scored with --unknown-below": (
        "accepted",
        "tests/test_unknown_images.py::test_images_of_no_class_are_counted_apart",
    ),
    "images whose true label is no class of the model": (
        "error",
        "tests/test_unknown_images.py::test_labels_of_no_class_are_errors_with_a_remedy",
    ),
    "only images whose true label is that of unknown images": (
        "error",
        "tests/test_unknown_images.py::test_labels_of_no_class_are_errors_with_a_remedy",
    ),
    "a cell of a scored table that is no list of labels": (
        "error",
        "tests/test_multilabel_evaluation.py::test_a_cell_that_is_no_list_of_labels_is_named",
    ),
    '"explain" in a request is neither true nor false': (
        "error",
        "tests/test_served_explanations.py::test_what_is_neither_true_nor_false_is_named",
    ),
    '"explain" in a row of a request, a form, a file or a field of a form, or the address': (
        "error",
        "tests/test_served_explanations.py::test_a_form_cannot_ask_for_heat_maps",
    ),
    'a request with "explain" of more than 16 images': (
        "error",
        "tests/test_served_explanations.py::test_too_many_images_are_refused",
    ),
    'a request with "explain" to a server without captum': (
        "error",
        "tests/test_served_explanations.py::test_a_server_without_captum_says_so",
    ),
    "--explanations without captum, or on Python 3.9": (
        "error",
        "tests/test_explanations.py::test_a_missing_captum_is_named_before_any_work",
    ),
    "--explanations that is, contains or is inside an input or the other output, or has other files": (
        "error",
        "tests/test_explanations.py::test_the_folder_must_be_its_own",
    ),
    "--explanations for a network without gradients": (
        "error",
        "tests/test_explanations.py::test_a_network_without_gradients_is_named_and_nothing_is_written",
    ),
    "--explanations with --max-explanations 0": (
        "accepted",
        "tests/test_explanations.py::test_no_number_of_images_writes_nothing_and_needs_no_captum",
    ),
    "--max-explanations without --explanations": (
        "warning",
        "tests/test_explanations.py::test_a_number_of_images_without_a_folder_is_told_of",
    ),
    "an image that cannot be read, --skip-unreadable-images, --explanations": (
        "accepted",
        "tests/test_explanations.py::test_an_image_that_cannot_be_read_is_skipped",
    ),
    "a full report without captum": (
        "accepted",
        "tests/test_report_heat_maps.py::test_a_full_report_without_captum_says_so",
    ),
}


def rows_of_table() -> dict[str, tuple[str, str]]:
    """What is given, and what happens and becomes of it, of every row."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TABLE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]
    given = [row for row in cells if row[1] in OUTCOMES]
    assert len({row[0] for row in given}) == len(given)
    return {row[0]: (row[1], row[2]) for row in given}


def test_the_table_holds_every_case_with_its_outcome_and_its_words() -> None:
    expected = {given: case.outcome for given, case in CASES.items()}
    expected.update({given: outcome for given, (outcome, _) in ELSEWHERE.items()})
    rows = {**FOLDER_ROWS, **ARCHIVE_ROWS, **IMAGE_ROWS, **LABEL_ROWS, **MULTILABEL_ROWS, **WEIGHT_ROWS}
    rows.update(LABEL_COLUMN_ROWS)
    expected.update({given: row.outcome for given, row in rows.items()})
    table = rows_of_table()
    assert {given: outcome for given, (outcome, _) in table.items()} == expected
    for given, case in {**CASES, **rows}.items():
        assert case.words in table[given][1].replace("`", ""), given


@pytest.mark.parametrize("place", sorted({place for _, place in ELSEWHERE.values()}))
def test_what_the_table_says_is_tried_where_it_is_said_to_be(place: str) -> None:
    file, _, name = place.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("given", CASES)
def test_what_is_given_ends_as_the_table_says(given: str, inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    case = CASES[given]
    case.change(inputs)
    capfd.readouterr()
    code = inputs.fit(**case.flags)
    log = capfd.readouterr().err
    assert "Traceback" not in log
    if case.outcome == "error":
        assert code == 1, log
        assert error_code(inputs.outputs)[1] == case.code
        assert case.words in error_text(inputs.outputs)
        assert not inputs.trained.exists()
        return
    assert code == 0, log
    warnings = [line for line in log.splitlines() if " WARNING " in line]
    assert any(case.words in line for line in warnings) == (case.outcome == "warning"), log
    assert bool(warnings) == (case.outcome == "warning"), log
    case.then(inputs)


@pytest.mark.parametrize("value", [5, None, "", {"a": 1}])
def test_a_file_name_of_any_wrong_type_is_named(value: object, inputs: Inputs) -> None:
    info(file_name=value)(inputs)
    with pytest.raises(InvalidDatasetError, match=_NO_FILE):
        read_labelled_images(inputs.train, "Training dataset")


@pytest.mark.parametrize(
    ("key", "value"),
    [*product(("properties", "elementType"), ("x", [1], 5, True)), *product(("name",), ({"a": 1}, [1], 5, True))],
)
@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_schema_of_any_wrong_type_is_named(column: int, key: str, value: object, inputs: Inputs) -> None:
    schema(lambda columns: columns[column].update({key: value}))(inputs)
    with pytest.raises(InvalidDatasetError, match=re.escape(f"has a column whose {key!r} is {value!r}")):
        read_labelled_images(inputs.train, "Training dataset")


@pytest.mark.parametrize("kind", odd_images.FORMATS)
def test_a_flipped_bit_is_named_or_not_noticed(kind: str, tmp_path: Path) -> None:
    """Formats without a checksum cannot tell; whatever happens, it is one of the two."""
    options = odd_images.COMPRESSED_TIFF if kind == "tiff" else {}
    data = odd_images.saved(odd_images.noise(), kind, **options)
    path = tmp_path / "image"
    outcomes = set()
    # Everywhere, and each bit of what stands before the pixels.
    for bit in [*range(0, len(data) * 8, 101), *range(min(len(data), 60) * 8)]:
        path.write_bytes(odd_images.flipped(data, bit))
        try:
            decode(path, Geometry(read_size(path)))
            outcomes.add("accepted")
        except UnreadableImageError:
            outcomes.add("error")
    assert outcomes == {"accepted", "error"}


def test_images_of_a_hundred_megapixels_are_brought_to_size(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in CLASSES[:2]:
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "0.png").write_bytes(odd_images.bilevel(10_000, 10_000))
    outputs = tmp_path / "outputs"
    sizes = {"resize": "True", "size": 32}
    assert run_here("init-image-transformation", output_path=tmp_path / "to", outputs_path=outputs, **sizes) == 0
    paths = {"input_image_transform_path": tmp_path / "to", "input_image_dir_path": tmp_path / "raw"}
    done = run_here(
        "apply-image-transformation", mode="For training", output_path=tmp_path / "small", outputs_path=outputs, **paths
    )
    log = capfd.readouterr().err
    assert done == 0, log
    assert "WARNING" not in log
    assert [read_size(path) for path in sorted((tmp_path / "small" / "image").rglob("*.png"))] == [(32, 32)] * 2


def test_large_images_are_decoded_fewer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "available_memory_bytes", lambda: 16.0 * 2**30)
    assert placement.decoders_at_once((224, 224)) > 1000
    assert placement.decoders_at_once((10_000, 10_000)) == 5
    monkeypatch.setattr(placement, "available_memory_bytes", lambda: 1.0 * 2**30)
    assert placement.decoders_at_once((10_000, 10_000)) == 1


@pytest.mark.parametrize("module", ["convert", "split", "apply"])
def test_no_module_waits_for_a_pipe(module: str, inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    outputs, out = {"outputs_path": inputs.outputs}, inputs.path / "out"
    if module == "convert":
        folders = write_class_folders(inputs.path / "raw")
        os.mkfifo(folders / "cat" / "x.png")
        assert run_here("convert-to-image-directory", input_path=folders, output_path=out, **outputs) == 0
        assert "x.png, which is not a regular file" in capfd.readouterr().err
        return
    pipe = first_image(inputs)
    pipe.unlink()
    os.mkfifo(pipe)
    if module == "split":
        parts = {"tgt_train_path": out, "tgt_test_path": inputs.path / "other", "fraction": 0.5}
        assert run_here("split-image-directory", src_path=inputs.train, **parts, **outputs) == 1
    else:
        to = inputs.path / "to"
        assert run_here("init-image-transformation", output_path=to, **outputs) == 0
        paths = {"input_image_transform_path": to, "input_image_dir_path": inputs.train, "output_path": out}
        assert run_here("apply-image-transformation", mode="For training", **paths, **outputs) == 1
    assert error_code(inputs.outputs) == ("InvalidDataset", 18)
    assert "it is not a regular file" in error_text(inputs.outputs)
    assert not out.exists()


HOSTILE_LABELS = ("../x", "a/b", "/etc/passwd", "CON", "line\nbreak", "x" * 5000, "..", "-rf *")


def with_labels(path: Path, labels: tuple[str, ...], **how: object) -> Path:
    """An ImageDirectory of these labels."""
    names = [f"class {number}" for number in range(len(labels))]
    write_image_directory(path, classes=names, **how)
    set_categories([{"id": number, "name": label} for number, label in enumerate(labels)])(path)
    edit_items(path, lambda items: [item.update(category=labels[names.index(item["category"])]) for item in items])
    return path


def test_no_file_is_called_by_a_label(inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    path = inputs.path / "made"
    outputs = path / "outputs"
    source = with_labels(path / "images", HOSTILE_LABELS, per_class=4)
    parts = {"tgt_train_path": path / "train", "tgt_test_path": path / "test", "fraction": 0.5}
    assert run_here("split-image-directory", src_path=source, outputs_path=outputs, **parts) == 0
    inputs.train, inputs.valid, inputs.trained, inputs.outputs = (
        path / name for name in ("train", "test", "trained", "outputs")
    )
    assert inputs.fit(report="full", export="mlflow") == 0
    scored = {"trained_model": inputs.trained, "dataset": inputs.valid, "scored_dataset": path / "scored"}
    assert main(["score-image-model", *flags_of({**scored, "outputs_path": outputs}), "--csv"]) == 0
    evaluated = {"scored_dataset": path / "scored", "evaluation_path": path / "evaluation"}
    assert run_here("evaluate-model", outputs_path=outputs, **evaluated) == 0
    assert "Traceback" not in capfd.readouterr().err
    written = [file.relative_to(path).as_posix() for file in path.rglob("*")]
    assert {name.split("/")[0] for name in written} == {
        *("images", "images_folders", "train", "test", "trained", "outputs", "scored", "evaluation")
    }
    assert (outputs / "report" / "report.html").is_file()
    assert not [name for name in written if re.search(r"CON|passwd|break|xxx|-rf|(^|/)(x|b)($|/|\.)", name)]
    assert {file.name for file in inputs.path.iterdir()} == {"untrained", "train", "valid", "made"}


def on_mount(path: Path, options: str) -> tuple[str, ...]:
    """What to start a command by, so that at `path` there is an empty disk of these options."""
    mount = 'mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && exec "$@"'
    return (*SMALL_DISK, "sh", "-c", mount, "sh", options, str(path))


def test_a_read_only_disk_is_reported_before_training(inputs: Inputs) -> None:
    place = inputs.path / "read only"
    place.mkdir()
    flags = {"trained_model_path": place / "trained", "checkpoint_path": place / "checkpoints"}
    job = train_job(inputs, prefix=on_mount(place, "ro"), **flags)
    assert job.wait() == [1], job.log()
    assert error_code(inputs.outputs) == ("InvalidModelDirectory", 159)
    for path in (place, f"--checkpoint-path {place / 'checkpoints'}"):
        assert f"{path} cannot be written to: Read-only file system" in error_text(inputs.outputs)
    assert "Traceback" not in job.log()
    assert "Epoch" not in job.log()


def test_no_shared_memory_is_needed(inputs: Inputs) -> None:
    job = train_job(inputs, 2, prefix=on_mount(Path("/dev/shm"), "ro"))
    assert job.wait() == [0, 0], job.log()
    assert (inputs.trained / "model").is_file()


class Removing(logging.Handler):
    """Removes files as soon as an epoch is told of."""

    def __init__(self, files: list[Path]) -> None:
        super().__init__()
        self.files = files

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Epoch 1/"):
            for file in self.files:
                file.unlink(missing_ok=True)


@pytest.mark.parametrize("place", ["none", "memory", "disk"])
def test_files_may_vanish(place: str, inputs: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    files = sorted((inputs.train / "image").iterdir())
    removing = Removing(files[5:6] if place == "none" else files)
    logger = logging.getLogger("train_pytorch_model")
    logger.addHandler(removing)
    try:
        code = inputs.fit(image_store=place, epochs=3)
    finally:
        logger.removeHandler(removing)
    assert not files[5].exists()
    assert "Traceback" not in capfd.readouterr().err
    if place != "none":
        assert code == 0
        return
    assert code == 1
    assert error_code(inputs.outputs) == ("UserError", 2000)
    assert f"An image has changed during training: {files[5]}: the file is missing" in error_text(inputs.outputs)
    assert (inputs.outputs / "checkpoints" / "best" / "model").is_file()
    assert not inputs.trained.exists()


@pytest.mark.thorough
@pytest.mark.timeout(3600)
def test_ten_million_rows_are_read_in_bounded_memory(inputs: Inputs) -> None:
    add_rows(10_000_000)(inputs)
    code = (
        "import resource, sys; from tests.making import main; code = main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "sys.exit(code)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, *inputs.arguments()], capture_output=True, text=True, cwd=ROOT
    )
    assert finished.returncode == 1, finished.stderr
    assert "10000000 of 10000024 images cannot be read" in error_text(inputs.outputs)
    # Python and PyTorch take the first gigabyte.
    assert int(finished.stdout.split()[-1]) < 5 * 2**20
