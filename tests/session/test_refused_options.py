"""An option that makes no sense, or that does not exist, is refused before training."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from determined import pytorch

from lightning_shim import ConfigurationError
from tests.support.lightning_trainer import fit_by_lightning
from tests.support.places import place_in
from tests.support.refusals import FIT_CALL, refuse, trains
from tests.support.tiny import loader, tiny

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))


class TestOptions:
    @pytest.mark.parametrize("options", [{"gradient_clip_val": 0.5}, {"accumulate_grad_batches": 2}], ids=str)
    def test_manual_optimization_does_it_by_hand(self, lightning: ModuleType, options: dict[str, Any]) -> None:
        module = tiny(lightning)()
        module.automatic_optimization = False
        message = refuse(ConfigurationError, module, loader(), **options)
        ((name, value),) = options.items()
        assert message.startswith(f"{FIT_CALL}: Automatic gradient ")
        assert (
            f"{type(module).__qualname__} has chosen (automatic_optimization = False). Leave {name}={value}" in message
        )
        module.automatic_optimization = True
        trains(module, **options, max_length=pytorch.Epoch(1))

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"precision": "fp8"}, "precision='fp8' is none of '32-true'"),
            ({"precision": "apex"}, "precision='apex' is none of '32-true'.*Apex"),
            ({"precision": 8}, "precision=8 is none of '32-true'"),
            (
                {"gradient_clip_algorithm": "foo"},
                "gradient_clip_algorithm='foo' makes no sense; it is 'norm'",
            ),
            ({"gradient_clip_val": "large"}, "gradient_clip_val='large'"),
            ({"find_unused_parameters": "yes"}, "find_unused_parameters='yes' makes no sense; it is True or False"),
            ({"sync_batchnorm": 1}, "sync_batchnorm=1 makes no sense; it is True or False"),
            ({"strategy": "fsdp"}, "strategy='fsdp' makes no sense; it is 'auto', 'ddp' or one of its variants"),
            (
                {"accumulate_grad_batches": 0},
                "accumulate_grad_batches=0 makes no sense; it is a number",
            ),
            (
                {"accumulate_grad_batches": -2},
                "accumulate_grad_batches=-2 makes no sense; it is a number",
            ),
            (
                {"accumulate_grad_batches": 1.5},
                "accumulate_grad_batches=1.5 makes no sense; it is a number",
            ),
            ({"max_epochs": 5}, "fit has no option 'max_epochs'. Pass max_length=determined.pytorch.Epoch"),
            ({"detect_anomaly": True}, "fit has no option 'detect_anomaly'. Call torch.autograd.set_detect_anomaly"),
            ({"devices": 2}, "fit has no option 'devices'. Determined says on what to train"),
            ({"colour": "red"}, "fit has no option 'colour'. The options are module, .*hparams, .*precision"),
            ({"context": None}, "fit has no option 'context'. The options are"),
            ({"hparams": [1]}, "hparams=.1. is not a dictionary"),
            ({"checkpoint_policy": "sometimes"}, "checkpoint_policy='sometimes'"),
        ],
        ids=str,
    )
    def test_is_refused(self, pl: ModuleType, options: dict[str, Any], expected: str) -> None:
        module = tiny(pl)()
        message = refuse(ConfigurationError, module, loader(), **options)
        assert re.search(expected, message)
        assert FIT_CALL in message
        trains(module)

    @pytest.mark.parametrize("option", ["limit_train_batches", "limit_val_batches"])
    def test_none_is_lightnings_default(self, pl: ModuleType, option: str) -> None:
        trains(tiny(pl)(), loader(), **{option: None})

    def test_refusal_leaves_the_module_to_lightning(self, lightning: ModuleType) -> None:
        module = tiny(lightning)()
        refuse(ConfigurationError, module, loader(0))
        trainer = fit_by_lightning(lightning, module, loader(), max_epochs=1)
        assert module.steps == 4
        assert module.trainer is trainer
