"""The Python API: one function for each command, whose keyword names are the flags' names.

Each function does what the command of its name does, raises the same named errors (`ModuleError`) and returns a
result. Nothing that a call changes in the process outlives it: logging, warnings filters, random number generators,
thread counts and PyTorch's settings are restored, and no signal handler is installed. Importing this module is quick;
PyTorch is imported when a function is called.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from train_pytorch_model.parameters import TrainingParameters, parse_boolean, parse_export_formats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from train_pytorch_model.job.result import TrainingResult
    from train_pytorch_model.job.settings import Settings
    from train_pytorch_model.modules.convert_to_image_directory import ConvertedImages
    from train_pytorch_model.modules.cross_validate import CrossValidation
    from train_pytorch_model.modules.initialize_model import InitializedModel
    from train_pytorch_model.modules.split_image_directory import SplitImages
    from train_pytorch_model.preflight.result import CheckResult
    from train_pytorch_model.session import Session

PathLike = Union[str, "os.PathLike[str]"]


def train(
    untrained_model_path: PathLike,
    train_data_path: PathLike,
    valid_data_path: PathLike,
    trained_model_path: PathLike,
    *,
    epochs: Union[int, str] = "auto",
    batch_size: Union[int, str] = "auto",
    learning_rate: Union[float, str] = "auto",
    random_seed: Optional[int] = 1,
    patience: Union[int, str] = "auto",
    warmup_epochs: Union[float, str] = "auto",
    scale_learning_rate: bool = True,
    sync_batch_norm: bool = False,
    image_store: str = "auto",
    precision: str = "auto",
    validation_precision: str = "float32",
    cuda_graph: str = "auto",
    microbatch_size: Union[int, str] = "off",
    resume: str = "auto",
    checkpoint_minutes: float = 10.0,
    print_frequency: int = 10,
    report: str = "auto",
    recipe: str = "auto",
    image_size: Union[int, str] = "auto",
    resize: str = "auto",
    class_weights: str = "auto",
    metric_for_best_model: str = "auto",
    early_stopping_delay: Union[int, str] = "auto",
    test_time_augmentation: str = "none",
    calibration: str = "auto",
    optimizer: str = "auto",
    momentum: Union[float, str] = "auto",
    weight_decay: Union[float, str] = "auto",
    lr_schedule: str = "auto",
    head_learning_rate_factor: Union[float, str] = "auto",
    layer_decay: Union[float, str] = "auto",
    layers_to_freeze: Union[int, str] = "auto",
    freeze_epochs: Union[int, str] = "auto",
    label_smoothing: Union[float, str] = "auto",
    auto_augment: str = "auto",
    horizontal_flip: str = "auto",
    color_augment: str = "auto",
    random_erase: Union[float, str] = "auto",
    mixup_alpha: Union[float, str] = "auto",
    cutmix_alpha: Union[float, str] = "auto",
    model_ema: Union[float, str] = "auto",
    clip_grad_norm: Union[float, str] = "auto",
    skip_unreadable_images: bool = False,
    follow_links: bool = False,
    trust_model_code: bool = False,
    checkpoint_path: Optional[PathLike] = None,
    outputs_path: PathLike = "outputs",
    export: Sequence[str] = (),
    include_samples: bool = False,
    _session: Optional[Session] = None,
) -> TrainingResult:
    """Train an image classifier and write it as a ModelDirectory for Score Image Model.

    The parameters are those of `train-pytorch-model train`; docs/parameters.md describes each of them.

    Args:
        untrained_model_path: an UntrainedModelDirectory, or a trained ModelDirectory to train further.
        train_data_path: the training dataset, an ImageDirectory or a folder with one subfolder per class.
        valid_data_path: the validation dataset, likewise, with the same classes.
        trained_model_path: the folder to write the trained model to.
        epochs: number of passes over the training dataset, > 0. "auto", here and below, leaves a value to the recipe.
        batch_size: number of training images in one batch of each process, > 0, or "auto".
        learning_rate: highest learning rate, in [5e-324, 3.4e38], or "auto".
        random_seed: the same seed gives the same model; None draws a new seed.
        patience: number of consecutive epochs without a new lowest validation loss after which training stops, > 0, or
            "auto".
        warmup_epochs: number of epochs over which the learning rate increases, >= 0, or "auto".
        scale_learning_rate: whether to multiply the learning rate by the number of processes.
        sync_batch_norm: whether to compute batch normalization over all processes; requires GPUs.
        image_store: where to keep decoded images: "auto", "device", "memory", "disk" or "none".
        precision: of training steps: "auto", "float32", "bfloat16" or "float16".
        validation_precision: of the validation of each epoch: "float32", "tf32" or "bfloat16".
        cuda_graph: whether to replay steps as one CUDA graph: "auto", "on" or "off".
        microbatch_size: "off", "auto" or a number of images; batches are split into microbatches of that size.
        resume: from the newest checkpoint: "auto", "never" or "require".
        checkpoint_minutes: between two checkpoints within an epoch, >= 0.
        print_frequency: iterations between two progress lines, > 0.
        report: content of the report: "auto", "off", "basic" or "full".
        recipe: "auto", "classic", "finetune", "scratch" or "large".
        image_size: height and width of the images that the network sees: a number, "HEIGHTxWIDTH" or "auto".
        resize: how images get that size: "crop", "pad" or "stretch"; "auto" is the way of a trained model or
            of the weights, else crop.
        class_weights: weights of the classes in the loss: "auto", "none", "sqrt" or "balanced".
        metric_for_best_model: "auto", "accuracy", "balanced_accuracy", "average_precision", "micro_f1", "macro_f1" or
            "loss" on the validation images.
        early_stopping_delay: number of epochs at the start that patience does not count, >= 0, or "auto".
        test_time_augmentation: "none", or "flip" to average the probabilities of each image and of its mirror image.
        calibration: whether to make probabilities as sure as the model is right on the validation images: "auto" or
            "off". "auto" does so unless the recipe is classic.
        optimizer: "auto", "sgd" or "adamw".
        momentum: of SGD, in [0, 1], or "auto".
        weight_decay: >= 0, or "auto".
        lr_schedule: "auto", "polynomial", "cosine" or "constant".
        head_learning_rate_factor: learning rate of the head relative to that of the other layers, >= 0, or "auto".
        layer_decay: learning rate of a stage relative to that of the next one, in (0, 1], "off" or "auto".
        layers_to_freeze: number of stages, from the input, whose weights stay as they are, >= 0, or "auto".
        freeze_epochs: number of epochs at the start that train the head alone, >= 0, or "auto".
        label_smoothing: part of the label that is spread over all classes, in [0, 1], or "auto".
        auto_augment: random changes of training images: "auto", "none", "flip", "crop" or "trivialaugment".
        horizontal_flip: whether augmentation mirrors images: "auto", "on" or "off".
        color_augment: whether "trivialaugment" may change colors: "auto", "on" or "off".
        random_erase: probability that a box of a training image is erased, in [0, 1], or "auto".
        mixup_alpha: blends training images; parameter of the beta distribution, >= 0, 0 for off, or "auto".
        cutmix_alpha: replaces boxes by those of other images; likewise.
        model_ema: decay of the moving average of the weights, in [0, 1], "off" or "auto".
        clip_grad_norm: largest norm of the gradient, >= 0, "off" or "auto".
        skip_unreadable_images: whether to skip images that cannot be read.
        follow_links: whether to follow links to files and folders outside of a folder of images.
        trust_model_code: whether the untrained model may import any code.
        checkpoint_path: folder for checkpoints; `checkpoints` in `outputs_path` if None.
        outputs_path: folder for metrics and the report.
        export: further formats to write the model in: "mlflow", "onnx".
        include_samples: whether to store three training images in the model.

    Returns:
        The history, the best epoch, and the paths of the model, the report and the metrics.

    Raises:
        ModuleError: for any fault of the inputs, the parameters or the run.

    Examples:
        >>> import train_pytorch_model as tpm
        >>> result = tpm.train("untrained", "train", "valid", "trained", epochs=2, batch_size=4)
        >>> list(result.to_dataframe()["epoch"])
        [1, 2]
        >>> result.trained_model_path.name
        'trained'
    """
    given = dict(locals())
    from train_pytorch_model.job.run import train as run_training
    from train_pytorch_model.session import in_caller

    with in_caller(_session, is_distributed=True) as session:
        return run_training(_settings(given), session)


def check(
    untrained_model_path: PathLike,
    train_data_path: PathLike,
    valid_data_path: PathLike,
    trained_model_path: PathLike,
    *,
    epochs: Union[int, str] = "auto",
    batch_size: Union[int, str] = "auto",
    learning_rate: Union[float, str] = "auto",
    random_seed: Optional[int] = 1,
    patience: Union[int, str] = "auto",
    warmup_epochs: Union[float, str] = "auto",
    scale_learning_rate: bool = True,
    sync_batch_norm: bool = False,
    image_store: str = "auto",
    precision: str = "auto",
    validation_precision: str = "float32",
    cuda_graph: str = "auto",
    microbatch_size: Union[int, str] = "off",
    resume: str = "auto",
    checkpoint_minutes: float = 10.0,
    print_frequency: int = 10,
    report: str = "auto",
    recipe: str = "auto",
    image_size: Union[int, str] = "auto",
    resize: str = "auto",
    class_weights: str = "auto",
    metric_for_best_model: str = "auto",
    early_stopping_delay: Union[int, str] = "auto",
    test_time_augmentation: str = "none",
    calibration: str = "auto",
    optimizer: str = "auto",
    momentum: Union[float, str] = "auto",
    weight_decay: Union[float, str] = "auto",
    lr_schedule: str = "auto",
    head_learning_rate_factor: Union[float, str] = "auto",
    layer_decay: Union[float, str] = "auto",
    layers_to_freeze: Union[int, str] = "auto",
    freeze_epochs: Union[int, str] = "auto",
    label_smoothing: Union[float, str] = "auto",
    auto_augment: str = "auto",
    horizontal_flip: str = "auto",
    color_augment: str = "auto",
    random_erase: Union[float, str] = "auto",
    mixup_alpha: Union[float, str] = "auto",
    cutmix_alpha: Union[float, str] = "auto",
    model_ema: Union[float, str] = "auto",
    clip_grad_norm: Union[float, str] = "auto",
    skip_unreadable_images: bool = False,
    follow_links: bool = False,
    trust_model_code: bool = False,
    checkpoint_path: Optional[PathLike] = None,
    outputs_path: PathLike = "outputs",
    export: Sequence[str] = (),
    include_samples: bool = False,
    _session: Optional[Session] = None,
) -> CheckResult:
    """Check the inputs, the settings and the memory of a training run, and write nothing.

    Takes the arguments of `train`.

    Returns:
        The problems that would end the run, the warnings, and what the run would use.

    Raises:
        ModuleError: if the check itself cannot be done. Problems of the run are returned.

    Examples:
        >>> import train_pytorch_model as tpm
        >>> result = tpm.check("untrained", "train", "valid", "trained", batch_size=4)
        >>> result.problems
        ()
        >>> result.classes
        ('cat', 'dog')
    """
    given = dict(locals())
    from train_pytorch_model.preflight.command import check as run_check
    from train_pytorch_model.session import in_caller

    with in_caller(_session, is_tracked=False) as session:
        return run_check(_settings(given), session.console)


def _settings(given: dict[str, Any]) -> Settings:
    """The settings of a training run from the arguments of `train`."""
    from train_pytorch_model.job.settings import Settings

    parameters = TrainingParameters.parse({name: given[name] for name in TrainingParameters.definitions()})
    names = ("skip_unreadable_images", "follow_links", "trust_model_code", "include_samples")
    switches: dict[str, Any] = {name: parse_boolean(name, given[name]) for name in names}
    outputs_path = Path(given["outputs_path"])
    checkpoint_path = given["checkpoint_path"]
    return Settings(
        untrained_model_path=Path(given["untrained_model_path"]),
        train_data_path=Path(given["train_data_path"]),
        valid_data_path=Path(given["valid_data_path"]),
        trained_model_path=Path(given["trained_model_path"]),
        outputs_path=outputs_path,
        parameters=parameters,
        seed=parameters.seed(),
        export_formats=parse_export_formats(given["export"]),
        **switches,
        checkpoint_path=outputs_path / "checkpoints" if checkpoint_path is None else Path(checkpoint_path),
    )


def cross_validate(
    untrained_model_path: PathLike,
    data_path: PathLike,
    cross_validation_path: PathLike,
    scored_dataset: PathLike,
    *,
    folds: int = 5,
    groups_path: Optional[PathLike] = None,
    group_column: Optional[str] = None,
    head_only: bool = False,
    folds_path: Optional[PathLike] = None,
    epochs: Union[int, str] = "auto",
    batch_size: Union[int, str] = "auto",
    learning_rate: Union[float, str] = "auto",
    random_seed: Optional[int] = 1,
    patience: Union[int, str] = "auto",
    warmup_epochs: Union[float, str] = "auto",
    scale_learning_rate: bool = True,
    sync_batch_norm: bool = False,
    image_store: str = "auto",
    precision: str = "auto",
    validation_precision: str = "float32",
    cuda_graph: str = "auto",
    microbatch_size: Union[int, str] = "off",
    resume: str = "auto",
    checkpoint_minutes: float = 10.0,
    print_frequency: int = 10,
    report: str = "auto",
    recipe: str = "auto",
    image_size: Union[int, str] = "auto",
    resize: str = "auto",
    class_weights: str = "auto",
    metric_for_best_model: str = "auto",
    early_stopping_delay: Union[int, str] = "auto",
    test_time_augmentation: str = "none",
    calibration: str = "auto",
    optimizer: str = "auto",
    momentum: Union[float, str] = "auto",
    weight_decay: Union[float, str] = "auto",
    lr_schedule: str = "auto",
    head_learning_rate_factor: Union[float, str] = "auto",
    layer_decay: Union[float, str] = "auto",
    layers_to_freeze: Union[int, str] = "auto",
    freeze_epochs: Union[int, str] = "auto",
    label_smoothing: Union[float, str] = "auto",
    auto_augment: str = "auto",
    horizontal_flip: str = "auto",
    color_augment: str = "auto",
    random_erase: Union[float, str] = "auto",
    mixup_alpha: Union[float, str] = "auto",
    cutmix_alpha: Union[float, str] = "auto",
    model_ema: Union[float, str] = "auto",
    clip_grad_norm: Union[float, str] = "auto",
    skip_unreadable_images: bool = False,
    trust_model_code: bool = False,
    outputs_path: PathLike = "outputs",
    _session: Optional[Session] = None,
) -> CrossValidation:
    """Train once per fold of a dataset, and predict each image with the model that was not trained on it.

    Every further keyword is one of `train`, and concerns the training run of each fold.

    Args:
        untrained_model_path: an UntrainedModelDirectory, or a trained ModelDirectory to train further.
        data_path: the labelled images, an ImageDirectory or a folder with one subfolder per class.
        cross_validation_path: the folder to write the metrics to.
        scored_dataset: the folder to write the out-of-fold predictions to, as `score` writes them.
        folds: number of folds, >= 2.
        groups_path: a file with the group of each image, such as a patient; the images of a group are in one fold.
        group_column: the title of the column of groups; None for the only one besides that of the images.
        head_only: whether to fit only the head on the features of pretrained weights.
        folds_path: the folder of the models and metrics of the folds, where a run that was ended goes on; `folds` in
            `outputs_path` if None.
        epochs: number of passes over the training dataset, > 0. "auto", here and below, leaves a value to the recipe.
        batch_size: number of training images in one batch of each process, > 0, or "auto".
        learning_rate: highest learning rate, in [5e-324, 3.4e38], or "auto".
        random_seed: the same seed gives the same folds and models; None draws a new seed.
        patience: number of consecutive epochs without a new lowest validation loss after which training stops, > 0, or
            "auto".
        warmup_epochs: number of epochs over which the learning rate increases, >= 0, or "auto".
        scale_learning_rate: whether to multiply the learning rate by the number of processes.
        sync_batch_norm: whether to compute batch normalization over all processes; requires GPUs.
        image_store: where to keep decoded images: "auto", "device", "memory", "disk" or "none".
        precision: of training steps: "auto", "float32", "bfloat16" or "float16".
        validation_precision: of the validation of each epoch: "float32", "tf32" or "bfloat16".
        cuda_graph: whether to replay steps as one CUDA graph: "auto", "on" or "off".
        microbatch_size: "off", "auto" or a number of images; batches are split into microbatches of that size.
        resume: with the finished folds in `folds_path`: "auto", "never" or "require".
        checkpoint_minutes: between two checkpoints within an epoch, >= 0.
        print_frequency: iterations between two progress lines, > 0.
        report: content of the report of each fold: "auto" and "off" for none, "basic" or "full".
        recipe: "auto", "classic", "finetune", "scratch" or "large".
        image_size: height and width of the images that the network sees: a number, "HEIGHTxWIDTH" or "auto".
        resize: how images get that size: "crop", "pad" or "stretch"; "auto" is the way of a trained model or
            of the weights, else crop.
        class_weights: weights of the classes in the loss: "auto", "none", "sqrt" or "balanced".
        metric_for_best_model: "auto", "accuracy", "balanced_accuracy", "average_precision", "micro_f1", "macro_f1" or
            "loss" on the validation images.
        early_stopping_delay: number of epochs at the start that patience does not count, >= 0, or "auto".
        test_time_augmentation: "none", or "flip" to average the probabilities of each image and of its mirror image.
        calibration: whether to make probabilities as sure as the model is right on the validation images: "auto" or
            "off". "auto" does so unless the recipe is classic.
        optimizer: "auto", "sgd" or "adamw".
        momentum: of SGD, in [0, 1], or "auto".
        weight_decay: >= 0, or "auto".
        lr_schedule: "auto", "polynomial", "cosine" or "constant".
        head_learning_rate_factor: learning rate of the head relative to that of the other layers, >= 0, or "auto".
        layer_decay: learning rate of a stage relative to that of the next one, in (0, 1], "off" or "auto".
        layers_to_freeze: number of stages, from the input, whose weights stay as they are, >= 0, or "auto".
        freeze_epochs: number of epochs at the start that train the head alone, >= 0, or "auto".
        label_smoothing: part of the label that is spread over all classes, in [0, 1], or "auto".
        auto_augment: random changes of training images: "auto", "none", "flip", "crop" or "trivialaugment".
        horizontal_flip: whether augmentation mirrors images: "auto", "on" or "off".
        color_augment: whether "trivialaugment" may change colors: "auto", "on" or "off".
        random_erase: probability that a box of a training image is erased, in [0, 1], or "auto".
        mixup_alpha: blends training images; parameter of the beta distribution, >= 0, 0 for off, or "auto".
        cutmix_alpha: replaces boxes by those of other images; likewise.
        model_ema: decay of the moving average of the weights, in [0, 1], "off" or "auto".
        clip_grad_norm: largest norm of the gradient, >= 0, "off" or "auto".
        skip_unreadable_images: whether to skip images that cannot be read.
        trust_model_code: whether the untrained model may import any code.
        outputs_path: folder of reports.

    Returns:
        The mean and the standard deviation of each metric, and the results of each fold.

    Raises:
        ModuleError: for any fault of the inputs, the parameters or a training run, and if there are fewer images of a
            class, or fewer groups, than folds.

    Examples:
        >>> import train_pytorch_model as tpm
        >>> result = tpm.cross_validate(
        ...     "untrained", "images", "cross_validation", "predictions", folds=3, epochs=1, batch_size=4
        ... )
        >>> len(result.metrics["accuracy"]["folds"])
        3
        >>> tpm.evaluate("predictions", "evaluation_of_all")["num_images"]
        24
    """
    given = dict(locals())
    from train_pytorch_model.modules import cross_validate as module

    with _in_module(_session, outputs_path) as (session, outputs):
        settings = module.CrossValidationSettings(
            untrained_model_path=Path(untrained_model_path),
            data_path=Path(data_path),
            cross_validation_path=Path(cross_validation_path),
            scored_dataset=Path(scored_dataset),
            folds_path=outputs / "folds" if folds_path is None else Path(folds_path),
            outputs_path=outputs,
            parameters=TrainingParameters.parse({name: given[name] for name in TrainingParameters.definitions()}),
            folds=folds,
            groups_path=None if groups_path is None else Path(groups_path),
            group_column=group_column,
            head_only=parse_boolean("head_only", head_only),
            skip_unreadable_images=parse_boolean("skip_unreadable_images", skip_unreadable_images),
            trust_model_code=parse_boolean("trust_model_code", trust_model_code),
        )
        return module.cross_validate(settings, session)


def initialize_model(
    model_name: str,
    untrained_model_path: PathLike,
    *,
    weights: str = "none",
    weights_mean: Union[str, float, Sequence[float], None] = None,
    weights_std: Union[str, float, Sequence[float], None] = None,
    pretrained: bool = False,
    memory_efficient: bool = False,
    zero_init_residual: bool = False,
    random_seed: Optional[int] = 1,
    outputs_path: PathLike = "outputs",
    _session: Optional[Session] = None,
) -> InitializedModel:
    """Write an untrained classification network of torchvision or timm.

    Args:
        model_name: a name such as "resnet18" or "timm/vit_tiny_patch16_224".
        untrained_model_path: the folder to write.
        weights: "none" for random weights, "default" for the library's best, a file of weights, or a folder that
            contains the library's file.
        weights_mean: the mean of the pixels, between 0 and 1, that the weights were made for: a number, or three for
            red, green and blue. By default, that of the library's weights.
        weights_std: the standard deviation of these pixels.
        pretrained: the retired modules' name for `weights="default"`.
        memory_efficient: DenseNet: recompute activations instead of storing them.
        zero_init_residual: ResNet: start each residual block as the identity.
        random_seed: seed of random weights; None for different ones each time.
        outputs_path: folder of reports.

    Returns:
        The folder, the name of the model and its number of parameters.

    Raises:
        ModuleError: if the name is unknown, the weights do not fit or cannot be fetched, or the folder cannot be
            written.

    Examples:
        >>> import train_pytorch_model as tpm
        >>> tpm.initialize_model("squeezenet1_1", "untrained").num_parameters
        1235496
    """
    from train_pytorch_model.modules import initialize_model as module

    with _in_module(_session, outputs_path) as (_, outputs):
        return module.initialize_model(
            model_name,
            Path(untrained_model_path),
            weights=weights,
            weights_mean=weights_mean,
            weights_std=weights_std,
            pretrained=pretrained,
            memory_efficient=memory_efficient,
            zero_init_residual=zero_init_residual,
            random_seed=random_seed,
            outputs_path=outputs,
        )


def convert_to_image_directory(
    input_path: PathLike,
    output_path: PathLike,
    *,
    split: Optional[str] = None,
    allow_partial: bool = False,
    skip_unreadable_images: bool = False,
    follow_links: bool = False,
    class_level: Optional[int] = None,
    archive_encoding: Optional[str] = None,
    task: str = "auto",
    label_separator: Optional[str] = None,
    outputs_path: PathLike = "outputs",
    _session: Optional[Session] = None,
) -> ConvertedImages:
    """Write the images of a folder or an archive as an ImageDirectory. The input is only read.

    Args:
        input_path: a folder or an archive of images, with one folder per class or a file of labels.
        output_path: the ImageDirectory to write.
        split: the only split to convert, such as "train"; None for all.
        allow_partial: convert what can be used, even if more than a tenth of the images, a class or a file of labels
            is left out.
        skip_unreadable_images: leave out any number of unreadable images, not only up to a tenth.
        follow_links: follow links to files and folders outside of the input.
        class_level: which folder on the path of an image is its class, 1 for the first below the input, -1 for the
            folder that the image is in; None for the first level with several folders.
        archive_encoding: the encoding of names in an archive that are neither marked as Unicode nor UTF-8, such as
            "cp932"; None if such names are an error.
        task: "multiclass" if an image has one label, "multilabel" if it may have several; "auto" if the labels tell.
        label_separator: what separates the labels of an image in a text, such as ";", or a word such as "blank"; None
            for a semicolon or a vertical bar, if the labels tell.
        outputs_path: folder of reports.

    Returns:
        The number of images, the classes, the skipped files, the files of labels and the task.

    Raises:
        ModuleError: if there is no image that can be converted, too much would be left out, a file of labels cannot be
            used, or the output cannot be written.

    Examples:
        >>> import train_pytorch_model as tpm
        >>> converted = tpm.convert_to_image_directory("photos", "images")
        >>> converted.num_images, converted.classes
        (24, ('cat', 'dog'))
    """
    from train_pytorch_model.modules import convert_to_image_directory as module
    from train_pytorch_model.modules.conversion_options import ConversionOptions

    with _in_module(_session, outputs_path) as (session, outputs):
        options = ConversionOptions(
            split=split,
            allow_partial=allow_partial,
            skip_unreadable_images=skip_unreadable_images,
            follow_links=follow_links,
            class_level=class_level,
            archive_encoding=archive_encoding,
            task=task,
            label_separator=label_separator,
        )
        return module.convert_to_image_directory(
            Path(input_path), Path(output_path), options=options, outputs_path=outputs, display=session.display
        )


def split_image_directory(
    src_path: PathLike,
    tgt_train_path: PathLike,
    tgt_test_path: PathLike,
    *,
    fraction: float = 0.9,
    random_seed: int = 42,
    outputs_path: PathLike = "outputs",
    _session: Optional[Session] = None,
) -> SplitImages:
    """Split a labelled dataset into two ImageDirectories, stratified by class or label.

    Args:
        src_path: a labelled ImageDirectory, or a folder with one subfolder per class.
        tgt_train_path: the first ImageDirectory to write.
        tgt_test_path: the second ImageDirectory to write.
        fraction: of the images of each class or label in the first output, in [1/n, 1 - 1/n] for n images.
        random_seed: seed of the random choice.
        outputs_path: folder of reports.

    Returns:
        The numbers of images and the classes.

    Raises:
        ModuleError: if the dataset cannot be read or split, or an output cannot be written.

    Examples:
        >>> import train_pytorch_model as tpm
        >>> split = tpm.split_image_directory("images", "train", "valid", fraction=0.75)
        >>> split.num_train_images, split.num_test_images
        (18, 6)
    """
    from train_pytorch_model.modules import split_image_directory as module

    with _in_module(_session, outputs_path) as (session, outputs):
        return module.split_image_directory(
            Path(src_path),
            Path(tgt_train_path),
            Path(tgt_test_path),
            fraction=fraction,
            random_seed=random_seed,
            outputs_path=outputs,
            display=session.display,
        )


def init_image_transformation(
    output_path: PathLike,
    *,
    outputs_path: PathLike = "outputs",
    _session: Optional[Session] = None,
    **options: Any,
) -> list[Any]:
    """Choose operations on images and write them as a TransformationDirectory.

    Args:
        output_path: the TransformationDirectory to write.
        outputs_path: folder of reports.
        **options: the fields of `TransformOptions`, such as `resize=True, size=256`.

    Returns:
        Pairs of the name of an operation and its arguments, in the order in which they are applied.

    Raises:
        ModuleError: if a number is out of its range, or the output cannot be written.
        TypeError: if there is no option of a given name.

    Examples:
        >>> import train_pytorch_model as tpm
        >>> tpm.init_image_transformation("transformation", resize=True, size=32, center_crop=True, crop_size=32)
        [('Resize', 32), ('CenterCrop', 32)]
    """
    from train_pytorch_model.modules import init_image_transformation as module
    from train_pytorch_model.modules.transform_options import TransformOptions

    chosen = TransformOptions(**options)
    with _in_module(_session, outputs_path) as (_, outputs):
        return module.init_image_transformation(chosen, Path(output_path), outputs_path=outputs)


def apply_image_transformation(
    input_image_transform_path: PathLike,
    input_image_dir_path: PathLike,
    output_path: PathLike,
    *,
    mode: str = "For training",
    random_seed: int = 1,
    outputs_path: PathLike = "outputs",
    _session: Optional[Session] = None,
) -> int:
    """Apply a transformation to every image of an ImageDirectory, and write the results as PNG.

    Args:
        input_image_transform_path: a TransformationDirectory.
        input_image_dir_path: an ImageDirectory, labelled or not.
        output_path: the ImageDirectory to write.
        mode: "For training" applies all operations, "For inference" those that are not random.
        random_seed: seed of the random operations.
        outputs_path: folder of reports.

    Returns:
        The number of images.

    Raises:
        ModuleError: if an input or the output cannot be used.

    Examples:
        >>> import train_pytorch_model as tpm
        >>> tpm.apply_image_transformation("transformation", "train", "train_resized")
        18
    """
    from train_pytorch_model.modules import apply_image_transformation as module

    with _in_module(_session, outputs_path) as (session, outputs):
        return module.apply_image_transformation(
            Path(input_image_transform_path),
            Path(input_image_dir_path),
            Path(output_path),
            mode=mode,
            random_seed=random_seed,
            outputs_path=outputs,
            display=session.display,
        )


def score(
    trained_model: PathLike,
    dataset: PathLike,
    scored_dataset: Optional[PathLike] = None,
    *,
    precision: str = "float32",
    batch_size: int = 16,
    csv: bool = False,
    skip_unreadable_images: bool = False,
    unknown_below: Optional[float] = None,
    unknown_label: str = "Unknown",
    explanations: Optional[PathLike] = None,
    max_explanations: int = 100,
    trust_model_code: bool = False,
    outputs_path: PathLike = "outputs",
    _session: Optional[Session] = None,
) -> pd.DataFrame:
    """Score images with a trained model.

    Args:
        trained_model: a ModelDirectory.
        dataset: an ImageDirectory, labelled or not, or a folder of images.
        scored_dataset: the folder to write the table to; None keeps no folder.
        precision: "float32", "auto", "bfloat16" or "float16".
        batch_size: number of images in one batch, > 0.
        csv: whether to write the table as `_data.csv` too.
        skip_unreadable_images: whether an image that cannot be read becomes a row with an error.
        unknown_below: images whose highest probability is lower than this, in [0, 1], get the label `unknown_label`;
            None gives every image a class.
        unknown_label: label of these images, which is no class of the model.
        explanations: the folder to write heat maps to, which need captum; None for no heat maps.
        max_explanations: the largest number of images with heat maps, >= 0; the least certain images come first.
        trust_model_code: whether the model may import any code.
        outputs_path: folder of reports.

    Returns:
        One row per image in the order of the image list: the true label where there is one, a probability for each
        class or label (`Scored Probabilities_<name>`) and `Scored Labels`. If an image may have several labels, true
        and scored labels are lists as JSON text.

    Raises:
        ModuleError: if the model or the images cannot be used, or the output cannot be written.

    Examples:
        >>> import train_pytorch_model as tpm
        >>> table = tpm.score("trained", "valid", "scored")
        >>> len(table), list(table.columns)[-2:]
        (6, ['Scored Probabilities_dog', 'Scored Labels'])
    """
    import pandas as pd

    from train_pytorch_model.data.file_systems import temporary_folder
    from train_pytorch_model.modules import score_image_model as module

    with _in_module(_session, outputs_path) as (session, outputs), temporary_folder("scored-") as temporary:
        scored = module.score_image_model(
            Path(trained_model),
            Path(dataset),
            temporary / "scored" if scored_dataset is None else Path(scored_dataset),
            precision=precision,
            batch_size=batch_size,
            csv=csv,
            skip_unreadable_images=skip_unreadable_images,
            unknown_below=unknown_below,
            unknown_label=unknown_label,
            explanations=None if explanations is None else Path(explanations),
            max_explanations=max_explanations,
            trust_model_code=trust_model_code,
            outputs_path=outputs,
            display=session.display,
        )
        # The command needs no table, which may be large.
        return scored.to_dataframe() if _session is None else pd.DataFrame()


def evaluate(
    scored_dataset: PathLike,
    evaluation_path: PathLike,
    *,
    outputs_path: PathLike = "outputs",
    _session: Optional[Session] = None,
) -> dict[str, Any]:
    """Write metrics, tables and plots of a scored dataset with true labels.

    Args:
        scored_dataset: the folder that `score` wrote.
        evaluation_path: the folder to write.
        outputs_path: folder of reports.

    Returns:
        The metrics, as `metrics.json` has them.

    Raises:
        ModuleError: if the table cannot be read or has no true labels.

    Examples:
        >>> import train_pytorch_model as tpm
        >>> metrics = tpm.evaluate("scored", "evaluation")
        >>> metrics["num_images"]
        6
    """
    from train_pytorch_model.modules import evaluate_model as module

    with _in_module(_session, outputs_path) as (session, outputs):
        return module.evaluate_model(
            Path(scored_dataset), Path(evaluation_path), outputs_path=outputs, tracking=session.tracking
        )


def run_pipeline(
    pipeline: PathLike,
    output_path: PathLike = "pipeline_run",
    *,
    inputs: Optional[Mapping[str, object]] = None,
    dry_run: bool = False,
    force: bool = False,
    outputs_path: PathLike = "outputs",
    _session: Optional[Session] = None,
) -> dict[str, Path]:
    """Run a pipeline of Azure Machine Learning on this machine.

    Args:
        pipeline: the YAML file of a pipeline job.
        output_path: the folder to write the outputs and the logs of the steps to.
        inputs: values for the pipeline's inputs, by name.
        dry_run: whether to check the pipeline and log what would run, without running it.
        force: whether to run steps whose inputs and code have not changed.
        outputs_path: folder of reports.

    Returns:
        The folder of each output of the pipeline, by name; empty for a dry run.

    Raises:
        ModuleError: if the pipeline cannot run, naming all reasons, or the error of the step that failed.

    Examples:
        >>> import train_pytorch_model as tpm
        >>> tpm.run_pipeline("pipeline.yaml", dry_run=True)
        {}
    """
    from train_pytorch_model.pipelines import run_pipeline as module
    from train_pytorch_model.session import in_caller

    with in_caller(_session, is_tracked=False) as session:
        return module.run_pipeline(
            Path(pipeline),
            output_path=Path(output_path),
            inputs={name: str(value) for name, value in (inputs or {}).items()},
            dry_run=dry_run,
            force=force,
            display=session.display,
        )


@contextmanager
def _in_module(session: Optional[Session], outputs_path: PathLike) -> Iterator[tuple[Session, Path]]:
    """Open a session for a module; the command gets its folder of reports, where it writes how it ended."""
    from train_pytorch_model.ports.output_directory import make_outputs_folder
    from train_pytorch_model.session import in_caller

    with in_caller(session) as opened:
        if session is not None:
            make_outputs_folder(Path(outputs_path))
        yield opened, Path(outputs_path)
