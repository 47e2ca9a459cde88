"""What modules and callbacks keep in attributes of their own: lists of an epoch, counters, averages, generators.

Lightning's checkpoints hold a module's parameters and buffers and nothing else of it: its own Trainer forgets the rest
when it goes on. A trial may be paused at any time, and what has changed between the first batch and a checkpoint is in
that as well. What hooks set before the first batch they set again.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.wrappers import MetricTracker

from lightning_shim.checkpoint.attribute_pickle import NEVER_KEPT, AttributeUnpickler, Hashed, Written
from lightning_shim.checkpoint.first_objects import PLAIN_TYPES, FirstObjects, KnownObjects, NotThereError
from lightning_shim.diagnostics.errors import DifferenceWarning
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.loop.strategy import StrategyFacade
from lightning_shim.upstream.lightning import Lightning, is_overridden
from lightning_shim.upstream.torch import buffers_without_state

FLAGS_OF_LAYERS: Final = ("track_running_stats", "momentum")
"""What hooks change of torch.nn's layers; checkpoints hold that once, for all processes."""

_ABSENT: Final = object()

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


@dataclass(frozen=True, slots=True)
class _Changed:
    """An attribute that a checkpoint is to hold, and what its value was seen to reach."""

    place: _Place
    value: Any
    seen: Hashed


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Saves most of the time: many objects are made at once, none of which is garbage before the end."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
        self._first = FirstObjects(self._packages)
        self._digests: dict[_Place, bytes | None] | None = None
        self._loaded: list[Tensor] | None = None
        self._restored: frozenset[_Place] = frozenset()
        self._lost: Final[set[_Place]] = set()

    @_without_garbage_collection()
    def start(self) -> None:
        """Looks at what there is before the first batch."""
        known = self._known()
        self._first = FirstObjects(self._packages)
        for place, value in self._attributes():
            self._first.add(_path(place), value, known)
        self._digests = {}
        for place, value in self._attributes():
            seen = self._seen(known, value)
            self._digests[place] = None if seen is None else seen.digest()

    @_without_garbage_collection()
    def state(self) -> list[Tensor] | None:
        """Returns what has changed since then on this process, as bytes; None if nothing has."""
        if self._digests is None:
            # No batch was trained.
            return self._loaded
        known = self._known()
        present = dict(self._attributes())
        changed: list[_Changed] = []
        lost = []
        for place, value in present.items():
            at_first = self._digests.get(place, b"")
            seen = self._seen(known, value)
            if seen is None:
                if at_first is not None and not self._is_cared_for(place, value):
                    lost.append(place)
            elif seen.digest() != at_first or place in self._restored:
                changed.append(_Changed(place, value, seen))
        self._warn_about(lost)
        removed = list(self._digests.keys() - present.keys())
        if not changed and not removed:
            return None
        groups: list[tuple[list[_Place], bytes, int]] = []
        buffers: list[Tensor] = []
        for group in _groups(changed):
            storages = sum((entry.seen.storages for entry in group), Counter[int]())
            written = Written(known, self._first, storages)
            written.dump_with_contents([entry.value for entry in group])
            groups.append(([entry.place for entry in group], written.getvalue(), len(written.buffers)))
            buffers += written.buffers
        # The pickles that torch.save makes have no bytes.
        pickled = pickle.dumps({"removed": removed, "groups": groups})
        return [torch.frombuffer(bytearray(pickled), dtype=torch.uint8), *buffers]

    def load(self, state: list[Tensor] | None) -> None:
        """Keeps a state until the first batch is about to be trained.

        Args:
            state: What :meth:`state` returned.
        """
        self._loaded = state

    @_without_garbage_collection()
    def restore(self) -> None:
        """Restores the attributes that were loaded. Call it after :meth:`start`."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        pickled, *buffers = loaded
        state = pickle.loads(pickled.numpy().tobytes())
        known = self._known()
        owners = {owner.key: owner for owner in self._owners()}
        for key, name in state["removed"]:
            if key in owners and name in owners[key].attributes():
                delattr(owners[key].instance, name)
        missing: list[_Place] = []
        restored = list(state["removed"])
        for places, stream, count in state["groups"]:
            own, buffers = buffers[:count], buffers[count:]
            restored += places
            try:
                values = AttributeUnpickler(stream, own, known, self._first).load_with_contents()
                for (key, name), value in zip(places, values, strict=True):
                    self._set(owners.get(key), name, value)
            except NotThereError:
                missing += places
            except Exception as error:
                self._warn(
                    f"The checkpoint's state of {self._names(places)} cannot be read ({type(error).__name__}: "
                    f"{error}). It is as __init__ and the hooks before the first batch make it. If a class has been "
                    "renamed or moved, let its former name stand for it as well."
                )
        self._restored = frozenset(restored)
        if missing:
            self._warn(
                f"The checkpoint has a state of {self._names(missing)}, and before the first batch there is nothing "
                "that could take it. Make what is there in __init__, setup or on_train_start."
            )

    @staticmethod
    def _set(owner: _Owner | None, name: str, value: Any) -> None:
        if owner is None:
            raise NotThereError
        if owner.attributes().get(name, _ABSENT) is not value:
            setattr(owner.instance, name, value)

    def _seen(self, known: KnownObjects, value: Any) -> Hashed | None:
        """Returns what a value can be recognised by, or None if it cannot be pickled."""
        seen = Hashed(known, self._first)
        try:
            seen.dump_with_contents([value])
        except Exception:
            # Objects may raise anything there, and a deep one is a RecursionError.
            return None
        return seen

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
            is_users = type(callback).__module__.partition(".")[0] not in NEVER_KEPT
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
        if type(value).__module__.partition(".")[0] in NEVER_KEPT:
            return True
        owner = next(owner.instance for owner in self._owners() if owner.key == place[0])
        base = self._lightning.Callback if owner in self._callbacks.values() else self._lightning.LightningModule
        saver = owner if base is self._lightning.Callback else self._module
        return all(is_overridden(hook, saver, base) for hook in ("on_save_checkpoint", "on_load_checkpoint"))

    def _warn_about(self, lost: list[_Place]) -> None:
        lost = [place for place in lost if place not in self._lost]
        self._lost.update(lost)
        if lost:
            self._warn(
                f"Checkpoints do not hold {self._names(lost)}: it is, or has in it, another object than before the "
                "first batch, and one that cannot be pickled. After a pause it is as __init__ and the hooks before "
                "the first batch make it. If training depends on it, register a buffer, or save and restore it in "
                "on_save_checkpoint and on_load_checkpoint."
            )

    @staticmethod
    def _warn(message: str) -> None:
        warn_at_caller(message, DifferenceWarning)

    def _names(self, places: list[_Place]) -> str:
        classes = {owner.key: type(owner.instance).__qualname__ for owner in self._owners()}
        return ", ".join(f"{classes.get(key, key)}.{name}" for key, name in places)


class _MetricWithoutState(Metric):
    """Has what every metric has."""

    def update(self) -> None:
        """Does nothing."""

    def compute(self) -> None:
        """Does nothing."""


def _is_of_torch(instance: Any) -> bool:
    return type(instance).__module__.partition(".")[0] == "torch"


def _path(place: _Place) -> str:
    return " ".join(place)


def _groups(changed: Iterable[_Changed]) -> list[list[_Changed]]:
    """Puts those together that share an object: they are to share it again, or fail together."""
    group_of_place: dict[_Place, list[_Changed]] = {}
    group_of_object: dict[Any, list[_Changed]] = {}
    for entry in changed:
        found = [group_of_object[key] for key in entry.seen.reached if key in group_of_object]
        group = [*itertools.chain(*{id(other): other for other in found}.values()), entry]
        for member in group:
            group_of_place[member.place] = group
            group_of_object.update(dict.fromkeys(member.seen.reached, group))
    return list({id(group): group for group in group_of_place.values()}.values())
