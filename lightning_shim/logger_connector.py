"""What ``trainer._logger_connector`` is on Determined: it says when callbacks log, as those of Lightning ask."""

from __future__ import annotations

from typing import Any, Final

from lightning_shim.evaluation_loop import EvaluationLoop
from lightning_shim.fit_loop import Refusing
from lightning_shim.progress import Progress


class LoggerConnectorFacade(Refusing):
    """Lightning's ``_LoggerConnector``.

    Args:
        trainer: The stand-in for the trainer.
        progress: Where training stands.
        evaluation_loop: Counts the batches of a validation.
    """

    _name = "trainer._logger_connector"
    _instead = "Determined reports the metrics. Read trainer.callback_metrics and trainer.logged_metrics instead."

    def __init__(self, trainer: Any, progress: Progress, evaluation_loop: EvaluationLoop) -> None:
        self._trainer: Final = trainer
        self._progress: Final = progress
        self._evaluation_loop: Final = evaluation_loop

    @property
    def should_update_logs(self) -> bool:
        """Whether Lightning's loggers get the values of the present step; never if ``log_every_n_steps`` is 0."""
        trainer = self._trainer
        every = trainer.log_every_n_steps
        # The batch that is about to step has not been counted.
        step = self._evaluation_loop.batches_started if trainer.validating else self._progress.batches_that_stepped + 1
        return bool(every > 0 and (step % every == 0 or trainer.should_stop))
