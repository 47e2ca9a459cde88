"""The loaders of a stage: requested from the user, combined, limited, and resumed after a pause."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from determined import pytorch
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_shim.compatibility.before_training import takes_dataloader_iter
from lightning_shim.data.passes import OWN_END, Batches, CommonEnd, DataFetcherWrapper, length_of
from lightning_shim.data.requests import LoaderRequest
from lightning_shim.data.tracked_loader import PartAttributes, TooFewBatchesError, TrackedLoader
from lightning_shim.diagnostics.errors import ConfigurationError, HyperparameterWarning
from lightning_shim.session.datamodule_state import captured_state, restore_state
from lightning_shim.session.hyperparameters import GLOBAL_BATCH_SIZE
from lightning_shim.session.random_state import RandomState
from lightning_shim.session.session import Session
from lightning_shim.upstream.lightning import request_loaders, visits_loaders_in_turn, with_distributed_sampler

_OF_DETERMINEDS_LOADER: Final = (
    *("dataset", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context"),
    *("generator", "prefetch_factor", "persistent_workers"),
)
"""The arguments that Determined's own ``DataLoader`` has as attributes in common with PyTorch's."""


@dataclass(frozen=True, slots=True)
class _Circumstances:
    """The epoch, the random state and the data module's state in which the loaders were requested.

    The user's hook may depend on all three: a resumed trial gets the same loaders only under the same circumstances.
    """

    epoch: int
    random: RandomState
    datamodule: bytes

    def state_dict(self) -> dict[str, Any]:
        """Returns the circumstances as plain values."""
        return {"epoch": self.epoch, "random": self.random.state_dict(), "datamodule": self.datamodule}


class DataSource:
    """The loaders of one stage, requested when they are first needed, as in Lightning.

    Attributes:
        request: Requests the loaders from the user.
        combined: Lightning's CombinedLoader of them, or None before they have been requested.
        length: The number of batches of a pass, or None if the loaders have no length.
        is_taken_by_steps: Whether the steps take batches themselves, from a ``dataloader_iter``.
    """

    def __init__(self, session: Session, request: LoaderRequest, attributes: PartAttributes) -> None:
        options = session.options
        self.request: Final = request
        self._attributes: Final = attributes
        self._trains: Final = request.stage == "train"
        self._limit_name: Final = f"limit_{request.stage}_batches"
        self._limit: Final[int | float] = getattr(options, self._limit_name)
        self._session: Final = session
        self._is_shared: Final = options.use_distributed_sampler and session.is_distributed
        self._overfits: Final = options.overfit_batches > 0
        self._reload_period: Final = options.reload_dataloaders_every_n_epochs
        self._requested: _Circumstances | None = None
        self.length: int | None = None
        self.combined: Any = None
        self._tracked: list[TrackedLoader] = []
        self._combined_tracked: Any = None
        self._batches: Batches | None = None
        self._end = OWN_END
        step = session.module.training_step if self._trains else session.module.validation_step
        self.is_taken_by_steps: Final = takes_dataloader_iter(step)
        self._pass: Final[Callable[..., Batches]] = (
            functools.partial(DataFetcherWrapper, session.lightning.DataFetcherWrapper)
            if self.is_taken_by_steps
            else Batches
        )

    @property
    def is_switched_off(self) -> bool:
        """Whether the limit of batches is 0."""
        return self._limit == 0

    @property
    def is_set_up(self) -> bool:
        """Whether the loaders have been requested."""
        return self.combined is not None

    @property
    def loaders(self) -> Any:
        """The user's loader or loaders, or None before they have been requested."""
        return None if self.combined is None else self.combined.iterables

    @property
    def has_several(self) -> bool:
        """Whether several loaders are visited in turn, so that a batch has the index of a loader."""
        return len(self.combined.flattened) > 1 and visits_loaders_in_turn(self.combined)

    @property
    def num_batches(self) -> list[int | float]:
        """The number of batches taken from each loader, if they have been requested; infinite if it has no length."""
        limits: list[int | float] = [] if self.combined is None else self.combined.limits
        return limits

    @property
    def batch_size(self) -> int | None:
        """The batch size of this process; None if there are several loaders, or if it is unknown."""
        if self.combined is None or len(self.combined.flattened) != 1:
            return None
        (loader,) = self.combined.flattened
        sizes = (getattr(holder, "batch_size", None) for holder in (loader, getattr(loader, "batch_sampler", None)))
        return next((size for size in sizes if isinstance(size, int)), None)

    def set_up(self, is_used_in: Callable[[int], bool] = lambda epoch: True) -> bool:
        """Requests the loaders, and returns True, unless they are there and need not be reloaded yet.

        As in Lightning, loaders that are to be reloaded at all are so in the first epoch that needs them, if they were
        requested in another one, for a sanity check.
        """
        epoch = self._session.progress.current_epoch
        if self._requested is not None:
            age = epoch - self._requested.epoch
            is_of_another = age > 0 and not is_used_in(self._requested.epoch)
            if not self._reload_period or (age < self._reload_period and not is_of_another):
                return False
        self._requested = _Circumstances(epoch, RandomState.capture(), self._datamodule_state())
        self._request_loaders()
        return True

    def _request_loaders_as_before(self, epoch: int, random: dict[str, Any], datamodule: bytes) -> None:
        """Requests the loaders under the circumstances in which they were requested before a pause."""
        self._requested = _Circumstances(epoch, RandomState.from_state_dict(random), datamodule)
        self._requested.random.restore()
        now, self._session.progress.current_epoch = self._session.progress.current_epoch, epoch
        datamodule_now = self._datamodule_state()
        restore_state(self._session.datamodule, datamodule)
        self._request_loaders()
        restore_state(self._session.datamodule, datamodule_now)
        self._session.progress.current_epoch = now

    def _datamodule_state(self) -> bytes:
        """Returns the data module's state, which its hook may change, if the loaders may be requested again."""
        is_needed = self._reload_period and self._session.writes_checkpoints
        return captured_state(self._session.datamodule) if is_needed else b""

    def _request_loaders(self) -> None:
        # Each loader records the arguments with which it was built, where it may have to be rebuilt.
        is_rebuilt = self._is_shared or self._overfits
        loaders = request_loaders(self._session.lightning, self.request) if is_rebuilt else self.request()
        if loaders is None:
            raise self._invalid(loaders)
        combined: Any = loaders
        if not isinstance(loaders, self._session.lightning.CombinedLoader):
            mode = "max_size_cycle" if self._trains else "sequential"
            combined = self._session.lightning.CombinedLoader(loaders, mode)
        loaders = [_as_torch_loader(loader) for loader in combined.flattened]
        combined.flattened = [self._prepared(loader) for loader in self._in_order(loaders)]
        combined.limits = [self._limited(loader) for loader in combined.flattened]
        self.length = length_of(combined)
        if self._trains and self.length == 0:
            self._warn_of_no_batches(combined)
        if self._trains and self._session.world_size > 1:
            self._end = self._common_end(self._session.context.distributed.allgather(self.length))
            self.length = self._end.length
        known = {id(tracked.loader): tracked for tracked in self._tracked}
        # If the user's hook returns the same loader again, its tracker stays: persistent workers may still be running.
        self._tracked = [
            known.get(id(loader)) or TrackedLoader(loader, self._attributes) for loader in combined.flattened
        ]
        self._attributes.add_loaders(self.request.stage, self._tracked)
        # Not before the errors above: what has been refused has nothing to release.
        self.combined = combined
        # A copy, because a module may ask the trainer for its loaders and has to find its own.
        self._combined_tracked = copy.copy(combined)
        self._combined_tracked.flattened = self._tracked
        if self._trains and visits_loaders_in_turn(combined):
            raise self.request.error(
                'gave a CombinedLoader. `FitLoop` does not support the `CombinedLoader(mode="sequential")` mode; use '
                '"max_size_cycle", "max_size" or "min_size".',
                also=ValueError,
            )

    def _common_end(self, lengths: list[int | None]) -> CommonEnd:
        """Compares the numbers of batches of all processes: those with more would wait for the others for ever."""
        distributed = self._session.context.distributed
        if self._session.options.cut_to_shortest_rank:
            known = [length for length in lengths if length is not None]
            if len(known) == len(lengths):
                return CommonEnd(min(known))
            return CommonEnd(all_go_on=lambda goes_on: all(distributed.allgather(goes_on)))
        if len(set(lengths)) > 1:
            listed = ", ".join(
                f"{'no length' if length is None else length} on rank {rank}" for rank, length in enumerate(lengths)
            )
            raise self.request.error(
                f"gave different numbers of batches: {listed}. The ranks exchange gradients in each batch, and those "
                "with more would wait for ever. Give all as many, limit them by limit_train_batches, or end each "
                "epoch with the shortest by fit(cut_to_shortest_rank=True)."
            )
        return CommonEnd(lengths[0])

    def _prepared(self, loader: Any) -> Any:
        if not isinstance(loader, DataLoader):
            try:
                # Lightning tries this on each loader, and it may draw random numbers.
                iter(loader)
            except TypeError:
                raise self._invalid(loader) from None
            return loader
        lightning, name = self._session.lightning, f"{self.request.stage}_dataloader"
        is_script = self._session.script_trainer is not None
        if is_script and not self._trains and lightning.is_dataloader_shuffled(loader):
            lightning.rank_zero_warn(
                f"Your `{name}`'s sampler has shuffling enabled, it is strongly recommended that you turn shuffling "
                "off for val/test dataloaders.",
                category=lightning.PossibleUserWarning,
            )
        loader = self._shared(loader)
        if is_script:
            lightning.worker_check(self._session.trainer, loader, name)
        # After seed_everything(workers=True).
        lightning.auto_add_worker_init_fn(loader, self._session.global_rank)
        return loader

    def _invalid(self, loader: Any) -> ConfigurationError:
        """Returns the error of an object that is no loader."""
        return self.request.error(
            f"gave what cannot be iterated. An invalid dataloader was {self.request.origin}. Found {loader!r}.",
            TypeError,
        )

    def _shared(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        """Rebuilds a loader around this process's share, as ``use_distributed_sampler`` does in Lightning.

        A user's own sampler runs on every process, and its indices are then shared out.
        """
        is_stream = isinstance(loader.dataset, IterableDataset)
        if not self._is_shared or is_stream or isinstance(loader.sampler, DistributedSampler):
            return loader
        session = self._session
        try:
            return with_distributed_sampler(
                session.lightning,
                loader,
                is_training=self._trains,
                overfits=self._overfits,
                num_replicas=session.world_size,
                rank=session.global_rank,
            )
        except (TypeError, session.lightning.MisconfigurationException) as error:
            raise self.request.error(
                f"gave a {type(loader).__name__} that cannot be shared by several processes: {str(error).strip()} Make "
                "it so, give it a torch.utils.data.distributed.DistributedSampler, or pass "
                "use_distributed_sampler=False."
            ) from error

    def _in_order(self, loaders: list[Any]) -> list[Any]:
        """Returns the loaders, with sequential samplers if ``overfit_batches`` is set."""
        samplers = [loader.sampler for loader in loaders if hasattr(loader, "sampler")]
        if not self._overfits or all(isinstance(sampler, SequentialSampler) for sampler in samplers):
            return loaders
        self.request.warn(
            f"You requested to overfit but enabled {self.request.stage} dataloader shuffling. With overfit_batches "
            "loaders go through their datasets in order, whatever samplers they have."
        )
        lightning = self._session.lightning
        try:
            return [
                lightning.update_dataloader(loader, SequentialSampler(loader.dataset))
                if hasattr(loader, "dataset")
                else loader
                for loader in loaders
            ]
        except (TypeError, ValueError, lightning.MisconfigurationException) as error:
            raise self.request.error(
                "gave a loader that cannot go through its dataset in order, as overfit_batches wants it: "
                f"{str(error).strip()} Give it a SequentialSampler, or leave overfit_batches out."
            ) from error

    def _warn_of_no_batches(self, loader: Any) -> None:
        """Warns as Lightning does, under which a training without batches is no error."""
        self._session.lightning.rank_zero_warn(
            f"Total length of `{type(loader).__name__}` across ranks is zero. Please make sure this was your intention."
        )

    def _warn_of_length_of_stream(self) -> None:
        if self._session.script_trainer is not None:
            self._session.lightning.rank_zero_warn(
                "Your `IterableDataset` has `__len__` defined. In combination with multi-process data loading (when "
                "num_workers > 1), `__len__` could be inaccurate if each worker is not configured independently to "
                "avoid having duplicate data."
            )

    def _limited(self, loader: Any) -> int | float:
        try:
            length: int | float = len(loader)
        except (TypeError, NotImplementedError):
            length = float("inf")
        if length == 0 and self._session.script_trainer is not None:
            self._warn_of_no_batches(loader)
        elif length == 0 and self._trains:
            raise self.request.error(
                "gave an empty loader: it has no batches. Is the dataset empty, or smaller than the "
                "batch size with drop_last=True?"
            )
        elif length != float("inf") and isinstance(getattr(loader, "dataset", None), IterableDataset):
            self._warn_of_length_of_stream()
        # As in Lightning, an integer is a number of batches and a float is a part of them: 1 is not 1.0.
        if isinstance(self._limit, int):
            return min(length, self._limit)
        if length == float("inf"):
            if self._limit != 1.0:
                raise self.request.error(
                    f"gave a loader without a length. When using an `IterableDataset`, `Trainer({self._limit_name})` "
                    f"must be `1.0` or an int, not {self._limit}."
                )
            return length
        batches = int(length * self._limit)
        if batches == 0 and length:
            raise self.request.error(
                f"gave {length} batches. You requested to check {self._limit} of the `{self.request.stage}_dataloader` "
                f"but {self._limit} * {length} < 1. Please increase the `{self._limit_name}` argument. Try at least "
                f"`{self._limit_name}={1 / length}`."
            )
        return batches

    def without_batches(self, epoch: int) -> ConfigurationError:
        """Returns the error of loaders that give no batches."""
        if epoch == 0:
            return self.request.error("gave an empty loader: it has no batches.")
        return self.request.error(
            f"gave no batches in epoch {epoch}: can it be iterated more than once? An iterator cannot; give a "
            "DataLoader or a list."
        )

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the loaders' samplers that have ``set_epoch``."""
        for loader in self._tracked:
            loader.set_epoch(epoch)

    def release(self) -> None:
        """Stops the loaders' workers. The next pass starts new ones."""
        # It is None, too, if the loaders were refused.
        if self._combined_tracked is not None:
            self._end_pass()
            self.combined.reset()

    def _end_pass(self) -> None:
        if self._batches is not None:
            self._batches.release()
            self._batches = None
        self._combined_tracked.reset()

    def batches(self, limit: int | float = math.inf) -> Batches:
        """Starts a pass of at most ``limit`` batches of each loader; the first one is fetched later."""
        # Ends the workers of the previous pass now. An exception's traceback could keep its iterator alive for long.
        self._end_pass()
        for loader in self._tracked:
            loader.start_epoch()
        self._combined_tracked.limits = [min(limit, batches) for batches in self.num_batches]
        self._batches = self._pass(self._combined_tracked, self._end)
        return self._batches

    def state_dict(self) -> dict[str, Any]:
        """Returns the positions of the loaders."""
        # Without a reload period the loaders are requested when a trial starts, whether it is a resumed one or not.
        requested = self._requested if self._reload_period else None
        return {
            "requested": None if requested is None else requested.state_dict(),
            "positions": [loader.state_dict() for loader in self._tracked],
            "own": self.own_states(),
            "batches": None if self._batches is None else self._batches.state_dict(),
        }

    def resume(self, state: dict[str, Any], epoch: int, now: RandomState, continues: bool) -> Batches | None:
        """Moves the loaders to the positions that they had in another process; returns the rest of a pass that goes on.

        It leaves another random state than ``now``, which the caller restores.
        """
        if state["requested"] is not None:
            self._request_loaders_as_before(**state["requested"])
        if len(state["positions"]) != len(self._tracked):
            raise self.request.error(
                f"gave another number of loaders than before the pause: {len(self._tracked)}, not "
                f"{len(state['positions'])}."
            )
        # Workers may be running by now, as after a sanity check, and their random states are not the checkpoint's.
        self.release()
        batches = state["batches"] if continues else None
        try:
            for loader, position in zip(self._tracked, state["positions"], strict=True):
                loader.resume(position, epoch, now, batches is not None)
        except TooFewBatchesError as error:
            raise self.request.error(f"{error.args[0]} before the pause: it is not the loader that it was.") from None
        if batches is not None:
            self._batches = self._pass(self._combined_tracked, self._end, **batches)
        # Last, because getting to the positions repeats draws from these generators as well.
        self.restore_own_states(state["own"])
        return self._batches

    def own_states(self) -> list[dict[str, Any]]:
        """Captures what the loaders draw and count by themselves, such as generators of their own."""
        return [loader.own_state() for loader in self._tracked]

    def restore_own_states(self, states: list[dict[str, Any]]) -> None:
        """Restores what :meth:`own_states` returned."""
        for loader, own in zip(self._tracked, states, strict=True):
            loader.restore_own_state(own)


def _as_torch_loader(loader: Any) -> Any:
    """Builds PyTorch's loader for a ``determined.pytorch.DataLoader``; any other one is returned unchanged."""
    # Not by its own get_data_loader, which repeats, shards and skips batches: a trial does that for every loader alike.
    if not isinstance(loader, pytorch.DataLoader):
        return loader
    batches = (
        {"batch_sampler": loader.batch_sampler}
        if loader.batch_size is None
        else {"batch_size": loader.batch_size, "sampler": loader.sampler, "drop_last": loader.drop_last}
    )
    return DataLoader(**{name: getattr(loader, name) for name in _OF_DETERMINEDS_LOADER}, **batches)


def warn_about_global_batch_size(hparams: Mapping[str, Any], source: DataSource, slots: int) -> None:
    """Warns if the hyperparameter ``global_batch_size`` is not the batch size over all slots."""
    wanted, batch_size = hparams.get(GLOBAL_BATCH_SIZE), source.batch_size
    if not isinstance(wanted, int) or batch_size is None or wanted == batch_size * slots:
        return
    source.request.warn(
        f"The hyperparameter {GLOBAL_BATCH_SIZE} is {wanted}, and the training loader has batches of {batch_size} on "
        f"{slots} slot{'s' if slots > 1 else ''}, {batch_size * slots} in all. A loader's batch size is that of one "
        f"slot: {GLOBAL_BATCH_SIZE} // trainer.world_size.",
        HyperparameterWarning,
    )
