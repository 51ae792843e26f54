"""Scripts what validation gives, so that a claim about a trajectory does not depend on a processor's rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from train_pytorch_model.training import loop
from train_pytorch_model.training.metrics import Averages
from train_pytorch_model.training.validation import evaluate


def script_validation(
    monkeypatch: pytest.MonkeyPatch, *, losses: Sequence[float] = (), accuracies: Sequence[float] = ()
) -> None:
    """Replace the validation loss, the accuracy or both of epochs 1, 2, … of the next training in this process."""
    remaining = {"loss": iter(losses), "top1_acc": iter(accuracies)}

    def scripted(*arguments: Any, **named: Any) -> Averages:
        averages = evaluate(*arguments, **named)
        return averages._replace(**{name: next(values, getattr(averages, name)) for name, values in remaining.items()})

    monkeypatch.setattr(loop, "evaluate", scripted)
