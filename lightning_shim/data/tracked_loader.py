"""The exact position of a loader, and the way back to it in another process, without loading samples again.

A loader draws random numbers when its iterator is created (seeds for its workers), when its sampler gives the first
index (the order of the samples), and whenever samples are made. In between, others draw from the same generators, such
as dropout. So each of these moments is recorded with its random state, and is repeated under that state.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Protocol

from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from lightning_shim.data.parts import OF_PYTORCH, attributes_of, parts_of, samplers_of
from lightning_shim.data.workers import InWorkers, WorkerState, iterate_with_workers
from lightning_shim.diagnostics.warn import warn_at_definition
from lightning_shim.session.own_generators import OwnGenerators
from lightning_shim.session.random_state import RandomState
from lightning_shim.upstream.lightning import shared_sampler
from lightning_shim.upstream.torch import (
    Skip,
    has_ended,
    has_workers_running,
    iterate_sampler_again,
    iterates_as_usual,
    skip_batches,
)

_PLAIN: Final = frozenset({type(None), bool, int, float, str})
"""The classes of the values that are kept of parts of any class."""


class PartAttributes(Protocol):
    """Keeps the attributes of the user's loaders, samplers and datasets for a checkpoint."""

    @property
    def packages(self) -> frozenset[str]:
        """The packages whose classes are the user's, wherever they are installed."""

    def add_loaders(self, stage: str, loaders: Sequence[TrackedLoader]) -> None:
        """Begins with the loaders of a stage, in place of those that it had before."""

    def capture(self, loader: TrackedLoader) -> Any:
        """Returns what the attributes of a loader's parts are now."""

    def restore_captured(self, captured: Any) -> None:
        """Restores what :meth:`capture` has returned."""


def has_state(holder: Any) -> bool:
    """Whether an object saves its position itself, by Lightning's protocol ``_Stateful``."""
    return all(callable(getattr(holder, name, None)) for name in ("state_dict", "load_state_dict"))


@dataclass(frozen=True, slots=True)
class Moment:
    """The global random state, the loader's own generators, and what loader, samplers and datasets remember."""

    random: RandomState
    own: dict[str, Any]


@dataclass(slots=True)
class Position:
    """The position of a loader."""

    created: Moment  # the moment at which its iterator was created
    epoch: int | None  # the epoch that had been set on its samplers by then
    has_workers: bool  # whether workers make its batches. Its sampler then gives their first indices at creation.
    workers: Moment | None  # the moment at which its workers were started, if that was in an earlier pass
    workers_at_start: dict[int, WorkerState]  # the workers' random states when the pass began
    started: Moment | None = None  # the moment at which the first batch was requested, if it was
    taken: int = 0  # the number of batches taken
    passes: int = 1  # the number of times it has been iterated in the running epoch
    # The workers' random states after the batches that were taken.
    workers_now: dict[int, WorkerState] = field(default_factory=dict)
    state: Any = None  # the `state_dict` of a loader or dataset that saves its own position
    ended: bool = False  # whether there are no more batches


class TooFewBatchesError(Exception):
    """A loader has fewer batches than were taken from it before."""


class TrackedLoader:
    """Replaces a loader in a CombinedLoader and keeps track of its position.

    Attributes:
        loader: The user's loader.
        changed_in_workers: The attributes that have changed in its workers, each by the name of a part and its own.
    """

    def __init__(self, loader: Any, attributes: PartAttributes) -> None:
        self.loader: Final = loader
        self._attributes: Final = attributes
        self.changed_in_workers: Final[set[tuple[str, str]]] = set()
        self._position: Position | None = None
        self._epoch: int | None = None
        self._passes = 0
        self._workers: Moment | None = None
        self._worker_states: dict[int, WorkerState] = {}
        # The rest of a resumed pass, until it is iterated.
        self._resumed: Iterator[Any] | None = None
        self._seems_ended = False
        self._initial_counters: Final = self._counters()
        self._have_changed: Final[set[tuple[str, str]]] = set()
        self._has_own_workers: Final = iterates_as_usual(loader) and loader.num_workers > 0
        # A dataset can save its position only where it is iterated in this process: workers have copies of it.
        dataset = getattr(loader, "dataset", None)
        can_ask_dataset = iterates_as_usual(loader) and loader.num_workers == 0
        self._stateful: Final = next(
            (holder for holder in (loader, dataset if can_ask_dataset else None) if has_state(holder)), None
        )
        self._is_stream: Final = can_ask_dataset and isinstance(dataset, IterableDataset)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        # The CombinedLoader creates all iterators at once, and restarts loaders that cycle. A resumed loader answers
        # its first requests from what resume() has prepared.
        if self._seems_ended:
            self._seems_ended = False
            return iter(())
        if self._resumed is not None:
            resumed, self._resumed = self._resumed, None
            return resumed
        self._passes += 1
        # Before the iterator, whose creation draws the workers' seed.
        created = self._moment()
        persists = self._has_own_workers and self.loader.persistent_workers
        running = persists and has_workers_running(self.loader)
        if not running:
            self._workers, self._worker_states = created, {}
        # Persistent workers keep their random states from pass to pass. To repeat this pass it is not enough to know
        # when it began; one also has to know when they were started, and what they had drawn by now.
        iterator = self._with_workers(None, None) if self._has_own_workers else iter(self.loader)
        at_start = _copied(self._worker_states) if running else {}
        earlier = self._workers if running else None
        self._position = Position(created, self._epoch, self._has_own_workers, earlier, at_start, passes=self._passes)
        return self._batches(self._position, iterator)

    def _batches(self, position: Position, iterator: Iterator[Any]) -> Iterator[Any]:
        # A generator: this runs when the first batch is requested, long after the iterator was created. Without workers
        # the sampler draws the order of the samples here.
        if position.started is None:
            position.started = self._moment()
        while True:
            # As Lightning does: a `for` would iterate the iterator, which begins anew if it is the loader itself.
            try:
                batch = next(iterator)
            except StopIteration:
                break
            position.taken += 1
            # Known already with the last batch, whereas the state of a dataset does not tell that its iterator has
            # ended: resumed from there, the dataset would start anew.
            position.ended = self._is_stream and has_ended(iterator)
            yield batch
        position.ended = True

    def _with_workers(self, skip: Skip | None, before_reset: Callable[[], None] | None) -> Iterator[Any]:
        changed = self.changed_in_workers
        if isinstance(self.loader.dataset, IterableDataset) and not self.loader.persistent_workers:
            # Nothing that these workers remember is lost: they live for one pass, and a resumed one repeats it all.
            changed = set()
        seen = InWorkers(self._worker_states, self._attributes.packages, changed)
        return iterate_with_workers(self.loader, seen, skip, before_reset)

    def start_epoch(self) -> None:
        """Resets the number of passes."""
        self._passes = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the loader's samplers that have ``set_epoch``, each once."""
        self._epoch = epoch
        for sampler in samplers_of(self.loader):
            tell = getattr(sampler, "set_epoch", None)
            if callable(tell):
                tell(epoch)

    def _moment(self) -> Moment:
        attributes = self._attributes.capture(self) if self._repeats_users_code else None
        return Moment(RandomState.capture(), {**self.own_state(), "attributes": attributes})

    @property
    def _repeats_users_code(self) -> bool:
        """Whether a resumed pass runs code of the user's that it had run before, or starts workers once more."""
        loader = self.loader
        if not iterates_as_usual(loader) or loader.num_workers > 0 or isinstance(loader.dataset, IterableDataset):
            return True
        samplers = [loader.batch_sampler, *samplers_of(loader)]
        return any(type(sampler) not in OF_PYTORCH for sampler in samplers if sampler is not None)

    def _restore(self, moment: Moment) -> None:
        self._attributes.restore_captured(moment.own["attributes"])
        moment.random.restore()
        self.restore_own_state(moment.own)

    def own_state(self) -> dict[str, Any]:
        """Captures the loader's generators, the plain values that have ever changed, and the samplers' seeds."""
        counters = self._counters()
        self._have_changed.update(name for name in counters if counters[name] != self._initial_counters.get(name))
        changed = {name: value for name, value in counters.items() if name in self._have_changed}
        seeds = [sampler.seed for sampler in self._distributed_samplers()]
        return {"generators": self._own_generators().capture(), "counters": changed, "seeds": seeds}

    def restore_own_state(self, own: dict[str, Any]) -> None:
        """Restores the loader's generators, counters and seeds."""
        self._own_generators().restore(own["generators"])
        parts = self._parts_with_counters()
        for (part, name), value in own["counters"].items():
            if part in parts:
                vars(parts[part])[name] = value
                self._have_changed.add((part, name))
        for sampler, seed in zip(self._distributed_samplers(), own["seeds"], strict=False):
            sampler.seed = seed

    def _distributed_samplers(self) -> list[DistributedSampler[Any]]:
        return [sampler for sampler in samplers_of(self.loader) if isinstance(sampler, DistributedSampler)]

    def _own_generators(self) -> OwnGenerators:
        loader = self.loader
        if not isinstance(loader, DataLoader):
            return OwnGenerators({"loader": loader})
        names = ["generator", "sampler", "batch_sampler"]
        if loader.num_workers == 0:
            # With workers, copies of these are in use there, and their generators are among the workers' states.
            names += ["dataset", "collate_fn"]
        roots = {name: getattr(loader, name) for name in names}
        # The user's sampler inside of the one that shards it. It comes first, so that it is searched to the same depth
        # as in a single process.
        shared = {"shared sampler": shared_sampler(roots["sampler"])}
        return OwnGenerators({**shared, **roots})

    def _parts_with_counters(self) -> dict[str, Any]:
        """Returns the loader's parts that are not PyTorch's, by name."""
        return {name: part for name, part in self.parts().items() if type(part) not in OF_PYTORCH}

    def parts(self) -> dict[str, Any]:
        """Returns the loader, its samplers, datasets and ``collate_fn``, by name."""
        return parts_of(self.loader)

    def _counters(self) -> dict[tuple[str, str], Any]:
        return {
            (name, attribute): value
            for name, part in self._parts_with_counters().items()
            for attribute, value in attributes_of(part).items()
            if type(value) in _PLAIN
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns the position as plain values."""
        position = self._position
        if position is None:
            return {}
        if self._stateful is not None:
            position.state = self._stateful.state_dict()
        position.workers_now = _copied(self._worker_states)
        return {entry.name: _plain(getattr(position, entry.name)) for entry in fields(Position)}

    def resume(self, state: dict[str, Any], epoch: int, now: RandomState, continues: bool) -> None:
        """Moves to the position of another process's loader; the caller then restores the random state ``now``.

        Unless the pass ``continues``, the next one starts from where this one ended.
        """
        if not state:
            return
        position = self._position = Position(**{name: _read(value) for name, value in state.items()})
        self._passes = position.passes
        self._workers, self._worker_states = position.workers or position.created, position.workers_now
        persists = self._has_own_workers and self.loader.persistent_workers
        if not continues and not (persists and position.has_workers):
            # All that is left of a finished pass is the loader's own state, which the caller restores. As in Lightning,
            # the state_dict of a loader is only for going on with a pass. Only persistent workers, which outlive the
            # pass, have to be brought to where they stood.
            return
        # From here on the history of the pass is repeated, each event under the random state that it had then: workers
        # are started, the iterator is created, the first batch is requested, and indices are skipped.
        if position.epoch is not None:
            self.set_epoch(position.epoch)
        self._restore(self._workers)
        iterator = self._continued(position, epoch, now)
        if continues:
            # Batches discards the None, the placeholder of the batches that were taken. By fetching it, the
            # CombinedLoader comes to know which loaders have ended and were restarted, as this one if it is in a later
            # pass of the epoch: it first iterates an empty loader, and then this one.
            self._seems_ended = position.passes > 1
            self._resumed = itertools.chain([None], self._batches(position, iterator))

    def _continued(self, position: Position, epoch: int, now: RandomState) -> Iterator[Any]:
        """Returns an iterator that goes on after the batches that were taken."""
        loader = self.loader
        if self._stateful is not None:
            if position.ended:
                return iter(())
            self._stateful.load_state_dict(position.state)
        # A map-style dataset with a state is one that counts something; its position is still the sampler's.
        keeps_position = self._stateful is not None and (
            self._stateful is loader or isinstance(loader.dataset, IterableDataset)
        )
        # Of a map-style dataset indices can be skipped; of any other loader the batches have to be loaded and dropped.
        is_map_style = iterates_as_usual(loader) and not isinstance(loader.dataset, IterableDataset)

        def create() -> None:
            self._restore(position.created)

        def start() -> None:
            self.set_epoch(epoch)
            if position.started is not None:
                self._restore(position.started)

        # The sampler draws the order of the samples when it gives its first index. Without workers that is when the
        # first batch is requested. With them it is at the iterator's creation, since they are given indices in advance:
        # right after their seed was drawn or, if they were started in an earlier pass, when they were reset.
        before_reset = create if position.workers is not None or not position.has_workers else None
        before_skip = None if position.has_workers else start
        skip = _Skip(loader, 0 if keeps_position else position.taken, before_skip)
        if self._has_own_workers and is_map_style:
            # The workers start from their present states, and only the sampler's indices are skipped.
            iterator = self._with_workers(skip, before_reset)
        elif self._has_own_workers:
            # The workers make all batches of the pass once more, so they start from where they were when it began.
            self._worker_states = _copied(position.workers_at_start)
            iterator = self._with_workers(None, before_reset)
        else:
            iterator = iter(loader)
            if is_map_style and position.has_workers:
                # The number of workers has been set to 0 since. An iterator with workers creates its sampler's iterator
                # once more when it resets them, so that this one has to do the same.
                iterate_sampler_again(loader, iterator, before_reset)
            if is_map_style:
                skip_batches(iterator, skip)
        if is_map_style:
            skip.verify(now)
        # Batches that have to be loaded again draw the numbers that they drew then.
        start()
        if not is_map_style:
            skip(iterator)
        return iterator


class _Skip:
    """Advances an iterator by the batches that were taken, and notes whether its indices depend on other draws."""

    def __init__(self, loader: Any, count: int, before: Callable[[], None] | None) -> None:
        self._loader: Final = loader
        self._count: Final = count
        self._before: Final = before
        self._after_first: RandomState | None = None

    def __call__(self, iterator: Iterator[Any]) -> int:
        if self._before is not None:
            self._before()
        for index in range(self._count):
            if next(iterator, self) is self:
                raise TooFewBatchesError(f"gave {index} batches, of which {self._count} had been taken")
            if index == 0:
                self._after_first = RandomState.capture()
        return self._count

    def verify(self, now: RandomState) -> None:
        """Warns if the sampler draws from a global generator with each index, as others may have done in between."""
        if self._after_first is None:
            return
        # A sampler that draws the whole order at once leaves the generator alone after its first index. One that draws
        # again and still ends at the checkpoint's state had the generator to itself: then the indices are exact.
        present = RandomState.capture()
        has_drawn, is_exact = present.same(self._after_first), present.same(now)
        names = [name for name in has_drawn if not has_drawn[name] and not is_exact[name]]
        if names:
            loader = self._loader
            sampler = loader.batch_sampler if type(loader.batch_sampler) not in OF_PYTORCH else loader.sampler
            warn_at_definition(
                type(sampler).__iter__,
                f"{type(sampler).__name__} draws from the global random generator of {', '.join(names)} each time that "
                "it gives an index, as others do in between. After a pause it may choose other samples than without. "
                "Draw at the start of __iter__, or from a generator of its own.",
            )


def _copied(states: dict[int, WorkerState]) -> dict[int, WorkerState]:
    return {worker: dict(state) for worker, state in states.items()}


def _plain(value: Any) -> Any:
    return {"random": value.random.state_dict(), "own": value.own} if isinstance(value, Moment) else value


def _read(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"random", "own"}:
        return Moment(RandomState.from_state_dict(value["random"]), value["own"])
    return value
