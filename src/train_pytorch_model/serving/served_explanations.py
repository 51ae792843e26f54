"""Answers requests that ask for heat maps. It is copied into each trained model."""

from __future__ import annotations

import base64
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from heat_maps import HeatMapError, check_captum
from heat_pictures import draw_explanation
from image_geometry import pixels_of
from served_json import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image
    from served_model import Compute, ServedModel

# A heat map takes up to a hundred times as long as a row.
MAX_EXPLAINED = 16


def explained_answer(model: ServedModel, images: Iterator[Image.Image], compute: Compute) -> dict[str, Any]:
    """Compute the answer of a model with heat maps beside its rows.

    Args:
        model: the model.
        images: of one request.
        compute: computes the probabilities of a list of images.

    Returns:
        What `ServedModel.answer` returns, with `explanations`: for each image the base64 of a PNG. With several labels,
        an object with one for each label of the image.

    Raises:
        BadRequestError: if there are too many images, captum is not installed, or the network has no heat maps.
        BadImageError, OutOfMemoryError, BrokenDeviceError: as `ServedModel.probabilities` does.
    """
    try:
        check_captum()
    except HeatMapError as error:
        remedy = 'Omit "explain", or deploy the model with captum in its environment'
        raise BadRequestError(f'this server cannot answer "explain": {error}. {remedy}') from error
    kept = list(islice(images, MAX_EXPLAINED + 1))
    if len(kept) > MAX_EXPLAINED:
        raise BadRequestError(f'a request with "explain" may contain at most {MAX_EXPLAINED} images')
    answer: dict[str, Any] = model.answer(kept, compute)
    try:
        answer["explanations"] = [
            _explained(model, image, row, answer["columns"]) for image, row in zip(kept, answer["result"])
        ]
    except HeatMapError as error:
        raise BadRequestError(f'this model cannot answer "explain": {error}. Omit "explain"') from error
    return answer


def _explained(model: ServedModel, image: Image.Image, row: list[Any], columns: list[str]) -> str | dict[str, str]:
    """Return the picture of one image, or with several labels those of its labels, as base64."""
    labels = [column.partition("_")[2] for column in columns[:-1]]
    pixels = pixels_of(image, model.geometry).copy()

    def picture(label: str) -> str:
        index = labels.index(label)
        heat = model.heat(torch.from_numpy(pixels), index).numpy()
        png = draw_explanation(pixels, heat, f"{100 * row[index]:.1f} %  {label}")
        return base64.b64encode(png).decode()

    said = row[-1]
    return {label: picture(label) for label in said} if isinstance(said, list) else picture(said)
