"""Values on their way to a progress bar."""

from __future__ import annotations

import torch

from lightning_shim.metrics.shown_values import ShownValues


def test_are_those_that_were_sent() -> None:
    shown = ShownValues(torch.device("cpu"))
    assert not shown.is_under_way
    kept = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    shown.send({"tensor": kept, "number": 2, "many": torch.ones(2)})
    with torch.no_grad():
        # As the next value is written over one that is kept.
        kept.fill_(9)
    assert shown.is_under_way
    assert shown.take() == {"tensor": 1.5, "number": 2.0}
    assert not shown.is_under_way


def test_may_be_many() -> None:
    shown = ShownValues(torch.device("cpu"))
    values = {f"value {index}": torch.tensor(float(index)) for index in range(100)}
    shown.send(values)
    assert shown.take() == {name: value.item() for name, value in values.items()}


def test_are_forgotten_when_there_are_newer_ones() -> None:
    shown = ShownValues(torch.device("cpu"))
    shown.send({"old": 1.0})
    shown.drop()
    assert not shown.is_under_way
