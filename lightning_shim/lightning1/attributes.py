"""Attributes that LightningModule and Trainer had in Lightning 1.x, with values computed from the trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import nn

from lightning_shim.user_code.bytecode import names_in_code

Answer = Callable[[Any], Any]
"""A function that computes the attribute from the trial's facade."""


def _nothing(trainer: Any) -> None:
    return None


def _no(trainer: Any) -> bool:
    return False


def _number_of_gpus(trainer: Any) -> int:
    return int(trainer.num_devices) if trainer.on_gpu else 0


def _scheduler_dictionary(config: Any) -> dict[str, Any]:
    names = ("scheduler", "name", "interval", "frequency", "reduce_on_plateau", "monitor", "strict")
    return {name: getattr(config, name) for name in names}


_OF_BOTH: Final[dict[str, Answer]] = {
    "use_amp": lambda trainer: trainer.precision_plugin.is_mixed,
    "use_ddp": lambda trainer: trainer.world_size > 1,
    "use_ddp2": _no,
    "use_dp": _no,
    "use_tpu": _no,
}

OF_MODULE: Final[dict[str, Answer]] = {
    **_OF_BOTH,
    "precision": lambda trainer: trainer.precision_plugin.lightning1_name,
}
"""The values by the name of LightningModule's attribute."""

OF_TRAINER: Final[dict[str, Answer]] = {
    **_OF_BOTH,
    **dict.fromkeys(("gpus", "num_gpus"), _number_of_gpus),
    **dict.fromkeys(("on_tpu", "use_horovod", "tuning", "terminate_on_nan"), _no),
    "running_sanity_check": lambda trainer: trainer.sanity_checking,
    **dict.fromkeys(("tpu_cores", "ipus", "slurm_job_id"), _nothing),
    "resume_from_checkpoint": lambda trainer: trainer.ckpt_path,
    "on_gpu": lambda trainer: trainer.strategy.root_device.type == "cuda",
    "use_single_gpu": lambda trainer: trainer.on_gpu and trainer.world_size == 1,
    "num_processes": lambda trainer: trainer.num_devices,
    "devices": lambda trainer: trainer.num_devices,
    "data_parallel": lambda trainer: trainer.world_size > 1,
    "data_parallel_device_ids": lambda trainer: trainer.device_ids if trainer.on_gpu else None,
    "root_gpu": lambda trainer: trainer.strategy.root_device.index if trainer.on_gpu else None,
    "amp_backend": lambda trainer: "native" if trainer.use_amp else None,
    "distributed_backend": lambda trainer: "ddp" if trainer.world_size > 1 else None,
    "lr_schedulers": lambda trainer: [_scheduler_dictionary(config) for config in trainer.lr_scheduler_configs],
    "lightning_optimizers": lambda trainer: dict(enumerate(trainer.strategy._lightning_optimizers)),
    "optimizer_frequencies": lambda trainer: trainer.strategy.optimizer_frequencies,
    "disable_validation": lambda trainer: not trainer.enable_validation,
    "progress_bar_dict": lambda trainer: trainer.progress_bar_metrics,
    "early_stop_callback": lambda trainer: trainer.early_stopping_callback,
    "should_rank_save_checkpoint": lambda trainer: trainer.is_global_zero,
    # A method in Lightning 1.x, so the value is a function.
    "get_model": lambda trainer: lambda: trainer.lightning_module,
}
"""The values by the name of Trainer's attribute."""


class FormerAttributes:
    """The attributes of Lightning 1.x that the modules of a trial have while they are attached.

    A module is given those that its code reads and does not define itself: neither by assignment nor by a name in a
    string, as for ``setattr``.

    A copy of the module that is made meanwhile keeps them, as in Lightning 1.9, whose Trainer set attributes as well.
    """

    def __init__(self) -> None:
        self._given: list[tuple[nn.Module, str, Any]] = []

    def give(self, module: Any, trainer: Any) -> None:
        """Sets the attributes on a module."""
        if type(module).__getattr__ is not nn.Module.__getattr__:
            # The user's own __getattr__ answers for missing attributes.
            return
        own_class: type = type(module)
        names = names_in_code(own_class)
        for name, answer in OF_MODULE.items():
            if name in names.read - names.written and not _has(module, name):
                value = answer(trainer)
                # Not through nn.Module.__setattr__, which would register a module as a submodule.
                module.__dict__[name] = value
                self._given.append((module, name, value))

    def take_back(self) -> None:
        """Removes the attributes from all modules, except those that the user has set since."""
        for module, name, value in self._given:
            if module.__dict__.get(name) is value:
                del module.__dict__[name]
        self._given.clear()


def _has(module: nn.Module, name: str) -> bool:
    # Not hasattr, which would run a property of the user's. nn.Module keeps its own in three private dictionaries.
    places = (vars(module), module._modules, module._parameters, module._buffers, *map(vars, type(module).__mro__))
    return any(name in place for place in places)
