"""What is pickled of attributes is what it was when another process has read it, in the objects that it has."""

from __future__ import annotations

import math
import random
import threading
import tracemalloc
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_shim.checkpoint import attribute_pickle
from lightning_shim.checkpoint.attribute_pickle import AttributeUnpickler, CheckpointPickler, HashingPickler
from lightning_shim.checkpoint.initial_objects import InitialObjects, KnownObjects, MissingObjectError
from tests.parity.oracle import assert_same


class Phase(Enum):
    FIRST = 1
    SECOND = 2


class Pair(NamedTuple):
    left: Any
    right: Any


WEIGHT = nn.Parameter(torch.arange(6.0).reshape(2, 3))
OPTIMIZER = torch.optim.SGD([WEIGHT], lr=0.1)
KNOWN = KnownObjects({"optimizer 0": OPTIMIZER}, {"parameter weight": WEIGHT}, torch.device("cpu"))
ABSENT = object()


def initial_objects(value: Any = ABSENT) -> InitialObjects:
    """Returns what is known of a process in which a value was there when training began."""
    first = InitialObjects(frozenset())
    if value is not ABSENT:
        first.add("it", value, KNOWN)
    return first


def digest(value: Any, first: InitialObjects) -> bytes:
    """Returns what a value can be recognised by."""
    hashed = HashingPickler(KNOWN, first)
    hashed.dump_with_contents(value)
    return hashed.digest()


Pickled = tuple[bytes, list[Tensor]]


def packed(value: Any, first: InitialObjects | None = None) -> Pickled:
    """Pickles a value."""
    first = first or initial_objects()
    hashed = HashingPickler(KNOWN, first)
    hashed.dump_with_contents(value)
    written = CheckpointPickler(KNOWN, first, hashed.storages)
    written.dump_with_contents(value)
    # As they come from a file.
    return written.getvalue(), [buffer.clone() for buffer in written.buffers]


def unpacked(pickled: Pickled, present: Any = ABSENT) -> Any:
    """Reads it in a process in which another value was there."""
    return AttributeUnpickler(*pickled, KNOWN, initial_objects(present)).load_with_contents()


def carried_over(before: Any, after: Any, change: Any) -> Any:
    """Changes a value in one process, and reads it in another one that has made its like; returns what was read."""
    first = initial_objects(before)
    at_first = digest(before, first)
    assert digest(before, first) == at_first
    change(before)
    assert digest(before, first) != at_first
    return unpacked(packed(before, first), after)


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
        datetime(2026, 1, 2),
        Pair(1, [2]),
        SimpleNamespace(a=[1]),
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
        torch.arange(100_000),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tuple(tensor.shape)}",
)
def test_tensors(tensor: Tensor) -> None:
    back = unpacked(packed(tensor))
    assert type(back) is type(tensor)
    assert_same(back, tensor)
    assert back.requires_grad == (tensor.requires_grad and tensor.is_leaf)


def test_sparse_tensor() -> None:
    assert_same(unpacked(packed(torch.eye(2).to_sparse())).to_dense(), torch.eye(2))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3).T,
        np.zeros(2, dtype=[("a", "<i4"), ("b", ">f8")]),
        np.array(3),
        np.arange(100_000)[::2],
        np.arange(100_000),
        np.array([None, "text"]),
    ],
    ids=["turned", "fields", "scalar", "every second", "large", "objects"],
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
    plain_of_same, plain_of_new = packed(generator, initial_objects(generator)), packed(generator)
    expected = draw(generator)
    assert draw(unpacked(plain_of_new)) == expected
    assert unpacked(plain_of_same, other) is other
    assert draw(other) == expected


class GeneratorOfGpu:
    """Is pickled as a generator of the hundredth GPU is; CUDA's states have 16 bytes."""

    def __reduce__(self) -> Any:
        return attribute_pickle._make_generator, (
            torch.device("cuda", 99),
            ("cuda", torch.zeros(16, dtype=torch.uint8)),
        )


def test_generator_of_a_gpu_that_is_not_there() -> None:
    """It is a new one of the module's device, and what is beside it is read."""
    generator, count = unpacked(packed([GeneratorOfGpu(), 4]))
    assert (generator.device, count) == (torch.device("cpu"), 4)
    assert torch.equal(generator.get_state(), torch.Generator().get_state())


class Average:
    def __init__(self, total: float) -> None:
        self.total = total
        self.lock = threading.Lock()
        self.parts = [torch.zeros(2)]


@dataclass(slots=True)
class Slots:
    count: int = 0
    entries: list[Any] = field(default_factory=list)


class Buffer(deque[Any]):
    total = 0


@dataclass
class Node:
    """An object of the user's own."""

    value: Any
    other: Any = None


class TestObjectsThatWereThere:
    def test_users_object_keeps_what_nobody_can_store(self) -> None:
        before, after = Average(1.0), Average(0.0)
        lock, part = after.lock, after.parts[0]

        def change(average: Average) -> None:
            average.total = 5.0
            average.parts[0] += 3

        assert carried_over(before, after, change) is after
        assert after.total == 5.0
        assert after.lock is lock
        assert after.parts[0] is part
        assert part.tolist() == [3.0, 3.0]

    @pytest.mark.parametrize(
        ("make", "change"),
        [
            (lambda: [1], lambda value: value.append(2)),
            (lambda: {1}, lambda value: value.add(2)),
            (lambda: deque([1], maxlen=2), lambda value: value.append(2)),
            (lambda: {"a": [1]}, lambda value: value["a"].append(2)),
            (lambda: Counter("a"), lambda value: value.update("ab")),
            (lambda: OrderedDict(a=1, b=2), lambda value: value.move_to_end("a")),
            (lambda: defaultdict(list), lambda value: value["a"].append(2)),
            (lambda: bytearray(b"a"), lambda value: value.extend(b"b")),
            (Slots, lambda value: (setattr(value, "count", 3), value.entries.append(1))),
            (lambda: Node(1), lambda value: setattr(value, "value", Phase.SECOND)),
        ],
        ids=[
            "list",
            "set",
            "deque",
            "dict",
            "Counter",
            "OrderedDict",
            "defaultdict",
            "bytearray",
            "slots",
            "dataclass",
        ],
    )
    def test_is_filled_where_it_is(self, make: Any, change: Any) -> None:
        before, after = make(), make()
        assert carried_over(before, after, change) is after
        assert after == before

    def test_subclass_of_a_container_keeps_its_attributes(self) -> None:
        before, after = Buffer([1]), Buffer([1])
        carried_over(before, after, lambda value: (value.append(2), setattr(value, "total", 3)))
        assert (list(after), after.total) == ([1, 2], 3)

    def test_array_is_filled_where_it_is(self) -> None:
        before, after = np.zeros(3), np.zeros(3)
        view = after[1:]
        assert carried_over(before, after, lambda value: value.__iadd__(1)) is after
        assert view.tolist() == [1, 1]

    @pytest.mark.parametrize("size", [3, 5_000])
    def test_tensor_is_filled_where_it_is(self, size: int) -> None:
        before, after = torch.zeros(size), torch.zeros(size)
        view = after[1:]
        assert carried_over(before, after, lambda value: value.add_(1)) is after
        assert view.tolist() == [1] * (size - 1)

    def test_many_tensors_keep_their_places(self) -> None:
        def make() -> list[Tensor]:
            return [torch.zeros(1 + index % 3) for index in range(5_000)]

        def change(tensors: list[Tensor]) -> None:
            for index, tensor in enumerate(tensors):
                tensor += index
            tensors[7].requires_grad_()

        before, after = make(), make()
        assert_same(carried_over(before, after, change), before)
        assert [tensor.requires_grad for tensor in after[6:9]] == [False, True, False]

    def test_moved_object_is_the_one_that_was_there(self) -> None:
        before, after = {"a": [1], "b": [2]}, {"a": [1], "b": [2]}
        a, b = after["a"], after["b"]
        carried_over(before, after, lambda value: value.update(a=value["b"], b=value["a"]))
        assert after["a"] is b
        assert after["b"] is a

    def test_container_that_took_its_place_is_a_new_one(self) -> None:
        there = [1, 2]
        back = unpacked(packed([3], initial_objects(there)), there)
        assert (back, there) == ([3], [1, 2])

    def test_state_is_asked_for_and_loaded(self) -> None:
        def scheduler() -> Any:
            return torch.optim.lr_scheduler.StepLR(torch.optim.SGD([WEIGHT], lr=0.1), 3)

        before, after = scheduler(), scheduler()
        assert carried_over(before, after, lambda value: setattr(value, "last_epoch", 7)) is after
        assert after.last_epoch == 7
        with pytest.raises(MissingObjectError):
            unpacked(packed(before, initial_objects(before)))

    def test_module_of_another_class_does_not_take_it(self) -> None:
        layer = nn.Linear(2, 2)
        with pytest.raises(MissingObjectError):
            unpacked(packed(layer, initial_objects(layer)), nn.Identity())

    def test_modules_are_filled(self) -> None:
        before, after = nn.Linear(2, 2), nn.Linear(2, 2)
        weight = after.weight
        carried_over(before, after, lambda layer: nn.init.ones_(layer.weight))
        assert after.weight is weight
        assert_same(after.state_dict(), before.state_dict())

    def test_new_module_comes_back(self) -> None:
        layer = nn.Linear(2, 2)
        assert_same(unpacked(packed(layer)).state_dict(), layer.state_dict())

    def test_what_cannot_be_pickled_stays_what_it_is(self) -> None:
        def make() -> dict[str, Any]:
            return {"lock": threading.Lock(), "function": lambda: 1, "numbers": [1]}

        before, after = make(), make()
        lock = after["lock"]
        carried_over(before, after, lambda value: value["numbers"].append(2))
        assert after["lock"] is lock
        assert after["numbers"] == [1, 2]

    def test_state_that_has_a_state_again_is_not_followed(self) -> None:
        mock = Mock()
        value = [mock, Mock(spec=nn.Module), Mock(spec=dict), Mock(spec=tuple)]
        digest(value, initial_objects(value))
        assert mock.mock_calls == []


class TestReferences:
    def test_known_objects_stay_the_same(self) -> None:
        back = unpacked(packed({"parameters": [WEIGHT], OPTIMIZER: "optimizer"}))
        assert back["parameters"][0] is WEIGHT
        assert back[OPTIMIZER] == "optimizer"

    def test_new_users_object_refers_to_known_ones(self) -> None:
        back = unpacked(packed(Node([WEIGHT], OPTIMIZER)))
        assert type(back) is Node
        assert back.value[0] is WEIGHT
        assert back.other is OPTIMIZER

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
        there: list[Any] = [1]
        there.append(there)
        first = initial_objects(there)
        there.append(2)
        other: list[Any] = [1]
        other.append(other)
        assert unpacked(packed(there, first), other) is other
        assert other[1] is other
        assert other[2] == 2

    def test_objects_that_hold_each_other(self) -> None:
        node = Node(1)
        node.other = Node(2, node)
        back = unpacked(packed(node))
        assert back.other.other is back

    def test_views_share_their_numbers_again(self) -> None:
        numbers = torch.arange(4.0)
        left, right = unpacked(packed([numbers[:2], numbers[1:].reshape(3, 1)]))
        left += 1
        assert right.flatten().tolist() == [2.0, 2.0, 3.0]

    def test_single_view_is_stored_without_the_rest(self) -> None:
        stream, buffers = packed(torch.arange(100_000)[:2])
        assert len(stream) + sum(map(len, buffers)) < 1_000

    def test_views_of_what_was_there_are_stored_without_the_rest(self) -> None:
        table = torch.zeros(100_000)
        stream, buffers = packed([table[:2], table[5:7]], initial_objects(table))
        assert len(stream) + sum(map(len, buffers)) < 1_000


@pytest.mark.parametrize(
    "value",
    [
        lambda: 1,
        [lambda: 1],
        threading.Lock(),
        Average(1.0),
        defaultdict(lambda: 3),
        SimpleNamespace(state_dict=lambda wanted: {}, load_state_dict=None),
        (number for number in (1, 2)),
        torch.utils.data.TensorDataset(torch.ones(2)),
        Mock(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_new_objects_that_cannot_be_made(value: Any) -> None:
    with pytest.raises(Exception, match=r"pickle|is not kept"):
        packed(value)


def test_objects_are_not_kept_alive() -> None:
    value = Average(1.0)
    first = initial_objects(value)
    digest(value, first)
    reference = weakref.ref(value)
    del value
    assert reference() is None
    assert first.by_path["it"].reference() is None


def _swap(buffer: Any) -> None:
    buffer[7], buffer[8] = buffer[8], buffer[7]


def _replace(buffer: Any) -> None:
    # By an equal one. The first one leaves its identity to whoever is made next.
    del buffer[7]
    buffer.insert(7, torch.zeros(4))


CHANGES_OF_A_BUFFER: dict[str, Any] = {
    "in place": lambda buffer: buffer[7].add_(1),
    "by data": lambda buffer: buffer[7].data.add_(1),
    "of the last": lambda buffer: buffer[-1].data.add_(1),
    "replaced": _replace,
    "swapped": _swap,
    "appended": lambda buffer: buffer.append(torch.zeros(4)),
    "appended twice": lambda buffer: buffer.append(buffer[7]),
    "removed": lambda buffer: buffer.pop(),
    "removed at first": lambda buffer: buffer.__delitem__(0),
    "other numbers": lambda buffer: setattr(buffer[7], "data", torch.zeros(4, dtype=torch.int32)),
    "resized": lambda buffer: setattr(buffer[7], "data", torch.zeros(2)),
    "trained": lambda buffer: buffer[7].requires_grad_(),
}
"""By what is done to the buffer."""


class TestLargeValues:
    SIZE = 256 * 1024**2

    @pytest.mark.parametrize(
        "make", [lambda size: torch.zeros(size // 4), lambda size: np.zeros(size // 4, np.float32)]
    )
    def test_looking_and_writing_copy_nothing(self, make: Any) -> None:
        value = [make(self.SIZE)]
        first = initial_objects(value)
        tracemalloc.start()
        resident = resident_bytes()
        at_first = digest(value, first)
        value[0][7] = 1
        assert digest(value, first) != at_first
        written = CheckpointPickler(KNOWN, first, {})
        written.dump_with_contents(value)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1024**2
        # Pages of zeros that were not yet there may come when they are read, each once.
        assert resident_bytes() - resident < 1.1 * self.SIZE
        [buffer] = written.buffers
        assert buffer.data_ptr() == (value[0].data_ptr() if isinstance(value[0], Tensor) else value[0].ctypes.data)

    def test_unchanged_tensor_is_not_read(self) -> None:
        table = torch.zeros(self.SIZE // 4)
        first = initial_objects(table)
        resident = resident_bytes()
        assert digest(table, first) == digest(table, first)
        # Zeros that nobody reads are not in memory; each sample brings a page.
        assert resident_bytes() - resident < self.SIZE / 4

    @pytest.mark.parametrize("change", ["in place", "part", "view", "data"])
    @pytest.mark.parametrize("size", [4, 5_000, SIZE // 4])
    def test_changes_are_seen(self, size: int, change: str) -> None:
        table = torch.zeros(size)
        first = initial_objects(table)
        at_first = digest(table, first)
        if change == "in place":
            table += 1
        elif change == "part":
            table[3] = 1
        elif change == "view":
            table[3:].mul_(2).add_(1)
        else:
            table.data += 1
        assert digest(table, first) != at_first

    @pytest.mark.parametrize("change", CHANGES_OF_A_BUFFER)
    @pytest.mark.parametrize("make", [list, deque])
    def test_changes_of_a_replay_buffer_are_seen(self, make: Any, change: str) -> None:
        """Such a buffer is not taken entry by entry."""
        buffer = make(torch.zeros(4) for _ in range(2_500))
        first = initial_objects(buffer)
        at_first = digest(buffer, first)
        assert digest(buffer, first) == at_first
        CHANGES_OF_A_BUFFER[change](buffer)
        changed = digest(buffer, first)
        assert changed != at_first
        assert digest(buffer, first) == changed

    def test_tensors_of_two_replay_buffers_are_shared_again(self) -> None:
        tensors = [torch.zeros(4) for _ in range(2_500)]
        buffers = tensors[:2_000], tensors[500:]
        first = initial_objects(buffers)
        reached = []
        for buffer in buffers:
            hashed = HashingPickler(KNOWN, first)
            hashed.dump_with_contents(buffer)
            reached.append({key for key, value in hashed.reached.items() if isinstance(value, Tensor)})
        assert reached[0] & reached[1] == set(map(id, tensors[500:2_000]))

    def test_parameter_in_a_replay_buffer_has_its_name(self) -> None:
        buffer = [torch.zeros(2, 3) for _ in range(2_500)]
        first = initial_objects(buffer)
        at_first = digest(buffer, first)
        buffer[7] = WEIGHT
        assert digest(buffer, first) != at_first

    def test_single_row_by_data_goes_unseen_in_a_large_tensor_alone(self) -> None:
        """The limit that HashingPickler speaks of."""
        for size, is_seen in ((self.SIZE // 4, False), (16 * 1024**2, True)):
            table = torch.zeros(size)
            first = initial_objects(table)
            at_first = digest(table, first)
            table.data[3] = 1
            assert (digest(table, first) != at_first) is is_seen

    def test_inference_tensor_has_no_version(self) -> None:
        with torch.inference_mode():
            table = torch.zeros(self.SIZE // 4)
            first = initial_objects(table)
            at_first = digest(table, first)
            table[3] = 1
            assert digest(table, first) != at_first

    @pytest.mark.parametrize("dtype", [np.float32, np.int8])
    def test_array_changed_in_place(self, dtype: Any) -> None:
        table = np.zeros(1_000_000, dtype)
        first = initial_objects(table)
        at_first = digest(table, first)
        table[3] = 1
        assert digest(table, first) != at_first


def resident_bytes() -> int:
    """Returns how much memory the process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
