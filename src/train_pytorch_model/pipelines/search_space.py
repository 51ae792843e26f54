"""The search space of a sweep: the distribution of each hyperparameter, and the values that it gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from collections.abc import Mapping

Value = Union[int, float, str]
"""A value of a hyperparameter."""
UNIFORM_KINDS = ("uniform", "loguniform", "quniform", "qloguniform")
NORMAL_KINDS = ("normal", "lognormal", "qnormal", "qlognormal")
KINDS = ("choice", "randint", *UNIFORM_KINDS, *NORMAL_KINDS)
# The quantile function of the normal distribution is infinite at 0 and 1.
_MARGIN = 2.0**-40


@dataclass(frozen=True)
class Distribution:
    """The distribution of a hyperparameter, as Azure defines those of its parameter expressions."""

    kind: str
    """One of KINDS."""
    values: tuple[Value, ...] = ()
    """The values of `choice`."""
    low: float = 0.0
    """`min_value`, or the mean."""
    high: float = 0.0
    """`max_value`, the standard deviation, or `upper` of `randint`, which it does not reach."""
    q: float = 0.0
    """Values are multiples of it; 0 for a continuous distribution."""
    base: float = math.e
    """The base of the kinds with `log`."""

    @property
    def is_log(self) -> bool:
        """Whether the logarithm of the values has the named distribution."""
        return "log" in self.kind

    def value(self, quantile: float) -> Value:
        """Return the value at a quantile between 0 and 1.

        Raises:
            OverflowError: if it is too large for a float.
        """
        if self.values:
            return self.values[min(int(quantile * len(self.values)), len(self.values) - 1)]
        if self.kind == "randint":
            return min(int(quantile * self.high), int(self.high) - 1)
        if self.kind in UNIFORM_KINDS:
            number = self.low + quantile * (self.high - self.low)
        else:
            clipped = min(max(quantile, _MARGIN), 1 - _MARGIN)
            number = self.low + self.high * NormalDist().inv_cdf(clipped)
        if self.is_log:
            number = math.exp(number) if self.base == math.e else self.base**number
        return multiple(round(number / self.q), self.q) if self.q else number

    def in_words(self) -> str:
        """Describe the values."""
        if self.kind == "choice":
            return f"one of {', '.join(map(str, self.values))}"
        if self.kind in NORMAL_KINDS:
            return f"{self.kind} with mu {self.low:g} and sigma {self.high:g}"
        low, high = self.value(0), self.value(1)
        return f"{self.kind} from {shown(low)} to {shown(high)}"


def multiple(count: int, q: float) -> Value:
    """Return a multiple of `q`, an integer if `q` is one, without the digits that rounding adds."""
    return count * int(q) if float(q).is_integer() else float(f"{count * q:.12g}")


def shown(value: Value) -> str:
    """Return a value as text for a person."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings_in_words(settings: Mapping[str, Value]) -> str:
    """Return the settings of a trial as text."""
    return ", ".join(f"{name} {shown(value)}" for name, value in settings.items())


def read_distribution(entry: Mapping[str, Any], base: float) -> Distribution:
    """Return the distribution that an entry of a search space defines.

    Args:
        entry: the entry, which the schema accepts.
        base: the base of the kinds with `log`.

    Raises:
        ValueError: if it has no values.
    """
    kind = str(entry["type"]).lower()
    if kind == "choice":
        values = entry.get("values")
        if not values:
            raise ValueError("it has no values")
        if any(isinstance(value, dict) for value in values):
            raise ValueError("values that are mappings (a conditional search space) are not supported")
        return Distribution(kind, values=tuple(values))
    if kind == "randint":
        upper = int(entry["upper"])
        if not 1 <= upper <= 2**53:
            raise ValueError(f"upper is {upper}, which is not an integer from 1 to {2**53}")
        return Distribution(kind, high=upper)
    low, high = ("min_value", "max_value") if kind in UNIFORM_KINDS else ("mu", "sigma")
    q = float(entry.get("q", 0))
    read = Distribution(kind, low=float(entry[low]), high=float(entry[high]), q=q, base=base)
    if not all(map(math.isfinite, (read.low, read.high, q))):
        raise ValueError("its numbers must be finite")
    if kind in UNIFORM_KINDS and read.low > read.high:
        raise ValueError(f"min_value {read.low:g} is above max_value {read.high:g}")
    if kind in NORMAL_KINDS and read.high <= 0:
        raise ValueError(f"sigma is {read.high:g}, which is not above 0")
    if "q" in entry and q <= 0:
        raise ValueError(f"q is {q:g}, which is not above 0")
    try:
        read.value(0), read.value(1)
    except OverflowError:
        raise ValueError(f"{low} and {high} are exponents of {kind}, and its values are too large") from None
    return read
