"""What is packed is plain, and is what it was when it is unpacked."""

from __future__ import annotations

import math
import pickle
import random
import threading
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_shim.checkpoint.kind import ABSENT, CannotKeepError
from lightning_shim.checkpoint.known_objects import KnownObjects
from lightning_shim.checkpoint.plain_values import FirstObjects, Packer, Unpacker
from tests.parity.oracle import assert_same


class Phase(Enum):
    FIRST = 1
    SECOND = 2


WEIGHT = nn.Parameter(torch.arange(6.0).reshape(2, 3))
OPTIMIZER = torch.optim.SGD([WEIGHT], lr=0.1)
KNOWN = KnownObjects({"optimizer 0": OPTIMIZER}, {"parameter weight": WEIGHT}, torch.device("cpu"))


def packed(value: Any, at_first: Any = ABSENT) -> Any:
    """Packs a value whose place had another one when training began."""
    first = FirstObjects()
    if at_first is not ABSENT:
        Packer(KNOWN, first, True, frozenset()).pack(at_first, "it")
    plain = Packer(KNOWN, first, False, frozenset()).pack(value, "it")
    assert_plain(plain)
    return pickle.loads(pickle.dumps(plain))


def assert_plain(plain: Any) -> None:
    if type(plain) in (tuple, list):
        for entry in plain:
            assert_plain(entry)
    else:
        assert type(plain) in (type(None), bool, int, float, str, bytes)


def unpacked(plain: Any, present: Any = ABSENT) -> Any:
    return Unpacker(KNOWN).unpack(plain, present, "it")


@pytest.mark.parametrize(
    "value",
    [
        None,
        2**200,
        float("inf"),
        1 + 2j,
        "text",
        b"",
        bytearray(b"bytes"),
        [1, (2.0, [None])],
        {"a": {1: [2]}, (1, "b"): 3, None: 4},
        {1, "two"},
        frozenset({1}),
        deque([1, 2], maxlen=3),
        Counter("abca"),
        OrderedDict(b=1, a=2),
        defaultdict(list, {"a": [1]}),
        defaultdict(None, {"a": 1}),
        torch.Size([1, 2]),
        torch.bfloat16,
        torch.device("cpu"),
        np.float32(0.1),
        np.datetime64("2026-01-02"),
        nn.Linear,
        nn.functional.relu,
        math.sqrt,
        Phase.SECOND,
    ],
    ids=lambda value: type(value).__name__,
)
def test_new_values(value: Any) -> None:
    back = unpacked(packed(value))
    assert type(back) is type(value)
    assert back == value
    assert getattr(back, "maxlen", None) == getattr(value, "maxlen", None)
    assert getattr(back, "default_factory", None) is getattr(value, "default_factory", None)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5),
        torch.zeros(0, 3),
        torch.arange(6).reshape(2, 3).t(),
        torch.tensor([True, False]),
        torch.ones(2, dtype=torch.bfloat16),
        torch.tensor([1 + 2j]).conj(),
        torch.ones(2, requires_grad=True),
        torch.ones(2, requires_grad=True) * 2,
        nn.Parameter(torch.ones(2), requires_grad=False),
        torch.ones(3).expand(2, 3),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tuple(tensor.shape)}",
)
def test_tensors(tensor: Tensor) -> None:
    back = unpacked(packed(tensor))
    assert type(back) is type(tensor)
    assert_same(back, tensor)
    assert back.requires_grad == (tensor.requires_grad and tensor.is_leaf)


@pytest.mark.parametrize(
    "array",
    [np.arange(6).reshape(2, 3).T, np.zeros(2, dtype=[("a", "<i4"), ("b", ">f8")]), np.array(3)],
    ids=["turned", "fields", "scalar"],
)
def test_arrays(array: Any) -> None:
    back = unpacked(packed(array))
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: torch.Generator().manual_seed(seed),
        lambda seed: np.random.default_rng(seed),
        lambda seed: np.random.RandomState(seed),
        lambda seed: random.Random(seed),
    ],
    ids=["torch", "NumPy", "NumPy's former", "random"],
)
def test_generators(make: Any) -> None:
    def draw(generator: Any) -> float:
        is_of_torch = isinstance(generator, torch.Generator)
        return float(torch.rand((), generator=generator)) if is_of_torch else float(generator.random())

    generator, other = make(1), make(2)
    plain_of_same, plain_of_new = packed(generator, at_first=generator), packed(generator)
    expected = draw(generator)
    assert draw(unpacked(plain_of_new)) == expected
    assert unpacked(plain_of_same, other) is other
    assert draw(other) == expected


class Average:
    def __init__(self, total: float) -> None:
        self.total = total
        self.lock = threading.Lock()
        self.parts = [torch.zeros(2)]


class TestObjectsThatWereThere:
    def test_users_object_keeps_what_nobody_can_store(self) -> None:
        before, after = Average(1.0), Average(0.0)
        first = FirstObjects()
        Packer(KNOWN, first, True, frozenset()).pack(before, "it")
        before.total = 5.0
        before.parts[0] += 3
        plain = Packer(KNOWN, first, False, frozenset()).pack(before, "it")
        lock, part = after.lock, after.parts[0]
        assert unpacked(plain, after) is after
        assert after.total == 5.0
        assert after.lock is lock
        assert after.parts[0] is part
        assert part.tolist() == [3.0, 3.0]

    def test_container_that_took_its_place_is_a_new_one(self) -> None:
        there = [1, 2]
        back = unpacked(packed([3], at_first=there), there)
        assert (back, there) == ([3], [1, 2])

    def test_state_is_asked_for_and_loaded(self) -> None:
        def scheduler() -> Any:
            return torch.optim.lr_scheduler.StepLR(torch.optim.SGD([WEIGHT], lr=0.1), 3)

        before, after = scheduler(), scheduler()
        before.last_epoch = 7
        plain = packed(before, at_first=before)
        assert unpacked(plain, after) is after
        assert after.last_epoch == 7
        with pytest.raises(CannotKeepError, match=r"^it$"):
            unpacked(plain)

    def test_module_of_another_class_does_not_take_it(self) -> None:
        layer = nn.Linear(2, 2)
        with pytest.raises(CannotKeepError):
            unpacked(packed(layer, at_first=layer), nn.Identity())

    def test_modules_are_filled(self) -> None:
        before, after = nn.Linear(2, 2), nn.Linear(2, 2)
        weight = after.weight
        unpacked(packed(before, at_first=before), after)
        assert after.weight is weight
        assert_same(after.state_dict(), before.state_dict())


class TestReferences:
    def test_known_objects_stay_the_same(self) -> None:
        back = unpacked(packed({"parameters": [WEIGHT], OPTIMIZER: "optimizer"}))
        assert back["parameters"][0] is WEIGHT
        assert back[OPTIMIZER] == "optimizer"

    def test_their_methods_stay_theirs(self) -> None:
        assert unpacked(packed(OPTIMIZER.zero_grad)) == OPTIMIZER.zero_grad

    def test_part_of_a_parameter_stays_a_part(self) -> None:
        part = unpacked(packed(WEIGHT.detach()[:, 1]))
        assert part.tolist() == [1.0, 4.0]
        assert part.untyped_storage().data_ptr() == WEIGHT.untyped_storage().data_ptr()

    def test_what_is_there_twice_stays_one(self) -> None:
        entry = [1]
        back = unpacked(packed({"a": entry, "b": (entry,)}))
        assert back["a"] is back["b"][0]

    def test_list_that_holds_itself(self) -> None:
        value: list[Any] = [1]
        value.append(value)
        back = unpacked(packed(value))
        assert back[1] is back


@pytest.mark.parametrize(
    "value",
    [
        lambda: 1,
        [lambda: 1],
        threading.Lock(),
        Average(1.0),
        nn.Linear(1, 1),
        np.array([object()]),
        torch.eye(2).to_sparse(),
        defaultdict(lambda: 3),
        SimpleNamespace(state_dict=lambda wanted: {}, load_state_dict=None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_new_objects_that_cannot_be_made(value: Any) -> None:
    with pytest.raises(CannotKeepError, match=r"^it"):
        packed(value)


def test_objects_are_not_kept_alive() -> None:
    first = FirstObjects()
    value = Average(1.0)
    first.add("it", value)
    assert first.has("it", value)
    reference = weakref.ref(value)
    del value
    assert reference() is None
