"""What configure_optimizers may not return is refused before training, with its line."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lightning_shim import ConfigurationError
from tests.support.places import place_in
from tests.support.refusals import refuse, trains
from tests.support.tiny import loader, plateau, scheduler_of, sgd, tiny

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))


class Unsaved:
    """A scheduler of somebody's own, whose state cannot be saved."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        raise AssertionError


class Foreign(Unsaved):
    """One whose state can be saved, but which Lightning does not know how to step."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def with_optimizer(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda module: make(sgd(module))


WRONG_OPTIMIZERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "string": (
        lambda module: "adam",
        "returned 'adam'. Unknown configuration for model optimizers. It has to return one of: an O",
    ),
    "number": (lambda module: 0.1, "returned 0.1. .* It has to return one of"),
    "class": (lambda module: torch.optim.Adam, "It has to return one of"),
    "generator": (lambda module: (sgd(module) for _ in range(1)), "It has to return one of"),
    "list with something else": (lambda module: [sgd(module), "x"], "It has to return one of"),
    "optimizer and scheduler": (
        with_optimizer(lambda optimizer: (optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1))),
        "It has to return one of",
    ),
    "empty list": (lambda module: [], r"returned \[\]"),
    "empty tuple": (lambda module: (), r"returned \(\)"),
    "empty lists": (lambda module: ([], []), r"returned \(\[\], \[\]\)"),
    "scheduler alone in lists": (
        lambda module: ([], [scheduler_of(sgd(module))["scheduler"]]),
        "configure_optimizers returned",
    ),
    "empty dictionary": (lambda module: {}, r"returned (\{\}|a dictionary whose \"optimizer\" is None)"),
    "dictionary without optimizer": (
        lambda module: {"lr_scheduler": scheduler_of(sgd(module))},
        'a dictionary whose "optimizer" is None',
    ),
    "dictionary with a class": (
        lambda module: {"optimizer": torch.optim.Adam},
        'a dictionary whose "optimizer" is <class',
    ),
    "scheduler of another optimizer": (
        lambda module: {"optimizer": sgd(module), "lr_scheduler": scheduler_of(sgd(module))},
        "attached with an optimizer that wasn't returned",
    ),
    "scheduler dictionary without scheduler": (
        lambda module: {"optimizer": sgd(module), "lr_scheduler": {"interval": "step"}},
        'The lr scheduler dict must have the key "scheduler"',
    ),
    "plateau without monitor": (
        with_optimizer(lambda optimizer: {"optimizer": optimizer, "lr_scheduler": plateau(optimizer)}),
        '`configure_optimizers` must include a monitor.*"monitor": "val_loss"',
    ),
    "plateau without monitor, configured": (
        with_optimizer(lambda optimizer: {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau(optimizer)}}),
        "lr scheduler dict must include a monitor",
    ),
    "plateau without monitor, in lists": (
        with_optimizer(lambda optimizer: ([optimizer], [plateau(optimizer)])),
        "`configure_optimizers` must include a monitor",
    ),
    "interval": (
        with_optimizer(lambda optimizer: ([optimizer], [scheduler_of(optimizer, interval="batch")])),
        'must be "step" or "epoch" but is "batch"',
    ),
    "scheduler without state": (
        with_optimizer(lambda optimizer: ([optimizer], [Unsaved(optimizer)])),
        "which has no state_dict and load_state_dict",
    ),
    "scheduler that nobody can step": (
        with_optimizer(lambda optimizer: ([optimizer], [Foreign(optimizer)])),
        "doesn't follow PyTorch's LRScheduler API.*`LightningModule.lr_scheduler_step`",
    ),
    "two optimizers": (
        lambda module: [sgd(module), sgd(module)],
        "returned 2 optimizers.*self.automatic_optimization = False",
    ),
    "two dictionaries": (
        lambda module: ({"optimizer": sgd(module)}, {"optimizer": sgd(module)}),
        "returned 2 optimizers",
    ),
}


@pytest.mark.parametrize(("returned", "expected"), WRONG_OPTIMIZERS.values(), ids=WRONG_OPTIMIZERS)
def test_configure_optimizers_returns(lightning: ModuleType, returned: Callable[[Any], Any], expected: str) -> None:
    class Module(tiny(lightning)):
        returned: Any = None

        def configure_optimizers(self) -> Any:  # here: configure_optimizers
            return self.returned()

    module = Module()
    module.returned = lambda: returned(module)
    message = refuse(ConfigurationError, module, loader())
    assert message.startswith(f"{place('configure_optimizers')}: configure_optimizers ")
    assert re.search(expected, message, flags=re.DOTALL)
    module.returned = lambda: sgd(module)
    trains(module)


def test_configure_optimizers_forgets_to_return(lightning: ModuleType) -> None:
    class Module(tiny(lightning)):
        def configure_optimizers(self) -> None:  # here: forgotten return
            sgd(self)

    message = refuse(ConfigurationError, Module(), loader())
    assert message.startswith(f"{place('forgotten return')}: configure_optimizers returned None")
