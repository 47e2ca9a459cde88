"""What an experiment's configuration asks for, read off it."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from determined import pytorch

import lightning_shim
from lightning_shim import DifferenceWarning
from lightning_shim.trial import configuration as entries
from lightning_shim.trial.configuration import Configuration
from tests.cluster.trial import DEFAULTS
from tests.configurations.validation import SCHEMAS
from tests.examples.test_examples import EXAMPLES
from tests.support.tiny import loader, tiny


def wishes(**config: Any) -> dict[str, Any]:
    configuration = Configuration({**DEFAULTS, **config})
    return {name: (wish.entry, vars(wish.value)) for name, wish in configuration.wishes.items()}


def test_defaults_are_no_wishes() -> None:
    configuration = Configuration(DEFAULTS)
    assert configuration.wishes == {}
    assert not configuration.profiles
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        configuration.warn_of_what_has_no_effect()
        configuration.warn_of_other_units()


@pytest.mark.parametrize("config", [{}, {"optimizations": None, "profiling": None, "min_validation_period": None}])
def test_configuration_may_be_empty(config: dict[str, Any]) -> None:
    configuration = Configuration(config)
    assert configuration.wishes == {}
    configuration.warn_of_what_has_no_effect()


def test_length_of_the_search_of_the_example() -> None:
    """Is the one that its script has, so that there is nothing to warn of."""
    config = yaml.safe_load((EXAMPLES / "mnist" / "adaptive.yaml").read_text())
    assert wishes(searcher=config["searcher"]) == {"max_length": ("searcher.max_time: 5", {"value": 5})}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        length = Configuration(config).settle("max_length", pytorch.Epoch(5), None)
    assert length.value == 5


@pytest.mark.parametrize(
    ("config", "entry"),
    [
        ({"min_validation_period": {"records": 100}}, "min_validation_period: {'records': 100}"),
        ({"searcher": {"max_length": 100}}, "searcher.max_length: 100"),
        ({"searcher": {"time_metric": "samples", "max_time": 3}}, "searcher.max_time: 3"),
    ],
)
def test_other_units_have_no_effect(config: dict[str, Any], entry: str) -> None:
    assert wishes(**config) == {}
    with pytest.warns(DifferenceWarning) as found:
        Configuration({**DEFAULTS, **config}).warn_of_other_units()
    message = f"{entry} of the experiment's configuration has no effect. Give it in epochs or in batches."
    assert [str(warning.message) for warning in found] == [message]


def test_entries_without_effect_are_all_that_the_master_knows() -> None:
    """With the master's defaults, of which nobody is warned."""
    defaults = {
        f"{section}.{name}": schema["default"]
        for section in ("optimizations", "profiling")
        for name, schema in SCHEMAS[f"http://determined.ai/schemas/expconf/v0/{section}.json"]["properties"].items()
    }
    defaults["records_per_epoch"] = 0
    assert defaults.pop("profiling.enabled") is False
    assert {path: default for path, (default, _) in entries._WITHOUT_EFFECT.items()} == defaults


def test_start_of_the_code_counts(pl: ModuleType, patched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one the master says which checkpoint the configuration means."""
    monkeypatch.setattr(entries, "experiment_config", lambda: {"searcher": {"source_trial_id": 5}})
    trained = lightning_shim.fit(tiny(pl)(), loader(), max_length=pytorch.Epoch(1)).checkpoint_path
    assert trained is not None
    for argument, value in (("latest_checkpoint", str(trained)), ("ckpt_path", str(Path(trained, "state_dict.pth")))):
        with pytest.warns(DifferenceWarning) as found:
            trial = lightning_shim.fit(tiny(pl)(), loader(), max_length=pytorch.Epoch(2), **{argument: value})
        [warning] = [warning for warning in found if warning.category is DifferenceWarning]
        entry = "searcher.source_trial_id: 5 of the experiment's configuration"
        assert str(warning.message) == f"fit({argument}={value!r}) takes precedence over {entry}."
        assert warning.filename == __file__
        assert trial.trainer.global_step == 2 * len(loader())
