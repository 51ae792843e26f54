"""Chooses the settings of the trials of a sweep.

The settings of a trial only depend on the sweep, the number of the trial and, for Bayesian sampling, on the values of
earlier trials. A sweep that is resumed therefore goes on as if it had not been interrupted.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from train_pytorch_model.pipelines.search_space import Distribution, Value, multiple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train_pytorch_model.pipelines.sweep_definition import Sweep

BAYESIAN_KINDS = ("choice", "uniform", "quniform")
"""The distributions that Azure supports for Bayesian sampling."""
# At most so many first trials of a Bayesian sweep are random; a short sweep has fewer.
_MAX_RANDOM_TRIALS = 10

Earlier = tuple[dict[str, Value], Optional[float], bool]
"""The settings of an earlier trial, its value if it has one, and whether it is running."""


def missing_library(sweep: Sweep) -> str:
    """Name the library that the sampling needs and this Python does not have; empty if there is none."""
    return "optuna" if sweep.sampling.kind == "bayesian" and find_spec("optuna") is None else ""


def settings_of(sweep: Sweep, number: int, earlier: Sequence[Earlier]) -> dict[str, Value]:
    """Return the settings of a trial.

    Args:
        sweep: the sweep.
        number: the number of the trial, from 1 to `sweep.num_trials`.
        earlier: the trials with lower numbers.
    """
    if sweep.sampling.kind == "grid":
        return _grid_settings(sweep, number)
    if sweep.sampling.kind == "bayesian":
        return _bayesian_settings(sweep, number, earlier)
    if sweep.sampling.is_sobol:
        quantiles = _sobol_points(len(sweep.search_space), _seed(sweep), sweep.num_trials)[number - 1]
    else:
        quantiles = tuple(np.random.default_rng([_seed(sweep), number]).random(len(sweep.search_space)))
    return {
        name: distribution.value(float(quantile))
        for (name, distribution), quantile in zip(sweep.search_space.items(), quantiles)
    }


def _seed(sweep: Sweep) -> int:
    return sweep.sampling.seed % 2**63  # The libraries take no negative seed.


def _grid_settings(sweep: Sweep, number: int) -> dict[str, Value]:
    """Return the settings of a trial in the product of all values, of which the last name's change fastest."""
    rest, settings = number - 1, {}
    for name, distribution in reversed(sweep.search_space.items()):
        rest, index = divmod(rest, len(distribution.values))
        settings[name] = distribution.values[index]
    return {name: settings[name] for name in sweep.search_space}


@lru_cache(maxsize=8)
def _sobol_points(dimension: int, seed: int, count: int) -> tuple[tuple[float, ...], ...]:
    from torch.quasirandom import SobolEngine  # torch takes seconds to import

    engine: Any = SobolEngine
    return tuple(map(tuple, engine(dimension, scramble=True, seed=seed).draw(count).tolist()))


def _bayesian_settings(sweep: Sweep, number: int, earlier: Sequence[Earlier]) -> dict[str, Value]:
    """Return the settings that a tree-structured Parzen estimator expects to be good."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: _optuna_distribution(distribution) for name, distribution in sweep.search_space.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Some releases call the arguments of the sampler experimental.
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=min(_MAX_RANDOM_TRIALS, 1 + sweep.num_trials // 4),
            seed=int(np.random.default_rng([_seed(sweep), number]).integers(2**32)),
            multivariate=True,
            constant_liar=True,
        )
        directions = optuna.study.StudyDirection
        direction = directions.MAXIMIZE if sweep.objective.is_maximized else directions.MINIMIZE
        study = optuna.create_study(sampler=sampler, direction=direction)
        states = optuna.trial.TrialState
        for settings, value, is_running in earlier:
            state = states.RUNNING if is_running else states.FAIL if value is None else states.COMPLETE
            params = {name: _coded(sweep.search_space[name], given) for name, given in settings.items()}
            made = optuna.trial.create_trial(
                state=state, value=None if is_running else value, params=params, distributions=space
            )
            study.add_trial(made)
        chosen = study.ask(space).params
    return {name: _decoded(distribution, chosen[name]) for name, distribution in sweep.search_space.items()}


def _optuna_distribution(distribution: Distribution) -> Any:
    """Return the distribution of Optuna: of the index for `choice`, and of the multiple for `quniform`."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if distribution.kind == "choice":
        return CategoricalDistribution(tuple(range(len(distribution.values))))
    if distribution.kind == "uniform":
        return FloatDistribution(distribution.low, distribution.high)
    return IntDistribution(round(distribution.low / distribution.q), round(distribution.high / distribution.q))


def _coded(distribution: Distribution, value: Any) -> Any:
    if distribution.kind == "choice":
        return distribution.values.index(value)
    return value if distribution.kind == "uniform" else round(value / distribution.q)


def _decoded(distribution: Distribution, code: float) -> Value:
    if distribution.kind == "choice":
        return distribution.values[int(code)]
    return float(code) if distribution.kind == "uniform" else multiple(int(code), distribution.q)
