"""Where a loader stands, and how a loader of another process is brought there without loading what was trained on.

Random numbers are drawn when a loader's iterator is made (seeds for its workers), when its sampler gives the first
index (the order of the samples) and by whatever makes the samples. What happened in between, such as dropout, has drawn
from the same generators; each moment is therefore kept with its random state, and is repeated under it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Final

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_shim.data.workers import WorkerState, iterate_with_workers
from lightning_shim.diagnostics.errors import DifferenceWarning
from lightning_shim.diagnostics.warn import warn_at_definition
from lightning_shim.session.own_generators import OwnGenerators
from lightning_shim.session.random_state import RandomState
from lightning_shim.upstream.lightning import shared_sampler
from lightning_shim.upstream.torch import (
    has_ended,
    has_workers_running,
    iterate_sampler_again,
    iterates_as_usual,
    skip_batches,
)

_WITHOUT_COUNTERS: Final = (BatchSampler, RandomSampler, SequentialSampler, DistributedSampler)


def samplers_of(loader: Any) -> list[Any]:
    """Returns a loader's sampler and its batch sampler's, each once: those that Lightning calls ``set_epoch`` on."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None))
    return list({id(sampler): sampler for sampler in samplers if sampler is not None}.values())


def has_state(holder: Any) -> bool:
    """Tells whether an object keeps its position by itself, as Lightning's protocol ``_Stateful`` has it."""
    return all(callable(getattr(holder, name, None)) for name in ("state_dict", "load_state_dict"))


@dataclass(frozen=True, slots=True)
class Moment:
    """The random state of the process, of what the loader holds, and the counters of its samplers."""

    random: RandomState
    own: dict[str, Any]


@dataclass(slots=True)
class Position:
    """Where a loader stands.

    Attributes:
        created: When its iterator was made.
        epoch: The epoch that its samplers had been told then.
        has_workers: Whether workers make its batches; its sampler has then given indices for them when it was made.
        workers: When its workers were started, if that was in an earlier pass.
        workers_at_start: Where the workers stood when the pass began.
        started: When its first batch was asked for, if that has happened.
        taken: The batches that were taken.
        passes: How often it has been iterated since the epoch began.
        workers_now: Where the workers stood when they had made the batches that were taken.
        state: What the loader or its dataset says of itself.
        ended: Whether there are no more batches.
    """

    created: Moment
    epoch: int | None
    has_workers: bool
    workers: Moment | None
    workers_at_start: dict[int, WorkerState]
    started: Moment | None = None
    taken: int = 0
    passes: int = 1
    workers_now: dict[int, WorkerState] = field(default_factory=dict)
    state: Any = None
    ended: bool = False


class TooFewBatchesError(Exception):
    """A loader has fewer batches than were taken of it."""


class TrackedLoader:
    """Stands for a loader in a CombinedLoader, and knows where it is.

    Args:
        loader: The user's loader.
    """

    def __init__(self, loader: Any) -> None:
        self.loader: Final = loader
        self._position: Position | None = None
        self._epoch: int | None = None
        self._passes = 0
        self._workers: Moment | None = None
        self._worker_states: dict[int, WorkerState] = {}
        # The rest of a pass that goes on.
        self._resumed: Iterator[Any] | None = None
        self._seems_ended = False
        self._initial_counters: Final = self._counters()
        self._has_own_workers: Final = iterates_as_usual(loader) and loader.num_workers > 0
        # Whom to ask for its state; a dataset in workers cannot be asked.
        dataset = getattr(loader, "dataset", None)
        can_ask_dataset = iterates_as_usual(loader) and loader.num_workers == 0
        self._stateful: Final = next(
            (holder for holder in (loader, dataset if can_ask_dataset else None) if has_state(holder)), None
        )
        self._is_stream: Final = can_ask_dataset and isinstance(dataset, IterableDataset)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if self._seems_ended:
            self._seems_ended = False
            return iter(())
        if self._resumed is not None:
            resumed, self._resumed = self._resumed, None
            return resumed
        self._passes += 1
        created = self._moment()
        persists = self._has_own_workers and self.loader.persistent_workers
        running = persists and has_workers_running(self.loader)
        if not running:
            self._workers, self._worker_states = created, {}
        if self._has_own_workers:
            iterator = iterate_with_workers(self.loader, self._worker_states)
        else:
            iterator = iter(self.loader)
        at_start = _copied(self._worker_states) if running else {}
        earlier = self._workers if running else None
        self._position = Position(created, self._epoch, self._has_own_workers, earlier, at_start, passes=self._passes)
        return self._batches(self._position, iterator)

    def _batches(self, position: Position, iterator: Iterator[Any]) -> Iterator[Any]:
        if position.started is None:
            position.started = self._moment()
        while True:
            # As Lightning does: a `for` would iterate the iterator, which begins anew if it is the loader itself.
            try:
                batch = next(iterator)
            except StopIteration:
                break
            position.taken += 1
            # The state of a dataset does not say that its iterator has ended.
            position.ended = self._is_stream and has_ended(iterator)
            yield batch
        position.ended = True

    def start_epoch(self) -> None:
        """Counts anew how often the loader is iterated."""
        self._passes = 0

    def set_epoch(self, epoch: int) -> None:
        """Tells the loader's samplers the epoch; each that has ``set_epoch`` is told once."""
        self._epoch = epoch
        for sampler in samplers_of(self.loader):
            tell = getattr(sampler, "set_epoch", None)
            if callable(tell):
                tell(epoch)

    def _moment(self) -> Moment:
        return Moment(RandomState.capture(), self.own_state())

    def _restore(self, moment: Moment) -> None:
        moment.random.restore()
        self.restore_own_state(moment.own)

    def own_state(self) -> dict[str, Any]:
        """Captures what the loader holds: random generators, what has changed of its samplers' counters, and seeds."""
        counters = self._counters()
        changed = {name: value for name, value in counters.items() if value != self._initial_counters.get(name)}
        seeds = [sampler.seed for sampler in self._distributed_samplers()]
        return {"generators": self._own_generators().capture(), "counters": changed, "seeds": seeds}

    def restore_own_state(self, own: dict[str, Any]) -> None:
        """Sets what the loader holds.

        Args:
            own: What :meth:`own_state` returned.
        """
        self._own_generators().restore(own["generators"])
        for (index, name), value in own["counters"].items():
            samplers = self._samplers_with_counters()
            if index < len(samplers):
                vars(samplers[index])[name] = value
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
            names += ["dataset", "collate_fn"]
        roots = {name: getattr(loader, name) for name in names}
        # Before what it is in, so that it is looked into as far as it would be without.
        shared = {"shared sampler": shared_sampler(roots["sampler"])}
        return OwnGenerators({**shared, **roots})

    def _samplers_with_counters(self) -> list[Any]:
        samplers = samplers_of(self.loader)
        candidates = [getattr(self.loader, "batch_sampler", None), *samplers, *map(shared_sampler, samplers)]
        return [
            sampler for sampler in candidates if hasattr(sampler, "__dict__") and type(sampler) not in _WITHOUT_COUNTERS
        ]

    def _counters(self) -> dict[tuple[int, str], int]:
        return {
            (index, name): value
            for index, sampler in enumerate(self._samplers_with_counters())
            for name, value in vars(sampler).items()
            if type(value) is int
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
        """Goes where another process's loader stood.

        Args:
            state: What :meth:`state_dict` returned there.
            epoch: The epoch that is being trained.
            now: The random state to come.
            continues: Whether the pass goes on; otherwise the next one starts anew from where this one ended.

        Raises:
            TooFewBatchesError: If the loader has fewer batches than were taken.
        """
        if not state:
            return
        position = self._position = Position(**{name: _read(value) for name, value in state.items()})
        self._passes = position.passes
        self._workers, self._worker_states = position.workers or position.created, position.workers_now
        persists = self._has_own_workers and self.loader.persistent_workers
        if not continues and not (persists and position.has_workers):
            # What the pass has left is what the loader holds of its own. As in Lightning, a state that a loader says of
            # itself is for going on with the pass.
            return
        if position.epoch is not None:
            self.set_epoch(position.epoch)
        self._restore(self._workers)
        iterator = self._continued(position, epoch, now)
        if continues:
            # A loader that has been iterated again has ended before; the CombinedLoader wants to see that, and sees it
            # when it is asked for a batch that stands for those that were taken.
            self._seems_ended = position.passes > 1
            self._resumed = itertools.chain([None], self._batches(position, iterator))

    def _continued(self, position: Position, epoch: int, now: RandomState) -> Iterator[Any]:
        loader = self.loader
        if self._stateful is not None:
            if position.ended:
                return iter(())
            self._stateful.load_state_dict(position.state)
        keeps_position = self._stateful is not None and (
            self._stateful is loader or isinstance(loader.dataset, IterableDataset)
        )
        is_map_style = iterates_as_usual(loader) and not isinstance(loader.dataset, IterableDataset)

        def create() -> None:
            self._restore(position.created)

        def start() -> None:
            self.set_epoch(epoch)
            if position.started is not None:
                self._restore(position.started)

        # Without workers the sampler is asked when the first batch is, with them as soon as it is iterated; which is
        # when workers that run on are reset, or after they have been given their seed.
        before_reset = create if position.workers is not None or not position.has_workers else None
        before_skip = None if position.has_workers else start
        skip = _Skip(loader, 0 if keeps_position else position.taken, before_skip)
        if self._has_own_workers and is_map_style:
            iterator = iterate_with_workers(loader, self._worker_states, skip, before_reset)
        elif self._has_own_workers:
            self._worker_states = _copied(position.workers_at_start)
            iterator = iterate_with_workers(loader, self._worker_states, None, before_reset)
        else:
            iterator = iter(loader)
            if is_map_style and position.has_workers:
                iterate_sampler_again(loader, iterator, before_reset)
            if is_map_style:
                skip_batches(iterator, skip)
        if is_map_style:
            skip.verify(now)
        start()
        if not is_map_style:
            skip(iterator)
        return iterator


class _Skip:
    """Advances an iterator by the batches that were taken, and finds out whether that is what happened before."""

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
        """Warns if the indices came from a generator from which others may have drawn between them."""
        if self._after_first is None:
            return
        present = RandomState.capture()
        has_drawn, is_exact = present.same(self._after_first), present.same(now)
        names = [name for name in has_drawn if not has_drawn[name] and not is_exact[name]]
        if names:
            loader = self._loader
            sampler = loader.batch_sampler if type(loader.batch_sampler) not in _WITHOUT_COUNTERS else loader.sampler
            warn_at_definition(
                type(sampler).__iter__,
                f"{type(sampler).__name__} draws from the global random generator of {', '.join(names)} each time that "
                "it gives an index, as others do in between. After a pause it may choose other samples than without. "
                "Draw at the start of __iter__, or from a generator of its own.",
                DifferenceWarning,
            )


def _copied(states: dict[int, WorkerState]) -> dict[int, WorkerState]:
    return {worker: dict(state) for worker, state in states.items()}


def _plain(value: Any) -> Any:
    return {"random": value.random.state_dict(), "own": value.own} if isinstance(value, Moment) else value


def _read(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"random", "own"}:
        return Moment(RandomState(**value["random"]), value["own"])
    return value
