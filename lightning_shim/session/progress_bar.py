"""The progress bar of a trial, shown off-cluster in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from tqdm import tqdm


class ProgressBar:
    """A tqdm bar of training batches, with the metrics that were logged with ``prog_bar=True``.

    Args:
        total: The number of batches, or None if it is unknown.
    """

    def __init__(self, total: int | None) -> None:
        self._bar: Final[tqdm[Any]] = tqdm(total=total, unit="batch", dynamic_ncols=True)

    @staticmethod
    def has_terminal() -> bool:
        """Whether there is a terminal to show the bar in."""
        return sys.stderr.isatty()

    def advance(self) -> None:
        """Advances the bar by a batch."""
        self._bar.update()

    def show(self, batches: int, metrics: Mapping[str, float]) -> None:
        """Sets the bar's position and the metrics behind it.

        Args:
            batches: The number of batches trained, including those before a pause.
            metrics: Numbers by name.
        """
        self._bar.n = batches
        self._bar.set_postfix(dict(metrics))

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints above the bar.

        Args:
            *args: As for :func:`print`.
            **kwargs: As for :func:`print`.
        """
        # tqdm removes the bar, lets the text through, and draws the bar again below it.
        with tqdm.external_write_mode(file=kwargs.get("file", sys.stdout)):
            print(*args, **kwargs)

    def close(self) -> None:
        """Leaves the bar as it is, and frees the terminal."""
        self._bar.close()
