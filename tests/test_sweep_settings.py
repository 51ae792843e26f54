"""Settings of trials and early termination, compared with what Azure documents, scipy and cases computed by hand."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.making import ROOT
from tests.pipelines import component, message, pipeline, run
from tests.sweeps import choice, sweep, uniform
from tests.test_tracking import TITLES
from train_pytorch_model.pipelines import sampling
from train_pytorch_model.pipelines.early_termination import Objective, Policy, reason_to_end
from train_pytorch_model.pipelines.pipeline_files import read_pipeline
from train_pytorch_model.pipelines.search_space import Distribution, read_distribution
from train_pytorch_model.pipelines.sweep_definition import Limits, Sampling, Sweep
from train_pytorch_model.pipelines.trials import joined
from train_pytorch_model.tracking import Logged

LOWEST, HIGHEST = Objective("loss", is_maximized=False), Objective("accuracy", is_maximized=True)


def of(space: dict[str, dict[str, object]], kind: str = "random", count: int = 50, **more: Any) -> Sweep:
    read = {name: read_distribution(entry, math.e) for name, entry in space.items()}
    return Sweep(read, Sampling(kind, **more), LOWEST, None, Limits(count))


def values(entry: dict[str, object], count: int = 2000, base: float = math.e) -> np.ndarray:
    distribution = read_distribution(entry, base)
    return np.array([distribution.value((index + 0.5) / count) for index in range(count)])


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"type": "uniform", "min_value": 2, "max_value": 5}, stats.uniform(2, 3)),
        ({"type": "loguniform", "min_value": -4, "max_value": 1}, stats.loguniform(math.exp(-4), math.exp(1))),
        ({"type": "normal", "mu": 10, "sigma": 3}, stats.norm(10, 3)),
        ({"type": "lognormal", "mu": -1, "sigma": 0.5}, stats.lognorm(0.5, scale=math.exp(-1))),
    ],
)
def test_continuous_values_have_the_documented_distribution(entry: dict[str, object], expected: Any) -> None:
    assert stats.kstest(values(entry), expected.cdf).statistic < 0.001


@pytest.mark.parametrize(
    ("entry", "q", "low", "high"),
    [
        ({"type": "quniform", "min_value": 16, "max_value": 128, "q": 16}, 16, 16, 128),
        ({"type": "quniform", "min_value": 0.1, "max_value": 0.9, "q": 0.1}, 0.1, 0.1, 0.9),
        ({"type": "qloguniform", "min_value": 0, "max_value": 3, "q": 2}, 2, 2, 20),
        ({"type": "qnormal", "mu": 50, "sigma": 2, "q": 5}, 5, 45, 55),
        ({"type": "qlognormal", "mu": 1, "sigma": 0.2, "q": 1}, 1, 1, 5),
    ],
)
def test_quantized_values_are_multiples(entry: dict[str, object], q: float, low: float, high: float) -> None:
    distribution = read_distribution(entry, math.e)
    found = [distribution.value((index + 0.5) / 2000) for index in range(2000)]
    assert (min(found), max(found)) == (low, high)
    assert all(value == float(f"{round(float(value) / q) * q:.12g}") for value in found)
    assert all(isinstance(value, int) for value in found) == (q >= 1)


def test_randint_excludes_its_upper_bound_and_choice_has_all_values() -> None:
    assert sorted(set(values({"type": "randint", "upper": 5}).tolist())) == [0, 1, 2, 3, 4]
    assert sorted(set(values(choice(3, 1, 2)).tolist())) == [1, 2, 3]


def test_logbase_is_the_base_of_logarithmic_values() -> None:
    found = values({"type": "loguniform", "min_value": -4, "max_value": -1}, base=10.0)
    assert stats.kstest(found, stats.loguniform(1e-4, 1e-1).cdf).statistic < 0.001


def test_a_grid_is_the_product_of_all_values() -> None:
    swept = of({"a": choice(1, 2, 3), "b": choice("x", "y"), "c": choice(0.5, 1.5)}, "grid", count=1000)
    found = [sampling.settings_of(swept, number, []) for number in range(1, swept.num_trials + 1)]
    expected = itertools.product((1, 2, 3), ("x", "y"), (0.5, 1.5))
    assert [tuple(settings.values()) for settings in found] == list(expected)
    assert of({"a": choice(1, 2, 3)}, "grid", count=2).num_trials == 2


@pytest.mark.parametrize("is_sobol", [False, True], ids=["random", "sobol"])
def test_random_settings_depend_on_the_seed_and_the_number_alone(is_sobol: bool) -> None:
    def found(seed: int, count: int = 32) -> list[tuple[object, ...]]:
        swept = of({"a": uniform(0, 1), "b": uniform(0, 1)}, count=count, seed=seed, is_sobol=is_sobol)
        return [tuple(sampling.settings_of(swept, number, []).values()) for number in range(1, count + 1)]

    assert found(3) == found(3)
    assert found(3)[:8] == found(3, count=8)
    assert not set(found(3)) & set(found(4))
    assert len(set(found(-3))) == 32
    in_quarters = {(int(2 * a), int(2 * b)) for a, b in np.array(found(3)).tolist()}
    assert len(in_quarters) == 4
    if is_sobol:  # Every 32nd of each axis has one of 32 points.
        assert [sorted(int(32 * point[axis]) for point in np.array(found(3))) for axis in (0, 1)] == [[*range(32)]] * 2


def test_bayesian_settings_come_closer_to_the_optimum_than_random_ones() -> None:
    def loss(settings: dict[str, Any]) -> float:
        return float((settings["x"] - 0.7) ** 2 + (settings["k"] - 24) ** 2 / 400 + (settings["name"] != "b"))

    space = {
        "x": uniform(-10, 10),
        "k": {"type": "quniform", "min_value": 0, "max_value": 64, "q": 8},
        "name": choice("a", "b"),
    }
    results = {}
    for kind in ("random", "bayesian"):
        swept, earlier = of(space, kind, count=40), []
        for number in range(1, 41):
            settings = sampling.settings_of(swept, number, earlier)
            if number % 10 == 0:  # It depends on nothing else.
                assert settings == sampling.settings_of(swept, number, list(earlier))
            earlier.append((settings, loss(settings), False))
        assert {settings["k"] for settings, _, _ in earlier} <= set(range(0, 65, 8))
        results[kind] = np.mean([value for _, value, _ in earlier[20:]])
    assert results["bayesian"] < results["random"] / 2


def test_bayesian_settings_differ_while_trials_run_and_after_failures() -> None:
    swept, earlier = of({"x": uniform(0, 1)}, "bayesian", count=20), []
    for number in range(1, 13):
        settings = sampling.settings_of(swept, number, earlier)
        earlier.append((settings, None if number % 2 else 0.5, number > 8))
    assert len({settings["x"] for settings, _, _ in earlier}) == 12


def test_the_bandit_policy_ends_what_is_outside_of_the_slack() -> None:
    # Azure's example: the best job has 0.8 at interval 10; with a slack factor of 0.2, those below 0.66 are ended.
    policy = Policy("bandit", slack_factor=0.2)
    known = {1: [0.1] * 9 + [0.8], 2: [0.1] * 9 + [0.66], 3: [0.1] * 9 + [0.67], 4: [0.1] * 9 + [0.8 / 1.2]}
    ended = [number for number in known if reason_to_end(policy, HIGHEST, number, 10, known)]
    assert ended == [2]
    # A better value after interval 10 does not count; a better one before it does.
    assert not reason_to_end(policy, HIGHEST, 3, 10, {**known, 5: [0.1] * 10 + [2.0]})
    assert reason_to_end(policy, HIGHEST, 3, 10, {**known, 5: [2.0]})
    assert not reason_to_end(policy, HIGHEST, 6, 10, {**known, 6: [0.9] + [0.1] * 9})
    # To be minimized, 0.5 allows 0.5 * 1.2.
    lowest = {1: [0.5], 2: [0.6], 3: [0.61]}
    assert [number for number in lowest if reason_to_end(policy, LOWEST, number, 1, lowest)] == [3]
    amount = Policy("bandit", slack_amount=0.2)
    assert [number for number in lowest if reason_to_end(amount, LOWEST, number, 1, {**lowest, 3: [0.71]})] == [3]
    assert [number for number in known if reason_to_end(amount, HIGHEST, number, 10, {**known, 2: [0.59]})] == [2]


@pytest.mark.parametrize("objective", [LOWEST, HIGHEST])
@pytest.mark.parametrize("policy", [Policy("bandit", slack_factor=0.2), Policy("bandit", slack_amount=0.2)])
def test_the_bandit_policy_never_ends_the_best_trial_of_negative_values(objective: Objective, policy: Policy) -> None:
    known = {1: [-1.0], 2: [-5.0]}
    ended = [number for number in known if reason_to_end(policy, objective, number, 1, known)]
    assert ended == [2 if objective.is_maximized else 1]


def test_the_median_policy_ends_what_is_worse_than_the_median_of_the_averages() -> None:
    policy = Policy("median_stopping")
    # At interval 2, the averages are 3, 4 and 6, and their median is 4.
    known = {1: [4.0, 2.0, 0.0], 2: [5.0, 3.0], 3: [7.0, 5.0], 4: [0.0]}
    ended = [number for number in (1, 2, 3) if reason_to_end(policy, LOWEST, number, 2, known)]
    assert ended == [3]
    assert not reason_to_end(policy, LOWEST, 3, 2, {**known, 3: [8.0, 4.0]})
    assert [number for number in (1, 2, 3) if reason_to_end(policy, HIGHEST, number, 2, known)] == []
    assert reason_to_end(policy, HIGHEST, 1, 2, {**known, 1: [3.9, 2.0]})
    assert not reason_to_end(policy, LOWEST, 1, 1, {1: [9.0]})


def test_the_truncation_policy_ends_the_given_percentage_of_the_trials_that_reached_the_interval() -> None:
    policy = Policy("truncation_selection", truncation_percentage=20)
    known = {number: [float(number), 0.0] for number in range(1, 6)}

    def ended(percentage: int, known: dict[int, list[float]]) -> list[int]:
        cut = Policy("truncation_selection", truncation_percentage=percentage)
        return [number for number in known if reason_to_end(cut, HIGHEST, number, 1, known)]

    assert ended(20, known) == [1]
    assert ended(60, known) == [1, 2, 3]
    assert ended(19, known) == []
    assert ended(99, {1: [1.0]}) == []
    assert ended(40, {1: [1.0], 2: [1.0], 3: [1.0], 4: [2.0], 5: [3.0]}) == []
    assert reason_to_end(policy, LOWEST, 5, 1, known)
    assert not reason_to_end(policy, LOWEST, 5, 2, known)  # Its best up to interval 2 is 0.


def test_a_policy_applies_at_multiples_of_the_interval_from_the_delay_on() -> None:
    policy = Policy("bandit", slack_factor=0.1, evaluation_interval=3, delay_evaluation=5)
    assert [interval for interval in range(13) if policy.applies_at(interval)] == [6, 9, 12]
    assert [interval for interval in range(4) if Policy("bandit").applies_at(interval)] == [0, 1, 2, 3]


def test_values_before_an_interruption_count_where_the_steps_go_on() -> None:
    first = [Logged(1, 0.9), Logged(2, 0.8), Logged(3, 0.7)]
    resumed = [*first, Logged(3, 0.75), Logged(4, 0.6)]
    assert [point.value for point in joined(resumed, [3])] == [0.9, 0.8, 0.75, 0.6]
    again = [*first, Logged(1, 0.5)]
    assert [point.value for point in joined(again, [3])] == [0.5]
    assert joined(first, [3]) == tuple(first)
    without_steps = [Logged(0, 1.0), Logged(0, 2.0)]
    assert joined(without_steps, []) == tuple(without_steps)
    assert joined([*without_steps, Logged(0, 3.0)], [2]) == (Logged(0, 3.0),)


def dry_run(folder: Path, **fields: object) -> str:
    component(folder / "t.yaml", "echo ${{inputs.n}}", {"n": {"type": "integer", "default": 1}})
    job = sweep("./t.yaml", {"n": choice(1, 2)}, **fields)
    return "" if run(pipeline(folder / "p.yaml", {"a": job}), folder, "--dry-run") == 0 else message(folder)


@pytest.mark.parametrize(
    ("library", "algorithm", "extra"), [("mlflow", "random", "tracking"), ("optuna", "bayesian", "sweep")]
)
def test_a_missing_library_is_named_before_anything_runs(
    library: str, algorithm: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    for module in ("train_pytorch_model.tracking.find_spec", "train_pytorch_model.pipelines.sampling.find_spec"):
        monkeypatch.setattr(module, lambda name: None if name == library else found(name))
    assert f"extra {extra}" in dry_run(tmp_path, sampling_algorithm=algorithm)
    assert not (tmp_path / "run").exists()
    if library == "optuna":
        assert dry_run(tmp_path, sampling_algorithm="grid") == ""


def test_the_metrics_of_the_sample_and_of_its_page_are_those_that_training_logs() -> None:
    swept = read_pipeline(ROOT / "samples" / "sweep.yaml").steps["train"].sweep
    assert swept is not None
    assert swept.objective.metric in TITLES  # A test of tracking finds these on an MLflow server, for every epoch.
    table = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8").split("## The search space")[0]
    named = re.findall(
        r"`([A-Z][^`]+)`", "".join(line.split("|")[1] for line in table.splitlines() if "mize |" in line)
    )
    assert len(named) == 10
    source = (ROOT / "src" / "train_pytorch_model" / "job" / "history.py").read_text(encoding="utf-8")
    assert [name for name in named if f'"{name}"' not in source] == []


def test_the_example_of_a_distribution_is_one_of_its_values() -> None:
    assert Distribution("choice", values=(1, 2, 3)).value(0.5) == 2
    assert Distribution("normal", low=3.0, high=1.0).value(0.0) < Distribution("normal", low=3.0, high=1.0).value(1.0)
