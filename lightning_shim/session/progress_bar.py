"""The progress bar of a trial, shown off-cluster in a terminal.

A script's Trainer has Lightning's, which draws at every batch and waits for the device to do so; this one does neither.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tqdm import tqdm

from lightning_shim.upstream.determined.context import is_on_cluster
from lightning_shim.upstream.namespaces import derives_from

_ERASE_THE_LINE: Final = "\r\x1b[K"


class ProgressBar:
    """A tqdm bar of the present epoch with the newest values behind it, and one of a validation while it runs."""

    def __init__(self) -> None:
        self._training: tqdm[Any] | None = None
        self._validation: tqdm[Any] | None = None
        self._values: Final[dict[str, float]] = {}

    @staticmethod
    def has_terminal() -> bool:
        """Whether there is a terminal to show the bar in."""
        return sys.stderr.isatty()

    def start_epoch(self, description: str, batches: int, total: int | None) -> None:
        """Shows an epoch in place of the one before.

        Args:
            description: What stands before the bar.
            batches: The batches of the epoch that have been trained by now.
            total: All of them, or None if that is not known.
        """
        if self._training is not None:
            self._training.close()
        self._training = _bar(description, total, initial=batches)
        if self._values:
            self._training.set_postfix_str(self._postfix())

    def advance(self, batches: int) -> None:
        """Shows how many batches of the epoch have been trained."""
        bar = self._training
        if bar is not None:
            bar.update(batches - bar.n)

    def show(self, values: Mapping[str, float]) -> None:
        """Shows values behind the bar of the epoch when it is drawn next, beside those of other names."""
        self._values.update(values)
        if self._training is not None:
            self._training.set_postfix_str(self._postfix(), refresh=False)

    def _postfix(self) -> str:
        return ", ".join(f"{name}={value:.4g}" for name, value in self._values.items())

    def start_validation(self, description: str, total: int | None) -> None:
        """Shows a validation below the epoch."""
        if self._training is not None:
            # What it has counted since it was drawn would not be seen before the validation has ended.
            self._training.refresh()
        self._validation = _bar(description, total)

    def advance_validation(self) -> None:
        """Counts a batch of the validation."""
        if self._validation is not None:
            self._validation.update()

    def end_validation(self) -> None:
        """Takes the bar of the validation away."""
        if self._validation is not None:
            self._validation.close()
        self._validation = None

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints above the bar."""
        with tqdm.external_write_mode(file=kwargs.get("file")):
            print(*args, **kwargs)

    def close(self) -> None:
        """Takes the bars away and gives the terminal back."""
        self.end_validation()
        if self._training is not None:
            self._training.close()
        self._training = None


def _bar(description: str, total: int | None, initial: int = 0) -> tqdm[Any]:
    # With a miniters of its own tqdm does not redraw for a while after steps have become slower.
    return tqdm(
        desc=description, total=total, initial=initial, unit="batch", dynamic_ncols=True, leave=False, miniters=1
    )


@contextlib.contextmanager
def bars_out_of_the_way() -> Iterator[None]:
    """Takes the bars that tqdm has drawn, ours or Lightning's, off a terminal while a line is written to it."""
    with tqdm.external_write_mode(file=sys.stderr) if ProgressBar.has_terminal() else contextlib.nullcontext():
        yield


def erase_interrupted_line() -> None:
    """Erases the line of the cursor: behind the bar the terminal has shown the Ctrl+C, which tqdm does not know of."""
    if ProgressBar.has_terminal():
        sys.stderr.write(_ERASE_THE_LINE)


@contextlib.contextmanager
def kept_out_of_a_log(bar: Any) -> Iterator[None]:
    """Silences a progress bar of Lightning's during the block on a cluster, whose log would get its drawings as lines.

    Args:
        bar: ``trainer.progress_bar_callback``.
    """
    is_lightnings = derives_from(bar, "TQDMProgressBar") or derives_from(bar, "RichProgressBar")
    if not is_on_cluster() or not is_lightnings or bar.is_disabled:
        yield
        return
    bar.disable()
    try:
        yield
    finally:
        bar.enable()
