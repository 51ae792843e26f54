from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from tests import environments
from tests.image_directories import edit_items, edit_schema
from tests.making import (
    error_code,
    error_text,
    read_json_lines,
    run_here,
    run_retired_tool,
    write_class_folders,
    write_image_directory,
)
from train_pytorch_model.designer_core import load_image_directory
from train_pytorch_model.modules.split_image_directory import stratified_choice


def split(source: Path, path: Path, **flags: object) -> int:
    targets = {"tgt_train_path": path / "first", "tgt_test_path": path / "second"}
    return run_here("split-image-directory", src_path=source, **targets, outputs_path=path / "outputs", **flags)


def test_two_directories_hold_every_image_once_as_it_was(tmp_path: Path) -> None:
    source = write_image_directory(tmp_path / "source", per_class=10)
    assert split(source, tmp_path, fraction=0.8) == 0
    first, second = (read_json_lines(tmp_path / part / "images.lst") for part in ("first", "second"))
    everything = read_json_lines(source / "images.lst")
    assert [len(first), len(second)] == [24, 6]
    # Items, ids and order are kept.
    ids = [[item["id"] for item in part] for part in (first, second)]
    assert all(part == sorted(part) for part in ids)
    assert sorted([*first, *second], key=lambda item: item["id"]) == everything  # type: ignore[arg-type,return-value]
    for part in ("first", "second"):
        assert (tmp_path / part / "_schema.json").read_bytes() == (source / "_schema.json").read_bytes()
        for item in read_json_lines(tmp_path / part / "images.lst"):
            name = item["image_info"]["file_name"]  # type: ignore[index]
            assert (tmp_path / part / name).read_bytes() == (source / name).read_bytes()
        load_image_directory(tmp_path / part).dump(str(tmp_path / f"{part}_again"))
        for file in ("images.lst", "_meta.yaml", "_samples.json", "_schema.json"):
            assert (tmp_path / f"{part}_again" / file).read_bytes() == (tmp_path / part / file).read_bytes()


def test_another_column_of_images_may_name_anything(tmp_path: Path) -> None:
    source = write_image_directory(tmp_path / "source", per_class=4)
    element = {"typeName": "bytes", "isNullable": False}
    kind = {"type": "Bytes", "isFeature": False, "elementType": element, "properties": {"image_ref": "small_info"}}
    edit_schema(source, lambda columns: columns.append({"name": "small", **kind}))

    def name_others(items: list[dict[str, Any]]) -> None:
        for item in items:
            infos = (item["image_info"], {"file_name": "../source/_schema.json"}, {"file_name": 5}, "small.png")
            item["small_info"] = infos[item["id"] % 4]

    edit_items(source, name_others)
    assert split(source, tmp_path, fraction=0.75) == 0
    items = read_json_lines(tmp_path / "first" / "images.lst")[:3]
    samples = json.loads((tmp_path / "first" / "_samples.json").read_text())
    assert len(samples) == 3
    for item, sample in zip(items, samples):
        assert sample["small"] == (sample["image"] if item["id"] % 4 == 0 else None)  # type: ignore[operator]
    assert any(item["id"] % 4 for item in items)  # type: ignore[operator]


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("counts", [(10, 10), (2, 50, 7), (3, 3, 3, 3), (1, 20)])
def test_each_class_is_split_by_the_fraction_and_is_in_both_outputs(counts: tuple[int, ...], fraction: float) -> None:
    labels = [f"class{number}" for number, count in enumerate(counts) for _ in range(count)]
    is_first = stratified_choice(labels, fraction, seed=1)
    chosen = Counter(label for label, is_in in zip(labels, is_first) if is_in)
    for number, count in enumerate(counts):
        share = chosen[f"class{number}"]
        assert abs(share - count * fraction) <= 1 or share in (1, count - 1)
        assert share > 0
        assert share < count or count == 1


def test_the_counts_are_those_of_scikit_learns_stratified_split() -> None:
    labels = [str(number % 7) for number in range(350)]
    is_first = stratified_choice(labels, 0.8, seed=5)
    first, _ = train_test_split(np.array(labels), train_size=0.8, random_state=0, stratify=labels)
    assert Counter(np.array(labels)[is_first]) == Counter(first)


def test_the_choice_is_the_seeds_alone() -> None:
    labels = [str(number % 3) for number in range(60)]
    assert np.array_equal(stratified_choice(labels, 0.5, seed=1), stratified_choice(labels, 0.5, seed=1))
    assert not np.array_equal(stratified_choice(labels, 0.5, seed=1), stratified_choice(labels, 0.5, seed=2))


def test_a_class_of_one_image_warns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folders = write_class_folders(tmp_path / "raw", ["a", "b"], per_class=4)
    for number in (1, 2, 3):
        (folders / "b" / f"{number}.png").unlink()
    assert split(folders, tmp_path, fraction=0.5) == 0
    assert "The second output has no image of 'b'." in capfd.readouterr().err


@pytest.mark.parametrize(("fraction", "count"), [(0, 5), (1, 5), (0.05, 5), (-1, 5), (float("nan"), 5)])
def test_a_fraction_that_leaves_a_part_empty_is_named(fraction: float, count: int, tmp_path: Path) -> None:
    folders = write_class_folders(tmp_path / "raw", ["a"], per_class=count)
    assert split(folders, tmp_path, fraction=fraction) == 1
    assert error_code(tmp_path / "outputs") == ("NotInRangeValue", 8)
    assert "[0.2, 0.8]" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "first").exists()


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    assert split(write_class_folders(tmp_path / "raw", ["a"], per_class=1), tmp_path, fraction=0.5) == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert "it has 1 images, but at least two are needed" in error_text(tmp_path / "outputs")


@pytest.mark.environment
def test_the_retired_module_splits_to_the_same_counts(tmp_path: Path) -> None:
    source = write_image_directory(tmp_path / "source", per_class=10)
    assert split(source, tmp_path, fraction=0.8) == 0
    run_retired_tool(
        environments.retired(),
        "computer_vision.preprocess.split_image_directory.split_image_directory",
        *("--src-path", source, "--tgt-train-path", tmp_path / "their_first"),
        *("--tgt-test-path", tmp_path / "their_second", "--fraction", 0.8),
    )
    for part in ("first", "second"):
        ours = read_json_lines(tmp_path / part / "images.lst")
        theirs = read_json_lines(tmp_path / f"their_{part}" / "images.lst")
        assert Counter(item["category"] for item in ours) == Counter(item["category"] for item in theirs)
        our_schema, their_schema = (tmp_path / name / "_schema.json" for name in (part, f"their_{part}"))
        assert our_schema.read_bytes() == their_schema.read_bytes()


def test_ten_classes_of_one_image_fill_both_parts(tmp_path: Path) -> None:
    folders = write_class_folders(tmp_path / "raw", [str(number) for number in range(10)], per_class=1)
    assert split(folders, tmp_path, fraction=0.5) == 0
    assert [len(read_json_lines(tmp_path / part / "images.lst")) for part in ("first", "second")] == [5, 5]


def test_a_file_that_is_gone_is_a_fault_of_the_input(tmp_path: Path) -> None:
    source = write_image_directory(tmp_path / "source", per_class=4)
    (source / "image" / "1_5.png").unlink()
    assert split(source, tmp_path, fraction=0.5) == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert "1_5.png" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "first").exists()


def test_a_name_that_leaves_the_directory_is_refused_in_a_coco_folder_too(tmp_path: Path) -> None:
    folders = write_class_folders(tmp_path / "elsewhere", ["a"], per_class=2)
    (tmp_path / "coco").mkdir()
    images = [{"id": "../../evil", "file_name": "../elsewhere/a/0.png"}, {"id": 1, "file_name": "../elsewhere/a/1.png"}]
    annotations = [{"id": 1, "image_id": 1, "category_id": 1}]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "coco" / "x.json").write_text(json.dumps(document))
    # designer-core itself would read the one and write the other.
    info = load_image_directory(tmp_path / "coco").image_list[0]["image_info"]
    assert (tmp_path / "coco" / info["base_file_name"]).resolve() == folders / "a" / "0.png"
    assert ".." in info["file_name"]
    transformation, target = tmp_path / "how", tmp_path / "changed"
    assert run_here("init-image-transformation", output_path=transformation, outputs_path=tmp_path / "outputs") == 0
    ports = {"input_image_transform_path": transformation, "input_image_dir_path": tmp_path / "coco"}
    assert run_here("apply-image-transformation", **ports, output_path=target, outputs_path=tmp_path / "outputs") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert "which leaves the directory" in error_text(tmp_path / "outputs")
    assert not list(tmp_path.rglob("evil*"))
