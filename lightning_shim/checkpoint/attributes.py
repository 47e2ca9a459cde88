"""What modules and callbacks keep in attributes of their own: lists of an epoch, counters, averages, generators.

Lightning's checkpoints hold a module's parameters and buffers and nothing else of it: its own Trainer forgets the rest
when it goes on. A trial may be paused at any time, and what has changed between the first batch and a checkpoint is in
that as well. What hooks set before the first batch they set again.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.wrappers import MetricTracker

from lightning_shim.checkpoint.kind import ABSENT, PLAIN_TYPES, CannotKeepError
from lightning_shim.checkpoint.known_objects import KnownObjects
from lightning_shim.checkpoint.plain_values import FirstObjects, Packer, Unpacker
from lightning_shim.diagnostics.errors import DifferenceWarning
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.loop.strategy import StrategyFacade
from lightning_shim.upstream.lightning import Lightning, is_overridden
from lightning_shim.upstream.namespaces import NAMESPACES
from lightning_shim.upstream.torch import buffers_without_state

FLAGS_OF_LAYERS: Final = ("track_running_stats", "momentum")
"""What hooks change of torch.nn's layers; checkpoints hold that once, for all processes."""

_REMOVED: Final = ("removed",)
"""Stands for an attribute that was there when training began."""

_NEITHER_USERS_NOR_TO_BE_KEPT: Final = frozenset(
    {"determined", "lightning_shim", "lightning_fabric", *(name.partition(".")[0] for name in NAMESPACES)}
)

_Place = tuple[str, str]
"""The key of an owner, and the name of an attribute."""


@dataclass(frozen=True, slots=True)
class _Owner:
    """A module, submodule or callback.

    Attributes:
        key: Its name, the same in each process.
        instance: The object.
        names_left_out: What it has without the user's doing.
    """

    key: str
    instance: Any
    names_left_out: frozenset[str]

    def attributes(self) -> dict[str, Any]:
        """Returns what is kept of it by name."""
        own = {name: value for name, value in vars(self.instance).items() if name not in self.names_left_out}
        if not isinstance(self.instance, nn.Module):
            return own
        if _is_of_torch(self.instance):
            # Its other attributes are made of its parameters, as weight normalisation makes the weight.
            own = {name: value for name, value in own.items() if type(value) in PLAIN_TYPES}
        return own | buffers_without_state(self.instance)


class OwnAttributes:
    """Saves and restores the attributes of a module, its submodules and the user's callbacks.

    A callback with a ``state_dict`` says by that what there is to keep. The states of torchmetrics' metrics are kept
    elsewhere.

    Args:
        lightning: The module's Lightning.
        module: The LightningModule.
        datamodule: The LightningDataModule, if there is one. Lightning has a ``state_dict`` for it.
        trainer: What the module has as its trainer.
        callbacks: The Lightning callbacks.
        strategy: Has optimizers and schedulers.
    """

    def __init__(
        self,
        lightning: Lightning,
        module: Any,
        datamodule: Any,
        trainer: Any,
        callbacks: Iterable[Any],
        strategy: StrategyFacade,
    ) -> None:
        self._lightning: Final = lightning
        self._module: Final = module
        self._strategy: Final = strategy
        self._objects: Final = {"trainer": trainer, "strategy": strategy, "datamodule": datamodule}
        self._callbacks: Final = {f"callback {index}": callback for index, callback in enumerate(callbacks)}
        users = [module, *self._callbacks.values()]
        self._packages: Final = frozenset(type(user).__module__.partition(".")[0] for user in users)
        self._first = FirstObjects()
        self._prints: dict[_Place, bytes | None] | None = None
        self._loaded: Tensor | None = None
        self._restored: frozenset[_Place] = frozenset()
        self._lost: Final[set[_Place]] = set()

    def start(self) -> None:
        """Looks at what there is before the first batch."""
        known, first = self._known(), FirstObjects()
        for place, value in self._attributes():
            _packed(Packer(known, first, True, self._packages), place, value)
        self._first = first
        self._prints = {place: self._print(known, place, value) for place, value in self._attributes()}

    def state(self) -> Tensor | None:
        """Returns what has changed since then on this process, as bytes; None if nothing has."""
        if self._prints is None:
            # No batch was trained.
            return self._loaded
        known = self._known()
        packer = Packer(known, self._first, False, self._packages)
        present = dict(self._attributes())
        entries = [(place, _REMOVED) for place in self._prints.keys() - present.keys()]
        lost = []
        for place, value in present.items():
            at_first = self._prints.get(place, b"")
            now = self._print(known, place, value)
            if now is None:
                if at_first is not None and not self._is_cared_for(place, value):
                    lost.append(place)
            elif now != at_first or place in self._restored:
                entries.append((place, packer.pack(value, _path(place))))
        self._warn_about(lost)
        # The pickles that torch.save makes have no bytes.
        return torch.frombuffer(bytearray(pickle.dumps(entries)), dtype=torch.uint8) if entries else None

    def load(self, state: Tensor | None) -> None:
        """Keeps a state until the first batch is about to be trained.

        Args:
            state: What :meth:`state` returned.
        """
        self._loaded = state

    def restore(self) -> None:
        """Brings the attributes to where they were. What hooks and constructors have made of them was looked at."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        owners = {owner.key: owner for owner in self._owners()}
        unpacker = Unpacker(self._known())
        missing = []
        entries = _PlainUnpickler(io.BytesIO(loaded.numpy().tobytes())).load()
        for place, plain in entries:
            key, name = place
            owner = owners.get(key)
            present = ABSENT if owner is None else owner.attributes().get(name, ABSENT)
            try:
                if owner is None:
                    raise CannotKeepError(_path(place))
                if plain != _REMOVED:
                    value = unpacker.unpack(plain, present, _path(place))
                    if value is not present:
                        setattr(owner.instance, name, value)
                elif present is not ABSENT:
                    delattr(owner.instance, name)
            except CannotKeepError:
                missing.append(place)
        self._restored = frozenset(place for place, _ in entries)
        if missing:
            warn_at_caller(
                f"The checkpoint has a state of {self._names(missing)}, and before the first batch there is nothing "
                "that could take it. Make what is there in __init__, setup or on_train_start.",
                DifferenceWarning,
            )

    def _print(self, known: KnownObjects, place: _Place, value: Any) -> bytes | None:
        """Returns what a value can be recognised by, or None if it cannot be kept."""
        packed = _packed(Packer(known, self._first, False, self._packages, _hashed), place, value)
        return None if packed is None else _hashed(pickle.dumps(packed))

    def _owners(self) -> Iterator[_Owner]:
        of_module = frozenset(vars(nn.Module()))
        of_lightning_module = frozenset(vars(self._lightning.LightningModule()))
        of_metric = frozenset(vars(_MetricWithoutState()))
        for name, submodule in self._module.named_modules():
            left_out = of_module
            if isinstance(submodule, (MetricCollection, MetricTracker)):
                continue
            if isinstance(submodule, self._lightning.LightningModule):
                left_out = of_lightning_module
            elif isinstance(submodule, Metric):
                # A private name of torchmetrics: what is a state, which checkpoints hold by themselves.
                left_out = of_metric.union(submodule._defaults)
            elif _is_of_torch(submodule):
                left_out = of_module.union(FLAGS_OF_LAYERS)
            yield _Owner(f"module {name}", submodule, left_out)
        for key, callback in self._callbacks.items():
            is_users = type(callback).__module__.partition(".")[0] not in _NEITHER_USERS_NOR_TO_BE_KEPT
            if is_users and not is_overridden("state_dict", callback, self._lightning.Callback):
                yield _Owner(f"{key} {type(callback).__qualname__}", callback, frozenset())

    def _attributes(self) -> Iterator[tuple[_Place, Any]]:
        for owner in self._owners():
            for name, value in owner.attributes().items():
                yield (owner.key, name), value

    def _known(self) -> KnownObjects:
        module, strategy = self._module, self._strategy
        without_state = {id(buffer) for entry in module.modules() for buffer in buffers_without_state(entry).values()}
        lists = {
            "optimizer": strategy.optimizers,
            "Lightning's optimizer": strategy._lightning_optimizers,
            "scheduler": [config.scheduler for config in strategy.lr_scheduler_configs],
        }
        named = {
            **self._objects,
            **self._callbacks,
            **{f"module {name}": submodule for name, submodule in module.named_modules()},
            **{f"{kind} {index}": entry for kind, entries in lists.items() for index, entry in enumerate(entries)},
        }
        tensors = {f"parameter {name}": parameter for name, parameter in module.named_parameters()} | {
            f"buffer {name}": buffer for name, buffer in module.named_buffers() if id(buffer) not in without_state
        }
        return KnownObjects({name: entry for name, entry in named.items() if entry is not None}, tensors, module.device)

    def _is_cared_for(self, place: _Place, value: Any) -> bool:
        """Tells whether nobody is to be warned of an attribute that cannot be kept."""
        if type(value).__module__.partition(".")[0] in _NEITHER_USERS_NOR_TO_BE_KEPT:
            return True
        owner = next(owner.instance for owner in self._owners() if owner.key == place[0])
        base = self._lightning.Callback if owner in self._callbacks.values() else self._lightning.LightningModule
        saver = owner if base is self._lightning.Callback else self._module
        return all(is_overridden(hook, saver, base) for hook in ("on_save_checkpoint", "on_load_checkpoint"))

    def _warn_about(self, lost: list[_Place]) -> None:
        lost = [place for place in lost if place not in self._lost]
        self._lost.update(lost)
        if lost:
            warn_at_caller(
                f"Checkpoints do not hold {self._names(lost)}: it is, or has in it, another object than before the "
                "first batch, and one that cannot be kept. Numbers, text, tensors, arrays, random generators and "
                "containers of these can. After a pause it is as __init__ and the hooks before the first batch make "
                "it. If training depends on it, register a buffer, or save and restore it in on_save_checkpoint and "
                "on_load_checkpoint.",
                DifferenceWarning,
            )

    def _names(self, places: list[_Place]) -> str:
        classes = {owner.key: type(owner.instance).__qualname__ for owner in self._owners()}
        return ", ".join(f"{classes.get(key, key)}.{name}" for key, name in places)


class _MetricWithoutState(Metric):
    """Has what every metric has."""

    def update(self) -> None:
        """Does nothing."""

    def compute(self) -> None:
        """Does nothing."""


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain values: a class, or code, is refused."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is no plain value.")


def _is_of_torch(instance: Any) -> bool:
    return type(instance).__module__.partition(".")[0] == "torch"


def _hashed(contents: bytes) -> bytes:
    return hashlib.sha256(contents).digest()


def _path(place: _Place) -> str:
    return " ".join(place)


def _packed(packer: Packer, place: _Place, value: Any) -> Any:
    """Packs a value; returns None if that cannot be done. One that is None is packed as a list."""
    try:
        return [packer.pack(value, _path(place))]
    except (CannotKeepError, RecursionError):
        return None
