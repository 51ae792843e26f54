"""Sweeps: which trials they run, what these are compared by, and what ends them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from train_pytorch_model.pipelines.early_termination import Objective, Policy
    from train_pytorch_model.pipelines.search_space import Distribution, Value


@dataclass(frozen=True)
class Sampling:
    """How the settings of trials are chosen."""

    kind: str
    """`random`, `grid` or `bayesian`."""
    seed: int = 0
    is_sobol: bool = False
    """Whether random settings follow the Sobol sequence."""


@dataclass(frozen=True)
class Limits:
    """The limits of a sweep."""

    max_total_trials: int
    max_concurrent_trials: int = 1
    timeout: Optional[int] = None
    """Seconds after which the sweep ends."""
    trial_timeout: Optional[int] = None
    """Seconds after which a trial is ended."""


@dataclass(frozen=True)
class Sweep:
    """What makes a command a sweep."""

    search_space: dict[str, Distribution]
    sampling: Sampling
    objective: Objective
    policy: Optional[Policy]
    limits: Limits

    @property
    def num_trials(self) -> int:
        """The number of trials if none of the other limits is reached."""
        if self.sampling.kind != "grid":
            return self.limits.max_total_trials
        size = 1
        for distribution in self.search_space.values():
            size *= len(distribution.values)
        return min(size, self.limits.max_total_trials)

    @property
    def sampling_text(self) -> str:
        """What the settings of trials depend on, as a text to compare."""
        return repr((self.search_space, self.sampling, self.objective))

    @property
    def ends_text(self) -> str:
        """What ends trials, as a text to compare."""
        return repr((self.policy, self.limits.trial_timeout))

    def example(self) -> dict[str, Value]:
        """Return settings in the middle of the search space, with which the trial is checked."""
        return {name: distribution.value(0.5) for name, distribution in self.search_space.items()}

    def in_words(self) -> list[str]:
        """Describe the sweep, a line for each fact."""
        goal = "highest" if self.objective.is_maximized else "lowest"
        seed = "" if self.sampling.kind == "grid" else f", seed {self.sampling.seed}"
        rule = ", rule sobol" if self.sampling.is_sobol else ""
        policy = f", early termination by {self.policy.kind}" if self.policy else ""
        metric = self.objective.metric
        return [
            f"{self.num_trials} trials, {self.sampling.kind} sampling{rule}{seed}, for the {goal} {metric}{policy}",
            *(f"{name}: {distribution.in_words()}" for name, distribution in self.search_space.items()),
        ]
