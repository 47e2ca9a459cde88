"""What only a cluster has: a search that may stop the trial."""

from __future__ import annotations

import threading
from typing import Any, Final

from lightning_shim.diagnostics.lines import say
from lightning_shim.upstream.determined.context import (
    MASTER_ERRORS,
    is_on_cluster,
    is_stopped_by_search,
    notify_of_sent_reports,
)

PATIENCE: Final = 3.0
"""For how many seconds the master may take a report, and for how many it may take to answer."""


class Search:
    """Knows whether the search has stopped this trial.

    Determined 0.38's master decides that when it gets the metrics of a validation. It changes the trial's state, and
    sends the container no signal: the chief asks once after each validation, when the metrics have been sent.
    """

    def __init__(self, context: Any) -> None:
        self._context: Final = context
        self._distributed: Final = context.distributed
        self._is_on_cluster: Final = is_on_cluster()
        self._sent = -1
        self._changed: Final = threading.Condition()
        self._has_complained = False

    def start(self) -> None:
        """Listens, on the chief, to what is reported from now on."""
        if self._is_on_cluster and self._distributed.rank == 0:
            notify_of_sent_reports(self._context, self._on_report)

    def _on_report(self, group: str, steps_completed: int | None) -> None:
        """Called by the thread that sends reports."""
        if group == "validation" and steps_completed is not None:
            with self._changed:
                self._sent = steps_completed
                self._changed.notify()

    def has_stopped(self, batches: int) -> bool:
        """Whether the search has stopped the trial; all processes ask after a validation has been reported.

        The chief asks the master; if that does not answer, the search has not.
        """
        if not self._is_on_cluster:
            return False
        is_chief = self._distributed.rank == 0
        return bool(self._distributed.broadcast(self._ask(batches) if is_chief else None))

    def _ask(self, batches: int) -> bool:
        with self._changed:
            is_sent = self._changed.wait_for(lambda: self._sent >= batches, PATIENCE)
        try:
            if is_sent:
                return is_stopped_by_search(self._context, PATIENCE)
            problem: Any = "it has not taken the metrics of the validation yet"
        except MASTER_ERRORS as error:
            problem = error
        if not self._has_complained:
            self._has_complained = True
            say(f"the master does not say whether the search goes on ({problem}). The training goes on.")
        return False
