"""The checkpoint that a training starts from, taken over in Lightning's order.

Module, data module and callbacks come before the optimizers are configured, since the module may build layers for what
it is about to load; optimizers and schedulers come after ``on_fit_start``. It makes no difference to them whether it is
the trial's own checkpoint or one of Lightning's.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from lightning_shim.checkpoint.kept_files import KeptFiles
from lightning_shim.checkpoint.lightning_format import LightningCheckpoint
from lightning_shim.checkpoint.machines import share
from lightning_shim.checkpoint.trial_state import TrialState
from lightning_shim.diagnostics.lines import say
from lightning_shim.loop.runtime import Runtime
from lightning_shim.session.datamodule_state import captured_state, restore_state
from lightning_shim.upstream.determined.checkpoint_errors import fitting_errors
from lightning_shim.upstream.determined.latest_checkpoint import read_latest_checkpoint

_LARGE: Final = ("state_dict", "models_state_dict", "optimizer_states", "optimizers_state_dict")
"""The entries of a checkpoint that take as much memory as the module."""


class StartingCheckpoint:
    """The trial's own checkpoint after a pause; otherwise that of ``ckpt_path``, or the weights of another trial's.

    Attributes:
        restarts: Whether it is gone on from where it was written, so that there is no sanity check.
    """

    def __init__(
        self,
        runtime: Runtime,
        lightning_checkpoint: LightningCheckpoint,
        trial_state: TrialState,
        kept_files: KeptFiles,
    ) -> None:
        self._session: Final = runtime.session
        self._lightning_checkpoint: Final = lightning_checkpoint
        self._trial_state: Final = trial_state
        self._kept_files: Final = kept_files
        self.restarts = False
        self._content: dict[str, Any] | None = None
        self._name: Any = None
        self._datamodule_state = b""

    def restore_module(self) -> None:
        """Reads the checkpoint, and gives module, data module and callbacks what it has of them.

        Raises:
            CheckpointError: If it is missing, damaged, or another module's.
        """
        session, latest, pruning = self._session, None, None
        if session.latest_checkpoint is not None:
            latest = session.controller.latest = read_latest_checkpoint(session.context, session.latest_checkpoint)
        if latest is not None and latest.is_own:
            self._content, self._name = latest.content, latest.folder
            pruning = self._trial_state.pruning_in(latest.content)
            self._kept_files.restore_folders(latest.content)
        else:
            self._read_ckpt_path()
        if self._content is not None:
            with fitting_errors(self._name):
                self._lightning_checkpoint.load(self._content, pruning)
            if latest is not None and latest.is_own:
                self._datamodule_state = captured_state(session.datamodule)
        elif latest is not None:
            with fitting_errors(latest.folder):
                self._lightning_checkpoint.load_weights(latest.content)
            say(
                f"the weights are those of the checkpoint {latest.folder.name}, of another trial. Optimizers, "
                "schedulers, callbacks, counters and random states are new."
            )

    def _read_ckpt_path(self) -> None:
        """Reads Lightning's checkpoint, which only the machine of rank 0 may have; it knows which is the last one."""
        session = self._session
        path = session.ckpt_path = session.context.distributed.broadcast(session.ckpt_path)
        if path is not None:
            session.lightning.rank_zero_info(f"Restoring states from the checkpoint path at {path}")
            share([path], replaces=False)
            self._content, self._name = self._lightning_checkpoint.read(path), path
            unknown = self._content.get("callbacks", {}).keys() - {each.state_key for each in session.callbacks}
            if unknown and session.script_trainer is not None:
                session.lightning.rank_zero_warn(
                    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint need to be provided "
                    f"during `Trainer` instantiation. Please add the following callbacks: {list(unknown)}."
                )

    def restore_training_state(self) -> None:
        """Gives optimizers and schedulers their states.

        Raises:
            CheckpointError: If the module has others.
        """
        content, latest = self._content, self._session.controller.latest
        if content is not None:
            with fitting_errors(self._name):
                if latest is not None and latest.is_own:
                    # Its own counters are put back when training starts: until then the loaders are asked for as they
                    # were before the pause.
                    self._trial_state.load(content)
                    self.restarts = True
                else:
                    self.restarts = self._lightning_checkpoint.load_progress(content)
                self._lightning_checkpoint.load_training_state(content)
            if not (latest is not None and latest.is_own):
                self._session.lightning.rank_zero_info(f"Restored all states from the checkpoint at {self._name}")
        if latest is not None:
            # The rest is kept until Determined asks for it.
            rest = {name: entry for name, entry in latest.content.items() if name not in _LARGE}
            self._session.controller.latest = dataclasses.replace(latest, content=rest)
        self._content = None

    def restore_datamodule(self) -> None:
        """Gives the data module its state again, if it has changed when it was asked for the loaders.

        They were asked for before the pause, and are there anew; Lightning counts that twice.
        """
        datamodule = self._session.datamodule
        if self._datamodule_state and captured_state(datamodule) != self._datamodule_state:
            restore_state(datamodule, self._datamodule_state)
