"""Inputs that once broke a promise, as fuzzing printed them, each by what was wrong."""

from __future__ import annotations

from tests.fuzzing.recipes import Mutation, Recipe

FINDINGS = {
    "a device among raw images was read as annotations": Recipe(
        "train", (("train", "flat"),), mutations=(Mutation("device", "train/_samples.json"),)
    ),
    "a pipe in place of an image was copied": Recipe(
        "convert-to-image-directory", mutations=(Mutation("pipe", "train/*0"),)
    ),
    "a folder in place of the mark of an unfinished output": Recipe(
        "convert-to-image-directory", mutations=(Mutation("folder", "written/.unfinished-model"),)
    ),
    "an output whose name is too long": Recipe(
        "split-image-directory", flags=(("tgt-train-path", "{root}/" + "x" * 300),)
    ),
    "a folder of reports whose name is too long": Recipe("train", flags=(("outputs-path", "{root}/" + "y" * 300),)),
    "an input that is a link to itself": Recipe("train", mutations=(Mutation("link to itself", "train"),)),
    "labels that are one field": Recipe(
        "score-image-model", mutations=(Mutation("sparse", "model/index_to_label.csv", (2**20,)),)
    ),
    "a label for an output that no network has": Recipe(
        "train",
        (("model", "trained"),),
        mutations=(Mutation("content", "model/index_to_label.csv", (b",label\n99999999999,x\n",)),),
    ),
    "a column without a name": Recipe(
        "convert-to-image-directory", mutations=(Mutation("json", "train/_schema.json", ((0, 0, 0), "set", None)),)
    ),
    "a column with a list for its name": Recipe(
        "convert-to-image-directory", mutations=(Mutation("json", "train/_schema.json", ((0, 0, 0), "set", [])),)
    ),
    "a column whose properties are a list": Recipe(
        "train", mutations=(Mutation("json", "train/_schema.json", ((0, 0, 4), "set", [1])),)
    ),
    "a category that no file can hold": Recipe(
        "train",
        mutations=(
            Mutation("categories", "train/_schema.json", ([(0, "cat"), (1, "dog"), (2, "owl"), (3, "\ud800")],)),
            Mutation("categories", "valid/_schema.json", ([(0, "cat"), (1, "dog"), (2, "owl"), (3, "\ud800")],)),
        ),
    ),
    "a name that no file can have": Recipe(
        "convert-to-image-directory",
        mutations=(
            Mutation(
                "image info", "train/images.lst", (0, {"base_file_name": "image/0_0.png", "file_name": "\ud800.png"})
            ),
        ),
    ),
    "a file that is only read by its other name": Recipe(
        "convert-to-image-directory",
        mutations=(
            Mutation("image info", "train/images.lst", (0, {"base_file_name": "image/0_0.png", "file_name": None})),
        ),
    ),
    "a device in place of operations": Recipe(
        "apply-image-transformation", mutations=(Mutation("device", "transformation/_transforms.json"),)
    ),
    "a report of an earlier run": Recipe("train", mutations=(Mutation("content", "outputs/metrics.jsonl", (b"",)),)),
    "an output that is a link to nothing": Recipe(
        "split-image-directory", mutations=(Mutation("dangling link", "written"),)
    ),
    "a list of images left out, for a folder of reports that is a link to nothing": Recipe(
        "train",
        flags=(("skip-unreadable-images", "true"),),
        mutations=(Mutation("truncate", "train/*0", (0.0,)), Mutation("dangling link", "outputs")),
    ),
    "an output whose name is no UTF-8": Recipe("score-image-model", flags=(("scored-dataset", "{root}/\udc80"),)),
    "a file of gigabytes that is copied": Recipe(
        "convert-to-image-directory", mutations=(Mutation("sparse", "train/*0", (2**32 + 1,)),)
    ),
    "weights without a counter of batches": Recipe(
        "score-image-model", mutations=(Mutation("weights", "model/model", ("drop", 5)),)
    ),
    "values that cannot be written as a column of a table": Recipe(
        "score-image-model", mutations=(Mutation("line", "valid/images.lst", (0, (1,), "set", [])),)
    ),
    "a check whose folder of reports has too long a name": Recipe(
        "check", flags=(("outputs-path", "{root}/" + "y" * 300),)
    ),
    "a device in the code of a pipeline's step": Recipe(
        "run-pipeline", mutations=(Mutation("device", "pipeline/.amlignore"),)
    ),
    "a device in place of a component": Recipe("run-pipeline", mutations=(Mutation("device", "pipeline/first.yml"),)),
    "a component that is a link to itself": Recipe(
        "run-pipeline", mutations=(Mutation("link to itself", "pipeline/first.yml"),)
    ),
    "the input of a pipeline that is a link to itself": Recipe(
        "run-pipeline", mutations=(Mutation("link to itself", "pipeline/images"),)
    ),
    "the output of a pipeline that is a link to itself": Recipe(
        "run-pipeline", mutations=(Mutation("link to itself", "written"),)
    ),
    "an image that convert copied and train refused": Recipe(
        "sequence", mutations=(Mutation("content", "train/*0", (b"",)),)
    ),
}
