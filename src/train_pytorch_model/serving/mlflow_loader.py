"""Loads a model for MLflow. It predicts the columns of Score Image Model for a column of images, base64 or bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from served_model import ServedModel, decode, decode_base64


class _Predictor:
    def __init__(self, model: ServedModel) -> None:
        self._model = model

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict probabilities and a label for each image of the column `image`; several labels are a JSON list."""
        images = model_input["image"]
        geometry = self._model.geometry
        decoded = [
            decode(image, geometry) if isinstance(image, bytes) else decode_base64(image, geometry) for image in images
        ]
        answer = self._model.answer(decoded)
        table = pd.DataFrame(answer["result"], columns=answer["columns"])
        if self._model.task.is_multilabel:  # as text, because tables are often written as CSV
            column = answer["columns"][-1]
            table[column] = [json.dumps(labels, ensure_ascii=False) for labels in table[column]]
        return table


def _load_pyfunc(path: str) -> _Predictor:
    return _Predictor(ServedModel(Path(path)))
