"""The training parameters: names, descriptions, ranges and defaults in one place.

The command line, the Python API, the specifications and the messages are built from these definitions or tested
against them.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Union

from train_pytorch_model.errors import ModuleError, UserError
from train_pytorch_model.parameters.definition import Definition
from train_pytorch_model.parameters.recipe_fields import RecipeFields
from train_pytorch_model.parameters.run_fields import RunFields

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


@dataclass(frozen=True)
class TrainingParameters(RecipeFields, RunFields):
    """How to train. The first five are the parameters of the designer's module."""

    @classmethod
    def definitions(cls) -> dict[str, Definition]:
        """The definition of each parameter by its field name, in the order of the fields."""
        return {item.name: item.metadata["definition"] for item in fields(TrainingParameters)}

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
