"""Where values are: numbers on the module's device, tensors where they were logged, as in Lightning.

PyTorch's device ``meta`` stands for a GPU: tensors there have a place, and no values.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.utilities.data import extract_batch_size
from torch import Tensor

from lightning_shim.metrics.collector import MetricCollector

META, CPU = torch.device("meta"), torch.device("cpu")


def test_numbers_are_reduced_and_shown_on_the_modules_device() -> None:
    reduced: list[torch.device] = []

    def reduce(tensor: Tensor, **_: Any) -> Tensor:
        reduced.append(tensor.device)
        return tensor

    collector = MetricCollector(True, extract_batch_size, dict, reduce, META)
    collector.start_batch([torch.ones(2, 3)])
    arguments: dict[str, Any] = {"on_step": True, "on_epoch": True}
    collector.log("training_step", ("number", 1.5), {"sync_dist": True, **arguments})
    collector.log("training_step", ("alone", 2), {**arguments})
    collector.log("training_step", ("tensor", torch.tensor(3.0)), {**arguments})
    collector.end_batch()
    assert reduced == [META]
    steps, epochs = (collector.collect(on_step).callback for on_step in (True, False))
    assert {name: value.device for name, value in steps.items()} == {
        **dict.fromkeys(("number", "number_step", "alone", "alone_step"), META),
        **dict.fromkeys(("tensor", "tensor_step"), CPU),
    }
    assert {name: epochs[name].device for name in ("alone_epoch", "tensor_epoch")} == {
        "alone_epoch": META,
        "tensor_epoch": CPU,
    }


def test_step_values_are_on_the_modules_device_after_a_pause() -> None:
    before = MetricCollector(True, extract_batch_size, dict)
    before.start_batch([torch.ones(2, 3)])
    before.log("training_step", ("loss", torch.tensor(3.0)), {"on_step": True})
    after = MetricCollector(True, extract_batch_size, dict, device=META)
    after.load_state_dict(before.state_dict(), {})
    assert {value.device for value in after.collect(on_step=True).callback.values()} == {META}
