"""The definition of a parameter: how its value is parsed, and which values are in its range."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Optional, Union

from train_pytorch_model.errors import (
    GreaterThanError,
    GreaterThanOrEqualToError,
    ModuleError,
    NotInRangeValueError,
)

# double.Epsilon, the smallest positive double: the documented lower end of the learning rate.
SMALLEST_POSITIVE = 5e-324
# The largest float32: weights cannot be multiplied by more.
LARGEST_FLOAT32 = 3.4028234663852886e38

_TRUE = ("true", "on", "yes", "1")
_FALSE = ("false", "off", "no", "0")

_SIZE = re.compile(r"[1-9]\d{0,4}x[1-9]\d{0,4}")

Value = Union[bool, int, float, str, None]


@dataclass(frozen=True)
class Definition:
    """What is published about one parameter."""

    title: str
    """The name in the designer and in messages."""
    kind: type
    """`int`, `float`, `bool` or `str`."""
    description: str
    group: str
    """Heading in `--help`: "training", "recipe", "speed", "resuming" or "output"."""
    greater_than: Optional[int] = None
    """Exclusive lower bound."""
    at_least: Optional[float] = None
    """Inclusive lower bound."""
    at_most: Optional[float] = None
    """Inclusive upper bound."""
    designer: bool = False
    """Whether it is one of the designer module's five parameters."""
    aliases: tuple[str, ...] = ()
    """Older flags with the same meaning."""
    optional: bool = False
    """Whether "none" is a value."""
    words: tuple[str, ...] = ()
    """The words that are values, the default first. A parameter of a kind of number takes numbers besides."""
    is_size: bool = False
    """Whether HEIGHTxWIDTH is a value."""

    def parse(self, value: object) -> Value:
        """Convert a text, or a value given in Python, to a value of the parameter.

        Booleans are `true` and `false`; `on`, `off`, `yes`, `no`, `1` and `0` are understood.

        Raises:
            ValueError: if `value` is no value of this kind. Ranges are checked by `faults`.
        """
        text = str(value).strip().lower() if isinstance(value, str) or self._is_boolean(value) else ""
        if self.optional and (value is None or text == "none"):
            return None
        if self.words:
            word = self._word(text)
            if word is not None:
                return word
        if self.is_size and _SIZE.fullmatch(text):
            return text
        if self.kind is bool and text in (*_TRUE, *_FALSE):
            return text in _TRUE
        if self.kind in (int, float) and not self._is_boolean(value):
            number = self._number(value)
            if number is not None:
                return number
        raise ValueError(f"expected {self.expected}, but got {value!r}")

    def _is_boolean(self, value: object) -> bool:
        """Whether a value is Python's or NumPy's boolean, or 0 or 1 for a boolean parameter."""
        is_number = self.kind is bool and isinstance(value, Integral) and value in (0, 1)
        return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool") or is_number

    def _word(self, text: str) -> Optional[str]:
        """The word that `text` means; YAML turns `on` and `off` into booleans, which Azure writes as True and False."""
        if text in self.words:
            return text
        if self.kind is not int or not text.isdigit():
            if text in _TRUE:
                return "on" if "on" in self.words else "auto" if self.kind is int else None
            if text in _FALSE and "off" in self.words:
                return None if text == "0" and self.faults(0.0) else "off"
        return None

    def _number(self, value: object) -> Union[int, float, None]:
        if isinstance(value, str):
            try:
                return int(value) if self.kind is int else float(value)
            except ValueError:
                return None
        if isinstance(value, Integral):
            try:
                return int(value) if self.kind is int else float(value)
            except OverflowError:
                return None
        return float(value) if self.kind is float and isinstance(value, Real) else None

    @property
    def expected(self) -> str:
        """The values in words, for messages."""
        kinds = {int: "an integer", float: "a number", bool: "true or false", str: ""}
        some = [*map(repr, self.words), *([kinds[self.kind]] if self.kind is not str else [])]
        some += ["HEIGHTxWIDTH"] if self.is_size else []
        return " or ".join([*some, *(["none"] if self.optional else [])])

    @property
    def metavar(self) -> str:
        """The values for `--help`: `INT`, `true|false`, `auto|on|off`, `off|auto|INT`."""
        if self.kind is bool:
            return "true|false"
        numbers = [self.kind.__name__.upper()] if self.kind is not str else []
        return "|".join([*self.words, *numbers, *(["HEIGHTxWIDTH"] if self.is_size else [])])

    def faults(self, value: Any) -> list[ModuleError]:
        """The errors for a value outside its range; empty if it lies in the range."""
        if value is None or isinstance(value, (str, bool)):
            return []
        if isinstance(value, float) and abs(value) > LARGEST_FLOAT32:
            return [NotInRangeValueError(self.title, self.at_least, LARGEST_FLOAT32)]
        # Written as "not (value > bound)", so that NaN is out of every range.
        if self.greater_than is not None and not value > self.greater_than:
            return [GreaterThanError(self.title, value, self.greater_than)]
        if self.at_least is not None and not value >= self.at_least:
            return [GreaterThanOrEqualToError(self.title, self.at_least, detail=f"It is {value}.")]
        if self.at_most is not None and not value <= self.at_most:
            lowest = self.greater_than if self.at_least is None else self.at_least
            return [NotInRangeValueError(self.title, lowest, self.at_most)]
        return []


def parameter(default: Any, definition: Definition) -> Any:
    """Return a field of a dataclass that has a definition."""
    return field(default=default, metadata={"definition": definition})
