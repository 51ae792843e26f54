"""Finds the weights of a network in the content of a file, whatever training script wrote it.

Scripts wrap networks and their weights: `{"state_dict": …, "optimizer": …}`, names that begin with `module.` or
`backbone.`, a second, averaged copy. The names and shapes of the network decide what is taken. Everything outside the
head must be there; the head may have another number of outputs, or be missing.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from train_pytorch_model.models.network import COUNTER, differences, head_keys
from train_pytorch_model.models.network_rules import NetworkError, bytes_of
from train_pytorch_model.models.state_dicts import with_entries
from train_pytorch_model.models.weight_kinds import SAVE_WEIGHTS
from train_pytorch_model.models.weight_pickles import Foreign
from train_pytorch_model.text.wording import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from train_pytorch_model.models.description import NetworkDescription
    from train_pytorch_model.models.weights import WeightFile

logger = logging.getLogger(__name__)

# What DataParallel, torch.compile, FSDP, activation checkpointing and Fabric insert into names, at any level.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
# Earlier names of layers: DenseNet's published files (norm.1 for norm1), and the first vision transformers.
_EARLIER_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)
# Entries that scripts and libraries add to any layer: counters, counted operations, and indices that are computed.
_UNUSED = (COUNTER, "total_ops", "total_params", "relative_position_index", "relative_coords_table", "attn_mask")
# Words in names of copies that are averaged over the training, which evaluate better; then of the best epoch.
_PREFERRED = (("ema", "swa", "averaged", "teacher"), ("best",))
# Names of what an optimizer keeps for each parameter, under the parameter's name.
_OPTIMIZER = re.compile(r"optim|sched|exp_avg|momentum|grad")
_MAX_DEPTH = 6


@dataclass(frozen=True)
class Choice:
    """The weights of a network, as parts of a file."""

    state: dict[str, torch.Tensor]
    """By the network's names. The numbers may not have been read yet."""
    missing: frozenset[str] = frozenset()
    """Entries of the head that are initialized randomly, because the file has none that fit."""
    notes: tuple[str, ...] = ()
    """What was chosen and changed, for the log."""


@dataclass(frozen=True)
class _Layout:
    """The weights that a network has."""

    tensors: dict[str, torch.Tensor]
    """Without data."""
    optional: frozenset[str]

    @property
    def required(self) -> set[str]:
        return {key for key in self.tensors if key not in self.optional and not key.endswith(COUNTER)}


@dataclass(frozen=True)
class _Fit:
    """Entries of a dict that have the names of the network after a prefix."""

    path: tuple[str, ...]
    """The keys that lead to the dict."""
    prefix: str
    state: dict[str, Any]
    faults: str
    """Why the entries do not fit; "" if they do."""
    left_out: list[str] = field(default_factory=list)
    """Entries that the network does not have."""
    removed: list[str] = field(default_factory=list)
    """What wrappers inserted into names, such as "module"."""

    def __str__(self) -> str:
        return " > ".join(map(repr, self.path + ((self.prefix,) if self.prefix else ()))) or "the file itself"

    @property
    def rank(self) -> int:
        """The place of the copy in the order of preference."""
        words = set(re.split(r"[\W_]+", ".".join((*self.path, self.prefix)).lower()))
        return next((rank for rank, preferred in enumerate(_PREFERRED) if words & set(preferred)), len(_PREFERRED))


def choose_weights(weights: WeightFile, description: NetworkDescription, *, needs_head: bool) -> Choice:
    """Find the weights of a network in a file.

    Of several copies that fit, averaged ones (EMA, SWA, teacher) come first, then those of the best epoch, then the
    first in the file.

    Args:
        weights: the content of the file.
        description: the network.
        needs_head: whether the head must fit too.

    Raises:
        NetworkError: if nothing in the file fits; the message names what differs.
        ValueError: if the file contains no weights.
    """
    found = list(_state_dicts(weights.content))
    if not found:
        raise ValueError(_without_weights(weights))
    dense = [{key: value for key, value in state.items() if isinstance(value, torch.Tensor)} for _, state in found]
    network = description.build_without_weights(max(map(bytes_of, dense)))
    tensors = network.state_dict()
    if len(found) == 1 and not differences(tensors, found[0][1]) and not found[0][0]:
        return Choice(with_entries(tensors, found[0][1]), notes=tuple(_converted(found[0][1])))
    layout = _Layout(tensors, frozenset() if needs_head else _head_module(description, set(tensors)))
    fits = [fit for path, state in found for fit in _fits(path, state, layout)]
    good = [fit for fit in fits if not fit.faults]
    if not good:
        best = max(fits, key=lambda fit: len(fit.state))
        weights.check_shapes(next(state for path, state in found if path == best.path))
        raise NetworkError(f"its weights do not fit {description}: {best.faults}")
    chosen = min(good, key=lambda fit: fit.rank)
    return _choice(chosen, [fit for fit in good if fit is not chosen], layout)


def state_dicts(content: Any) -> list[dict[str, Any]]:
    """Return every dict in the content of a file that has tensors under names."""
    return [state for _, state in _state_dicts(content)]


def log_choice(source: object, choice: Choice) -> None:
    """Log what was chosen and changed, if anything was."""
    if choice.notes:
        logger.info("Weights of %s: %s.", source, "; ".join(choice.notes))


def plain_names(state: dict[str, Any], known: Collection[str] = ()) -> dict[str, str]:
    """Return the current names of entries, without what wrappers insert, and the names that the entries had.

    Args:
        state: a state dict.
        known: names between dots that the network itself has, which stay.
    """
    inserted = set(_WRAPPERS) - set(known)
    names: dict[str, str] = {}
    for key in state:
        name = ".".join(part for part in key.split(".") if part not in inserted)
        for earlier, current in _EARLIER_NAMES:
            name = earlier.sub(current, name)
        names[name] = key
    return names if len(names) == len(state) else {key: key for key in state}  # two copies, one of them wrapped


def _state_dicts(content: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Find every dict that has tensors under names, each once, and the keys that lead to it."""
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while waiting:
        path, value = waiting.pop(0)
        if id(value) in seen or len(path) > _MAX_DEPTH or any(_OPTIMIZER.search(part.lower()) for part in path):
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            tensors = {key: item for key, item in value.items() if type(key) is str and _is_tensor(item)}
            if tensors:
                yield path, tensors
        items = value.items() if isinstance(value, dict) else enumerate(value) if type(value) in (list, tuple) else ()
        waiting += [((*path, str(key)), item) for key, item in items if isinstance(item, (dict, list, tuple))]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, Foreign) and value.is_tensor)


def _without_weights(weights: WeightFile) -> str:
    """Say what a file contains in place of weights."""
    content, name = weights.content, weights.path.name
    if not isinstance(content, dict):
        return f"{name} is not a state_dict of tensors but a {type(content).__name__}"
    if any(_is_tensor(value) for value in content.values()):
        return f"{name} has names of tensors that are not text"
    networks = [key for key, value in content.items() if isinstance(value, Foreign) and value.is_network]
    if networks:
        return (
            f"{name} has a whole pickled network under {shown(networks[0])} ({shown(content[networks[0]].name)}), "
            f"which needs the code of its class; {SAVE_WEIGHTS}"
        )
    for key, value in content.items():
        if isinstance(value, Foreign):
            return f"{name} has no weights that can be loaded safely: {shown(key)} is a pickled {shown(value.name)}"
    return f"{name} is not a state_dict of tensors; it contains {shown(list(content)[:5])}"


def _head_module(description: NetworkDescription, keys: set[str]) -> frozenset[str]:
    """Return the entries of the top-level layer that contains the head; of the head alone if that is everything."""
    try:
        head = head_keys(description, int(description.init_params.get("num_classes", 1000)))
    except (NetworkError, TypeError, ValueError):
        return frozenset()
    tops = {key.partition(".")[0] for key in head}
    module = frozenset(key for key in keys if key.partition(".")[0] in tops)
    return module if len(module) < len(keys) else frozenset(head & keys)


def _fits(path: tuple[str, ...], state: dict[str, Any], layout: _Layout) -> Iterator[_Fit]:
    """Compare the entries after each prefix that may be the network's with the network."""
    names = plain_names(state, {part for key in layout.tensors for part in key.split(".")})
    required = layout.required
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for at in range(len(parts)):
            if ".".join(parts[at:]) in required:
                counts[".".join((*parts[:at], ""))] += 1
    most = counts.most_common(1)[0][1] if counts else 0
    named = {name: state[key] for name, key in names.items()}
    removed = [part for part in _WRAPPERS if any(part in key.split(".") for key in set(state) - set(names))]
    for prefix in [prefix for prefix, count in counts.items() if count == most] or [""]:
        yield replace(_compared(path, prefix, named, layout), removed=removed)


def _compared(path: tuple[str, ...], prefix: str, named: dict[str, Any], layout: _Layout) -> _Fit:
    after = {name[len(prefix) :]: value for name, value in named.items() if name.startswith(prefix)}
    tops = {key.partition(".")[0] for key in layout.required}
    taken, left_out = {}, [name for name in named if not name.startswith(prefix)]
    for name, value in after.items():
        is_extra = name not in layout.tensors and (name.partition(".")[0] not in tops or name.endswith(_UNUSED))
        is_other_head = name in layout.optional and differences({name: layout.tensors[name]}, {name: value})
        if is_extra or is_other_head:
            left_out.append(prefix + name)
        else:
            taken[name] = value
    faults = differences(layout.tensors, taken, layout.optional)
    return _Fit(path, prefix, with_entries(layout.tensors, taken), faults, left_out)


def _choice(chosen: _Fit, others: list[_Fit], layout: _Layout) -> Choice:
    missing = frozenset(key for key in layout.optional if key not in chosen.state and not key.endswith(COUNTER))
    notes = [f"taken from {chosen}"] if chosen.path or chosen.prefix else []
    if chosen.removed:
        notes.append(f"removed from names: {', '.join(chosen.removed)}")
    if others:
        notes.append(f"also fitting, and not used: {', '.join(map(str, others[:3]))}")
    if missing:
        notes.append(
            f"the head is initialized randomly, because the file has none of this size: {shown(sorted(missing)[:4])}"
        )
    left_out = [name for name in chosen.left_out if not name.endswith(_UNUSED)]
    if left_out:
        notes.append(f"not used: {len(left_out)} entries, such as {shown(left_out[:4])}")
    return Choice(chosen.state, missing, (*notes, *_converted(chosen.state)))


def _converted(state: dict[str, torch.Tensor]) -> list[str]:
    """Say which types of numbers are converted, if any."""
    dtypes = sorted({str(value.dtype)[6:] for value in state.values() if value.is_floating_point()})
    return [] if dtypes in ([], ["float32"]) else [f"converted to float32 from {', '.join(dtypes)}"]
