from __future__ import annotations

import pytest

from train_pytorch_model.training.schedule import learning_rate


@pytest.mark.parametrize(
    ("epochs", "warmup_epochs", "expected"),
    [
        # Measured on the retired module.
        (3, 0, [0.01, 0.0044445, 0.0011112]),
        (5, 2, [0.0001, 0.00505, 0.01, 0.0044445, 0.0011112]),
        # There it divided by zero: as many epochs of warm-up as epochs.
        (2, 2, [0.0001, 0.00505]),
        (2, 4, [0.0001, 0.002575]),
    ],
)
def test_learning_rates_are_those_of_the_retired_module(epochs: int, warmup_epochs: int, expected: list[float]) -> None:
    rates = [learning_rate(e, peak=0.01, epochs=epochs, warmup_epochs=warmup_epochs) for e in range(epochs)]
    assert rates == pytest.approx(expected, rel=1e-4)
