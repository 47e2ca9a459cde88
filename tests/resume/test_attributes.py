"""What modules and callbacks keep in attributes of their own is there when a trial goes on after a pause."""

from __future__ import annotations

import copy
import random
import re
import warnings
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from determined import pytorch
from pytest_mock import MockerFixture
from torch import Tensor, nn
from torchmetrics.wrappers import Running

import lightning_shim
from lightning_shim import DifferenceWarning
from lightning_shim.checkpoint import attribute_pickle
from tests.checkpoint.test_attribute_pickle import resident_bytes
from tests.parity.modules import Regression, StepsByHand, loaders
from tests.parity.oracle import Case, assert_equal, assert_same, run_determined, run_lightning
from tests.resume.conftest import Resumes, checkpoints
from tests.support.installed_versions import has_lightning
from tests.support.refusals import no_warnings_of_ours

EPOCHS = 2
BATCHES = 6
"""Of an epoch."""


class Losses(Regression):
    """As Lightning's guide for the migration to 2.0 has it."""

    def __init__(self) -> None:
        super().__init__()
        self.training_step_outputs: list[Tensor] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.training_step_outputs.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("mean", torch.stack(self.training_step_outputs).mean())
        self.training_step_outputs.clear()


class Weighted(Regression):
    """Its loss depends on a state of its own."""

    def weight(self, batch_idx: int) -> Any:
        raise NotImplementedError

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        weight = self.weight(batch_idx)
        self.log("weight", float(weight))
        return super().training_step(batch, batch_idx) * weight


class Counts(Weighted):
    counter = 0

    def weight(self, batch_idx: int) -> float:
        self.counter += 1
        return self.counter / 10


class Anneals(Weighted):
    def on_train_epoch_start(self) -> None:
        self.beta = 0.5 ** (self.current_epoch + 1)

    def weight(self, batch_idx: int) -> float:
        return self.beta


class Draws(Weighted):
    def __init__(self) -> None:
        super().__init__()
        self.of_torch = torch.Generator().manual_seed(3)
        self.of_numpy = np.random.default_rng(4)
        self.of_python = random.Random(5)

    def weight(self, batch_idx: int) -> float:
        numbers = torch.rand((), generator=self.of_torch), self.of_numpy.random(), self.of_python.random()
        return sum(map(float, numbers))


class Averages(Weighted):
    """Keeps an average of its weights in a dictionary, and the best one."""

    def __init__(self) -> None:
        super().__init__()
        self.average = {name: parameter.detach().clone() for name, parameter in self.layers.named_parameters()}
        self.best: tuple[float, dict[str, Tensor]] | None = None

    def on_train_batch_end(self, *_: Any) -> None:
        for name, parameter in self.layers.named_parameters():
            self.average[name].mul_(0.9).add_(parameter.detach(), alpha=0.1)
        score = float(self.average["0.weight"].norm())
        if self.best is None or score < self.best[0]:
            self.best = score, {name: average.clone() for name, average in self.average.items()}

    def weight(self, batch_idx: int) -> float:
        best = 0.0 if self.best is None else float(self.best[1]["0.bias"].norm())
        return 1.0 + float(self.average["0.weight"].norm()) + best


class HidesCopy(Weighted):
    """Keeps a network out of ``state_dict`` by putting it into a list."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [copy.deepcopy(self.layers)]

    def on_train_batch_end(self, *_: Any) -> None:
        with torch.no_grad():
            for average, parameter in zip(self.hidden[0].parameters(), self.layers.parameters(), strict=True):
                average.mul_(0.9).add_(parameter, alpha=0.1)

    def weight(self, batch_idx: int) -> float:
        return 1.0 + sum(float(parameter.detach().norm()) for parameter in self.hidden[0].parameters())


class Layer(nn.Module):
    """Is no LightningModule, and counts as well."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("center", torch.zeros(1), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            self.center.mul_(0.9).add_(inputs.detach().mean() * 0.1)
        return inputs * (1 + self.calls / 10) - self.center


class HasLayer(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.layers.append(Layer())


class Collects(Weighted):
    """Has one of each container, and what NumPy has."""

    def __init__(self) -> None:
        super().__init__()
        self.last: deque[float] = deque(maxlen=4)
        self.kinds: Counter[str] = Counter()
        self.by_index: dict[int, list[float]] = defaultdict(list)
        self.seen: set[int] = set()
        self.total = np.zeros(2)
        self.nested = {"a": [(1, [2.0])]}
        self.same_list = self.nested["a"]

    def weight(self, batch_idx: int) -> float:
        self.last.append(random.random())
        self.kinds["even" if batch_idx % 2 == 0 else "odd"] += 1
        self.by_index[batch_idx].append(self.last[-1])
        self.seen.add(batch_idx)
        self.total += np.array([batch_idx, 1.0])
        self.largest = np.float32(max(self.last))
        self.same_list.append((batch_idx, [self.last[0]]))
        assert self.nested["a"] is self.same_list
        assert self.last.maxlen == 4
        sums = (sum(self.last), self.kinds["odd"], len(self.by_index[0]), len(self.seen), self.total.sum())
        return float(sum(sums) + len(self.nested["a"]) + self.largest)


class Meter:
    """As many a repository has one."""

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def update(self, value: float) -> None:
        self.sum += value
        self.count += 1


class HasMeter(Weighted):
    def __init__(self) -> None:
        super().__init__()
        self.meter = Meter()

    def weight(self, batch_idx: int) -> float:
        self.meter.update(random.random())
        return self.meter.sum / self.meter.count


class HasMetrics(Weighted):
    """Metrics that keep more than their states, and one that Lightning does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.running = Running(torchmetrics.MeanMetric(), window=3)
        self.extremes = torchmetrics.MinMaxMetric(torchmetrics.MeanMetric())
        self.hidden = {"mean": torchmetrics.MeanMetric()}

    def weight(self, batch_idx: int) -> float:
        number = random.random()
        for metric in (self.running, self.extremes, self.hidden["mean"]):
            metric.update(number)
        extremes = self.extremes.compute()
        return float(self.running.compute() + extremes["min"] + extremes["max"] + self.hidden["mean"].compute())


class Switches(Weighted):
    """Takes one of its methods for another, and for a hook."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.weight = self.later_weight  # type: ignore[method-assign]
            self.on_train_batch_end = self.log_batch_end

    def weight(self, batch_idx: int) -> float:
        return 1.0

    def later_weight(self, batch_idx: int) -> float:
        return 0.3

    def log_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("batch_end", float(batch_idx))


class OwnScheduler(Regression):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        return optimizer

    def on_train_batch_end(self, *_: Any) -> None:
        self.scheduler.step()


class OwnOptimizer(StepsByHand, Regression):
    def optimizers(self, *_: Any, **__: Any) -> Any:
        return self.own

    def configure_optimizers(self) -> None:
        self.own = torch.optim.Adam(self.parameters(), lr=0.05)


class ChangesHyperparameters(Weighted):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()

    def weight(self, batch_idx: int) -> float:
        self.hparams.factor *= 0.9
        return float(self.hparams.factor)


class Removes(Weighted):
    """Has what is gone later, and what comes later."""

    def __init__(self) -> None:
        super().__init__()
        self.warms_up = True

    def on_train_epoch_end(self) -> None:
        if hasattr(self, "warms_up"):
            del self.warms_up
        self.same_parameters = list(self.layers.parameters())
        self.same_numbers = self.layers[0].weight.detach()[:2]

    def weight(self, batch_idx: int) -> float:
        if hasattr(self, "warms_up"):
            return 0.1
        assert self.same_parameters[0] is self.layers[0].weight
        assert torch.equal(self.same_numbers, self.layers[0].weight[:2])
        return float(self.same_numbers.norm())


class Sample:
    """Is made while it trains."""

    def __init__(self, owner: Any, number: float) -> None:
        self.owner, self.number, self.next = owner, number, None


class MakesObjects(Weighted):
    """Keeps objects of its own class, which refer to one another and to the module."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[Sample] = []
        self.newest: Any = None

    def weight(self, batch_idx: int) -> float:
        sample = Sample(self, random.random())
        if self.newest is not None:
            assert self.newest is self.samples[-1]
            assert self.newest.owner is self
            self.newest.next = sample
        self.newest = sample
        self.samples.append(sample)
        total, entry = 0.0, self.samples[0]
        while entry is not None:
            total, entry = total + entry.number, entry.next  # type: ignore[assignment]
        return 1.0 + total


class MakesObjectsAndCounts(MakesObjects, Counts):
    def weight(self, batch_idx: int) -> float:
        Counts.weight(self, batch_idx)
        return super().weight(batch_idx)


class TwoSeeOneList(Weighted):
    """What two attributes share is made anew with each epoch."""

    def on_train_epoch_start(self) -> None:
        self.numbers: list[float] = []
        self.by_name = {"numbers": self.numbers}

    def weight(self, batch_idx: int) -> float:
        self.numbers.append(random.random())
        return 1.0 + sum(self.by_name["numbers"])


class ViewsOfOne(Weighted):
    """Two tensors over the same numbers."""

    def on_train_epoch_start(self) -> None:
        numbers = torch.zeros(6)
        self.first, self.even = numbers[:3], numbers[::2]

    def weight(self, batch_idx: int) -> float:
        self.first[batch_idx % 3] += random.random()
        return 1.0 + float(self.even.sum())


class HasTable(Weighted):
    """A table too large to be looked through, of which a row is changed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.zeros(17 * 1024**2)
        self.array = np.zeros(50_000)

    def weight(self, batch_idx: int) -> float:
        self.table[batch_idx] += random.random()
        self.array[batch_idx] += 1
        return 1.0 + float(self.table[:10].sum()) + float(self.array[:10].sum())


class HasReplayBuffer(Weighted):
    """Many small tensors, of which another attribute has some; they are changed in place, replaced and appended."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = [torch.zeros(4) for _ in range(1_500)]
        self.recent = self.buffer[-2:]

    def weight(self, batch_idx: int) -> float:
        self.recent[0].data += random.random()
        if batch_idx % 2:
            self.recent[1] = torch.full((4,), random.random())
            self.buffer[batch_idx] = self.recent[1]
            self.buffer.append(self.recent[1])
        self.recent[1] += 1
        return 1.0 + float(torch.stack(self.buffer).sum())


IDIOMS = [
    Losses,
    Counts,
    Anneals,
    Draws,
    Averages,
    HidesCopy,
    HasLayer,
    Collects,
    HasMeter,
    HasMetrics,
    Switches,
    OwnScheduler,
    OwnOptimizer,
    ChangesHyperparameters,
    Removes,
    MakesObjects,
    TwoSeeOneList,
    ViewsOfOne,
]


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
@pytest.mark.parametrize("module", IDIOMS, ids=lambda module: module.__name__)
def test_every_checkpoint(resumes: Resumes, mocker: MockerFixture, module: type) -> None:
    case = Case(module, loaders, max_epochs=EPOCHS, every_hook=False)
    random.seed(case.seed)
    lightning = run_lightning(case)
    random.seed(case.seed)
    assert_equal(lightning, run_determined(case, mocker))
    assert resumes.everywhere(case) == list(range(1, EPOCHS * BATCHES + 1))


@pytest.mark.parametrize("module", [HasTable, HasReplayBuffer])
def test_large_values(resumes: Resumes, module: type) -> None:
    resumes.everywhere(Case(module, loaders, max_epochs=1, every_hook=False), last=2)


class Weighs(pl.Callback):
    """Changes the loss by what it has seen."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.generator = random.Random(3)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: list[Tensor], batch_idx: int) -> None:
        batch[0].mul_(1 + self.generator.random() + sum(self.losses))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]) / 100)


class WeighsAndSaves(Weighs):
    """Says what there is to keep, which is not all."""

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = [*state["losses"], 0.0]


def test_callbacks(resumes: Resumes) -> None:
    resumes.everywhere(Case(Regression, loaders, max_epochs=EPOCHS, callbacks=lambda: [Weighs(), Weighs()]))


def train(module: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(folder))
    return lightning_shim.fit(
        module, **loaders(), max_length=pytorch.Epoch(1), checkpoint_period=pytorch.Batch(1), seed=1, **options
    )


def state_of(checkpoint: Path) -> list[Tensor] | None:
    saved: dict[str, Any] = torch.load(checkpoint / "state_dict.pth", weights_only=True)
    state: list[Tensor] | None = saved["lightning_shim"]["processes"][0]["attributes"]
    return state


@pytest.mark.usefixtures("patched")
class TestCheckpoint:
    def test_callback_with_a_state_of_its_own_is_asked_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train(Regression(), tmp_path, monkeypatch, callbacks=[WeighsAndSaves()])
        checkpoint = checkpoints(tmp_path)[3]
        assert state_of(checkpoint) is None
        callback = WeighsAndSaves()
        train(Regression(), tmp_path / "resumed", monkeypatch, callbacks=[callback], latest_checkpoint=checkpoint)
        # Three, the one that it adds, and the three that were to come.
        assert len(callback.losses) == BATCHES + 1

    def test_module_without_such_state_adds_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module = Regression()
        module.unused = {"list": [1, torch.ones(3)], "function": lambda: 3}
        module.network = [nn.Linear(3, 3)]
        module.generator = torch.Generator()
        module.writer = Mock()
        train(module, tmp_path, monkeypatch)
        assert all(state_of(checkpoint) is None for checkpoint in checkpoints(tmp_path).values())

    def test_only_what_has_changed_is_in_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module = Counts()
        module.large = torch.ones(100_000)
        train(module, tmp_path, monkeypatch)
        state = state_of(checkpoints(tmp_path)[2])
        assert state is not None
        assert sum(map(len, state)) < 200

    @pytest.mark.parametrize("module", [Losses, Draws, Averages, Collects, OwnOptimizer])
    def test_lightning_loads_it_with_its_defaults(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: type
    ) -> None:
        train(module(), tmp_path, monkeypatch)
        file = checkpoints(tmp_path)[3] / "state_dict.pth"
        saved = torch.load(file, weights_only=True)
        # Before 2.6 Lightning leaves it to PyTorch.
        defaults = {"weights_only": True} if has_lightning(">=2.6") else {}
        loaded = module.load_from_checkpoint(file, **defaults)  # type: ignore[attr-defined]
        assert_same(loaded.state_dict(), saved["state_dict"])
        with warnings.catch_warnings():
            # That the checkpoint lies in the middle of an epoch.
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(
                max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
            )
            trainer.fit(module(), **loaders(), ckpt_path=file, **defaults)
        assert trainer.current_epoch == 2

    def test_containers_stay_the_same_objects(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        train(Losses(), tmp_path, monkeypatch)
        module = Losses()
        outputs = module.training_step_outputs

        class Looks(pl.Callback):
            def on_train_batch_start(self, *_: Any) -> None:
                assert module.training_step_outputs is outputs
                found.append(len(outputs))

        found: list[int] = []
        checkpoint = checkpoints(tmp_path)[3]
        train(module, tmp_path / "resumed", monkeypatch, callbacks=[Looks()], latest_checkpoint=checkpoint)
        assert found == [3, 4, 5]

    def test_second_pause(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # What the first part has changed, and the second has not.
        class ChangesOnce(Counts):
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
                if self.global_step == 1:
                    self.threshold = 0.25

        train(ChangesOnce(), tmp_path / "first", monkeypatch)
        second = {"latest_checkpoint": checkpoints(tmp_path / "first")[2]}
        train(ChangesOnce(), tmp_path / "second", monkeypatch, **second)
        module = ChangesOnce()
        third = {"latest_checkpoint": checkpoints(tmp_path / "second")[4]}
        train(module, tmp_path / "third", monkeypatch, **third)
        assert (module.threshold, module.counter) == (0.25, BATCHES)


class Keeps(Regression):
    """Has another function with each batch, and calls that of the batch before."""

    function: Any = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx > 0:
            assert self.function["at"]() == batch_idx - 1
        self.function = {"at": lambda: batch_idx}


class SetsAnew(Regression):
    """Has other functions with each batch, which nobody calls in the next one."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.never_read = lambda: batch_idx

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.functions = [lambda loss: loss * 2]
        loss = super().training_step(batch, batch_idx)
        for function in self.functions:
            loss = function(loss)
        return loss


class KeepsByItself(Keeps):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        pass

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        pass


def single(caught: Any) -> str:
    """Returns the only one of this package's warnings."""
    [message] = [str(warning.message) for warning in caught if warning.category is DifferenceWarning]
    return message


@pytest.mark.usefixtures("patched")
class TestWarning:
    def test_what_cannot_be_kept_is_named_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.warns(DifferenceWarning) as caught:
            train(Keeps(), tmp_path, monkeypatch)
        message = single(caught)
        assert "Checkpoints do not hold Keeps.function" in message
        assert "register a buffer" in message
        assert "on_save_checkpoint and on_load_checkpoint" in message

    def test_what_is_set_anew_in_each_batch_is_not_lost(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with no_warnings_of_ours():
            train(SetsAnew(), tmp_path, monkeypatch)

    def test_module_that_keeps_it_by_itself_is_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train(KeepsByItself(), tmp_path, monkeypatch)

    def test_what_is_not_there_to_take_its_state(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        train(HasMeter(), tmp_path, monkeypatch)
        module = HasMeter()
        del module.meter
        module.weight = lambda batch_idx: 1.0  # type: ignore[method-assign]
        with pytest.warns(DifferenceWarning, match=r"has a state for HasMeter\.meter.*Create it in __init__"):
            train(module, tmp_path / "resumed", monkeypatch, latest_checkpoint=checkpoints(tmp_path)[3])

    def test_class_that_has_moved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        train(MakesObjectsAndCounts(), tmp_path, monkeypatch)
        monkeypatch.delattr("tests.resume.test_attributes.Sample")
        module = MakesObjectsAndCounts()
        module.weight = lambda batch_idx: 1.0  # type: ignore[method-assign]
        names = r"MakesObjectsAndCounts\.samples, MakesObjectsAndCounts\.newest"
        message = rf"state of {names} cannot be read \(AttributeError: .*Sample"
        with pytest.warns(DifferenceWarning) as caught:
            train(module, tmp_path / "resumed", monkeypatch, latest_checkpoint=checkpoints(tmp_path)[3])
        assert re.search(message, single(caught))
        assert (module.samples, module.newest, module.counter) == ([], None, 3)


@pytest.mark.usefixtures("patched")
class TestCost:
    """Of what does not change."""

    def test_table_is_neither_copied_nor_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module = Regression()
        module.table = torch.zeros(256 * 1024**2)
        before = resident_bytes()
        train(module, tmp_path, monkeypatch)
        # Zeros are in memory when they are read.
        assert resident_bytes() - before < 256 * 1024**2
        assert all(state_of(checkpoint) is None for checkpoint in checkpoints(tmp_path).values())

    def test_small_tensors_are_not_taken_one_by_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture
    ) -> None:
        module = Regression()
        module.buffer = [torch.zeros(4) for _ in range(10_000)]
        hashed = mocker.spy(attribute_pickle, "_hash")
        asked = mocker.spy(attribute_pickle.HashingPickler, "persistent_id")
        train(module, tmp_path, monkeypatch)
        looks = BATCHES + 1
        assert 0 < asked.call_count < 1_000
        assert 0 < hashed.call_count < 20 * looks
        assert sum(call.args[1].raw().nbytes for call in hashed.call_args_list) < 170_000 * looks
