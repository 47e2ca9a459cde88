"""State that modules and callbacks keep in attributes of their own: lists of an epoch, counters, averages, generators.

Of a module, Lightning's checkpoints hold the parameters and buffers alone, and its own Trainer forgets the rest when it
resumes. A trial may be paused at any time, so its checkpoints also hold every attribute that has changed since the
first batch. Attributes that hooks set before the first batch are set by them again.
"""

from __future__ import annotations

import contextlib
import functools
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

from lightning_shim.checkpoint.attribute_pickle import NEVER_KEPT, AttributeUnpickler, CheckpointPickler, HashingPickler
from lightning_shim.checkpoint.initial_objects import PLAIN_TYPES, InitialObjects, KnownObjects, MissingObjectError
from lightning_shim.diagnostics.errors import DifferenceWarning
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.loop.runtime import Runtime
from lightning_shim.upstream.lightning import is_overridden
from lightning_shim.upstream.torch import buffers_without_state
from lightning_shim.user_code.bytecode import may_read_earlier_value

FLAGS_OF_LAYERS: Final = ("track_running_stats", "momentum")
"""Attributes of torch.nn's layers that hooks change. Checkpoints hold them once, for all processes."""

_ABSENT: Final = object()

_Place = tuple[str, str]
"""The key of an owner, and the name of an attribute."""


@dataclass(frozen=True, slots=True)
class _Owner:
    """A module, submodule or callback.

    Attributes:
        key: Its name, the same in each process.
        instance: The object.
        names_left_out: The attributes that it has by itself, without the user.
    """

    key: str
    instance: Any
    names_left_out: frozenset[str]

    def attributes(self) -> dict[str, Any]:
        """Returns the attributes to save, by name."""
        own = {name: value for name, value in vars(self.instance).items() if name not in self.names_left_out}
        if not isinstance(self.instance, nn.Module):
            return own
        if _is_of_torch(self.instance):
            # Its other attributes are derived from its parameters, as weight normalisation derives the weight.
            own = {name: value for name, value in own.items() if type(value) in PLAIN_TYPES}
        return own | buffers_without_state(self.instance)


@dataclass(frozen=True, slots=True)
class _Changed:
    """An attribute to save, and the hash of its value, which knows the objects that it reaches."""

    place: _Place
    value: Any
    hashed: HashingPickler


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pauses the garbage collector, which would otherwise take most of the time of pickling.

    Many objects are created at once, none of which is garbage before the end.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class OwnAttributes:
    """Saves and restores the attributes of a module, its submodules and the user's callbacks.

    A callback with a ``state_dict`` decides by it what to save. The states of torchmetrics' metrics are saved with the
    trial's state.

    A data module has a ``state_dict`` of its own, and is only referred to by name.

    Args:
        runtime: The components; its session has the callbacks and the trainer.
    """

    def __init__(self, runtime: Runtime) -> None:
        session, module = runtime.session, runtime.session.module
        self._lightning: Final = session.lightning
        self._module: Final = module
        self._strategy: Final = runtime.strategy
        self._objects: Final = {
            "trainer": session.trainer,
            "strategy": runtime.strategy,
            "datamodule": session.datamodule,
        }
        self._callbacks: Final = {f"callback {index}": callback for index, callback in enumerate(session.callbacks)}
        users = [module, *self._callbacks.values()]
        self._packages: Final = frozenset(type(user).__module__.partition(".")[0] for user in users)
        self._initial = InitialObjects(self._packages)
        self._digests: dict[_Place, bytes | None] | None = None
        self._loaded: list[Tensor] | None = None
        self._restored: frozenset[_Place] = frozenset()
        self._lost: Final[set[_Place]] = set()

    @_without_garbage_collection()
    def start(self) -> None:
        """Records the attributes before the first batch."""
        # In two rounds: a hash names the initial objects that a value reaches, wherever they were found.
        known = self._known()
        self._initial = InitialObjects(self._packages)
        for place, value in self._attributes():
            self._initial.add(_path(place), value, known)
        self._digests = {}
        for place, value in self._attributes():
            hashed = self._hash(known, value)
            self._digests[place] = None if hashed is None else hashed.digest()

    @_without_garbage_collection()
    def state(self) -> list[Tensor] | None:
        """Returns the attributes of this process that have changed since :meth:`start`, as bytes; None if none has."""
        if self._digests is None:
            # Training has not started: what an earlier process has saved is still to be restored.
            return self._loaded
        known = self._known()
        present = dict(self._attributes())
        changed: list[_Changed] = []
        lost = []
        for place, value in present.items():
            at_first = self._digests.get(place, b"")
            hashed = self._hash(known, value)
            if hashed is None:
                if at_first is not None and not self._needs_no_warning(place, value):
                    lost.append(place)
            # A restored attribute is saved again, whatever its value: the next process need not begin with the same.
            elif hashed.digest() != at_first or place in self._restored:
                changed.append(_Changed(place, value, hashed))
        self._warn_about(lost)
        removed = list(self._digests.keys() - present.keys())
        if not changed and not removed:
            return None
        groups: list[tuple[list[_Place], bytes, int]] = []
        buffers: list[Tensor] = []
        for group in _groups(changed):
            storages = sum((entry.hashed.storages for entry in group), Counter[int]())
            written = CheckpointPickler(known, self._initial, storages)
            written.dump_with_contents([entry.value for entry in group])
            groups.append(([entry.place for entry in group], written.getvalue(), len(written.buffers)))
            buffers += written.buffers
        # As a tensor, since torch.save stores bytes as text.
        pickled = pickle.dumps({"removed": removed, "groups": groups})
        return [torch.frombuffer(bytearray(pickled), dtype=torch.uint8), *buffers]

    def load(self, state: list[Tensor] | None) -> None:
        """Keeps a state until :meth:`restore`.

        Args:
            state: The return value of :meth:`state`.
        """
        self._loaded = state

    @_without_garbage_collection()
    def restore(self) -> None:
        """Restores the loaded attributes. Call it after :meth:`start`."""
        # The third phase of loading: by now the constructors and hooks have created the objects to be filled.
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
                values = AttributeUnpickler(stream, own, known, self._initial).load_with_contents()
                for (key, name), value in zip(places, values, strict=True):
                    self._set(owners.get(key), name, value)
            except MissingObjectError:
                missing += places
            except Exception as error:
                self._warn(
                    f"The checkpoint's state of {self._names(places)} cannot be read ({type(error).__name__}: "
                    f"{error}). It is as __init__ and the hooks before the first batch make it. If a class has been "
                    "renamed or moved, keep its old name as an alias."
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
            raise MissingObjectError
        if owner.attributes().get(name, _ABSENT) is not value:
            setattr(owner.instance, name, value)

    def _hash(self, known: KnownObjects, value: Any) -> HashingPickler | None:
        """Hashes a value; returns None if it cannot be pickled."""
        hashed = HashingPickler(known, self._initial)
        try:
            hashed.dump_with_contents([value])
        except Exception:
            # An object's own methods may raise anything, and a deeply nested one leads to a RecursionError.
            return None
        return hashed

    def _owners(self) -> Iterator[_Owner]:
        of_module = _names_in(nn.Module)
        for name, submodule in self._module.named_modules():
            left_out = of_module
            if isinstance(submodule, (MetricCollection, MetricTracker)):
                continue
            if isinstance(submodule, self._lightning.LightningModule):
                left_out = _names_in(self._lightning.LightningModule)
            elif isinstance(submodule, Metric):
                # torchmetrics' private name of a metric's states, which are saved with the trial's state.
                left_out = _names_in(_MetricWithoutState).union(submodule._defaults)
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

    def _needs_no_warning(self, place: _Place, value: Any) -> bool:
        """Whether losing this attribute needs no warning."""
        # Objects of the frameworks are created anew; and hooks for both ways of a checkpoint take care of the others.
        if type(value).__module__.partition(".")[0] in NEVER_KEPT:
            return True
        owner = next(owner.instance for owner in self._owners() if owner.key == place[0])
        users = [*self._module.modules(), *self._callbacks.values(), self._objects["datamodule"]]
        # What everybody sets anew before reading it does not depend on the past. Hooks are read by others.
        if not hasattr(type(owner), place[1]) and not may_read_earlier_value(place[1], set(map(type, users))):
            return True
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


@functools.cache
def _names_in(cls: type) -> frozenset[str]:
    """Returns the names of the attributes that a class gives its instances. The first of torchmetrics' takes 20 ms."""
    return frozenset(vars(cls()))


class _MetricWithoutState(Metric):
    """A metric whose attributes are those that every metric has."""

    def update(self) -> None:
        """Does nothing."""

    def compute(self) -> None:
        """Does nothing."""


def _is_of_torch(instance: Any) -> bool:
    return type(instance).__module__.partition(".")[0] == "torch"


def _path(place: _Place) -> str:
    return " ".join(place)


def _groups(changed: Iterable[_Changed]) -> list[list[_Changed]]:
    """Groups attributes that share an object: in one pickle they share it again, or fail together."""
    group_of_place: dict[_Place, list[_Changed]] = {}
    group_of_object: dict[Any, list[_Changed]] = {}
    for entry in changed:
        found = [group_of_object[key] for key in entry.hashed.reached if key in group_of_object]
        group = [*itertools.chain(*{id(other): other for other in found}.values()), entry]
        for member in group:
            group_of_place[member.place] = group
            group_of_object.update(dict.fromkeys(member.hashed.reached, group))
    return list({id(group): group for group in group_of_place.values()}.values())
