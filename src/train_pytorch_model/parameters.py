"""The module's parameters: names, ranges and defaults in one place.

The command line, `module_spec.yaml` and the messages are all held against these definitions.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, fields
from typing import Any, Optional

from train_pytorch_model.errors import (
    GreaterThanError,
    GreaterThanOrEqualToError,
    ModuleError,
    NotInRangeValueError,
    UserError,
)

# double.Epsilon, the smallest positive double: the documented lower end of the learning rate.
SMALLEST_POSITIVE = 5e-324
# The largest float32: weights could not be multiplied by more.
LARGEST_FLOAT32 = 3.4028234663852886e38


@dataclass(frozen=True)
class Definition:
    """What is published about one parameter."""

    title: str
    """The name in the designer and in messages."""
    kind: type
    """`int`, `float` or `str`."""
    description: str
    greater_than: Optional[int] = None
    """Exclusive lower bound."""
    at_least: Optional[float] = None
    """Inclusive lower bound."""
    designer: bool = True
    """Whether it is one of the designer module's five."""
    aliases: tuple[str, ...] = ()
    """Flags of the retired module that mean the same."""
    optional: bool = False
    """Whether "none" is a value."""
    choices: tuple[str, ...] = ()
    """The values of a text, the default first."""

    def faults(self, value: Any) -> list[ModuleError]:
        """The faults of `value`, none when it lies in the range."""
        if value is None or self.choices:
            return []
        if isinstance(value, float) and abs(value) > LARGEST_FLOAT32:
            return [NotInRangeValueError(self.title, self.at_least, LARGEST_FLOAT32)]
        # Written as "not (value > bound)", so that NaN is out of every range.
        if self.greater_than is not None and not value > self.greater_than:
            return [GreaterThanError(self.title, value, self.greater_than)]
        if self.at_least is not None and not value >= self.at_least:
            return [GreaterThanOrEqualToError(self.title, self.at_least, detail=f"It is {value}.")]
        return []


def _parameter(default: Any, definition: Definition) -> Any:
    return field(default=default, metadata={"definition": definition})


@dataclass(frozen=True)
class TrainingParameters:
    """How to train. The first five are the designer module's."""

    epochs: int = _parameter(5, Definition("Epochs", int, "Passes over the whole training dataset.", greater_than=0))
    """Passes over the whole training dataset, > 0."""
    batch_size: int = _parameter(16, Definition("Batch size", int, "Training images in one batch.", greater_than=0))
    """Training images in one batch, > 0."""
    learning_rate: float = _parameter(
        0.001,
        Definition(
            "Learning rate",
            float,
            "Initial learning rate of the stochastic gradient descent optimizer.",
            at_least=SMALLEST_POSITIVE,
        ),
    )
    """Initial learning rate, >= 5e-324 and within float32."""
    random_seed: Optional[int] = _parameter(
        1,
        Definition(
            "Random seed",
            int,
            'Any integer: the same seed gives the same model. "none" on the command line: a new one each run.',
            optional=True,
        ),
    )
    """Any integer; None draws a new one each run."""
    patience: int = _parameter(
        3,
        Definition(
            "Patience",
            int,
            "Epochs in a row without a new lowest validation loss before training stops early.",
            greater_than=0,
        ),
    )
    """Epochs in a row without a new lowest validation loss before training stops, > 0."""
    warmup_epochs: int = _parameter(
        0,
        Definition(
            "Warmup epochs",
            int,
            "Epochs over which the learning rate climbs to its value.",
            at_least=0,
            designer=False,
            aliases=("--num-warmup-steps",),
        ),
    )
    """Epochs over which the learning rate climbs to its value, >= 0."""
    auto_batch_size: str = _parameter(
        "off",
        Definition(
            "Auto batch size",
            str,
            "Whether batches that the memory does not hold are learnt from in parts.",
            designer=False,
            choices=("off", "on"),
        ),
    )
    """Whether batches that the memory does not hold are learnt from in parts, each image counting the same."""
    print_frequency: int = _parameter(
        10,
        Definition(
            "Print frequency",
            int,
            "Iterations between two lines of progress.",
            greater_than=0,
            designer=False,
            aliases=("--print-freq",),
        ),
    )
    """Iterations between two lines of progress, > 0."""
    image_store: str = _parameter(
        "auto",
        Definition(
            "Image store",
            str,
            "Where images lie once they are decoded: on the GPU, in memory, in a file, or nowhere.",
            designer=False,
            choices=("auto", "device", "memory", "disk", "none"),
        ),
    )
    """Where images lie once they are decoded; "auto" takes the fastest place that has the room."""
    precision: str = _parameter(
        "auto",
        Definition(
            "Precision",
            str,
            "What training steps compute in.",
            designer=False,
            choices=("auto", "float32", "bfloat16", "float16"),
        ),
    )
    """What training steps compute in; "auto" takes the fastest that trains as well. Validation is in float32."""
    compile: str = _parameter(
        "auto",
        Definition(
            "Compile",
            str,
            "Whether steps run as one CUDA graph on a GPU.",
            designer=False,
            choices=("auto", "on", "off"),
        ),
    )
    """Whether steps run as one CUDA graph on a GPU; "auto" where there are enough of them."""
    scale_learning_rate: str = _parameter(
        "on",
        Definition(
            "Scale learning rate",
            str,
            "Whether the learning rate is multiplied by the number of processes.",
            designer=False,
            choices=("on", "off"),
        ),
    )
    """Whether the learning rate is multiplied by the number of processes, each of which takes a batch of its own."""
    sync_batch_norm: str = _parameter(
        "off",
        Definition(
            "Sync batch norm",
            str,
            "Whether batch normalisation is over the batches of all processes; on GPUs.",
            designer=False,
            choices=("off", "on"),
        ),
    )
    """Whether batch normalisation is over the batches of all processes; on GPUs."""
    checkpoint_minutes: float = _parameter(
        10.0,
        Definition(
            "Checkpoint minutes",
            float,
            "Minutes between two checkpoints within an epoch.",
            at_least=0,
            designer=False,
        ),
    )
    """Minutes between two checkpoints within an epoch, >= 0."""
    resume: str = _parameter(
        "auto",
        Definition(
            "Resume",
            str,
            "Whether to go on from a checkpoint of the same training.",
            designer=False,
            choices=("auto", "never", "require"),
        ),
    )
    """Whether to go on from a checkpoint: "auto" where one of the same training is there."""
    report: str = _parameter(
        "auto",
        Definition(
            "Report",
            str,
            "What the report at the end shows: nothing at all, numbers and figures, or images too.",
            designer=False,
            choices=("auto", "off", "basic", "full"),
        ),
    )
    """What the report at the end shows: "basic" has no images; "auto" is "basic" in a job, else "full"."""

    @classmethod
    def definitions(cls) -> dict[str, Definition]:
        """Field name to definition, in the order of the fields."""
        return {item.name: item.metadata["definition"] for item in fields(cls)}

    @classmethod
    def default(cls, name: str) -> Any:
        """The default of the parameter called `name`."""
        return next(item.default for item in fields(cls) if item.name == name)

    def faults(self) -> list[ModuleError]:
        """Every parameter out of its range, as the designer's errors, and those that exclude each other."""
        faults = [
            fault for name, definition in self.definitions().items() for fault in definition.faults(getattr(self, name))
        ]
        if self.auto_batch_size == self.sync_batch_norm == "on":
            faults.append(
                UserError(
                    "--sync-batch-norm on cannot normalise over batches that --auto-batch-size on takes in parts. "
                    "Leave one of them off."
                )
            )
        return faults

    def seed(self) -> int:
        """The seed of this run: the given one, or a fresh one of 32 bits."""
        return secrets.randbits(32) if self.random_seed is None else self.random_seed
