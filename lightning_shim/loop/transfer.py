"""Moves a batch to the device, through the user's transfer hooks."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor

from lightning_shim.lightning1.hook_arguments import without_last_argument
from lightning_shim.loop.hooks import Hooks
from lightning_shim.loop.strategy import StrategyFacade
from lightning_shim.session.session import Session
from lightning_shim.upstream.lightning import is_overridden

_ARGUMENT_COUNTS: Final = {"on_before_batch_transfer": 2, "transfer_batch_to_device": 3, "on_after_batch_transfer": 2}
"""The transfer hooks in their order, each with its number of arguments; the last argument is the loader's index."""

TRANSFER_HOOKS: Final = tuple(_ARGUMENT_COUNTS)

_CONTAINERS: Final = (tuple, list)


def hook_owner(session: Session, name: str) -> Any:
    """Returns the data module if it overrides a transfer hook, otherwise the module.

    As Lightning's ``_DataHookSelector`` does.
    """
    datamodule = session.datamodule
    if datamodule is not None and is_overridden(name, datamodule, session.lightning.LightningDataModule):
        return datamodule
    return session.module


class BatchTransfer:
    """Calls the transfer hooks: the data module's where it overrides them, otherwise the module's."""

    def __init__(self, session: Session, hooks: Hooks, strategy: StrategyFacade) -> None:
        precision = strategy.precision_plugin
        self._hooks: Final = hooks
        self._convert_input: Final = precision.convert_input
        self._device: Final = strategy.root_device
        self._move: Final = session.lightning.move_data_to_device
        self._overridden: Final = {}
        for name in TRANSFER_HOOKS:
            owner = hook_owner(session, name)
            if owner is not session.module or hooks.calls(name):
                hook = without_last_argument(getattr(owner, name), _ARGUMENT_COUNTS[name])
                kind = "LightningModule" if owner is session.module else "LightningDataModule"
                self._overridden[name] = session.profiling.measured(f"[{kind}]{type(owner).__name__}.{name}", hook)
        self._stays_on_cpu: Final = strategy.root_device.type == "cpu"
        self._only_moves: Final = not (self._overridden or precision.converts_input)

    def __call__(self, batch: Any, dataloader_idx: int) -> Any:
        """Moves a batch."""
        if self._only_moves:
            if not self._stays_on_cpu:
                return self._send(batch)
            container = type(batch)
            if container in _CONTAINERS:
                for part in batch:
                    if type(part) is not Tensor or not part.is_cpu:
                        break
                else:
                    # All tensors are there already. This saves Lightning's search through nested containers, which
                    # takes as long as a small layer. As there, the batch gets a container of its own.
                    return container(batch)
            return self._move(batch, self._device)
        batch = self._convert_input(batch)
        before, move, after = (self._overridden.get(name) for name in TRANSFER_HOOKS)
        if before is not None:
            batch = self._hooks.run(TRANSFER_HOOKS[0], before, batch, dataloader_idx)
        if move is not None:
            batch = self._hooks.run(TRANSFER_HOOKS[1], move, batch, self._device, dataloader_idx)
        else:
            batch = self._move(batch, self._device)
        if after is not None:
            batch = self._hooks.run(TRANSFER_HOOKS[2], after, batch, dataloader_idx)
        return batch

    def _send(self, batch: Any) -> Any:
        """Moves a batch to a GPU; plain tensors, alone or in a plain container, without Lightning's search for them."""
        container, device = type(batch), self._device
        parts = batch if container in _CONTAINERS else batch.values() if container is dict else (batch,)
        for part in parts:
            if type(part) is not Tensor:
                return self._move(batch, device)
        # As in Lightning, the host does not wait for a copy from pinned memory.
        moved = [part.to(device, non_blocking=True) for part in parts]
        if container is dict:
            return dict(zip(batch, moved, strict=True))
        return container(moved) if container in _CONTAINERS else moved[0]
