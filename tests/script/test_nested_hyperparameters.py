"""Nested hyperparameters of a trial reach what a script would have written at the same place by hand."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import determined as det
import pytest
import torch
from omegaconf import OmegaConf

import lightning_shim
from lightning_shim.script import hyperparameters
from tests.support.places import place_in

place = functools.partial(place_in, Path(__file__))

OnCluster = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Config:
    lr: float = 0.01
    momentum: float = 0.9


@pytest.fixture
def on_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[OnCluster]:
    """Gives a function that makes this process a part of a trial with some hyperparameters."""

    def on_cluster(hparams: dict[str, Any]) -> None:
        trial = det.TrialInfo(1, 1, 3, hparams, {}, 0, 1, False, None)
        info = det.ClusterInfo("http://master", "", "", [], "", "", "", "TRIAL", trial_info=trial)
        monkeypatch.setattr(det._info, "_info", info)
        hyperparameters.searched_hyperparameters.cache_clear()

    hyperparameters._taken.clear()
    hyperparameters._say_once.cache_clear()
    with lightning_shim.patched(trainer=True):
        yield on_cluster
    hyperparameters.searched_hyperparameters.cache_clear()


def module_class(lightning: ModuleType) -> type:
    class LitModel(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self, optim: Any = None, hidden: int = 4, **more: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.optim = optim

    return LitModel


BY_HAND: dict[str, tuple[Any, Any]] = {
    "dictionary": ({"lr": 0.01, "momentum": 0.9}, {"lr": 0.5, "momentum": 0.9}),
    "deeper": ({"lr": {"of": 1}, "sgd": [0.1]}, {"lr": 0.5, "sgd": [0.1]}),
    "dictionary without it": ({"momentum": 0.9}, {"momentum": 0.9, "lr": 0.5}),
    "data class": (Config(momentum=0.5), Config(0.5, 0.5)),
    "namespace": (argparse.Namespace(lr=0.01, momentum=0.9), argparse.Namespace(lr=0.5, momentum=0.9)),
    "simple namespace": (types.SimpleNamespace(lr=0.01), types.SimpleNamespace(lr=0.5)),
    "omegaconf": (OmegaConf.create({"lr": "???", "warmup": "${.lr}"}), OmegaConf.create({"lr": 0.5, "warmup": 0.5})),
    "read-only omegaconf": (
        OmegaConf.create({"lr": 1}, flags={"readonly": True, "struct": True}),
        OmegaConf.create({"lr": 0.5}),
    ),
    "nothing": (None, {"lr": 0.5}),
    "something else": ("sgd", {"lr": 0.5}),
}


@pytest.mark.parametrize("kind", BY_HAND)
@pytest.mark.parametrize("hparams", [{"optim": {"lr": 0.5}}, {"optim.lr": 0.5}], ids=["nested", "dotted"])
def test_part_of_an_argument(
    pl: ModuleType, on_cluster: OnCluster, kind: str, hparams: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    given, by_hand = BY_HAND[kind]
    before = repr(given)
    expected = module_class(pl)(by_hand)
    on_cluster(hparams)
    module = module_class(pl)(given)  # here: a part
    assert module.optim == expected.optim
    assert type(module.optim) is type(expected.optim)
    assert module.hparams == expected.hparams
    assert repr(given) == before
    assert f"{place('a part')}: " in capsys.readouterr().out
    assert hyperparameters.untaken_hyperparameters() == []


def test_log_names_the_part(pl: ModuleType, on_cluster: OnCluster, capsys: pytest.CaptureFixture[str]) -> None:
    on_cluster({"optim": {"lr": 0.5, "momentum": 0.9}, "hidden": 8})
    for _ in range(2):
        module_class(pl)({"lr": 0.01, "momentum": 0.9})  # here: two parts
    owner = "module_class.<locals>.LitModel"
    assert capsys.readouterr().out.splitlines() == [
        f"lightning_shim: {place('two parts')}: {owner} gets the trial's optim.lr=0.5 instead of 0.01.",
        f"lightning_shim: {place('two parts')}: {owner} gets the trial's hidden=8 instead of 4.",
    ]


@pytest.mark.parametrize("given", [Config(), argparse.Namespace(lr=1), OmegaConf.create({"lr": 1})])
def test_name_that_is_not_there_reaches_nothing(pl: ModuleType, on_cluster: OnCluster, given: Any) -> None:
    on_cluster({"optim": {"lr": 0.5, "beta": 0.5}, "other": {"lr": 1}, "more": 3})
    assert module_class(pl)(given).optim.lr == 0.5
    assert not hasattr(given, "beta")
    assert hyperparameters.untaken_hyperparameters() == ["more", "optim.beta", "other.lr"]


def test_warning_names_what_reaches_nothing(pl: ModuleType, on_cluster: OnCluster) -> None:
    on_cluster({"optim": {"lr": 0.5, "beta": 0.5}})
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    module = module_class(pl)(Config())
    with (
        lightning_shim.patched(strict=True, trainer=True),
        pytest.raises(lightning_shim.StrictModeError, match=r"The hyperparameters optim\.beta have no effect"),
    ):
        trainer.fit(module)


class TestLightningCLI:
    """A hyperparameter reaches the option of its name, as if it stood at the end of the command line."""

    HPARAMS: ClassVar = {
        "model": {"optim": {"lr": 0.5, "new": 1}, "config": {"lr": 0.25, "nothing": 1}},
        "hidden": 8,
        "optimizer": {"lr": 0.125, "nothing": 2},
        "trainer.max_steps": 3,
        "data": {"size": 5},
    }
    BY_HAND = (
        '--model.optim={"lr": 0.5, "momentum": 0.9, "new": 1}',
        "--model.config.lr=0.25",
        "--model.hidden=8",
        "--optimizer.lr=0.125",
        "--trainer.max_steps=3",
        "--data.size=5",
    )

    def build(self, pl: ModuleType, arguments: Any) -> dict[str, Any]:
        class LitModel(pl.LightningModule):  # type: ignore[name-defined,misc]
            def __init__(
                self,
                optim: dict[str, Any] = {"lr": 0.01, "momentum": 0.9},  # noqa: B006  # nobody changes it
                config: Config = Config(),
                hidden: int = 4,
                size: int = 1,
            ) -> None:
                super().__init__()
                self.save_hyperparameters()
                self.layer = torch.nn.Linear(hidden, 1)

        class LitData(pl.LightningDataModule):  # type: ignore[name-defined,misc]
            def __init__(self, size: int = 2) -> None:
                super().__init__()
                self.save_hyperparameters()

        from pytorch_lightning.cli import LightningCLI

        class CLI(LightningCLI):
            def add_arguments_to_parser(self, parser: Any) -> None:
                parser.link_arguments("data.size", "model.size")

        cli = CLI(LitModel, LitData, run=False, args=arguments, seed_everything_default=3)  # here: CLI
        config = cli.config.as_dict()
        hparams = dict(cli.model.hparams)
        # A hyperparameter by the name of a constructor's parameter goes past the options.
        config["model"]["hidden"] = hparams["hidden"]
        return {"hparams": hparams, "data": dict(cli.datamodule.hparams), "config": config}

    @pytest.mark.parametrize("kind", ["command line", "list", "dictionary"])
    def test_is_as_by_hand(
        self,
        pl: ModuleType,
        on_cluster: OnCluster,
        kind: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        given = ["--optimizer=torch.optim.SGD", "--optimizer.lr=0.75", "--model.config.momentum=0.75"]
        # Lightning calls what jsonargparse has deprecated.
        monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", ["train.py"])
            expected = self.build(pl, [*given, *self.BY_HAND])
        arguments: Any = {
            "command line": None,
            "list": given,
            "dictionary": {
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.75}},
                "model": {"config": {"momentum": 0.75}},
            },
        }[kind]
        monkeypatch.setattr("sys.argv", ["train.py", *([] if arguments else given)])
        on_cluster(self.HPARAMS)
        assert self.build(pl, arguments) == expected
        printed = capsys.readouterr().out
        assert f"{place('CLI')}: CLI gets the trial's optimizer.lr=0.125 instead of 0.75." in printed.replace(
            "TestLightningCLI.build.<locals>.", ""
        )
        assert len(re.findall("gets the trial's", printed)) == 7
        assert hyperparameters.untaken_hyperparameters() == ["model.config.nothing", "optimizer.nothing"]
