"""Where the user's loaders come from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lightning_shim.data.sharding import SampleSharing
from lightning_shim.data.source import DataSource
from lightning_shim.diagnostics.locations import definition_location
from lightning_shim.session.options import TrainerOptions
from lightning_shim.session.progress import Progress
from lightning_shim.upstream.lightning import Lightning, is_overridden


def find_source(
    stage: str,
    given: Any,
    lightning: Lightning,
    module: Any,
    datamodule: Any,
    rank: int,
    world_size: int,
    options: TrainerOptions,
    progress: Progress,
) -> DataSource:
    """Finds where a stage's loaders come from: the arguments, else the data module, else the module.

    Args:
        stage: ``"train"`` or ``"val"``.
        given: The loaders that were passed, or None.
        lightning: The module's Lightning.
        module: The LightningModule.
        datamodule: The LightningDataModule, if there is one.
        rank: The index of this process.
        world_size: How many processes share the data.
        options: Has ``limit_train_batches``, ``limit_val_batches``, ``reload_dataloaders_every_n_epochs`` and
            ``use_distributed_sampler``.
        progress: Where training stands.

    Returns:
        The source; it may turn out to be undefined.
    """
    hook = f"{stage}_dataloader"
    owner, base = (
        (module, lightning.LightningModule) if datamodule is None else (datamodule, lightning.LightningDataModule)
    )
    request: Callable[[], Any] | None = None
    origin = None
    if given is not None:
        request = functools.partial(_identity, given)
    elif is_overridden(hook, owner, base):
        request = getattr(owner, hook)
        origin = f"{definition_location(request)}: {hook}"
    limit = getattr(options, f"limit_{stage}_batches")
    sharing = SampleSharing(lightning, rank, world_size, options.use_distributed_sampler, options.overfit_batches > 0)
    reload_period = options.reload_dataloaders_every_n_epochs
    return DataSource(stage, request, origin, limit, lightning, rank, sharing, progress, reload_period, datamodule)


def _identity(loaders: Any) -> Any:
    return loaders
