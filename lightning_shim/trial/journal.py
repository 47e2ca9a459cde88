"""What a training says of itself: a line at each report, validation and checkpoint, and why it has ended."""

from __future__ import annotations

import contextlib
import enum
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from lightning_shim.session.progress_bar import bars_out_of_the_way, erase_interrupted_line
from lightning_shim.session.session import Session
from lightning_shim.upstream.determined.context import checkpoint_storage, name_of_trial

LOGGER: Final = logging.getLogger("lightning_shim")


class Entry(enum.Enum):
    """What there are lines about."""

    START = "start"
    TRAINING = "training"
    EPOCH = "end of the epoch"
    VALIDATION = "validation"
    CHECKPOINT = "checkpoint"
    RESULT = "result"
    END = "end"


IN_A_LOG: Final = frozenset(Entry)
BESIDE_A_PROGRESS_BAR: Final = IN_A_LOG - {Entry.TRAINING, Entry.CHECKPOINT}
WITHOUT_A_PROGRESS_BAR: Final = frozenset({Entry.RESULT, Entry.END})
"""Of a terminal with a bar of Lightning's, or none."""


class Journal:
    """Writes what happens in a training to the logger ``lightning_shim``.

    Attributes:
        entries: What it writes lines about; on rank 0, by default, all there is.
        starts_complete: Whether the length had been trained before this process.
    """

    def __init__(self, session: Session) -> None:
        self.entries: frozenset[Entry] = IN_A_LOG if session.global_rank == 0 else frozenset()
        self.starts_complete = False
        self._session: Final = session
        self._started = time.monotonic()
        # By name, the values that have been reported last, and the lowest and the highest one.
        self._reported: Final[dict[str, tuple[float, float, float]]] = {}

    def start(self, checkpoint: Any) -> None:
        """Says what is about to be trained."""
        session, trainer = self._session, self._session.trainer
        limits = ((trainer.max_epochs, "epoch"), (trainer.max_steps, "step"))
        lengths = [_counted(limit, unit) for limit, unit in limits if limit != -1]
        parts = [
            f"training {type(session.module).__name__}",
            _counted(sum(parameter.numel() for parameter in session.module.parameters()), "parameter"),
            f"{_counted(session.world_size, 'process', 'es')} on {trainer.strategy.root_device.type}",
            f"up to {' or '.join(lengths)}" if lengths else "without an end",
            f"results in {name_of_trial() or self._folder()}",
        ]
        if session.progress.total_batch_idx >= 0:
            parts.append(f"going on after batch {session.controller.batches_trained}")
            parts.append(f"from {checkpoint or trainer.ckpt_path}")
        self._write(Entry.START, ", ".join(parts))

    def _folder(self) -> Any:
        """Where the files go off-cluster: a script writes its checkpoints itself."""
        session = self._session
        return session.trainer.default_root_dir if session.script_trainer else checkpoint_storage(session.context)

    def values(self, entry: Entry, values: Mapping[str, float]) -> None:
        """Says what has been reported."""
        for name, value in values.items():
            _, lowest, highest = self._reported.get(name, (value, value, value))
            # Of a NaN nobody can say that it is lower; so it is the last value, and neither of the others.
            self._reported[name] = (value, np.fmin(lowest, value), np.fmax(highest, value))
        shown = ", ".join(f"{name}={value:.6g}" for name, value in values.items())
        self._write_here(entry, shown or "nothing was logged")

    def checkpoint(self, path: Any) -> None:
        """Says where a checkpoint is."""
        self._write_here(Entry.CHECKPOINT, str(path))

    def end(self) -> None:
        """Sums up what has been reported, and says why no more is trained in this process."""
        if self._reported:
            self._write(Entry.RESULT, "\n".join(self._result()))
        session, progress = self._session, self._session.progress
        counts = (
            (progress.current_epoch, "epoch", "s"),
            (session.controller.batches_trained, "batch", "es"),
            (session.global_step, "step", "s"),
        )
        trained = ", ".join(_counted(*count) for count in counts)
        self._write(Entry.END, f"{self._reason()}, after {trained}")

    def _result(self) -> Iterator[str]:
        """The lines of a table of the values reported in this process."""
        rows = {name: [f"{value:.6g}" for value in values] for name, values in self._reported.items()}
        width = max(map(len, rows))
        yield "what was reported:"
        for name, cells in {"": ["last", "lowest", "highest"], **rows}.items():
            yield f"  {name:<{width}}" + "".join(f"{cell:>14}" for cell in cells)
        yield f"  in {time.monotonic() - self._started:,.1f} seconds"

    def _reason(self) -> str:
        session, controller = self._session, self._session.controller
        if controller.test_mode:
            return "ended by test mode"
        if controller.is_complete:
            return (
                "nothing was left to train"
                if controller.skips_training or self.starts_complete
                else "trained to its length"
            )
        if session.context.get_stop_requested():
            return f"stopped early by {session.stopped_by or 'another process'}"
        return "paused"

    def interrupted(self, checkpoint: Any) -> None:
        """Says that the user has interrupted the training."""
        erase_interrupted_line()
        last = "no checkpoint was written yet" if checkpoint is None else f"the last checkpoint is {checkpoint}"
        self._write(Entry.END, f"interrupted; {last}")

    def _write_here(self, entry: Entry, text: str) -> None:
        progress = self._session.progress
        # The last epoch with a batch; when it has ended the next one is current.
        epoch = max(progress.current_epoch - (not progress.epoch_is_running), 0)
        self._write(entry, f"epoch {epoch}, batch {self._session.controller.batches_trained}, {entry.value}: {text}")

    def _write(self, entry: Entry, line: str) -> None:
        if entry not in self.entries:
            return
        with bars_out_of_the_way():
            LOGGER.info(line)


def _counted(count: int, unit: str, ending: str = "s") -> str:
    return f"{count:,} {unit}{ending * (count != 1)}"


# Python 3.10 has no type arguments for it.
class _StandardError(logging.StreamHandler):  # type: ignore[type-arg]
    """Shows the lines of the logger, unless logging is configured in the meantime: then they go where that says."""

    _by_default: Final = logging.Formatter(logging.BASIC_FORMAT)

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        root = logging.getLogger()
        others = {*LOGGER.handlers, *root.handlers} - {self}
        if all(self._is_nobodys(handler, record) for handler in others):
            super().emit(record)
        else:
            root.handle(record)

    def _is_nobodys(self, handler: logging.Handler, record: logging.LogRecord) -> bool:
        """Whether a handler is the one that a mere ``logging.warning(...)`` makes, for standard error as well."""
        return type(handler) is logging.StreamHandler and handler.format(record) == self._by_default.format(record)


@contextlib.contextmanager
def shown_on_standard_error() -> Iterator[None]:
    """Shows the lines during a block, unless logging has been configured: then they go where that says."""
    if LOGGER.hasHandlers():
        yield
        return
    level, handler = LOGGER.level, _StandardError()
    LOGGER.addHandler(handler)
    LOGGER.propagate = False
    if level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.setLevel(level)
        LOGGER.propagate = True
        LOGGER.removeHandler(handler)
