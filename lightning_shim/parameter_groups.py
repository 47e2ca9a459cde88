"""Parameter groups that hooks give optimizers while they train: those of a module that is built anew lack them.

Lightning does so for its own BaseFinetuning alone, and refuses to continue otherwise; there it happens to those who
continue by hand, on Determined to whoever is paused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

Names = list[list[list[str]]]
"""The names of the parameters, by group, by optimizer."""


def names_of_groups(module: Any, optimizers: Sequence[Optimizer]) -> Names:
    """Says which parameters are in which group.

    Args:
        module: The LightningModule.
        optimizers: Its optimizers.

    Returns:
        The parameters' names; of a parameter that is not the module's, an empty one.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [
        [[names.get(id(parameter), "") for parameter in group["params"]] for group in optimizer.param_groups]
        for optimizer in optimizers
    ]


def add_missing_groups(module: Any, optimizers: Sequence[Optimizer], names: Names) -> None:
    """Adds the groups that optimizers had beyond those they have; their state and settings are loaded afterwards.

    Args:
        module: The LightningModule.
        optimizers: Its optimizers.
        names: What :func:`names_of_groups` returned. What does not fit is left to whoever loads the optimizers' states.
    """
    parameters = dict(module.named_parameters())
    for optimizer, groups in zip(optimizers, names, strict=False):
        for group in groups[len(optimizer.param_groups) :]:
            if parameters.keys() >= set(group):
                optimizer.add_param_group({"params": [parameters[name] for name in group]})
