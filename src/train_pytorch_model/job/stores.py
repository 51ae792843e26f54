"""Where the decoded images of both datasets are kept, and how the processes of a node share them."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, Union

from train_pytorch_model.data.image_store import DecodedImages, EncodedImages, ImageStore
from train_pytorch_model.data.placement import (
    PlacementError,
    SharedRows,
    choose_host_place,
    choose_place,
    shared_rows,
)
from train_pytorch_model.errors import UserError
from train_pytorch_model.job.datasets import Scanned, decode, report_unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import torch

    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.errors import FaultCollector

logger = logging.getLogger(__name__)

# When other faults are known, larger datasets are not decoded just to find more faults: it takes too long.
_MAX_IMAGES_DECODED_FOR_FAULTS = 10_000


@dataclass(frozen=True)
class Decoding:
    """How datasets are decoded."""

    world: World
    """The processes that will read the images."""
    display: ProgressDisplay
    faults: FaultCollector
    """Collects the faults that are found."""
    skip_unreadable_images: bool
    outputs_path: Optional[Path]
    """The folder for the list of skipped images; None writes no list."""


@dataclass(frozen=True)
class Decoded:
    """Both datasets after decoding."""

    place: str
    """Where the images are kept, as `choose_place` returns it."""
    datasets: tuple[Optional[Scanned], ...]
    """The datasets without the images that could not be decoded; None for one that could not be read."""
    stores: tuple[Optional[ImageStore], ...]
    """The images of each dataset; None where there are none to use."""


@dataclass(frozen=True)
class SharedImages:
    """Decoded images that another process of the node can open."""

    rows: SharedRows
    labels: torch.Tensor
    is_mapped: bool

    def open(self) -> DecodedImages:
        """Open the images."""
        pixels = self.rows.open()[: len(self.labels)].permute(0, 3, 1, 2)
        return DecodedImages(pixels, self.labels, self.is_mapped)


@dataclass(frozen=True)
class SharedDecoded:
    """What the first process of a node sends to the others."""

    place: str
    datasets: tuple[Optional[Scanned], ...]
    stores: tuple[Optional[Union[SharedImages, EncodedImages]], ...]

    def open(self, device: torch.device) -> Decoded:
        """Open the stores in one process."""
        stores: list[ImageStore | None] = []
        for shared in self.stores:
            store = shared.open() if isinstance(shared, SharedImages) else shared
            if self.place == "device" and isinstance(store, DecodedImages):
                store = store.to(device)
            stores.append(store)
        return Decoded(self.place, self.datasets, tuple(stores))


def decode_datasets(datasets: Sequence[Scanned | None], wanted: str, how: Decoding) -> Decoded:
    """Decode datasets for this process alone.

    Args:
        datasets: with their headers read; None for one that could not be read.
        wanted: the place, as `--image-store` names it.
        how: the processes and the settings.
    """
    place = _choose(datasets, wanted, how)
    return _decoded(place, [_decode(scanned, place, how) for scanned in datasets])


def try_decoding(datasets: Sequence[Scanned | None], wanted: str, how: Decoding) -> Decoded:
    """Choose the place, and decode each image only to see whether it can be decoded.

    Args:
        datasets: as for `decode_datasets`.
        wanted: as for `decode_datasets`.
        how: as for `decode_datasets`.
    """
    place = _choose(datasets, wanted, how)
    return _decoded(place, [_decode(scanned, "none", how) for scanned in datasets])


def decode_for_node(datasets: Sequence[Scanned | None], wanted: str, how: Decoding, files: ExitStack) -> SharedDecoded:
    """Decode datasets for all processes of this node.

    Args:
        datasets: as for `decode_datasets`.
        wanted: as for `decode_datasets`.
        how: as for `decode_datasets`.
        files: keeps the shared files until all processes have opened them.
    """
    place = host_place = _choose(datasets, wanted, how)
    if place == "device":
        host_place = "none"
        with how.faults.collecting(), _placement_errors_named():
            host_place = choose_host_place(_num_bytes(datasets))
    kept: list[Scanned | None] = []
    shared: list[SharedImages | EncodedImages | None] = []
    for scanned in datasets:
        rows = None
        if scanned is not None and scanned.size is not None and host_place != "none":
            shape = (len(scanned.kept), *scanned.size, 3)
            with how.faults.collecting(), _placement_errors_named():
                rows = files.enter_context(shared_rows(host_place, shape))
        readable, store = _decode(scanned, host_place, how, rows)
        kept.append(readable)
        if isinstance(store, DecodedImages) and rows is not None:
            shared.append(SharedImages(rows, store.labels, store.is_mapped))
        else:
            shared.append(store if isinstance(store, EncodedImages) else None)
    return SharedDecoded(place, tuple(kept), tuple(shared))


def _decoded(place: str, pairs: Sequence[tuple[Scanned | None, ImageStore | None]]) -> Decoded:
    return Decoded(place, tuple(scanned for scanned, _ in pairs), tuple(store for _, store in pairs))


def _num_bytes(datasets: Sequence[Scanned | None]) -> int:
    return sum(scanned.num_bytes for scanned in datasets if scanned)


def _choose(datasets: Sequence[Scanned | None], wanted: str, how: Decoding) -> str:
    """The place. When faults are known, images are decoded only to find more of them."""
    place = "none"
    if not how.faults.faults:
        with how.faults.collecting(), _placement_errors_named():
            place = choose_place(wanted, _num_bytes(datasets), how.world.device)
    return place


def _decode(
    scanned: Scanned | None, place: str, how: Decoding, shared: SharedRows | None = None
) -> tuple[Scanned | None, ImageStore | None]:
    """Decode one dataset; return it without the images that cannot be decoded, and the others."""
    store = None
    if scanned is None:
        return None, None
    if how.faults.faults and len(scanned.kept) > _MAX_IMAGES_DECODED_FOR_FAULTS:
        logger.warning(
            "%s: %d images were not decoded because of the other problems.", scanned.images.where, len(scanned.kept)
        )
    elif scanned.geometry:
        with how.faults.collecting(), _placement_errors_named():
            rows = None if shared is None else shared.open()
            store, scanned = decode(scanned, place, how.world.device, how.display, rows)
    with how.faults.collecting():
        report_unreadable(scanned.images, scanned.unreadable, how.outputs_path, skip=how.skip_unreadable_images)
    return scanned, store


@contextmanager
def _placement_errors_named() -> Iterator[None]:
    try:
        yield
    except PlacementError as error:
        raise UserError(str(error)) from error
