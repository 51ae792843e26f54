"""The hyperparameters of the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, Union

import torch

from train_pytorch_model.data.model_task import MULTICLASS

if TYPE_CHECKING:
    from train_pytorch_model.training.augmentation import Augmentation
    from train_pytorch_model.training.mixing import Mixing
    from train_pytorch_model.training.precision import Precision


@dataclass(frozen=True)
class Plan:
    """Everything that the training loop needs in addition to the network and the images."""

    num_classes: int
    """Or of labels, where an image may have several."""
    epochs: int
    """The largest number of epochs; early stopping may end the training before."""
    batch_size: int
    """Images in a batch of each process."""
    learning_rate: float
    """The peak of the schedule, already scaled by the number of processes where that is wanted."""
    warmup_epochs: float
    patience: int
    """Training stops after this many consecutive epochs without a new lowest validation loss."""
    seed: int
    print_frequency: int
    """Iterations between two readings of loss and accuracy."""
    precision: Precision
    """Of training steps."""
    memory_format: torch.memory_format = torch.contiguous_format
    cuda_graph: bool = False
    """Replay training steps as a CUDA graph."""
    sync_batch_norm: bool = False
    """Compute batch normalization statistics over the batches of all processes."""
    has_unused: bool = False
    """Some parameters may receive no gradient in a step; see `find_unused_parameters` of DistributedDataParallel."""
    microbatch_size: Union[int, str] = "off"
    """"off": a batch must fit in memory. "auto": before training, find the largest microbatch that fits, and accumulate
    gradients if it is smaller than the batch. N, at least 1: split each batch into microbatches of at most N images.

    Gradients are those of the whole batch. Batch normalization sees one microbatch at a time, so a microbatch of a
    single image is avoided unless N is 1: with N = 2, a batch with an odd number of images has a microbatch of 3.
    """
    optimizer: str = "sgd"
    """"sgd" with Nesterov momentum, or "adamw"."""
    momentum: float = 0.9
    """Of SGD; with AdamW the decay of the gradients' average, its first beta."""
    weight_decay: float = 1e-4
    decays_one_dimensional: bool = True
    """Apply the weight decay to biases and to the weights of normalization layers too."""
    lr_schedule: str = "polynomial"
    """"polynomial", "cosine" or "constant" after the warm-up."""
    warmup_steps: Optional[int] = None
    """The learning rate changes from step to step, after a linear warm-up of so many steps. None: the warm-up takes
    `warmup_epochs`, and the polynomial schedule changes from epoch to epoch."""
    head_learning_rate_factor: float = 1.0
    """The learning rate of the head relative to `learning_rate`."""
    head_names: frozenset[str] = frozenset()
    """The names of the head's parameters."""
    auxiliary_heads: frozenset[str] = frozenset()
    """The children of the network that are auxiliary heads; see `models.heads.auxiliary_heads`."""
    layer_decay: Optional[float] = None
    """The learning rate of a stage of the network relative to that of the next one; see `stages_of`."""
    layers_to_freeze: int = 0
    """The number of stages, counted from the input, whose weights do not change; see `stages_of`."""
    freeze_batch_norm: bool = False
    """Normalize with the statistics that the network has at the beginning, and do not change them."""
    task: str = MULTICLASS
    """MULTICLASS: an image has one class. MULTILABEL: it has none, one or several labels."""
    freeze_epochs: int = 0
    """Epochs at the start that train the last stage, the head, alone."""
    label_smoothing: float = 0.0
    class_weights: Optional[tuple[float, ...]] = None
    """The weight of each class in the loss, whose mean over the training images should be 1. With several labels an
    image: the weight of the images that have the label, relative to those that do not."""
    clip_grad_norm: Optional[float] = None
    """The largest norm of the gradient of all parameters."""
    model_ema: Optional[float] = None
    """The decay of the exponential moving average of weights, which is validated and written instead of the weights."""
    fits_head: bool = False
    """The head is fitted on features of the frozen network before the first epoch."""
    keeps_head: bool = False
    """With `fits_head`: the head is that of a model that was trained for the same classes, and is not fitted again."""
    image_size: Optional[tuple[int, int]] = None
    """(height, width) that the network sees; None for that of the training images. These may have a margin."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Of each channel of pixels in [0, 1]; subtracted before the division by `std`."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    augmentation: Optional[Augmentation] = None
    """Random changes of training images."""
    mixing: Optional[Mixing] = None
    """Training images, and their labels, are mixed with others of their batch."""
    metric_for_best_model: str = "accuracy"
    """"accuracy", "balanced_accuracy", "average_precision", "micro_f1", "macro_f1" or "loss" on the validation images.
    """
    averages_mirrored: bool = False
    """In validation, the probabilities of an image are the mean of its own and those of its mirror image."""
    early_stopping_delay: int = 0
    """Epochs at the start that patience does not count."""
    validation_precision: str = "float32"
    """Of the validation of each epoch: "float32", which Score Image Model uses, "tf32" or "bfloat16". With the last
    two, the best weights are validated in float32 after the last epoch.
    """
