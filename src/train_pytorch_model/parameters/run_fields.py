"""The training parameters that every recipe has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Union

from train_pytorch_model.parameters.definition import SMALLEST_POSITIVE, Definition, parameter


@dataclass(frozen=True)
class RunFields:
    """How long, how fast and from where to train. `auto` leaves a value to the recipe."""

    epochs: Union[int, str] = parameter(
        "auto",
        Definition(
            "Epochs",
            int,
            "Number of passes over the whole training dataset.",
            "training",
            greater_than=0,
            designer=True,
            words=("auto",),
        ),
    )
    batch_size: Union[int, str] = parameter(
        "auto",
        Definition(
            "Batch size",
            int,
            "Number of training images in one batch, in each process.",
            "training",
            greater_than=0,
            designer=True,
            words=("auto",),
        ),
    )
    learning_rate: Union[float, str] = parameter(
        "auto",
        Definition(
            "Learning rate",
            float,
            "Highest learning rate of the optimizer.",
            "training",
            at_least=SMALLEST_POSITIVE,
            designer=True,
            words=("auto",),
        ),
    )
    random_seed: Optional[int] = parameter(
        1,
        Definition(
            "Random seed",
            int,
            "Any integer. The same seed gives the same model. none draws a new seed for each run.",
            "training",
            designer=True,
            optional=True,
        ),
    )
    patience: Union[int, str] = parameter(
        "auto",
        Definition(
            "Patience",
            int,
            "Number of consecutive epochs without a new lowest validation loss after which training stops early.",
            "training",
            greater_than=0,
            designer=True,
            words=("auto",),
        ),
    )
    warmup_epochs: Union[float, str] = parameter(
        "auto",
        Definition(
            "Warmup epochs",
            float,
            "Number of epochs over which the learning rate increases to its highest value.",
            "training",
            at_least=0,
            aliases=("--num-warmup-steps",),
            words=("auto",),
        ),
    )
    scale_learning_rate: bool = parameter(
        True,
        Definition("Scale learning rate", bool, "Multiply the learning rate by the number of processes.", "training"),
    )
    sync_batch_norm: bool = parameter(
        False,
        Definition(
            "Sync batch norm",
            bool,
            "Compute batch normalization over the batches of all processes. Requires GPUs.",
            "training",
        ),
    )
    image_store: str = parameter(
        "auto",
        Definition(
            "Image store",
            str,
            "Where to keep the decoded images: in GPU memory, in host memory, in a file on disk, or nowhere (images "
            "are then decoded in every epoch). auto uses the fastest place with enough free space.",
            "speed",
            words=("auto", "device", "memory", "disk", "none"),
        ),
    )
    precision: str = parameter(
        "auto",
        Definition(
            "Precision",
            str,
            "Numeric precision of training steps. Weights use float32.",
            "speed",
            words=("auto", "float32", "bfloat16", "float16"),
        ),
    )
    validation_precision: str = parameter(
        "float32",
        Definition(
            "Validation precision",
            str,
            "Numeric precision of validation. Unless it is float32, the best epoch is validated again in float32 at "
            "the end.",
            "speed",
            words=("float32", "tf32", "bfloat16"),
        ),
    )
    cuda_graph: str = parameter(
        "auto",
        Definition(
            "CUDA graph",
            str,
            "Replay training steps as one CUDA graph on a GPU. auto does so if the run has enough steps.",
            "speed",
            aliases=("--compile",),
            words=("auto", "on", "off"),
        ),
    )
    microbatch_size: Union[int, str] = parameter(
        "off",
        Definition(
            "Microbatch size",
            int,
            "Split batches that do not fit in memory into microbatches and accumulate their gradients. auto finds the "
            "largest size that fits; a number sets it.",
            "speed",
            greater_than=0,
            aliases=("--auto-batch-size",),
            words=("off", "auto"),
        ),
    )
    resume: str = parameter(
        "auto",
        Definition(
            "Resume",
            str,
            "Resume from the newest checkpoint: auto if it belongs to the same run, never, or require to fail if "
            "there is none.",
            "resuming",
            words=("auto", "never", "require"),
        ),
    )
    checkpoint_minutes: float = parameter(
        10.0,
        Definition(
            "Checkpoint minutes",
            float,
            "Number of minutes between two checkpoints within an epoch.",
            "resuming",
            at_least=0,
        ),
    )
    print_frequency: int = parameter(
        10,
        Definition(
            "Print frequency",
            int,
            "Number of iterations between two progress lines in the log.",
            "output",
            greater_than=0,
            aliases=("--print-freq",),
        ),
    )
    report: str = parameter(
        "auto",
        Definition(
            "Report",
            str,
            "Content of the report: off for none, basic for metrics and figures, full for images too. auto is basic "
            "in an Azure job or a tracked run, and full elsewhere.",
            "output",
            words=("auto", "off", "basic", "full"),
        ),
    )
