"""The valid inputs that fuzzing starts from, written once by the project's own commands and by designer-core."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torchvision.models.densenet import DenseNet

from tests.fuzzing.recipes import COMMANDS, Recipe
from tests.making import ROOT, write_class_folders, write_image_directory
from tests.pipelines import FOLDER, component, pipeline
from tests.untrained_models import RETIRED, Wrapper, write
from train_pytorch_model.ports.image_directory import ImageDirectoryWriter, make_schema
from train_pytorch_model.ports.transformation import write_transformation

DEFAULTS = {
    **{"model": "tiny", "train": "train", "valid": "valid", "transformation": "transformation", "scored": "scored"},
    **{"pipeline": "commands", "trained": "trained"},
}
DATASETS = ("train", "valid", "folders", "flat", "unlabelled", "zip", "tar")
PIPELINES = ("commands", "components")
MODELS = ("tiny", "shufflenet", "squeezenet", "retired", "trained")
# A network of torchvision that is built in milliseconds.
TINY = {"growth_rate": 4, "block_config": [1, 1], "num_init_features": 8, "bn_size": 2, "num_classes": 5}
CANARY = "canary.png"


def make_bases(folder: Path, run: Callable[[Recipe, Path], object]) -> None:
    """Write all bases.

    Args:
        folder: to write them into.
        run: runs a recipe in a folder of its own, in a child, as this process must not start the threads of a training.
    """
    write_image_directory(folder / "train", per_class=4)
    write_image_directory(folder / "valid", per_class=2, seed=1)
    write_class_folders(folder / "folders", per_class=3)
    shutil.copytree(folder / "folders" / "cat", folder / "flat")
    _write_unlabelled(folder / "unlabelled", folder / "flat")
    _pack(folder)
    (folder / "transformation").mkdir()
    write_transformation(folder / "transformation", [("Resize", {"size": 24}), ("RandomHorizontalFlip", {})])
    torch.manual_seed(0)
    write(folder / "tiny", DenseNet(**TINY), "torchvision.models.densenet", "DenseNet", TINY)
    for name, network in (("shufflenet", "shufflenet_v2_x0_5"), ("squeezenet", "squeezenet1_1")):
        init_params = {"num_classes": 3}
        write(
            folder / name,
            torchvision.models.get_model(network, **init_params),
            "torchvision.models",
            network,
            init_params,
        )
    # As the retired modules wrote it, of a network smaller than any that they knew.
    retired = Wrapper(torchvision.models.shufflenet_v2_x0_5(num_classes=3))
    init_params = {"model_name": "shufflenet_v2_x0_5", "pretrained": False, "num_classes": 3}
    write(folder / "retired", retired, f"{RETIRED}.resnet", "ResNet", init_params)
    _write_pipelines(folder)
    for command, name in (("train", "trained"), ("score-image-model", "scored")):
        root = folder / "running"
        put_bases(Recipe(command), folder, root)
        run(Recipe(command), root)
        shutil.move(root / "written", folder / name)
        shutil.rmtree(root)


def put_bases(recipe: Recipe, folder: Path, root: Path) -> None:
    """Copy what a recipe begins with into the folder of its run, beside a canary that names may climb to."""
    root.mkdir()
    own = {"score-image-model": {"model": "trained"}, "initialize-model": {"model": "shufflenet"}}
    chosen = {**DEFAULTS, **own.get(recipe.command, {})}
    chosen.update(recipe.bases)
    for _, place in COMMANDS[recipe.command].inputs:
        name = place.partition("/")[0]
        if name in chosen:
            shutil.copytree(folder / chosen[name], root / name)
    outside = root / "outside"
    outside.mkdir()
    for path in (root / CANARY, outside / CANARY):
        shutil.copy(folder / "flat" / "0.png", path)
    (root / "tmp").mkdir()
    (root / "cwd").mkdir()


def _write_pipelines(folder: Path) -> None:
    """Two pipelines: one whose steps are over at once, and one with components of this repository."""
    images = {"type": "uri_folder", "path": "./images"}
    commands = folder / "commands"
    first, second = (
        "cp -r ${{inputs.images}} ${{outputs.copy}}/images",
        "ls ${{inputs.images}} > ${{outputs.names}}/names",
    )
    component(commands / "first.yml", first, {"images": FOLDER, "times": {"type": "integer", "default": 1}}, ["copy"])
    component(commands / "second.yml", second, {"images": FOLDER}, ["names"], code=".")
    one = {"type": "command", "component": "./first.yml", "inputs": {"images": "${{parent.inputs.images}}"}}
    two = {
        **{"type": "command", "component": "./second.yml"},
        **{
            "inputs": {"images": "${{parent.jobs.one.outputs.copy}}"},
            "outputs": {"names": "${{parent.outputs.names}}"},
        },
    }
    pipeline(commands / "pipeline.yml", {"one": one, "two": two}, inputs={"images": images}, outputs={"names": FOLDER})
    components = folder / "components"
    jobs = {}
    source = "${{parent.inputs.images}}"
    for name, port in (("convert-to-image-directory", "input_path"), ("split-image-directory", "src_path")):
        file = components / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        text = (ROOT / "components" / name / "component.yaml").read_text(encoding="utf-8")
        text = text.replace("code: ../../src", "code: src").replace("path: ../../environment", "path: environment")
        file.write_text(text, encoding="utf-8")
        jobs[name[:5]] = {"type": "command", "component": f"./{file.name}", "inputs": {port: source}}
        source = "${{parent.jobs.conve.outputs.output_path}}"
    jobs["split"]["inputs"]["fraction"] = 0.5
    pipeline(components / "pipeline.yml", jobs, inputs={"images": images})
    for path in (commands, components):
        shutil.copytree(folder / "folders", path / "images")
    (components / "src" / "train_pytorch_model").mkdir(parents=True)
    shutil.copytree(ROOT / "environment", components / "environment")


def _write_unlabelled(path: Path, images: Path) -> None:
    shutil.copytree(images, path / "image")
    with ImageDirectoryWriter(path, make_schema(None)) as writer:
        for number, file in enumerate(sorted((path / "image").iterdir())):
            writer.add({"image_info": {"file_name": f"image/{file.name}"}, "id": number})


def _pack(folder: Path) -> None:
    for name in ("zip", "tar"):
        (folder / name).mkdir()
    files = [file for file in sorted((folder / "folders").rglob("*")) if file.is_file()]
    with zipfile.ZipFile(folder / "zip" / "images.zip", "w") as packed:
        for file in files:
            packed.write(file, file.relative_to(folder / "folders"))
    with tarfile.open(folder / "tar" / "images.tar.gz", "w:gz") as packed:
        for file in files:
            packed.add(file, file.relative_to(folder / "folders"))
