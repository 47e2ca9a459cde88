"""What training_step and optimizer_step may not do gets an error with its line."""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch

from lightning_shim import ConfigurationError
from lightning_shim.diagnostics.errors import OptimizersWarning
from tests.support.places import place_in
from tests.support.refusals import train, warns
from tests.support.tiny import loader, plateau, sgd, tiny

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))


class TestStep:
    @pytest.mark.parametrize(
        "returned",
        ["loss", 0.5, {"los": torch.zeros(1)}, {}, [torch.zeros(1)]],
        ids=["string", "float", "no loss", "empty", "list"],
    )
    def test_returns(self, lightning: ModuleType, returned: Any) -> None:
        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:  # here: training_step
                return returned

        with pytest.raises(ConfigurationError) as caught:
            train(Module(), loader())
        assert str(caught.value).startswith(f"{place('training_step')}: training_step returned {returned!r}. ")
        assert "the 'loss' key needs to be present" in str(caught.value) or (
            "`training_step` must return a Tensor, a dict, or None" in str(caught.value)
        )

    def test_returns_in_manual_optimization(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            automatic_optimization = False

            def training_step(self, batch: Any, batch_idx: int) -> Any:  # here: manual training_step
                return "loss"

        with pytest.raises(ConfigurationError) as caught:
            train(Module(), loader())
        assert str(caught.value).startswith(f"{place('manual training_step')}: training_step returned 'loss'. ")

    @pytest.mark.parametrize("shape", [(4,), (4, 1)], ids=str)
    def test_returns_a_vector(self, lightning: ModuleType, shape: tuple[int, ...]) -> None:
        """The error is PyTorch's, as in Lightning, where `backward` of the user's own may reduce it."""

        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return self.layer(batch[0]).reshape(shape)

        with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar outputs"):
            train(Module(), loader())

    def test_optimizer_step_without_closure(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # here: optimizer_step
                pass

        with pytest.raises(ConfigurationError) as caught:
            train(Module(), loader())
        assert str(caught.value).startswith(f"{place('optimizer_step')}: The closure hasn't been executed.")
        assert "optimizer.step(closure=optimizer_closure)" in str(caught.value)

    @pytest.mark.parametrize("logged", [(), ("loss", "accuracy")], ids=["nothing", "others"])
    def test_scheduler_follows_what_is_not_logged(self, lightning: ModuleType, logged: tuple[str, ...]) -> None:
        class Module(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                for name in logged:
                    self.log(name, 1.0, on_epoch=True)
                return super().training_step(batch, batch_idx)

            def configure_optimizers(self) -> Any:  # here: plateau
                optimizer = sgd(self)
                return {"optimizer": optimizer, "lr_scheduler": plateau(optimizer), "monitor": "val_loss"}

        with pytest.raises(ConfigurationError) as caught:
            train(Module(), loader(), max_length=pytorch.Epoch(1))
        message = str(caught.value)
        assert message.startswith(f"{place('plateau')}: ReduceLROnPlateau conditioned on metric val_loss")
        for name in logged or ("none",):
            assert name in message.partition("Available metrics are: ")[2]

    def test_scheduler_that_is_not_strict_warns(self, lightning: ModuleType) -> None:
        class Module(tiny(lightning)):
            # From the source nobody can tell that this is another name.
            name = "train_loss"

            def on_train_batch_end(self, *args: Any) -> None:
                self.log(self.name, 0.0)

            def configure_optimizers(self) -> Any:  # here: lenient plateau
                optimizer = sgd(self)
                settings = {"scheduler": plateau(optimizer), "monitor": "val_loss", "strict": False}
                return {"optimizer": optimizer, "lr_scheduler": settings}

        expected = "val_loss which is not available.*the learning rate stays as it is"
        with warns(OptimizersWarning, place("lenient plateau"), expected):
            train(Module(), loader(), max_length=pytorch.Epoch(1))
