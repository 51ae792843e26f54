"""Calls a module with the arguments of its command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

    from train_pytorch_model.tracking import Tracking


def _initialize_model(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from train_pytorch_model.modules.initialize_model import initialize_model

    names = ("model_name", "untrained_model_path", "weights", "pretrained", "memory_efficient", "zero_init_residual")
    initialize_model(**_named(arguments, *names, "random_seed", "outputs_path"))


def _convert(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.modules.convert_to_image_directory import convert_to_image_directory

    names = ("input_path", "output_path", "outputs_path")
    convert_to_image_directory(**_named(arguments, *names), display=ProgressDisplay(console))


def _split(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.modules.split_image_directory import split_image_directory

    names = ("src_path", "tgt_train_path", "tgt_test_path", "fraction", "random_seed", "outputs_path")
    split_image_directory(**_named(arguments, *names), display=ProgressDisplay(console))


def _score(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.modules.score_image_model import score_image_model

    paths = ("trained_model", "dataset", "scored_dataset", "outputs_path")
    names = ("precision", "batch_size", "csv", "skip_unreadable_images", "trust_model_code")
    score_image_model(**_named(arguments, *paths, *names), display=ProgressDisplay(console))


def _init_transformation(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from dataclasses import fields

    from train_pytorch_model.modules.init_image_transformation import init_image_transformation
    from train_pytorch_model.modules.transform_options import TransformOptions

    options = TransformOptions(**_named(arguments, *(item.name for item in fields(TransformOptions))))
    init_image_transformation(options, **_named(arguments, "output_path", "outputs_path"))


def _apply_transformation(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.modules.apply_image_transformation import apply_image_transformation

    names = ("input_image_transform_path", "input_image_dir_path", "output_path", "mode", "random_seed", "outputs_path")
    apply_image_transformation(**_named(arguments, *names), display=ProgressDisplay(console))


def _evaluate(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from train_pytorch_model.modules.evaluate_model import evaluate_model

    evaluate_model(**_named(arguments, "scored_dataset", "evaluation_path", "outputs_path"), tracking=tracking)


def _named(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Arguments as keywords: the flags have the names of the parameters."""
    return {name: getattr(arguments, name) for name in names}


MODULES = {
    "convert-to-image-directory": _convert,
    "split-image-directory": _split,
    "init-image-transformation": _init_transformation,
    "apply-image-transformation": _apply_transformation,
    "initialize-model": _initialize_model,
    "score-image-model": _score,
    "evaluate-model": _evaluate,
}
