"""``fit`` and ``LightningTrial`` as a user uses them, off-cluster: what goes in and what comes out."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lightning_shim
from lightning_shim import LightningShimWarning
from tests.support.lightning_trainer import fit_by_lightning
from tests.support.namespaces import NAMESPACES

pytestmark = pytest.mark.usefixtures("patched")


EPOCH_LENGTH = 4


def loader(shuffle: bool = False) -> DataLoader[Any]:
    samples = torch.arange(48, dtype=torch.float32).reshape(16, 3) / 48
    return DataLoader(TensorDataset(samples), batch_size=4, shuffle=shuffle)


def module_class(lightning: ModuleType) -> type:
    class LitModel(lightning.LightningModule):
        """Records what happens to it."""

        def __init__(self, width: int = 2) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Dropout(), torch.nn.Linear(width, 1))
            self.events: list[tuple[str, int]] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.events.append(("train", batch_idx))
            loss = self.layers(batch[0]).square().mean()
            self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
            self.log("step", float(batch_idx))
            return loss

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.events.append(("try" if self.trainer.sanity_checking else "validate", batch_idx))
            self.log("accuracy", self.layers(batch[0]).mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def count(self, event: str) -> int:
            return sum(kind == event for kind, _ in self.events)

    return LitModel


def datamodule_class(lightning: ModuleType) -> type:
    class DataModule(lightning.LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader(shuffle=True)

        def val_dataloader(self) -> Any:
            return loader()

    return DataModule


def weights(module: Any) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def checkpoints() -> list[Path]:
    return list(Path("determined_checkpoints").absolute().glob("*"))


@contextlib.contextmanager
def trial_context(**options: Any) -> Iterator[pytorch.PyTorchTrialContext]:
    """What ``fit`` makes by itself."""
    with pytorch.init(**options) as context:
        try:
            yield context
        finally:
            # Its thread writes to a relative path, which the next test is no longer in.
            context.get_tensorboard_writer().close()


class TestResult:
    def test_trial(self, lightning: ModuleType) -> None:
        module = module_class(lightning)()
        before = weights(module)
        trial = lightning_shim.fit(module, loader(), loader(), max_length=pytorch.Epoch(2))
        assert isinstance(trial, lightning_shim.LightningTrial)
        assert trial.module is module
        assert not equal(weights(module), before)
        assert module.count("train") == 2 * EPOCH_LENGTH
        assert module.current_epoch == 2
        assert module.global_step == 2 * EPOCH_LENGTH

    def test_metrics_have_lightnings_names_and_values(self, lightning: ModuleType) -> None:
        LitModel = module_class(lightning)
        trial = lightning_shim.fit(
            LitModel, loader(), loader(), max_length=pytorch.Epoch(2), reporting_period=pytorch.Batch(1), seed=0
        )
        torch.manual_seed(0)
        trainer = fit_by_lightning(lightning, LitModel(), loader(), loader(), max_epochs=2, log_every_n_steps=1)
        assert trial.metrics.keys() == {"loss_step", "loss_epoch", "step", "accuracy"}
        logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
        shown = {name: float(value) for name, value in trainer.callback_metrics.items() if name in trial.metrics}
        assert trial.metrics == {**logged, **shown}
        assert all(type(value) is float for value in trial.metrics.values())

    def test_metrics_are_a_copy(self, pl: ModuleType) -> None:
        trial = lightning_shim.fit(module_class(pl)(), loader(), loader(), max_length=pytorch.Epoch(1))
        trial.metrics.clear()
        assert "accuracy" in trial.metrics

    def test_step_values_are_those_of_the_last_report(self, pl: ModuleType) -> None:
        trial = lightning_shim.fit(
            module_class(pl)(), loader(), loader(), max_length=pytorch.Epoch(1), reporting_period=pytorch.Batch(3)
        )
        assert trial.metrics["step"] == 2

    def test_checkpoint(self, lightning: ModuleType) -> None:
        trial = lightning_shim.fit(module_class(lightning)(), loader(), loader(), max_length=pytorch.Epoch(1))
        path = trial.checkpoint_path
        assert isinstance(path, Path)
        assert path.parent == Path("determined_checkpoints").absolute()
        saved = torch.load(path / "state_dict.pth")
        assert equal(saved["state_dict"], trial.module.state_dict())

    def test_checkpoint_is_one_of_lightnings(self, lightning: ModuleType) -> None:
        LitModel = module_class(lightning)
        trial = lightning_shim.fit(LitModel(width=5), loader(), loader(), max_length=pytorch.Epoch(1))
        loaded = LitModel.load_from_checkpoint(trial.checkpoint_path / "state_dict.pth", width=5)
        assert equal(loaded.state_dict(), trial.module.state_dict())

    def test_checkpoint_holds_no_other_checkpoints(self, pl: ModuleType) -> None:
        """They are below the working directory, which Determined copies into each of them."""
        trial = lightning_shim.fit(
            module_class(pl)(), loader(), loader(), max_length=pytorch.Epoch(2), checkpoint_policy="all"
        )
        assert len(checkpoints()) == 2
        assert [path.parent for path in trial.checkpoint_path.rglob("state_dict.pth")] == [trial.checkpoint_path]

    def test_checkpoint_replaces_the_one_before(self, pl: ModuleType) -> None:
        first = lightning_shim.fit(module_class(pl)(), loader(), loader(), max_length=pytorch.Epoch(1))
        options = {"latest_checkpoint": first.checkpoint_path, "max_length": pytorch.Epoch(4)}
        second = lightning_shim.fit(module_class(pl)(), loader(), loader(), **options)
        assert set(checkpoints()) == {trial.checkpoint_path for trial in (first, second)}

    @pytest.mark.parametrize("way", ["option", "environment variable"])
    def test_one_folder_for_everything(
        self, lightning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        root = tmp_path / "elsewhere"
        options: dict[str, Any] = {"default_root_dir": root} if way == "option" else {}
        if way != "option":
            monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(root))
        for _ in range(2):
            lightning_shim.fit(
                module_class(lightning)(),
                loader(),
                loader(),
                max_length=pytorch.Epoch(1),
                callbacks=lightning.callbacks.ModelCheckpoint(filename="mine"),
                **options,
            )
        assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
        assert {path.name for path in root.iterdir()} == {"determined_checkpoints", "lightning_logs"}
        # As Lightning's Trainer names them, with one version for each training.
        for version in ("version_0", "version_1"):
            run = root / "lightning_logs" / version
            assert (run / "checkpoints" / "mine.ckpt").is_file()
            assert len(list(run.glob("events.*"))) == 1

    @pytest.mark.parametrize("owner", ["trial", "callback"])
    def test_place_that_cannot_be_written_to(self, lightning: ModuleType, tmp_path: Path, owner: str) -> None:
        file = tmp_path / "file"
        file.touch()
        options: dict[str, Any] = {"default_root_dir": file / "root"}
        if owner == "callback":
            options = {"callbacks": lightning.callbacks.ModelCheckpoint(file / "root")}
        module = module_class(lightning)()
        with pytest.raises(
            lightning_shim.ConfigurationError, match=rf"{file / 'root'}, but {file} is no folder"
        ) as error:
            lightning_shim.fit(module, loader(), loader(), max_length=pytorch.Epoch(1), **options)
        assert "PL_TRAINER_DEFAULT_ROOT_DIR" in str(error.value)
        assert module.events == []

    def test_trained_module_predicts(self, lightning: ModuleType) -> None:
        trial = lightning_shim.fit(module_class(lightning)(), loader(), loader(), max_length=pytorch.Epoch(1))
        assert trial.module.training
        assert trial.module.eval().layers(torch.zeros(2, 3)).shape == (2, 1)


class TestOutput:
    def test_says_where_the_files_are(self, lightning: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
        trial = lightning_shim.fit(
            module_class(lightning)(),
            loader(),
            loader(),
            max_length=pytorch.Epoch(2),
            reporting_period=pytorch.Batch(1),
        )
        output, errors = capsys.readouterr()
        (checkpoint,) = re.findall(r"^Checkpoint: (.+)$", output, flags=re.MULTILINE)
        (logdir,) = re.findall(r"^TensorBoard: tensorboard --logdir (.+)$", output, flags=re.MULTILINE)
        assert Path(checkpoint) == trial.checkpoint_path
        assert Path(checkpoint, "state_dict.pth").is_file()
        assert os.path.isabs(logdir)
        assert list(Path(logdir).glob("events.out.tfevents.*"))
        assert "it/s" not in errors
        assert "batch" not in errors, "a progress bar was shown, but there is no terminal"

    def test_tensorboard_files_hold_what_was_logged(
        self, lightning: ModuleType, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class LitModel(module_class(lightning)):
            def on_train_end(self) -> None:
                self.logger.experiment.add_scalar("own/value", 3.0, self.global_step)
                self.logger.log_metrics({"logged": 4.0})

        trial = lightning_shim.fit(
            LitModel(), loader(), loader(), max_length=pytorch.Epoch(2), reporting_period=pytorch.Batch(1)
        )
        (logdir,) = re.findall(r"--logdir (.+)$", capsys.readouterr().out, flags=re.MULTILINE)
        events = EventAccumulator(logdir)
        events.Reload()

        def curve(tag: str) -> list[tuple[int, float]]:
            return [(event.step, event.value) for event in events.Scalars(tag)]

        tags = events.Tags()["scalars"]
        assert curve("own/value") == [(8, 3.0)]
        assert [value for _, value in curve("logged")] == [4.0]
        # Determined prefixes its own, and says "val_" of what a validation gave.
        assert curve("Determined/step") == [(batch + 1, batch % 4) for batch in range(8)]
        assert [step for step, _ in curve("Determined/val_accuracy")] == [4, 8]
        assert curve("Determined/val_accuracy")[-1][1] == trial.metrics["accuracy"]
        assert [step for step, _ in curve("Determined/loss_step")] == list(range(1, 9))
        assert "Determined/loss_epoch" in tags, f"the epochs' losses are missing among {tags}"
        assert curve("Determined/loss_epoch")[-1] == (8, trial.metrics["loss_epoch"])

    def test_where_the_files_are_is_said_after_an_error_as_well(
        self, pl: ModuleType, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class LitModel(module_class(pl)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                if self.current_epoch == 1:
                    raise RuntimeError("in the second epoch")
                return super().training_step(batch, batch_idx)

        with pytest.raises(RuntimeError, match="in the second epoch"):
            lightning_shim.fit(LitModel(), loader(), loader(), max_length=pytorch.Epoch(2))
        (checkpoint,) = re.findall(r"^Checkpoint: (.+)$", capsys.readouterr().out, flags=re.MULTILINE)
        assert Path(checkpoint, "state_dict.pth").is_file()

    def test_no_warning_of_ours(self, lightning: ModuleType) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", LightningShimWarning)
            lightning_shim.fit(module_class(lightning), loader(), loader(), max_length=pytorch.Epoch(1))


class TestGiven:
    @pytest.mark.parametrize(
        "give",
        [lambda LitModel: LitModel(), lambda LitModel: LitModel, lambda LitModel: lambda: LitModel()],
        ids=["object", "class", "function"],
    )
    def test_module(self, lightning: ModuleType, give: Callable[[type], Any]) -> None:
        LitModel = module_class(lightning)
        trial = lightning_shim.fit(give(LitModel), loader(), loader(), max_length=pytorch.Epoch(1))
        assert type(trial.module) is LitModel
        assert trial.module.count("train") == EPOCH_LENGTH

    @pytest.mark.parametrize("give", [lambda DataModule: DataModule(), lambda DataModule: DataModule])
    def test_datamodule(self, lightning: ModuleType, give: Callable[[type], Any]) -> None:
        DataModule = datamodule_class(lightning)
        module = module_class(lightning)()
        trial = lightning_shim.fit(module, datamodule=give(DataModule), max_length=pytorch.Epoch(1))
        assert type(trial.datamodule) is DataModule
        assert trial.module.trainer.datamodule is trial.datamodule
        assert module.count("train") == module.count("validate") == EPOCH_LENGTH

    def test_loaders_of_the_module(self, lightning: ModuleType) -> None:
        class LitModel(module_class(lightning)):
            def train_dataloader(self) -> Any:
                return loader()

            def val_dataloader(self) -> Any:
                return loader()

        module = lightning_shim.fit(LitModel(), max_length=pytorch.Epoch(1)).module
        assert module.count("train") == module.count("validate") == EPOCH_LENGTH

    def test_arguments_come_before_the_modules_loaders(self, pl: ModuleType) -> None:
        class LitModel(module_class(pl)):
            def train_dataloader(self) -> Any:
                raise AssertionError

            def val_dataloader(self) -> Any:
                raise AssertionError

        module = lightning_shim.fit(LitModel(), loader(), loader(), max_length=pytorch.Epoch(1)).module
        assert module.count("train") == module.count("validate") == EPOCH_LENGTH

    def test_several_validation_loaders(self, lightning: ModuleType) -> None:
        module = module_class(lightning)()
        trial = lightning_shim.fit(module, loader(), [loader(), loader()], max_length=pytorch.Epoch(1))
        assert trial.metrics.keys() == {"loss_epoch", "accuracy/dataloader_idx_0", "accuracy/dataloader_idx_1"}
        assert module.count("validate") == 2 * EPOCH_LENGTH

    def test_a_list_of_one_validation_loader(self, lightning: ModuleType) -> None:
        trial = lightning_shim.fit(module_class(lightning)(), loader(), [loader()], max_length=pytorch.Epoch(1))
        assert trial.metrics.keys() == {"loss_epoch", "accuracy"}

    def test_several_training_loaders(self, lightning: ModuleType) -> None:
        class LitModel(module_class(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                assert batch.keys() == {"a", "b"}
                return super().training_step(batch["a"], batch_idx)

        loaders = {"a": loader(), "b": loader()}
        module = lightning_shim.fit(LitModel(), loaders, loader(), max_length=pytorch.Epoch(1)).module
        assert module.count("train") == EPOCH_LENGTH

    def test_any_iterable(self, lightning: ModuleType) -> None:
        """A list would be a list of loaders, as in Lightning."""

        class Batches:
            def __iter__(self) -> Iterator[Any]:
                return iter([[torch.randn(4, 3)] for _ in range(3)])

            def __len__(self) -> int:
                return 3

        module = module_class(lightning)()
        lightning_shim.fit(module, Batches(), Batches(), max_length=pytorch.Epoch(2))
        assert module.count("train") == module.count("validate") == 6


class TestSeed:
    def test_gives_the_same_weights_again(self, lightning: ModuleType) -> None:
        first, second, other = (
            lightning_shim.fit(
                module_class(lightning),
                datamodule=datamodule_class(lightning),
                max_length=pytorch.Epoch(2),
                seed=seed,
            )
            for seed in (7, 7, 8)
        )
        assert equal(weights(first.module), weights(second.module))
        assert first.metrics == second.metrics
        assert not equal(weights(first.module), weights(other.module))

    def test_gives_the_weights_that_lightning_gives(self, lightning: ModuleType) -> None:
        LitModel = module_class(lightning)
        ours = lightning_shim.fit(LitModel, loader(shuffle=True), loader(), max_length=pytorch.Epoch(3), seed=7)
        lightning.seed_everything(7)
        module = LitModel()
        fit_by_lightning(lightning, module, loader(shuffle=True), loader(), max_epochs=3)
        assert equal(weights(ours.module), weights(module))

    def test_without_a_seed_the_random_numbers_go_on(self, pl: ModuleType) -> None:
        torch.manual_seed(7)
        expected = weights(module_class(pl)())
        torch.manual_seed(7)
        seen: list[dict[str, Any]] = []

        class LitModel(module_class(pl)):
            def on_fit_start(self) -> None:
                seen.append(weights(self))

        lightning_shim.fit(LitModel, loader(), loader(), max_length=pytorch.Batch(1))
        assert equal(seen[0], expected)

    @pytest.mark.parametrize("seed", [-1, 2**32, "seven"])
    def test_is_wrong(self, pl: ModuleType, seed: Any) -> None:
        with pytest.raises(lightning_shim.ConfigurationError, match="seed"):
            lightning_shim.fit(module_class(pl), loader(), loader(), max_length=pytorch.Batch(1), seed=seed)


class TestEarlyStopping:
    @pytest.mark.parametrize("validates", [True, False], ids=["validation", "training alone"])
    def test_stops_where_lightning_stops(self, lightning: ModuleType, validates: bool) -> None:
        class Constant(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(3, 1)

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("constant", 1.0, on_step=False, on_epoch=True)
                return self.layer(batch[0]).mean()

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        if validates:
            Constant.validation_step = lambda self, batch, batch_idx: None
        loaders = [loader(), loader()] if validates else [loader()]
        modules = [Constant(), Constant()]
        callbacks = [lightning.callbacks.EarlyStopping("constant", patience=1) for _ in modules]
        lightning_shim.fit(modules[0], *loaders, max_length=pytorch.Epoch(6), callbacks=callbacks[:1])
        fit_by_lightning(lightning, modules[1], *loaders, max_epochs=6, callbacks=callbacks[1:])
        assert [module.current_epoch for module in modules] == [2, 2]
        assert [callback.stopped_epoch for callback in callbacks] == [1, 1]


class Stream(IterableDataset[Any]):
    """Data without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(torch.randn(16, 1, 3))


class TestPeriods:
    def validations(self, module: Any) -> list[int]:
        """After how many training batches the module was validated."""
        trained, validated = 0, []
        for event, batch_idx in module.events:
            if event == "train":
                trained += 1
            elif event == "validate" and batch_idx == 0:
                validated.append(trained)
        return validated

    def fitted(self, lightning: ModuleType, **options: Any) -> Any:
        options.setdefault("max_length", pytorch.Epoch(3))
        return lightning_shim.fit(module_class(lightning)(), loader(), loader(), **options).module

    def test_validates_after_each_epoch(self, lightning: ModuleType) -> None:
        assert self.validations(self.fitted(lightning)) == [4, 8, 12]

    def test_validates_after_each_epoch_and_at_the_end(self, lightning: ModuleType) -> None:
        assert self.validations(self.fitted(lightning, max_length=pytorch.Batch(6))) == [4, 6]

    @pytest.mark.parametrize(
        ("period", "expected"),
        [
            (pytorch.Batch(3), [3, 6, 9, 12]),
            (pytorch.Batch(5), [5, 10, 12]),
            (pytorch.Batch([2, 7]), [2, 7, 12]),
            (pytorch.Epoch(2), [8, 12]),
            (pytorch.Epoch([1]), [4, 12]),
        ],
        ids=["3 batches", "5 batches", "batches", "2 epochs", "epochs"],
    )
    def test_validates_as_asked(self, pl: ModuleType, period: Any, expected: list[int]) -> None:
        assert self.validations(self.fitted(pl, validation_period=period)) == expected

    def test_validation_in_the_middle_leaves_the_epoch_alone(self, lightning: ModuleType) -> None:
        module = self.fitted(lightning, validation_period=pytorch.Batch(3), max_length=pytorch.Epoch(2))
        assert [batch_idx for event, batch_idx in module.events if event == "train"] == [0, 1, 2, 3, 0, 1, 2, 3]
        assert module.current_epoch == 2

    def test_validates_after_each_epoch_of_what_has_no_length(self, lightning: ModuleType) -> None:
        stream = DataLoader(Stream(), batch_size=4)
        module = module_class(lightning)()
        lightning_shim.fit(module, stream, loader(), max_length=pytorch.Batch(10))
        assert self.validations(module) == [4, 8, 10]
        assert module.current_epoch == 3, "an epoch that is cut short counts, as in Lightning"

    def test_step_zero_validation(self, lightning: ModuleType) -> None:
        module = self.fitted(lightning, step_zero_validation=True, max_length=pytorch.Epoch(1))
        assert module.events[:6] == [("try", 0), ("try", 1), *(("validate", batch_idx) for batch_idx in range(4))]
        assert self.validations(module) == [0, 4]

    def test_test_mode_trains_one_batch(self, lightning: ModuleType) -> None:
        module = self.fitted(lightning, test_mode=True)
        assert module.events == [("train", 0), ("validate", 0)]
        assert len(checkpoints()) == 1

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, 1),
            ({"checkpoint_policy": "all"}, 3),
            ({"checkpoint_policy": "none"}, 1),
            ({"checkpoint_policy": "none", "checkpoint_period": pytorch.Batch(5)}, 3),
        ],
        ids=["by default", "all", "none", "by a period"],
    )
    def test_checkpoints(self, pl: ModuleType, options: dict[str, Any], expected: int) -> None:
        module = module_class(pl)()
        trial = lightning_shim.fit(module, loader(), loader(), max_length=pytorch.Epoch(3), **options)
        assert len(checkpoints()) == expected
        assert trial.checkpoint_path in checkpoints()
        assert max(checkpoints(), key=lambda path: path.stat().st_mtime_ns) == trial.checkpoint_path

    @pytest.mark.parametrize(
        ("period", "expected"),
        [
            (pytorch.Batch(3), [-1, -1, -1, 2, 2, 2, 1, 1]),
            (pytorch.Batch([2, 7]), [-1, -1, 1, 1, 1, 1, 1, 2]),
            (pytorch.Epoch([1]), [-1, -1, -1, -1, 3, 3, 3, 3]),
        ],
        ids=["3 batches", "batches", "epochs"],
    )
    def test_reporting_period(self, pl: ModuleType, period: Any, expected: list[float]) -> None:
        steps: list[float] = []

        class LitModel(module_class(pl)):
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
                steps.append(trial_of(self).metrics.get("step", -1))

        def trial_of(module: Any) -> Any:
            return trials[0]

        trials: list[Any] = []
        with trial_context() as context:
            trials.append(
                lightning_shim.LightningTrial(context, LitModel(), train_dataloaders=loader(), val_dataloaders=loader())
            )
            pytorch.Trainer(trials[0], context).fit(
                max_length=pytorch.Epoch(2), reporting_period=period, checkpoint_policy="none"
            )
        assert steps == expected


class TestTrial:
    def test_subclass(self, lightning: ModuleType) -> None:
        class MyTrial(lightning_shim.LightningTrial):
            def build_module(self) -> Any:
                return module_class(lightning)(width=self.context.get_hparams()["width"])

            def build_datamodule(self) -> Any:
                return datamodule_class(lightning)()

        with trial_context(hparams={"width": 6}) as context, warnings.catch_warnings():
            warnings.simplefilter("error", LightningShimWarning)
            trial = MyTrial(context)
            pytorch.Trainer(trial, context).fit(max_length=pytorch.Epoch(2), checkpoint_policy="none")
        assert trial.module.layers[0].out_features == 6
        assert trial.module.count("train") == 2 * EPOCH_LENGTH
        assert trial.metrics.keys() == {"accuracy", "loss_epoch"}

    def test_subclass_whose_methods_give_classes(self, lightning: ModuleType) -> None:
        class MyTrial(lightning_shim.LightningTrial):
            def build_module(self) -> Any:
                return module_class(lightning)

            def build_datamodule(self) -> Any:
                return datamodule_class(lightning)

        with trial_context(hparams={"width": 6}) as context:
            trial = MyTrial(context)
            pytorch.Trainer(trial, context).fit(max_length=pytorch.Epoch(1), checkpoint_policy="none")
        assert trial.module.layers[0].out_features == 6

    def test_subclass_with_options(self, pl: ModuleType) -> None:
        class MyTrial(lightning_shim.LightningTrial):
            def __init__(self, context: pytorch.PyTorchTrialContext) -> None:
                super().__init__(context, limit_train_batches=2, max_length=pytorch.Epoch(1))

            def build_module(self) -> Any:
                return module_class(pl)()

            def build_datamodule(self) -> Any:
                return datamodule_class(pl)()

        with trial_context() as context:
            trial = MyTrial(context)
            pytorch.Trainer(trial, context).fit(max_length=pytorch.Epoch(1), checkpoint_policy="none")
        assert trial.module.count("train") == 2
        assert trial.epoch_length == 2

    def test_the_same_weights_as_fit(self, lightning: ModuleType) -> None:
        LitModel = module_class(lightning)
        by_fit = lightning_shim.fit(LitModel, loader(shuffle=True), max_length=pytorch.Epoch(2), seed=3, **VALIDATED)
        torch.manual_seed(3)
        with trial_context() as context:
            trial = lightning_shim.LightningTrial(
                context, LitModel, train_dataloaders=loader(shuffle=True), **VALIDATED
            )
            pytorch.Trainer(trial, context).fit(
                max_length=pytorch.Epoch(2), validation_period=pytorch.Epoch(1), checkpoint_policy="all"
            )
        assert equal(weights(trial.module), weights(by_fit.module))
        assert trial.metrics == by_fit.metrics

    def test_max_length_reaches_the_module(self, pl: ModuleType) -> None:
        seen: list[Any] = []

        class LitModel(module_class(pl)):
            def configure_optimizers(self) -> Any:
                trainer = self.trainer
                seen.append((trainer.max_epochs, trainer.max_steps, trainer.estimated_stepping_batches))
                return super().configure_optimizers()

        for length in (pytorch.Epoch(2), pytorch.Batch(6)):
            lightning_shim.fit(LitModel(), loader(), loader(), max_length=length)
        assert seen == [(2, -1, 8), (-1, 6, 6)]

    def test_a_trial_patches_by_itself(self, lightning: ModuleType) -> None:
        """Nobody has to call ``patch``: only what happens before the trial is made would go unnoticed."""
        lightning_shim.unpatch()
        controller = pytorch._PyTorchTrialController
        before = dict(vars(controller))
        try:
            with trial_context() as context:
                trial = lightning_shim.LightningTrial(
                    context, module_class(lightning)(), train_dataloaders=loader(), val_dataloaders=loader()
                )
                assert lightning_shim.is_patched()
                pytorch.Trainer(trial, context).fit(max_length=pytorch.Epoch(1), checkpoint_policy="none")
            assert trial.metrics.keys() == {"accuracy", "loss_epoch"}
        finally:
            lightning_shim.unpatch()
        assert vars(controller) == before, "Determined's loop is not what it was"

    def test_fit_patches_by_itself(self, lightning: ModuleType) -> None:
        lightning_shim.unpatch()
        try:
            trial = lightning_shim.fit(module_class(lightning), loader(), loader(), max_length=pytorch.Epoch(1))
            assert lightning_shim.is_patched()
        finally:
            lightning_shim.unpatch()
        assert trial.metrics.keys() == {"accuracy", "loss_epoch"}


VALIDATED = {"val_dataloaders": loader()}


class TestSeveralInOneProcess:
    def test_two_modules(self, lightning: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
        LitModel = module_class(lightning)
        trials = [
            lightning_shim.fit(LitModel(), loader(), loader(), max_length=pytorch.Epoch(epochs)) for epochs in (1, 2)
        ]
        assert [trial.module.current_epoch for trial in trials] == [1, 2]
        assert [trial.module.count("train") for trial in trials] == [4, 8]
        assert trials[0].checkpoint_path != trials[1].checkpoint_path
        assert all(trial.checkpoint_path.is_dir() for trial in trials)
        assert capsys.readouterr().out.count("Checkpoint: ") == 2

    def test_one_module_twice_starts_anew_with_its_weights(self, lightning: ModuleType) -> None:
        module = module_class(lightning)()
        lightning_shim.fit(module, loader(), loader(), max_length=pytorch.Epoch(2))
        first = weights(module)
        trial = lightning_shim.fit(module, loader(), loader(), max_length=pytorch.Epoch(1))
        assert trial.module is module
        assert module.current_epoch == 1
        assert module.global_step == EPOCH_LENGTH
        assert module.count("train") == 3 * EPOCH_LENGTH
        assert not equal(weights(module), first)

    def test_both_namespaces(self) -> None:
        for name in NAMESPACES:
            trial = lightning_shim.fit(
                module_class(importlib.import_module(name)), loader(), loader(), max_length=pytorch.Epoch(1)
            )
            assert trial.metrics.keys() == {"accuracy", "loss_epoch"}

    def test_before_and_after_lightnings_trainer(self, lightning: ModuleType) -> None:
        module = module_class(lightning)()
        fit_by_lightning(lightning, module, loader(), loader(), max_epochs=1)
        lightning_shim.fit(module, loader(), loader(), max_length=pytorch.Epoch(1))
        trainer = fit_by_lightning(lightning, module, loader(), loader(), max_epochs=1)
        assert module.trainer is trainer
        assert module.count("train") == 3 * EPOCH_LENGTH
        assert trainer.callback_metrics.keys() == {"loss", "loss_step", "loss_epoch", "step", "accuracy"}

    def test_the_environment_is_left_as_it_was(self, pl: ModuleType) -> None:
        before = {name: value for name, value in os.environ.items() if not name.startswith("PL_")}
        lightning_shim.fit(module_class(pl), loader(), loader(), max_length=pytorch.Epoch(1), seed=0)
        assert {name: value for name, value in os.environ.items() if not name.startswith("PL_")} == before
