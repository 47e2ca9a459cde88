"""What ``torch.nn.utils.prune`` has pruned is pruned after a pause, and by the same masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_mock import MockerFixture
from pytorch_lightning.callbacks import ModelPruning
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader

from lightning_shim.diagnostics.errors import DifferenceWarning
from tests.parity.modules import Regression, dataset
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.resume.conftest import Resumes


def three_batches() -> dict[str, Any]:
    return {
        "train_dataloaders": DataLoader(dataset(11), batch_size=4, shuffle=True),
        "val_dataloaders": DataLoader(dataset(4, seed=4), batch_size=4),
    }


class Decays(Regression):
    """Its optimizer changes what is masked, too."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)


class Scaled(nn.Module):
    """A layer of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(5))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.scale


class PrunesByItself(Decays):
    """Prunes wherever a hook can: before its weights are loaded, before the first batch, and while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layers.insert(0, Scaled())
        self.shift = nn.Parameter(torch.randn(5))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs + self.shift)

    def setup(self, stage: str) -> None:
        prune.random_unstructured(self.layers[1], "bias", 1)
        prune.l1_unstructured(self.layers[5], "weight", 1)

    def on_train_start(self) -> None:
        prune.l1_unstructured(self.layers[1], "weight", 0.2)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = self.global_step
        if step == 2:
            prune.custom_from_mask(self.layers[0], "scale", torch.tensor([1, 0, 1, 1, 1]))
            prune.remove(self.layers[5], "weight")
        if step in (2, 5):
            prune.ln_structured(self.layers[1], "weight", 1, n=2, dim=0)
        if step == 4:
            prune.random_unstructured(self, "shift", 2)
        # A forward pass has made it, and the optimizer has changed the parameter since then.
        self.log("remaining", self.layers[1].weight.abs().sum())


class PrunesMatrices(ModelPruning):
    def filter_parameters_to_prune(self, parameters_to_prune: Any = ()) -> Any:
        return [(layer, name) for layer, name in parameters_to_prune if isinstance(layer, nn.Linear)]


CASES: dict[str, tuple[type, Callable[[], list[Any]]]] = {
    "by itself": (PrunesByItself, list),
    "lottery ticket": (Decays, lambda: [ModelPruning("l1_unstructured", amount=0.3)]),
    "not permanent": (
        Decays,
        lambda: [
            PrunesMatrices(
                "random_structured",
                use_global_unstructured=False,
                parameter_names=["weight"],
                pruning_dim=0,
                amount=lambda epoch: 0.2 + 0.1 * epoch,
                make_pruning_permanent=False,
                use_lottery_ticket_hypothesis=lambda epoch: epoch == 1,
                resample_parameters=True,
            )
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_checkpoint(resumes: Resumes, mocker: MockerFixture, name: str) -> None:
    module, callbacks = CASES[name]
    case = Case(module, three_batches, callbacks=callbacks, every_hook=False)
    assert resumes.everywhere(case) == list(range(1, 10))
    assert_equal(run_lightning(case), run_determined(case, mocker))


class PrunesByItsOwnMethod(Decays):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        class OddOnes(prune.BasePruningMethod):
            PRUNING_TYPE = "unstructured"

            def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
                return default_mask * (torch.arange(t.numel()).view_as(t) % 2)

        if batch_idx == 0:
            OddOnes.apply(self.layers[0], "weight")


def test_method_that_cannot_be_pickled(resumes: Resumes) -> None:
    with pytest.warns(DifferenceWarning, match="OddOnes, which has pruned weight, cannot be pickled"):
        resumes.everywhere(Case(PrunesByItsOwnMethod, three_batches, max_epochs=1, every_hook=False))
