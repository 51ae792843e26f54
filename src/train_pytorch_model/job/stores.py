"""The image stores of a training: decoded by one process of each node, and open to all of them."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, Union

from train_pytorch_model.data.image_store import DecodedImages, EncodedImages, ImageStore
from train_pytorch_model.data.placement import PlacementError, SharedRows, choose_host_place, choose_place, shared_rows
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

# With other faults at hand, larger datasets are not decoded just to add to the list: that would be long work.
_MAX_IMAGES_DECODED_FOR_FAULTS = 10_000


@dataclass(frozen=True)
class SharedImages:
    """Decoded images that another process of the node can open."""

    rows: SharedRows
    labels: torch.Tensor
    is_mapped: bool

    def open(self) -> DecodedImages:
        """The images."""
        pixels = self.rows.open()[: len(self.labels)].permute(0, 3, 1, 2)
        return DecodedImages(pixels, self.labels, self.is_mapped)


@dataclass(frozen=True)
class SharedStores:
    """What the leader of a node sends to the others."""

    stores: tuple[Optional[Union[SharedImages, EncodedImages]], ...]
    is_on_device: bool

    def open(self, device: torch.device) -> list[ImageStore | None]:
        """The stores of one process."""
        opened = [store.open() if isinstance(store, SharedImages) else store for store in self.stores]
        if not self.is_on_device:
            return list(opened)
        return [store.to(device) if isinstance(store, DecodedImages) else store for store in opened]


class StoreMaker:
    """Decodes datasets to where there is room."""

    def __init__(
        self, world: World, display: ProgressDisplay, faults: FaultCollector, outputs_path: Path | None, *, skip: bool
    ) -> None:
        """Prepare to decode.

        Args:
            world: whose processes will read.
            display: shows how far it is.
            faults: takes what is wrong.
            outputs_path: gets the list of images that are left out; None where nothing is to be written.
            skip: whether images that cannot be read are to be left out.
        """
        self._world = world
        self._display = display
        self._faults = faults
        self._outputs_path = outputs_path if world.is_main else None
        self._skip = skip
        self.place = "none"
        """Where the images lie, of `choose_place`."""
        self.datasets: list[Scanned | None] = []
        """Those that were decoded, with the images that could be."""

    def make(self, datasets: Sequence[Scanned | None], wanted: str) -> list[ImageStore | None]:
        """Decode the datasets that have been read, for this process alone.

        Args:
            datasets: with their headers read; None for one that could not be.
            wanted: where to, as `--image-store` has it.
        """
        self.place = self._choose(datasets, wanted)
        return [self._decode(scanned, self.place) for scanned in datasets]

    def look_through(self, datasets: Sequence[Scanned | None], wanted: str) -> list[ImageStore | None]:
        """Choose the place, and decode each image only to see that it can be.

        Args:
            datasets: likewise.
            wanted: likewise.
        """
        self.place = self._choose(datasets, wanted)
        return [self._decode(scanned, "none") for scanned in datasets]

    def share(self, datasets: Sequence[Scanned | None], wanted: str, files: ExitStack) -> SharedStores:
        """Likewise, for all processes of this node.

        Args:
            datasets: likewise.
            wanted: likewise.
            files: keeps the files until all have opened them.
        """
        self.place = self._choose(datasets, wanted)
        host_place = self.place
        if self.place == "device":
            host_place = "none"
            num_bytes = sum(scanned.num_bytes for scanned in datasets if scanned)
            with self._faults.collecting(), _placement_told():
                host_place = choose_host_place(num_bytes)
        shared: list[SharedImages | EncodedImages | None] = []
        for scanned in datasets:
            rows = None
            if scanned is not None and scanned.size is not None and host_place != "none":
                shape = (len(scanned.kept), *scanned.size, 3)
                with self._faults.collecting(), _placement_told():
                    rows = files.enter_context(shared_rows(host_place, shape))
            store = self._decode(scanned, host_place, rows)
            if isinstance(store, DecodedImages) and rows is not None:
                shared.append(SharedImages(rows, store.labels, store.is_mapped))
            else:
                shared.append(store if isinstance(store, EncodedImages) else None)
        return SharedStores(tuple(shared), is_on_device=self.place == "device")

    def _choose(self, datasets: Sequence[Scanned | None], wanted: str) -> str:
        """The place; with faults at hand images are decoded only to see whether there are more."""
        place = "none"
        if not self._faults.faults:
            num_bytes = sum(scanned.num_bytes for scanned in datasets if scanned)
            with self._faults.collecting(), _placement_told():
                place = choose_place(wanted, num_bytes, self._world.device)
        return place

    def _decode(self, scanned: Scanned | None, place: str, shared: SharedRows | None = None) -> ImageStore | None:
        store = None
        if scanned is not None:
            if self._faults.faults and len(scanned.kept) > _MAX_IMAGES_DECODED_FOR_FAULTS:
                logger.warning(
                    "%s: its %d images are not decoded until the faults are mended.",
                    scanned.images.where,
                    len(scanned.kept),
                )
            elif scanned.size:
                with self._faults.collecting(), _placement_told():
                    rows = None if shared is None else shared.open()
                    store, scanned = decode(scanned, place, self._world.device, self._display, rows)
            with self._faults.collecting():
                report_unreadable(scanned.images, scanned.unreadable, self._outputs_path, skip=self._skip)
        self.datasets.append(scanned)
        return store


@contextmanager
def _placement_told() -> Iterator[None]:
    try:
        yield
    except PlacementError as error:
        raise UserError(str(error)) from error
