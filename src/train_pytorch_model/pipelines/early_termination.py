"""Early termination policies of a sweep, as Azure documents them.

Each value of the primary metric that a trial logs is one interval. A policy is applied to a trial at every interval
that is a multiple of `evaluation_interval` and at least `delay_evaluation`, and compares what all trials have reported
up to this interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Objective:
    """What a sweep optimizes."""

    metric: str
    """The name of the primary metric, as trials log it to MLflow."""
    is_maximized: bool

    def best(self, values: Sequence[float]) -> float:
        """Return the best of at least one value."""
        return max(values) if self.is_maximized else min(values)

    def is_worse(self, value: float, other: float) -> bool:
        """Whether a value is worse than another one."""
        return value < other if self.is_maximized else value > other


@dataclass(frozen=True)
class Policy:
    """An early termination policy."""

    kind: str
    """`bandit`, `median_stopping` or `truncation_selection`."""
    evaluation_interval: int = 1
    delay_evaluation: int = 0
    slack_factor: Optional[float] = None
    slack_amount: Optional[float] = None
    truncation_percentage: int = 0

    def applies_at(self, interval: int) -> bool:
        """Whether it is applied to a trial that has logged this number of values."""
        return interval % self.evaluation_interval == 0 and interval >= self.delay_evaluation


def reason_to_end(
    policy: Policy, objective: Objective, trial: int, interval: int, values: Mapping[int, Sequence[float]]
) -> str:
    """Return why a policy ends a trial at an interval; empty if it does not.

    Args:
        policy: the policy, which applies at the interval.
        objective: what is optimized.
        trial: the number of the trial.
        interval: the number of values that count, at most that of the trial's values.
        values: the values of all trials in the order of logging, by their numbers. All count, also of trials that have
            ended; the later values of a trial do not.
    """
    known = {number: list(own[:interval]) for number, own in values.items() if own}
    own_best = objective.best(known[trial])
    if policy.kind == "bandit":
        best = objective.best([objective.best(own) for own in known.values()])
        limit = _limit(policy, objective, best)
        if objective.is_worse(own_best, limit):
            return f"its best {own_best:.6g} is worse than {limit:.6g}, the limit for the best trial's {best:.6g}"
        return ""
    reached = {number: own for number, own in known.items() if len(own) == interval}
    if policy.kind == "median_stopping":
        middle = median(fmean(own) for own in reached.values())
        if objective.is_worse(own_best, middle):
            return f"its best {own_best:.6g} is worse than {middle:.6g}, the median of the trials' averages"
        return ""
    num_ended = len(reached) * policy.truncation_percentage // 100
    num_better = sum(objective.is_worse(own_best, objective.best(own)) for own in reached.values())
    if num_better >= len(reached) - num_ended:
        return f"its best {own_best:.6g} is among the lowest {policy.truncation_percentage} % of {len(reached)} trials"
    return ""


def _limit(policy: Policy, objective: Objective, best: float) -> float:
    """Return the worst value that the bandit policy allows, which is never better than the best one."""
    if policy.slack_amount is not None:
        slack = policy.slack_amount
    else:
        factor = policy.slack_factor or 0.0
        slack = abs(best) * (factor / (1 + factor) if objective.is_maximized else factor)
    return best - slack if objective.is_maximized else best + slack
