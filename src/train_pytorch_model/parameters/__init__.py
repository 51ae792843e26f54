"""The training parameters: names, descriptions, ranges and defaults in one place.

The command line, the Python API, the specifications and the messages are built from these definitions or tested
against them.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Optional, Union

from train_pytorch_model.errors import ModuleError, UserError
from train_pytorch_model.parameters.definition import SMALLEST_POSITIVE, Definition

if TYPE_CHECKING:
    from collections.abc import Sequence


EXPORT_FORMATS = ("mlflow", "onnx")
"""Further formats in which a trained model can be written."""
_BOOLEAN = Definition("", bool, "", "")


def parse_boolean(name: str, value: object) -> bool:
    """Convert the value of a switch that is no training parameter.

    Raises:
        UserError: if it is not a boolean.
    """
    try:
        return bool(_BOOLEAN.parse(value))
    except ValueError as error:
        raise UserError(f"{name}: {error}.") from error


def parse_export_formats(value: Union[str, Sequence[str]]) -> tuple[str, ...]:
    """Convert one format or several to a tuple without repetitions.

    Raises:
        UserError: if there is no such format.
    """
    formats = tuple(dict.fromkeys((value,) if isinstance(value, str) else value))
    unknown = [name for name in formats if name not in EXPORT_FORMATS]
    if unknown:
        raise UserError(f"export: expected formats among {', '.join(EXPORT_FORMATS)}, but got {unknown[0]!r}.")
    return formats


def _parameter(default: Any, definition: Definition) -> Any:
    return field(default=default, metadata={"definition": definition})


@dataclass(frozen=True)
class TrainingParameters:
    """How to train. The first five are the parameters of the designer's module."""

    epochs: int = _parameter(
        5,
        Definition(
            "Epochs",
            int,
            "Number of passes over the whole training dataset.",
            "training",
            greater_than=0,
            designer=True,
        ),
    )
    batch_size: int = _parameter(
        16,
        Definition(
            "Batch size",
            int,
            "Number of training images in one batch, in each process.",
            "training",
            greater_than=0,
            designer=True,
        ),
    )
    learning_rate: float = _parameter(
        0.001,
        Definition(
            "Learning rate",
            float,
            "Initial learning rate of the stochastic gradient descent optimizer.",
            "training",
            at_least=SMALLEST_POSITIVE,
            designer=True,
        ),
    )
    random_seed: Optional[int] = _parameter(
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
    patience: int = _parameter(
        3,
        Definition(
            "Patience",
            int,
            "Number of consecutive epochs without a new lowest validation loss after which training stops early.",
            "training",
            greater_than=0,
            designer=True,
        ),
    )
    warmup_epochs: int = _parameter(
        0,
        Definition(
            "Warmup epochs",
            int,
            "Number of epochs over which the learning rate increases to its initial value.",
            "training",
            at_least=0,
            aliases=("--num-warmup-steps",),
        ),
    )
    scale_learning_rate: bool = _parameter(
        True,
        Definition("Scale learning rate", bool, "Multiply the learning rate by the number of processes.", "training"),
    )
    sync_batch_norm: bool = _parameter(
        False,
        Definition(
            "Sync batch norm",
            bool,
            "Compute batch normalization over the batches of all processes. Requires GPUs.",
            "training",
        ),
    )
    image_store: str = _parameter(
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
    precision: str = _parameter(
        "auto",
        Definition(
            "Precision",
            str,
            "Numeric precision of training steps. Weights and validation use float32.",
            "speed",
            words=("auto", "float32", "bfloat16", "float16"),
        ),
    )
    cuda_graph: str = _parameter(
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
    microbatch_size: Union[int, str] = _parameter(
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
    resume: str = _parameter(
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
    checkpoint_minutes: float = _parameter(
        10.0,
        Definition(
            "Checkpoint minutes",
            float,
            "Number of minutes between two checkpoints within an epoch.",
            "resuming",
            at_least=0,
        ),
    )
    print_frequency: int = _parameter(
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
    report: str = _parameter(
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

    @classmethod
    def definitions(cls) -> dict[str, Definition]:
        """The definition of each parameter by its field name, in the order of the fields."""
        return {item.name: item.metadata["definition"] for item in fields(cls)}

    @classmethod
    def default(cls, name: str) -> Any:
        """The default of the parameter called `name`."""
        return next(item.default for item in fields(cls) if item.name == name)

    @classmethod
    def parse(cls, values: dict[str, object]) -> TrainingParameters:
        """Make parameters of texts or Python values.

        Args:
            values: field name to value; the defaults are used for those that are absent.

        Raises:
            UserError: naming every value that is of the wrong kind. Ranges are checked by `faults`.
        """
        definitions = cls.definitions()
        parsed: dict[str, Any] = {}
        wrong = []
        for name, value in values.items():
            try:
                parsed[name] = definitions[name].parse(value)
            except ValueError as error:
                wrong.append(f"{name}: {error}.")
        if wrong:
            raise UserError(" ".join(wrong))
        return cls(**parsed)

    def faults(self) -> list[ModuleError]:
        """The designer's errors for every parameter out of its range, and for parameters that exclude each other."""
        faults = [
            fault for name, definition in self.definitions().items() for fault in definition.faults(getattr(self, name))
        ]
        if self.microbatch_size != "off" and self.sync_batch_norm:
            faults.append(
                UserError(
                    "--sync-batch-norm true needs whole batches, but --microbatch-size "
                    f"{self.microbatch_size} splits them. Set --sync-batch-norm false or --microbatch-size off."
                )
            )
        return faults

    def seed(self) -> int:
        """The seed of this run: the given one, or a new one of 32 bits."""
        return secrets.randbits(32) if self.random_seed is None else self.random_seed
