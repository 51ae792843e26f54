"""From the arguments of a companion to what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

    from train_pytorch_model.tracking import Tracking


def _initialize_model(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from train_pytorch_model.modules.initialize_model import initialize_model

    switches = ("memory_efficient", "zero_init_residual")
    initialize_model(
        arguments.model_name,
        arguments.untrained_model_path,
        arguments.outputs_path,
        weights="default" if arguments.pretrained and arguments.weights == "none" else arguments.weights,
        seed=arguments.random_seed,
        init_params={name: True for name in switches if getattr(arguments, name)},
    )


def _convert(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.modules.convert_to_image_directory import convert_to_image_directory

    convert_to_image_directory(
        arguments.input_path, arguments.output_path, arguments.outputs_path, ProgressDisplay(console)
    )


def _split(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.modules.split_image_directory import split_image_directory

    split_image_directory(
        arguments.src_path,
        arguments.tgt_train_path,
        arguments.tgt_test_path,
        arguments.outputs_path,
        fraction=arguments.fraction,
        seed=arguments.random_seed,
        display=ProgressDisplay(console),
    )


def _score(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.modules.score_image_model import Request, score_image_model

    request = Request(
        model_path=arguments.trained_model,
        data_path=arguments.dataset,
        scored_path=arguments.scored_dataset,
        outputs_path=arguments.outputs_path,
        precision=arguments.precision,
        batch_size=arguments.batch_size,
        skip_unreadable_images=arguments.skip_unreadable_images,
        trust_model_code=arguments.trust_model_code,
        write_csv=arguments.csv,
    )
    score_image_model(request, ProgressDisplay(console))


def _init_transformation(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from dataclasses import fields

    from train_pytorch_model.modules.init_image_transformation import Choices, init_image_transformation

    choices = Choices(**{item.name: getattr(arguments, item.name) for item in fields(Choices)})
    init_image_transformation(choices, arguments.output_path, arguments.outputs_path)


def _apply_transformation(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.modules.apply_image_transformation import apply_image_transformation

    apply_image_transformation(
        arguments.input_image_transform_path,
        arguments.input_image_dir_path,
        arguments.output_path,
        arguments.outputs_path,
        mode=arguments.mode,
        seed=arguments.random_seed,
        display=ProgressDisplay(console),
    )


def _evaluate(arguments: argparse.Namespace, console: Console, tracking: Tracking) -> None:
    from train_pytorch_model.modules.evaluate_model import evaluate_model

    evaluate_model(arguments.scored_dataset, arguments.evaluation_path, arguments.outputs_path, tracking)


COMPANIONS = {
    "convert-to-image-directory": _convert,
    "split-image-directory": _split,
    "init-image-transformation": _init_transformation,
    "apply-image-transformation": _apply_transformation,
    "initialize-model": _initialize_model,
    "score-image-model": _score,
    "evaluate-model": _evaluate,
}
