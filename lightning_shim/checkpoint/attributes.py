"""State that modules, callbacks and data keep in attributes of their own: lists of an epoch, counters, generators.

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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, Sampler
from torchmetrics import Metric, MetricCollection
from torchmetrics.wrappers import MetricTracker

from lightning_shim.checkpoint.attribute_pickle import NEVER_KEPT, AttributeUnpickler, CheckpointPickler, HashingPickler
from lightning_shim.checkpoint.callbacks import attributes_left_out
from lightning_shim.checkpoint.initial_objects import (
    NAMED,
    PLAIN_TYPES,
    InitialObjects,
    KnownObjects,
    MissingObjectError,
)
from lightning_shim.data.parts import attributes_of
from lightning_shim.data.tracked_loader import TrackedLoader, has_state
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.loop.runtime import Runtime
from lightning_shim.session.fingerprints import IN_CHECKPOINTS, is_large, mark_of
from lightning_shim.upstream.lightning import is_overridden, lightning_of
from lightning_shim.upstream.torch import buffers_without_state, pruned_tensors
from lightning_shim.user_code.bytecode import may_read_earlier_value
from lightning_shim.user_code.user_class import is_users_class

FLAGS_OF_LAYERS: Final = ("track_running_stats", "momentum")
"""Attributes of torch.nn's layers that hooks change. Checkpoints hold them once, for all processes."""

_ABSENT: Final = object()

_STAGES: Final = {"train": "training", "val": "validation"}
"""The names of stages, as messages have them."""

_Place = tuple[str, str]
"""The key of an owner, and the name of an attribute."""


@dataclass(frozen=True, slots=True)
class _Owner:
    """A module, submodule or callback."""

    key: str  # its name, the same in each process
    instance: Any
    names_left_out: frozenset[str] = frozenset()  # the attributes that it has by itself, without the user
    loader: str | None = None  # the loader that it is a part of, in words, unless it is of the module or a callback

    def attributes(self) -> dict[str, Any]:
        """Returns the attributes to save, by name."""
        if self.loader is not None:
            return {} if has_state(self.instance) else attributes_of(self.instance)
        own = {name: value for name, value in vars(self.instance).items() if name not in self.names_left_out}
        if not isinstance(self.instance, nn.Module):
            return own
        # Pruned tensors are saved with the trial's state, and a forward pass makes them anew.
        for tensor in pruned_tensors(self.instance):
            own.pop(tensor.name, None)
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
    """Saves and restores the attributes of a module, its submodules, the user's callbacks, and parts of loaders.

    A callback, dataset, sampler or loader with a ``state_dict`` decides by it what to save. The states of torchmetrics'
    metrics are saved with the trial's state.

    A data module has a ``state_dict`` of its own, and is only referred to by name.

    A dataset may be of any size, unlike a module: of its attributes those within a bound are kept.
    """

    def __init__(self, runtime: Runtime) -> None:
        session = runtime.session
        self._session: Final = session
        self._lightning: Final = session.lightning
        self._module: Final = session.module
        self._strategy: Final = runtime.strategy
        self._loaders: Final[dict[str, Sequence[TrackedLoader]]] = {}
        self._initial = InitialObjects(frozenset())
        self._digests: dict[_Place, Any] | None = None
        self._begun: Final[dict[str, Any]] = {}
        self._has_started = False
        self._loaded: list[Tensor] | None = None
        self._loads_loaders = True
        self._always_kept: Final[set[_Place]] = set()
        self._lost: Final[set[_Place]] = set()

    @functools.cached_property
    def _callbacks(self) -> dict[str, Any]:
        return {f"callback {index}": callback for index, callback in enumerate(self._session.callbacks)}

    @functools.cached_property
    def packages(self) -> frozenset[str]:
        """The packages whose classes are the user's, wherever they are installed."""
        users = [self._module, *self._callbacks.values()]
        return frozenset(type(user).__module__.partition(".")[0] for user in users)

    def start_loaders(self) -> None:
        """Records the attributes of the loaders before anybody iterates them; of those requested later, then."""
        self._initial = InitialObjects(self.packages)
        self._digests = {}
        self._begin([owner for stage, loaders in self._loaders.items() for owner in self._owners_in(loaders, stage)])

    def start(self) -> None:
        """Records the attributes of the module and the callbacks before the first batch."""
        self._has_started = True
        self._begin([owner for owner in self._owners() if owner.loader is None])

    def add_loaders(self, stage: str, loaders: Sequence[TrackedLoader]) -> None:
        """Records the attributes of a stage's loaders that have been requested, in place of its former ones."""
        self._loaders[stage] = loaders
        if self._digests is not None:
            owners = self._owners_in(loaders, stage)
            self._begin([owner for owner in owners if self._begun.get(owner.key) is not owner.instance])

    @_without_garbage_collection()
    def _begin(self, owners: list[_Owner]) -> None:
        assert self._digests is not None
        for owner in owners:
            if owner.key in self._begun:
                # Another object than before, at the same place.
                self._initial.forget(_path((owner.key, "")))
                self._digests = {place: self._digests[place] for place in self._digests if place[0] != owner.key}
            self._begun[owner.key] = owner.instance
        # In two rounds: a hash names the initial objects that a value reaches, wherever they were found.
        known = self._known()
        found = [(place, value, self._is_large(owner, value)) for owner, place, value in _attributes(owners)]
        for place, value, is_large_one in found:
            if is_large_one:
                self._initial.add_as_a_whole(_path(place), value)
            else:
                self._initial.add(_path(place), value, known)
        for place, value, is_large_one in found:
            if is_large_one:
                self._digests[place] = mark_of(value, self.packages)
            else:
                hashed = self._hash(known, value)
                self._digests[place] = None if hashed is None else hashed.digest()

    def _is_large(self, owner: _Owner, value: Any) -> bool:
        return owner.loader is not None and is_large(value, self.packages, IN_CHECKPOINTS)

    def state(self) -> list[Tensor] | None:
        """Returns the attributes of this process that have changed since :meth:`start`, as bytes; None if none has."""
        if not self._has_started:
            # Training has not started: what an earlier process has saved is still to be restored.
            return self._loaded
        lost = self._changed_in_workers()
        state = self._state(list(self._owners()), lost)
        self._warn_about(lost)
        return state

    def capture(self, loader: TrackedLoader) -> list[Tensor] | None:
        """Returns the attributes of a loader's parts that have ever changed, as bytes; None if none has."""
        if self._digests is None:
            return None
        stages = ((stage, loaders) for stage, loaders in self._loaders.items() if loader in loaders)
        owners = [owner for stage, loaders in stages for owner in self._owners_in(loaders, stage)]
        state = self._state(owners, {})
        # Copies: the memory is the attributes' own, and what follows changes them.
        return None if state is None else [entry.clone() for entry in state]

    @_without_garbage_collection()
    def _state(self, owners: list[_Owner], lost: dict[_Place, str]) -> list[Tensor] | None:
        assert self._digests is not None
        known = self._known()
        hashed_none = self._hash(known, None)
        of_none = b"" if hashed_none is None else hashed_none.digest()
        changed: list[_Changed] = []
        present: set[_Place] = set()
        for owner, place, value in _attributes(owners):
            present.add(place)
            at_first = self._digests.get(place, b"")
            if self._is_large(owner, value):
                if at_first != mark_of(value, self.packages):
                    lost[place] = f"it is larger than {IN_CHECKPOINTS}"
                continue
            hashed = self._hash(known, value)
            if hashed is None:
                was_none = at_first in (b"", of_none)
                if at_first is not None and not self._needs_no_warning(owner, place, value, was_none):
                    lost[place] = "it cannot be pickled"
            # A restored attribute is saved again, whatever its value: the next process need not begin with the same.
            elif hashed.digest() != at_first or place in self._always_kept:
                changed.append(_Changed(place, value, hashed))
                if owner.loader is not None:
                    # The beginning of a pass is repeated before what is there now is restored.
                    self._always_kept.add(place)
        keys = {owner.key for owner in owners}
        removed = [place for place in self._digests if place[0] in keys and place not in present]
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

    def load(self, state: list[Tensor] | None, with_loaders: bool) -> None:
        """Keeps a state until :meth:`restore`; to other loaders than the checkpoint's it would not fit."""
        self._loaded, self._loads_loaders = state, with_loaders

    def restore(self) -> None:
        """Restores the loaded attributes. Call it after :meth:`start`."""
        # The third phase of loading: by now the constructors and hooks have created the objects to be filled.
        loaded, self._loaded = self._loaded, None
        self._restore(loaded, self._loads_loaders)

    def restore_captured(self, captured: list[Tensor] | None) -> None:
        """Restores attributes of loaders."""
        self._restore(captured, with_loaders=True)

    @_without_garbage_collection()
    def _restore(self, captured: list[Tensor] | None, with_loaders: bool) -> None:
        if captured is None:
            return
        pickled, *buffers = captured
        state = pickle.loads(pickled.numpy().tobytes())
        known = self._known()
        owners = {owner.key: owner for owner in self._owners()}
        left_out = () if with_loaders else tuple(f"{stage} loader " for stage in _STAGES)
        for key, name in state["removed"]:
            if not key.startswith(left_out) and key in owners and name in owners[key].attributes():
                delattr(owners[key].instance, name)
        missing: list[_Place] = []
        restored = list(state["removed"])
        for places, stream, count in state["groups"]:
            own, buffers = buffers[:count], buffers[count:]
            if all(key.startswith(left_out) for key, _ in places):
                continue
            restored += places
            try:
                values = AttributeUnpickler(stream, own, known, self._initial).load_with_contents()
                for (key, name), value in zip(places, values, strict=True):
                    if not key.startswith(left_out):
                        self._set(owners.get(key), name, value)
            except MissingObjectError:
                missing += places
            except Exception as error:
                warn_at_caller(
                    f"The checkpoint's state of {self._names(places)} cannot be read ({type(error).__name__}: "
                    f"{error}). It is as __init__ and the hooks before the first batch make it. If a class has been "
                    "renamed or moved, keep its old name as an alias."
                )
        self._always_kept.update(restored)
        if missing:
            warn_at_caller(
                f"The checkpoint has a state for {self._names(missing)}, but before the first batch there is nothing "
                "to load it into. Create it in __init__, setup or on_train_start."
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
            callbacks_left_out = attributes_left_out(callback)
            if callbacks_left_out is not None:
                yield _Owner(f"{key} {type(callback).__qualname__}", callback, callbacks_left_out)
        for stage, loaders in self._loaders.items():
            yield from self._owners_in(loaders, stage)

    def _owners_in(self, loaders: Sequence[TrackedLoader], stage: str) -> Iterator[_Owner]:
        for index, loader in enumerate(loaders):
            name = f"{_STAGES[stage]} loader" + (f" {index}" if len(loaders) > 1 else "")
            for part, instance in loader.parts().items():
                if is_users_class(type(instance), self.packages):
                    yield _Owner(f"{stage} loader {index} {part}", instance, loader=name)

    def _known(self) -> KnownObjects:
        module, strategy = self._module, self._strategy
        without_state = {id(buffer) for entry in module.modules() for buffer in buffers_without_state(entry).values()}
        lists = {
            "optimizer": strategy.optimizers,
            "Lightning's optimizer": strategy._lightning_optimizers,
            "scheduler": [config.scheduler for config in strategy.lr_scheduler_configs],
        }
        named = {
            "trainer": self._session.trainer_of_hooks,
            "strategy": strategy,
            "datamodule": self._session.datamodule,
            **self._callbacks,
            **{f"module {name}": submodule for name, submodule in module.named_modules()},
            **{f"{kind} {index}": entry for kind, entries in lists.items() for index, entry in enumerate(entries)},
        }
        tensors = {f"parameter {name}": parameter for name, parameter in module.named_parameters()} | {
            f"buffer {name}": buffer for name, buffer in module.named_buffers() if id(buffer) not in without_state
        }
        return KnownObjects({name: entry for name, entry in named.items() if entry is not None}, tensors, module.device)

    def _needs_no_warning(self, owner: _Owner, place: _Place, value: Any, was_none: bool) -> bool:
        """Whether losing an attribute that cannot be pickled needs no warning."""
        # Objects of the frameworks are created anew; and hooks for both ways of a checkpoint take care of the others.
        if type(value).__module__.partition(".")[0] in NEVER_KEPT:
            return True
        instance, callbacks = owner.instance, self._callbacks.values()
        if owner.loader is not None:
            # A resumed pass iterates these again, and a file that was opened on first use is opened again.
            is_iterated = isinstance(instance, (Sampler, IterableDataset)) or hasattr(instance, "__iter__")
            return is_iterated or (was_none and _is_resource(value, self.packages))
        users = [*self._module.modules(), *callbacks, self._session.datamodule]
        # What everybody sets anew before reading it does not depend on the past. Hooks are read by others.
        if not hasattr(type(instance), place[1]) and not may_read_earlier_value(place[1], set(map(type, users))):
            return True
        saver, kind = (instance, "Callback") if instance in callbacks else (self._module, "LightningModule")
        base = getattr(lightning_of(saver), kind)
        return all(is_overridden(hook, saver, base) for hook in ("on_save_checkpoint", "on_load_checkpoint"))

    def _changed_in_workers(self) -> dict[_Place, str]:
        return {
            (f"{stage} loader {index} {part}", name): "it changes in data workers"
            for stage, loaders in self._loaders.items()
            for index, loader in enumerate(loaders)
            for part, name in loader.changed_in_workers
        }

    def _warn_about(self, lost: dict[_Place, str]) -> None:
        lost = {place: reason for place, reason in lost.items() if place not in self._lost}
        self._lost.update(lost)
        loaders = {owner.key: owner.loader for owner in self._owners() if owner.loader is not None}
        own = [place for place in lost if place[0] not in loaders]
        if own:
            warn_at_caller(
                f"Checkpoints do not hold {self._names(own)}: it is, or contains, an object that was not there "
                "before the first batch and cannot be pickled. After a pause it is as __init__ and the hooks before "
                "the first batch make it. If training depends on it, register a buffer, or save and restore it in "
                "on_save_checkpoint and on_load_checkpoint."
            )
        of_loaders = [place for place in lost if place[0] in loaders]
        if of_loaders:
            listed = ", ".join(
                f"{self._names([place])} of the {loaders[place[0]]} ({lost[place]})" for place in of_loaders
            )
            warn_at_caller(
                f"Checkpoints do not hold {listed}. After a pause it is as __init__ and the hooks before the first "
                "batch make it. If training depends on it, keep it in an attribute of the module, or train with "
                "num_workers=0 and give its class state_dict and load_state_dict."
            )

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


def _is_resource(value: Any, packages: frozenset[str]) -> bool:
    """Whether an object is somebody else's and gives nothing in an order, such as an open database."""
    is_function = isinstance(value, (*NAMED, MethodType, functools.partial))
    return not (is_function or hasattr(value, "__next__") or is_users_class(type(value), packages))


def _attributes(owners: Iterable[_Owner]) -> Iterator[tuple[_Owner, _Place, Any]]:
    for owner in owners:
        for name, value in owner.attributes().items():
            yield owner, (owner.key, name), value


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
