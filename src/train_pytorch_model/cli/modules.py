"""The command lines of the companions. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from train_pytorch_model.cli.flags import add_boolean, add_outputs_path, flag_of, parse_seed
from train_pytorch_model.modules.transform_options import TransformOptions


def add_companions(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add a command for each companion, in the order of a pipeline."""
    _add_convert(commands)
    _add_split(commands)
    _add_init_transformation(commands)
    _add_apply_transformation(commands)
    _add_initialize_model(commands)
    _add_score(commands)
    _add_evaluate(commands)


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:].rstrip("."),
        description=summary,
        epilog=f"Example: python -m train_pytorch_model {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "convert-to-image-directory",
        "Make an ImageDirectory of a folder or an archive of images.",
        "--input-path photos.zip --output-path image_directory",
    )
    parser.add_argument(
        "--input-path",
        type=Path,
        required=True,
        metavar="DIR|FILE",
        help="A folder, or a .zip, .tar, .tgz, .tar.gz, .tar.bz2, .gz or .bz2: one folder a class, or flat; "
        "labels may also come from a COCO .json, a data labeling export (.jsonl) or a .csv of file and label.",
    )
    parser.add_argument("--output-path", type=Path, required=True, metavar="DIR", help="ImageDirectory to write.")
    add_outputs_path(parser)


def _add_split(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "split-image-directory",
        "Split a labelled ImageDirectory into two, each with every class.",
        "--src-path images --tgt-train-path train --tgt-test-path test --fraction 0.9",
    )
    parser.add_argument("--src-path", type=Path, required=True, metavar="DIR", help="ImageDirectory to split.")
    parser.add_argument("--tgt-train-path", type=Path, required=True, metavar="DIR", help="First output.")
    parser.add_argument("--tgt-test-path", type=Path, required=True, metavar="DIR", help="Second output.")
    parser.add_argument(
        "--fraction",
        type=float,
        default=0.9,
        metavar="FLOAT",
        help="Share of the images of each class in the first output. Default: %(default)s.",
    )
    parser.add_argument(
        "--random-seed", type=int, default=42, metavar="INT", help="Seed of the choice. Default: %(default)s."
    )
    add_outputs_path(parser)


def _add_initialize_model(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "initialize-model",
        "Write an untrained classification network of torchvision or timm.",
        "--model-name densenet121 --untrained-model-path untrained_model --weights default",
    )
    parser.add_argument("--list", action=ListModels, help="Show the networks, and stop.")
    parser.add_argument("--model-name", required=True, metavar="NAME", help="See --list: resnet18, timm/vit_tiny_…")
    parser.add_argument("--untrained-model-path", type=Path, required=True, metavar="DIR", help="Folder to write.")
    parser.add_argument(
        "--weights",
        default="none",
        metavar="none|default|FILE|DIR",
        help="none: random; default: the library's best, downloaded; a file of weights; "
        "or a folder that holds the library's file. Default: %(default)s.",
    )
    add_boolean(parser, "pretrained", "The retired modules' way to say --weights default.")
    add_boolean(parser, "memory_efficient", "DenseNet: compute anew what would take memory.")
    add_boolean(parser, "zero_init_residual", "ResNet: begin with each block as the identity.")
    parser.add_argument(
        "--random-seed", type=parse_seed, default=1, metavar="INT", help="Seed of random weights. Default: %(default)s."
    )
    add_outputs_path(parser)


class ListModels(argparse.Action):
    """Prints the networks there are, as `--help` prints the flags."""

    def __init__(self, option_strings: list[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and stop."""
        from train_pytorch_model.modules.initialize_model import list_models  # heavy imports wait until asked for

        rows = list_models()
        width = max(len(row.name) for row in rows)
        lines = [f"{'name':{width}}{'parameters':>14}{'input':>8}{'top-1':>9}"]
        for name, count, side, accuracy in rows:
            shown = "" if count is None else f"{count:,}", "" if accuracy is None else f"{accuracy:.2f} %"
            lines.append(f"{name:{width}}{shown[0]:>14}{side:>8}{shown[1]:>9}".rstrip())
        sys.stdout.write("\n".join(lines) + "\n")
        parser.exit()


def _add_score(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "score-image-model",
        "Score images with a trained model.",
        "--trained-model trained_model --dataset test --scored-dataset scored --csv",
    )
    parser.add_argument("--trained-model", type=Path, required=True, metavar="DIR", help="ModelDirectory.")
    parser.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="ImageDirectory, labelled or not.")
    parser.add_argument("--scored-dataset", type=Path, required=True, metavar="DIR", help="Table to write.")
    parser.add_argument(
        "--precision",
        choices=("float32", "auto", "bfloat16", "float16"),
        default="float32",
        metavar="float32|auto|bfloat16|float16",
        help="What is computed in. Default: %(default)s.",
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="INT", help="Images in one batch. Default: %(default)s."
    )
    add_boolean(parser, "csv", "Write the table as _data.csv too.")
    add_boolean(parser, "skip_unreadable_images", "Give images that cannot be read a row with an error.")
    add_boolean(parser, "trust_model_code", "Let the model name any code to import.")
    add_outputs_path(parser)


def _add_init_transformation(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "init-image-transformation",
        "Choose what is to be done to images.",
        "--output-path transformation --resize True --size 256 --center-crop True --random-horizontal-flip True",
    )
    parser.add_argument(
        "--output-path", type=Path, required=True, metavar="DIR", help="TransformationDirectory to write."
    )
    for option in fields(TransformOptions):
        description = option.metadata["description"]
        if option.default is False:
            add_boolean(parser, option.name, description)
        else:
            parser.add_argument(
                flag_of(option.name),
                type=int,
                default=option.default,
                metavar="INT",
                help=f"{description} Default: %(default)s.",
            )
    add_outputs_path(parser)


def _add_apply_transformation(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "apply-image-transformation",
        "Change every image of an ImageDirectory.",
        '--mode "For training" --input-image-transform-path transformation --input-image-dir-path images '
        "--output-path changed",
    )
    parser.add_argument(
        "--mode",
        choices=("For training", "For inference"),
        default="For training",
        metavar='"For training"|"For inference"',
        help="For inference, random operations are left out. Default: %(default)s.",
    )
    parser.add_argument("--input-image-transform-path", type=Path, required=True, metavar="DIR", help="What to do.")
    parser.add_argument("--input-image-dir-path", type=Path, required=True, metavar="DIR", help="ImageDirectory.")
    parser.add_argument("--output-path", type=Path, required=True, metavar="DIR", help="ImageDirectory to write.")
    parser.add_argument(
        "--random-seed", type=int, default=1, metavar="INT", help="Seed of what is random. Default: %(default)s."
    )
    add_outputs_path(parser)


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands,
        "evaluate-model",
        "Write metrics and pictures about a scored dataset with true labels.",
        "--scored-dataset scored --evaluation-path evaluation",
    )
    parser.add_argument("--scored-dataset", type=Path, required=True, metavar="DIR", help="From score-image-model.")
    parser.add_argument("--evaluation-path", type=Path, required=True, metavar="DIR", help="Folder to write.")
    add_outputs_path(parser)
