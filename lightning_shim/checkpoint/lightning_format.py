"""Lightning's checkpoint format: written into Determined's checkpoints, and read to start a trial from a file."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from lightning_utilities.core.apply_func import apply_to_collection

from lightning_shim.checkpoint.callbacks import attributes_left_out
from lightning_shim.checkpoint.pruning import PruningState, fitting_weights
from lightning_shim.checkpoint.weight_averaging import WeightAveragingState
from lightning_shim.diagnostics.errors import CheckpointError
from lightning_shim.loop.runtime import Runtime
from lightning_shim.patching.attachment import CURRENT_FX_ATTRIBUTE
from lightning_shim.session.loops_state import loops_state, progress_of_loops
from lightning_shim.upstream.lightning import HYPERPARAMETERS_NAME, is_omegaconf
from lightning_shim.upstream.lightning_loops import RestartedLoops, states_of_loaders
from lightning_shim.upstream.lightning_plugins import read_checkpoint

SCALER_KEY: Final = "MixedPrecision"
"""Lightning's key of the gradient scaler's state, which is the name of its plugin."""


class LightningCheckpoint:
    """The contents of a checkpoint that Lightning knows."""

    def __init__(self, runtime: Runtime, averaging: WeightAveragingState) -> None:
        self._session: Final = runtime.session
        self._module: Final = runtime.session.module
        self._datamodule: Final = runtime.session.datamodule
        self._hooks: Final = runtime.hooks
        self._progress: Final = runtime.session.progress
        self._strategy: Final = runtime.strategy
        self._averaging: Final = averaging

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Adds Lightning's keys to Determined's checkpoint, and calls the ``on_save_checkpoint`` hooks on it."""
        # Determined's tensors are added under a second name. torch.save writes a shared storage once, so they take up
        # no further space.
        checkpoint.update(
            {
                **self._weights(is_between=self._progress.epoch_is_running),
                "optimizer_states": checkpoint["optimizers_state_dict"],
                "lr_schedulers": self._scheduler_states(),
                "rng_state": without_arrays(checkpoint["rng_state"]),
            }
        )
        # The states of Determined's callbacks are in there as well. Each looks for its own key only.
        # Where the attributes are kept, the state is left out: Lightning cannot load it.
        kept = {each.state_key for each in self._session.callbacks if attributes_left_out(each) is not None}
        states = self._callback_states()
        checkpoint["callbacks"].update({key: state for key, state in states.items() if key not in kept})
        self._averaging.save(checkpoint)
        self._add_scaler(checkpoint)
        self._add_owners(checkpoint)
        self._hooks.call("on_save_checkpoint", checkpoint)
        # If a hook has changed something, its change is to be loaded, by Determined too.
        _prefer_lightning_keys(checkpoint)

    def dump(self, weights_only: bool) -> dict[str, Any]:
        """Creates a checkpoint as Lightning's Trainer does, and calls the ``on_save_checkpoint`` hooks on it.

        Args:
            weights_only: Whether to leave out all that only a resumed training needs.
        """
        checkpoint = self._weights()
        if not weights_only:
            checkpoint["callbacks"] = self._callback_states()
            checkpoint["optimizer_states"] = [optimizer.state_dict() for optimizer in self._strategy.optimizers]
            checkpoint["lr_schedulers"] = self._scheduler_states()
            self._add_scaler(checkpoint)
        self._add_owners(checkpoint)
        if not weights_only:
            self._hooks.callbacks("on_save_checkpoint", checkpoint)
        self._hooks.module("on_save_checkpoint", checkpoint)
        return checkpoint

    def _weights(self, is_between: bool = False) -> dict[str, Any]:
        loops = loops_state(self._progress, vars(self._module)[CURRENT_FX_ATTRIBUTE], is_between)
        combined = self._session.trainer.fit_loop._combined_loader
        if combined is not None and (states := states_of_loaders(combined)):
            loops["fit_loop"]["state_dict"]["combined_loader"] = states
        return {
            "epoch": self._progress.current_epoch,
            "global_step": self._module.global_step,
            "pytorch-lightning_version": self._session.lightning.version,
            "state_dict": self._module.state_dict(),
            "loops": loops,
        }

    def _scheduler_states(self) -> list[dict[str, Any]]:
        return [config.scheduler.state_dict() for config in self._strategy.lr_scheduler_configs]

    def _callback_states(self) -> dict[str, Any]:
        return {callback.state_key: state for callback in self._session.callbacks if (state := callback.state_dict())}

    def _add_scaler(self, checkpoint: dict[str, Any]) -> None:
        scaler = self._strategy.precision_plugin.scaler
        if scaler is not None:
            checkpoint[SCALER_KEY] = scaler.state_dict()

    def _add_owners(self, checkpoint: dict[str, Any]) -> None:
        """Adds the hyperparameters of module and data module, and the data module's state."""
        for owner in (self._module, self._datamodule):
            if owner is not None and owner.hparams:
                checkpoint[owner.CHECKPOINT_HYPER_PARAMS_KEY] = self._hyperparameters(owner)
                if is_omegaconf(owner.hparams):
                    checkpoint[owner.CHECKPOINT_HYPER_PARAMS_TYPE] = type(owner.hparams)
                if hasattr(owner, HYPERPARAMETERS_NAME):
                    checkpoint[owner.CHECKPOINT_HYPER_PARAMS_NAME] = getattr(owner, HYPERPARAMETERS_NAME)
        state = self._hooks.datamodule("state_dict")
        if state:
            checkpoint[type(self._datamodule).__qualname__] = state

    def _hyperparameters(self, owner: Any) -> Any:
        if is_omegaconf(owner.hparams):
            return owner.hparams
        hparams = dict(owner.hparams)
        if owner is self._datamodule:
            # Lightning drops the module's when training starts, and no checkpoint can be written with these.
            self._session.lightning.clean_namespace(hparams)
        return hparams

    def load(self, checkpoint: dict[str, Any], pruning: PruningState | None = None) -> None:
        """Calls the ``on_load_checkpoint`` hooks, and restores module, callbacks and data module.

        Args:
            checkpoint: The checkpoint that was read; changed in place. Its optimizers and schedulers are loaded later.
            pruning: What is pruned, if this trial has written it.
        """
        # Lightning's order. The optimizers are configured afterwards, since on_load_checkpoint may rebuild layers.
        self.load_weights(checkpoint, pruning)
        if self._datamodule is not None and type(self._datamodule).__qualname__ in checkpoint:
            self._hooks.datamodule("load_state_dict", checkpoint[type(self._datamodule).__qualname__])
        # As in Lightning, they find the weights loaded, and may load others.
        self._hooks.callbacks("on_load_checkpoint", checkpoint)
        _prefer_lightning_keys(checkpoint)
        states = checkpoint.get("callbacks", {})
        for callback in self._session.callbacks:
            if callback.state_key in states:
                callback.load_state_dict(copy.deepcopy(states[callback.state_key]))
        self._averaging.load(checkpoint)

    def load_weights(self, checkpoint: dict[str, Any], pruning: PruningState | None = None) -> None:
        """Gives the module the weights, as ``load_from_checkpoint`` does: with its own ``on_load_checkpoint`` alone."""
        self._hooks.module("on_load_checkpoint", checkpoint)
        _prefer_lightning_keys(checkpoint)
        weights = (checkpoint.get("models_state_dict") or [checkpoint["state_dict"]])[0]
        if pruning is not None:
            weights = fitting_weights(weights, self._module, pruning)
        self._module.load_state_dict(weights, strict=self._module.strict_loading)

    def load_training_state(self, checkpoint: dict[str, Any]) -> None:
        """Gives the scaler, the optimizers and the schedulers their state.

        Raises:
            CheckpointError: If it was saved with the weights alone.
            ValueError: If the module has another number of optimizers or schedulers.
        """
        scaler = self._strategy.precision_plugin.scaler
        if scaler is not None and SCALER_KEY in checkpoint:
            scaler.load_state_dict(checkpoint[SCALER_KEY])
        states = checkpoint.get("optimizers_state_dict", checkpoint.get("optimizer_states"))
        self._restore("optimizer", self._strategy.optimizers, states)
        if not self._averaging.brings_scheduler:
            schedulers = [config.scheduler for config in self._strategy.lr_scheduler_configs]
            states = checkpoint.get("lr_schedulers_state_dict", checkpoint.get("lr_schedulers"))
            self._restore("learning rate scheduler", schedulers, states)

    def load_progress(self, checkpoint: dict[str, Any]) -> bool:
        """Counts from where Lightning's loops were, and returns whether they restart: not if their epoch had ended."""
        if "loops" not in checkpoint:
            return False
        script_trainer = self._session.script_trainer
        max_steps = -1 if script_trainer is None else script_trainer.max_steps
        loops = RestartedLoops(self._session.trainer, checkpoint["loops"]["fit_loop"], max_steps)
        self._session.restarted_loops = loops
        self._progress.load_state_dict(progress_of_loops(loops.state))
        return loops.is_restarting or self._session.trainer.max_steps != -1

    def read(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Reads a checkpoint that Lightning has written.

        Args:
            path: Its file, or a URL that fsspec supports.

        Raises:
            CheckpointError: If it is no checkpoint of Lightning's.
        """
        name = os.fspath(path)
        try:
            checkpoint = read_checkpoint(self._strategy.checkpoint_io, name, self._session.lightning.TorchCheckpointIO)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"ckpt_path: Checkpoint file not found: {name}. Aborting training.", also=FileNotFoundError
            ) from error
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"ckpt_path: {name} is damaged, or is not a checkpoint ({error}).") from error
        if not isinstance(checkpoint, Mapping) or not {"state_dict", "pytorch-lightning_version"} <= checkpoint.keys():
            raise CheckpointError(f"ckpt_path: {name} is not a checkpoint of Lightning's: it has no state_dict.")
        migrated, _ = self._session.lightning.migrate_checkpoint(dict(checkpoint))
        return migrated

    def _restore(self, kind: str, owners: list[Any], states: list[Any] | None) -> None:
        if states is None:
            raise CheckpointError(
                f"ckpt_path: Trying to restore {kind} state but checkpoint contains only the model. This is probably "
                "due to `ModelCheckpoint.save_weights_only` being set to `True`. Load the weights before training, or "
                "go on from another checkpoint.",
                also=KeyError,
            )
        # Lightning gives as many their state as there are on both sides.
        if len(states) != len(owners) and self._session.script_trainer is None:
            raise ValueError(f"it holds the states of {len(states)} {kind}s, and the module has {len(owners)}.")
        for owner, state in zip(owners, states, strict=False):
            owner.load_state_dict(state)


def without_arrays(state: Any) -> Any:
    """Turns arrays into lists, so that PyTorch and Lightning can load a checkpoint with their default settings."""
    # The usual types are handled here, without Lightning's slower search: each random state of Python's has 625
    # numbers, and a checkpoint holds several states.
    if isinstance(state, (int, float, str, bytes)):
        return state
    if type(state) in (tuple, list):
        return type(state)(map(without_arrays, state))
    if type(state) is dict:
        return {key: without_arrays(entry) for key, entry in state.items()}
    return apply_to_collection(state, np.ndarray, np.ndarray.tolist)


def _prefer_lightning_keys(checkpoint: dict[str, Any]) -> None:
    """Gives Determined's keys, which only its checkpoints have, what Lightning's hold."""
    if "models_state_dict" not in checkpoint:
        return
    if "state_dict" in checkpoint:
        checkpoint["models_state_dict"] = [checkpoint["state_dict"]]
    if "optimizer_states" in checkpoint:
        checkpoint["optimizers_state_dict"] = checkpoint["optimizer_states"]
    # Determined restores the module's own schedulers. After a swap, Lightning's key holds that of the callback instead.
    if "lr_schedulers" in checkpoint and not WeightAveragingState.has_swapped_schedulers(checkpoint):
        checkpoint["lr_schedulers_state_dict"] = checkpoint["lr_schedulers"]
