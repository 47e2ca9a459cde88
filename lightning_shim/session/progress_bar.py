"""The progress bar of a trial that runs off-cluster in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from tqdm import tqdm


class ProgressBar:
    """A tqdm bar over training batches, with the metrics that were logged with ``prog_bar=True``.

    Args:
        total: The number of batches, or None if it is not known.
    """

    def __init__(self, total: int | None) -> None:
        self._bar: Final[tqdm[Any]] = tqdm(total=total, unit="batch", dynamic_ncols=True)

    @staticmethod
    def has_terminal() -> bool:
        """Returns whether there is a terminal to show the bar in."""
        return sys.stderr.isatty()

    def advance(self) -> None:
        """Counts a batch."""
        self._bar.update()

    def show(self, batches: int, metrics: Mapping[str, float]) -> None:
        """Shows how far training is, and metrics behind the bar.

        Args:
            batches: The batches trained, those before a resume included.
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
        with tqdm.external_write_mode(file=kwargs.get("file", sys.stdout)):
            print(*args, **kwargs)

    def close(self) -> None:
        """Leaves the bar as it is and gives the terminal back."""
        self._bar.close()
