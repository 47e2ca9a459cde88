"""Attributes that are replaced for a block: afterwards everything is where it was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lightning_shim.upstream.determined.context import replaced


class Base:
    inherited = 1

    @staticmethod
    def function() -> str:
        return "its own"


def test_attributes_of_an_object() -> None:
    owner = Base()
    owner.own = 2  # type: ignore[attr-defined]

    @replaced(owner, own=3, inherited=4)
    def fail() -> None:
        assert vars(owner) == {"own": 3, "inherited": 4}
        raise LookupError

    with pytest.raises(LookupError):
        fail()
    # Had it kept the class's value, a later change of the class would not be seen.
    assert vars(owner) == {"own": 2}


def test_attributes_of_a_class() -> None:
    before = dict(vars(Base))
    with replaced(Base, function=lambda owner: "replaced", inherited=5):
        assert (Base().function(), Base.inherited) == ("replaced", 5)
    assert dict(vars(Base)) == before
    assert Base().function() == "its own"


def test_attributes_of_other_objects() -> None:
    owner = SimpleNamespace(first=1, second=2)
    with replaced(owner, first=3):
        owner.second = 4
    assert (owner.first, owner.second) == (1, 4)
