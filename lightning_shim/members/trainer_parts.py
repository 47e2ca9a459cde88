"""The parts of Lightning's Trainer that a trial stands in for, and what each of them has. Standard library only.

``facade/loops`` answers these paths, and ``check`` judges by them: what is not here raises an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_Members = Mapping[str, Any]


def _leaves(names: str) -> dict[str, None]:
    return dict.fromkeys(names.split())


_COUNTS: Final = _leaves("ready started processed completed")
_RESULTS: Final = _leaves("batch batch_size dataloader_idx metrics")
_SOURCE: Final = _leaves("dataloader is_defined is_module")

# A member that is itself a part has its own members as its value.
_TRAINER: Final[_Members] = {
    "_logger_connector": _leaves("log_metrics should_update_logs"),
    "_results": _RESULTS,
    "fit_loop": {
        **_leaves("max_epochs max_steps max_batches restarting setup_data _combined_loader _skip_backward"),
        **_leaves("batch_idx total_batch_idx _should_accumulate"),
        "_data_source": _SOURCE,
        "_results": _RESULTS,
        "epoch_progress": {"current": _COUNTS, "total": _COUNTS},
        "epoch_loop": {
            **_leaves("batch_idx total_batch_idx global_step restarting _batches_that_stepped _should_check_val_epoch"),
            **_leaves("_is_training_done _should_accumulate"),
            "_results": _RESULTS,
            "batch_progress": {"current": _COUNTS, "total": _COUNTS, "is_last_batch": None},
            "val_loop": {
                "_has_run": None,
                "_data_source": _SOURCE,
                "_results": _RESULTS,
                "batch_progress": {"current": _COUNTS, "total": _COUNTS, "is_last_batch": None},
            },
        },
    },
    "strategy": _leaves(
        "all_gather backward barrier broadcast checkpoint_io global_rank is_global_zero launcher lightning_module "
        "local_rank lr_scheduler_configs model node_rank num_nodes optimizer_step optimizers precision_plugin reduce "
        "reduce_boolean_decision remove_checkpoint root_device save_checkpoint training_step validation_step "
        "world_size _lightning_optimizers"
    ),
}


def _parts(path: str, members: _Members) -> Iterator[tuple[str, frozenset[str]]]:
    yield path, frozenset(members)
    for name, inner in members.items():
        if inner is not None:
            yield from _parts(f"{path}.{name}", inner)


TRAINER_PARTS: Final = {
    path: names for top, members in _TRAINER.items() for path, names in _parts(f"Trainer.{top}", members)
}
"""The names that each part has, by the path to it: ``Trainer.fit_loop.epoch_loop``."""

SETTABLE: Final = frozenset(
    {
        "Trainer.fit_loop._skip_backward",
        "Trainer.fit_loop.max_batches",
        "Trainer.fit_loop.max_epochs",
        "Trainer.fit_loop.epoch_loop._batches_that_stepped",
    }
)
"""The members of parts that can be set as well as read."""

_INSTEAD: Final = {
    "_logger_connector": "Determined reports the metrics; read trainer.callback_metrics and trainer.logged_metrics.",
    "_results": "Determined reports the metrics; read trainer.callback_metrics and trainer.logged_metrics.",
    "fit_loop": "Determined runs the loop; read trainer's own attributes instead, such as current_epoch, global_step, "
    "num_training_batches or enable_validation.",
    "strategy": "Determined has the devices and processes; read trainer's own attributes instead, such as world_size, "
    "global_rank or num_devices.",
}


def instead_of(path: str) -> str:
    """Says why a part, given by its path, lacks a member, and what to use instead."""
    return next(_INSTEAD[name] for name in reversed(path.split(".")) if name in _INSTEAD)
