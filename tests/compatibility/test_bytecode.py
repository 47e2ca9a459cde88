"""Which attributes the user's code may read as an earlier batch has left them."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_shim.user_code.bytecode import may_read_earlier_value


class Reads:
    def __init__(self) -> None:
        self.constructed = self.by_lambda = self.by_name = 0
        assert self.constructed == 0
        self.read_later = lambda: self.by_lambda

    def set_first(self) -> Any:
        self.anew = [1]
        return [entry * 2 for entry in self.anew]

    def set_in_a_branch(self, batch_idx: int) -> Any:
        if batch_idx == 0:
            self.cached = [1]
        return self.cached

    def read_first(self) -> None:
        self.counted = self.counted + 1

    def by_its_name(self) -> Any:
        return getattr(self, "by_name")  # noqa: B009

    @property
    def of_property(self) -> Any:
        return self.by_property


def by_a_function(module: Reads) -> Any:
    return module.by_function


class Derived(Reads):
    pass


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("never_mentioned", False),
        ("constructed", False),
        ("anew", False),
        ("cached", True),
        ("counted", True),
        ("by_lambda", True),
        ("by_name", True),
        ("by_property", True),
        ("by_function", True),
    ],
)
def test_earlier_value(name: str, expected: bool) -> None:
    assert may_read_earlier_value(name, {Derived}) is expected
