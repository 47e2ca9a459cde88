"""The components that the training loop and the validation loop share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_shim.loop.hooks import Hooks
from lightning_shim.loop.strategy import StrategyFacade
from lightning_shim.loop.transfer import BatchTransfer
from lightning_shim.metrics.store import MetricStore
from lightning_shim.session.session import Session


@dataclass(frozen=True, slots=True)
class Runtime:
    """A session and the components that run its batches."""

    session: Session
    hooks: Hooks  # the hooks of the module and the callbacks
    strategy: StrategyFacade  # runs steps, backward and the optimizers
    metrics: MetricStore
    transfer: Callable[[Any, int], Any]  # moves batches to the device

    @classmethod
    def of(cls, session: Session) -> Runtime:
        """Builds the components of a session."""
        hooks = Hooks(session)
        strategy = StrategyFacade(session, hooks)
        reduce, gather = (
            (None, None) if session.world_size == 1 else (strategy.reduce, session.context.distributed.allgather)
        )
        extract_batch_size = session.lightning.extract_batch_size
        metrics = MetricStore(session.module, extract_batch_size, reduce, gather, strategy.root_device)
        transfer: Callable[[Any, int], Any] = BatchTransfer(session, hooks, strategy).__call__
        return cls(
            session, hooks, strategy, metrics, session.profiling.measured(strategy.action("batch_to_device"), transfer)
        )
