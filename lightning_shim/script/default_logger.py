"""Lightning's default logger on a cluster, where the files of TensorBoard go to Determined's storage."""

from __future__ import annotations

import functools
from typing import Any

from lightning_shim.session.options import root_dir_of
from lightning_shim.upstream.determined.context import is_on_cluster, tensorboard_storage, trial_id
from lightning_shim.upstream.namespaces import namespace_of


def logger_of(trainer: Any, given: dict[str, Any]) -> Any:
    """Returns the argument ``logger`` for a Trainer that is being built: Lightning's default is other on a cluster.

    That one has the trial's number for its version, so that ModelCheckpoint has the same folder after a pause. A
    barebones Trainer has none.
    """
    logger = given.get("logger")
    if logger not in (None, True) or given.get("barebones") or not is_on_cluster():
        return logger
    root = root_dir_of(given.get("default_root_dir"))
    return _cluster_logger(namespace_of(trainer).module("loggers").TensorBoardLogger)(root, version=trial_id())


@functools.cache
def _cluster_logger(logger_class: Any) -> Any:
    """Returns the logger's class for one namespace of Lightning."""

    class TensorBoardLogger(logger_class):  # type: ignore[misc]  # it is not known before
        """Writes where Determined looks for what it uploads. ModelCheckpoint looks at the other places."""

        @property
        def log_dir(self) -> str:
            return str(tensorboard_storage() / self.name)

    return TensorBoardLogger
