"""Modules and data modules that are built from hyperparameters, by parameter name."""

from __future__ import annotations

import argparse
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

import lightning_shim
from lightning_shim import ConfigurationError, HyperparameterWarning, LightningShimWarning
from lightning_shim.session.hyperparameters import HyperparameterBuilder
from tests.support.places import place_in

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))


def loader(batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(16, 3)), batch_size=batch_size)


def module_class(lightning: ModuleType) -> type:
    class LitModel(lightning.LightningModule):  # here: LitModel
        steps = 0

        def __init__(self, width: int, learning_rate: float, depth: int = 1) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layers = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 1))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            LitModel.steps += 1
            return self.layers(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)

    return LitModel


def datamodule_class(lightning: ModuleType) -> type:
    class DataModule(lightning.LightningDataModule):  # here: DataModule
        def __init__(self, batch_size: int = 4) -> None:
            super().__init__()
            self.batch_size = batch_size

        def train_dataloader(self) -> Any:
            return loader(self.batch_size)

    return DataModule


HPARAMS = {"width": 5, "learning_rate": 0.1}


def train(module: Any, hparams: Any, **options: Any) -> Any:
    if "datamodule" not in options:
        options["train_dataloaders"] = loader()
    return lightning_shim.fit(module, hparams=hparams, max_length=pytorch.Batch(1), **options)  # here: fit


def refuse(target: Any, hparams: Any, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        train(target, hparams, **options)
    return str(caught.value)


def build(target: Callable[..., Any], hparams: dict[str, Any]) -> Any:
    """Builds from hyperparameters as a trial does, and takes no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        builder = HyperparameterBuilder(hparams)
        built = builder.build(target)
        builder.warn_about_unused()
    return built


class TestMissing:
    def test_names_what_is_missing_and_what_is_there(self, lightning: ModuleType) -> None:
        LitModel = module_class(lightning)
        message = refuse(LitModel, {"learning_rate": 0.1, "batch_size": 8})
        assert message.startswith(f"{place('LitModel')}: ")
        assert "LitModel needs width, but there is no such hyperparameter" in message
        assert "There are: batch_size, learning_rate." in message
        assert "fit(hparams=...)" in message
        assert LitModel.steps == 0
        train(LitModel, HPARAMS)
        assert LitModel.steps == 1

    @pytest.mark.parametrize("hparams", [None, {}])
    def test_there_are_none(self, pl: ModuleType, hparams: Any) -> None:
        message = refuse(module_class(pl), hparams)
        assert "LitModel needs width, learning_rate, but there is no such hyperparameter. There are: none." in message

    def test_of_the_datamodule(self, lightning: ModuleType) -> None:
        class DataModule(lightning.LightningDataModule):  # here: demanding DataModule
            def __init__(self, folder: str) -> None:
                super().__init__()

        LitModel = module_class(lightning)
        message = refuse(LitModel, HPARAMS, datamodule=DataModule)
        assert message.startswith(f"{place('demanding DataModule')}: ")
        assert "DataModule needs folder" in message
        assert LitModel.steps == 0

    def test_of_a_function(self, pl: ModuleType) -> None:
        def make(height: int) -> Any:  # here: make
            raise AssertionError

        assert refuse(make, HPARAMS).startswith(f"{place('make')}: ")

    def test_of_a_partial(self, pl: ModuleType) -> None:
        message = refuse(functools.partial(module_class(pl), width=5), {})
        assert "needs learning_rate" in message
        assert place("LitModel") in message

    def test_keyword_only(self) -> None:
        def make(*, width: int) -> int:
            return width

        assert build(make, {"width": 5}) == 5
        with pytest.raises(ConfigurationError, match="needs width"):
            build(make, {})


class TestUnused:
    def test_is_warned_about(self, lightning: ModuleType) -> None:
        with pytest.warns(HyperparameterWarning, match="optimizer, patience have no effect.*LitModel") as caught:
            train(module_class(lightning), {**HPARAMS, "patience": 3, "optimizer": "adam"})
        (warning,) = [warning for warning in caught if issubclass(warning.category, LightningShimWarning)]
        assert f"{warning.filename}:{warning.lineno}" == place("fit")
        assert "width" not in str(warning.message)

    def test_global_batch_size_is_determineds(self, lightning: ModuleType) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", LightningShimWarning)
            train(module_class(lightning), {**HPARAMS, "global_batch_size": 4})

    def test_other_global_batch_size_is_warned_about(self, lightning: ModuleType) -> None:
        with pytest.warns(
            HyperparameterWarning, match="is 32, and the training loader has batches of 4 on 1 slot, 4 in"
        ):
            train(module_class(lightning), {**HPARAMS, "global_batch_size": 32})

    @pytest.mark.parametrize(
        "give",
        [
            lambda: loader(),
            lambda: DataLoader(loader().dataset, batch_sampler=BatchSampler(range(16), 4, drop_last=False)),
        ],
    )
    def test_warning_points_at_the_loader(self, pl: ModuleType, give: Callable[[], Any]) -> None:
        class DataModule(pl.LightningDataModule):
            def train_dataloader(self) -> Any:  # here: train_dataloader
                return give()

        hparams = {**HPARAMS, "global_batch_size": 8}
        with pytest.warns(HyperparameterWarning, match="batches of 4 on 1 slot") as caught:
            train(module_class(pl), hparams, datamodule=DataModule)
        (warning,) = [warning for warning in caught if issubclass(warning.category, LightningShimWarning)]
        assert f"{warning.filename}:{warning.lineno}" == place("train_dataloader")

    def test_loader_that_does_not_say_is_not_judged(self, pl: ModuleType) -> None:
        without_batches = DataLoader(TensorDataset(torch.randn(16, 1, 3)), batch_size=None)
        with warnings.catch_warnings():
            warnings.simplefilter("error", LightningShimWarning)
            hparams = {**HPARAMS, "global_batch_size": 8}
            lightning_shim.fit(module_class(pl), without_batches, hparams=hparams, max_length=pytorch.Batch(1))

    def test_taken_by_either_is_enough(self, lightning: ModuleType) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", LightningShimWarning)
            trial = train(module_class(lightning), {**HPARAMS, "batch_size": 8}, datamodule=datamodule_class(lightning))
        assert trial.datamodule.batch_size == 8
        assert trial.module.hparams.width == 5

    def test_names_both_that_could_have_taken_it(self, pl: ModuleType) -> None:
        with pytest.warns(HyperparameterWarning, match="patience have no effect.*LitModel or .*DataModule"):
            train(module_class(pl), {**HPARAMS, "patience": 3}, datamodule=datamodule_class(pl))

    def test_objects_take_none(self, lightning: ModuleType) -> None:
        module, datamodule = module_class(lightning)(**HPARAMS), datamodule_class(lightning)()
        with pytest.warns(HyperparameterWarning, match="patience have no effect: module and data module were passed"):
            train(module, {"patience": 3}, datamodule=datamodule)

    def test_what_a_subclass_reads_itself_is_not_unused(self, pl: ModuleType) -> None:
        class Trial(lightning_shim.LightningTrial):
            def build_module(self) -> Any:
                return module_class(pl)(self.context.get_hparam("width"), self.context.get_hparam("rate"))

            def build_datamodule(self) -> Any:
                return datamodule_class(pl)

        with (
            pytorch.init(hparams={"width": 5, "rate": 0.1, "batch_size": 8}) as context,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error", LightningShimWarning)
            trial = Trial(context)
        assert trial.datamodule.batch_size == 8


class TestNested:
    """A nested hyperparameter is a part of the default."""

    def test_part_of_a_default(self) -> None:
        optim = {"lr": 0.1, "momentum": 0.9}
        assert build(lambda optim=optim: optim, {"optim": {"lr": 0.5}}) == {"lr": 0.5, "momentum": 0.9}
        assert optim["lr"] == 0.1

    @pytest.mark.parametrize("in_order", [False, True])
    def test_dotted_and_nested(self, in_order: bool) -> None:
        hparams = {"optim.sgd.lr": 0.5, "optim": {"sgd": {"momentum": 0.9}}, "optim.name": "sgd"}
        given = dict(sorted(hparams.items())) if in_order else hparams
        expected = {"sgd": {"momentum": 0.9, "lr": 0.5}, "name": "sgd"}
        assert build(lambda optim: optim, given) == expected
        assert hparams["optim"] == {"sgd": {"momentum": 0.9}}

    def test_part_that_nothing_takes_is_named(self) -> None:
        builder = HyperparameterBuilder({"optim": {"lr": 0.5, "beta": 1}, "other": {"lr": 1}})
        default = argparse.Namespace(lr=1)
        assert builder.build(lambda optim=default: optim) == argparse.Namespace(lr=0.5)
        with pytest.warns(HyperparameterWarning, match=r"hyperparameters optim\.beta, other\.lr have no effect"):
            builder.warn_about_unused()


class TestRecipes:
    def test_class(self, lightning: ModuleType) -> None:
        trial = train(module_class(lightning), HPARAMS)
        assert dict(trial.module.hparams) == {"width": 5, "learning_rate": 0.1, "depth": 1}
        assert trial.trainer.optimizers[0].param_groups[0]["lr"] == 0.1

    def test_a_default_gives_way(self, pl: ModuleType) -> None:
        assert train(module_class(pl), {**HPARAMS, "depth": 7}).module.hparams.depth == 7

    def test_datamodule_class(self, lightning: ModuleType) -> None:
        trial = train(module_class(lightning)(**HPARAMS), {"batch_size": 8}, datamodule=datamodule_class(lightning))
        assert isinstance(trial.datamodule, lightning.LightningDataModule)
        assert trial.epoch_length == 2

    def test_function(self, lightning: ModuleType) -> None:
        LitModel, DataModule = module_class(lightning), datamodule_class(lightning)

        def make_module(width: int, learning_rate: float = 0.5) -> Any:
            return LitModel(width, learning_rate)

        def make_datamodule(batch_size: int) -> Any:
            return DataModule(batch_size)

        trial = train(make_module, {"width": 5, "batch_size": 8}, datamodule=make_datamodule)
        assert dict(trial.module.hparams) == {"width": 5, "learning_rate": 0.5, "depth": 1}
        assert trial.datamodule.batch_size == 8

    def test_lambda_and_class_method(self, lightning: ModuleType) -> None:
        class LitModel(module_class(lightning)):
            @classmethod
            def wide(cls, learning_rate: float) -> Any:
                return cls(50, learning_rate)

        assert train(lambda width: LitModel(width, 0.1), {"width": 5}).module.hparams.width == 5
        assert train(LitModel.wide, {"learning_rate": 0.1}).module.hparams.width == 50

    def test_partial(self, lightning: ModuleType) -> None:
        LitModel = module_class(lightning)
        trial = train(functools.partial(LitModel, 5, depth=9), {"learning_rate": 0.1})
        assert dict(trial.module.hparams) == {"width": 5, "learning_rate": 0.1, "depth": 9}

    def test_hyperparameter_comes_before_a_keyword_of_a_partial(self, pl: ModuleType) -> None:
        recipe = functools.partial(module_class(pl), learning_rate=0.1, width=5)
        assert train(recipe, {"width": 6}).module.hparams.width == 6

    def test_function_that_gives_no_datamodule(self, lightning: ModuleType) -> None:
        class LitModel(module_class(lightning)):
            def train_dataloader(self) -> Any:
                return loader()

        assert train(LitModel(**HPARAMS), {}, datamodule=lambda: None).datamodule is None

    def test_module_that_is_callable_is_no_recipe(self, lightning: ModuleType) -> None:
        module = module_class(lightning)(**HPARAMS)
        assert train(module, {}).module is module

    def test_values_are_handed_on_as_they_are(self) -> None:
        nested = {"layers": [{"width": 5}], "name": None}
        assert build(lambda model: model, {"model": nested}) is nested

    def test_kwargs_get_all(self) -> None:
        def make(width: int, **kwargs: Any) -> tuple[int, dict[str, Any]]:
            return width, kwargs

        built = build(make, {"width": 5, "depth": 2, "global_batch_size": 32})
        assert built == (5, {"depth": 2, "global_batch_size": 32})

    def test_kwargs_by_their_own_name(self) -> None:
        assert build(lambda **options: options, {"options": 1}) == {"options": 1}

    def test_args_get_nothing(self) -> None:
        assert build(lambda *args: args, {}) == ()
        builder = HyperparameterBuilder({"args": 1})
        assert builder.build(lambda *args: args) == ()
        with pytest.warns(HyperparameterWarning, match="args have no effect"):
            builder.warn_about_unused()

    def test_positional_only(self) -> None:
        def make(width: int, depth: int = 2, /, rate: float = 0.1) -> tuple[int, int, float]:
            return width, depth, rate

        assert build(make, {"width": 5}) == (5, 2, 0.1)
        assert build(make, {"width": 5, "depth": 3, "rate": 0.5}) == (5, 3, 0.5)

    def test_positional_only_is_missing(self) -> None:
        def make(width: int, /) -> int:
            return width

        with pytest.raises(ConfigurationError, match="make needs width"):
            build(make, {})

    def test_class_without_a_constructor_of_its_own(self, lightning: ModuleType) -> None:
        """Lightning's own constructor takes any arguments, and PyTorch's refuses them."""

        class LitModel(lightning.LightningModule):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return self.layer(batch[0]).mean()

            def configure_model(self) -> None:
                self.layer = torch.nn.Linear(3, 1)

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        with warnings.catch_warnings():
            warnings.simplefilter("error", LightningShimWarning)
            trial = train(LitModel, {"batch_size": 8, "global_batch_size": 8}, datamodule=datamodule_class(lightning))
        assert trial.datamodule.batch_size == 8

    def test_error_of_the_users_own_is_left_alone(self, pl: ModuleType) -> None:
        class Broken(module_class(pl)):
            def __init__(self, width: int) -> None:
                raise KeyError("the user's own")

        with pytest.raises(KeyError, match="the user's own"):
            train(Broken, {"width": 5})

    def test_built_once_each(self, pl: ModuleType) -> None:
        made: list[str] = []

        def make_module() -> Any:
            made.append("module")
            return module_class(pl)(**HPARAMS)

        def make_datamodule() -> Any:
            made.append("datamodule")
            return datamodule_class(pl)()

        train(make_module, {}, datamodule=make_datamodule)
        assert made == ["module", "datamodule"]

    def test_context_without_hyperparameters(self, lightning: ModuleType) -> None:
        with pytorch.init() as context:
            trial = lightning_shim.LightningTrial(
                context, lambda width=5: module_class(lightning)(width, 0.1), train_dataloaders=loader()
            )
        assert trial.module.hparams.width == 5
