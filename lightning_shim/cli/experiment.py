"""An experiment's configuration, made of what a script trains."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lightning_shim.cli.search_space import search_space
from lightning_shim.cli.searcher_metric import FILL_IN, SearcherMetric
from lightning_shim.user_code.training_script import Parameter

_LAUNCHER: Final = "python3 -m determined.launch.torch_distributed"

_MAX_RESTARTS: Final = 1
_MAX_TRIALS: Final = 16

_LARGEST_INTEGER: Final = 2**53
"""Determined's master keeps numbers as JavaScript does."""

_ENVIRONMENT: Final = """\
# Without an image Determined takes its own, and the startup hook installs in each container what that lacks.
# environment:
#   image: my-registry/my-image:1
"""

_PLAIN: Final = re.compile(
    r"(?!(?:y|n|yes|no|on|off|true|false|null|none)$)[a-z_][\w/.-]*(?: [\w/.-]+)*", re.IGNORECASE | re.ASCII
)
"""Texts that no version of YAML takes for anything else."""

_ESCAPED: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Control characters and breaks of lines that YAML does not take as they are."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long a trial trains."""

    unit: str  # Determined's name: `epochs` or `batches`
    number: int | None  # how many of them; None if the source does not say it
    place: str  # `"file:line"` of what says so


@dataclass(slots=True)
class Experiment:
    """What the YAML file says."""

    name: str
    script: str  # the script's file name, as it is named in comments
    entrypoint: str  # what runs the script in one process
    slots: int
    metric: SearcherMetric
    length: Length
    parameters: list[Parameter]  # the parameters of the constructors that get hyperparameters
    is_search: bool  # whether it tries other values than the script's
    # What the user still has to fill in, in words; known when the text has been made.
    to_fill_in: list[str] = field(default_factory=list)
    searched: list[str] = field(default_factory=list)  # the names of the hyperparameters that are searched; likewise

    def text(self) -> str:
        """Returns the YAML file's text, with its comments."""
        one_slot = f"One slot is one GPU. With more than one, the entrypoint begins with: {_LAUNCHER}"
        lines = [
            f"# Written for {self.script} by: lightning_shim init",
            _entry("name", self.name),
            _entry("entrypoint", self.entrypoint if self.slots == 1 else f"{_LAUNCHER} {self.entrypoint}"),
            *self._hyperparameters(),
            *self._searcher(),
            "resources:",
            f"  # {one_slot if self.slots == 1 else 'One slot is one GPU, with a process of its own.'}",
            f"  slots_per_trial: {self.slots}",
            "# How often a trial that fails is started again, from its last checkpoint.",
            f"max_restarts: {_MAX_RESTARTS}",
            _ENVIRONMENT,
        ]
        return "\n".join(lines)

    def _hyperparameters(self) -> Iterator[str]:
        known, left_out = _values(self.parameters)
        yield f"# They take the place of the values in {self.script}, by the constructors' parameter names."
        if self.is_search:
            yield "# The ranges are around those values: see to it that they make sense together."
        if left_out:
            yield "# Left out, so that they stay as the script has them:"
            yield from (f"#   {line}" for line in left_out)
        yield "hyperparameters:" if known else "hyperparameters: {}"
        for name, parameter in known.items():
            value = self._hyperparameter(name, parameter.value)
            if isinstance(value, dict):
                yield f"  # {parameter.place}: {_shortened(parameter.text)}"
                yield from _block({name: value}, indent="  ")
            else:
                yield f"  {_entry(name, value, parameter.place)}"

    def _hyperparameter(self, name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._hyperparameter(key, each) for key, each in value.items()}
        space = search_space(name, value) if self.is_search else None
        if space is None:
            return value
        self.searched.append(name)
        return space

    def _searcher(self) -> Iterator[str]:
        metric, unit, number = self.metric, self.length.unit, self.length.number
        yield "searcher:"
        yield f"  name: {'adaptive_asha' if self.is_search else 'single'}"
        wanted = "a name that the module logs in validation" if metric.name == FILL_IN else ""
        yield self._setting("metric", metric.name, metric.place, wanted)
        wanted = "true for a loss or an error, false for an accuracy" if metric.smaller_is_better is None else ""
        yield self._setting("smaller_is_better", metric.smaller_is_better is not False, "", wanted)
        if self.is_search:
            yield f"  max_trials: {_MAX_TRIALS}"
            yield f"  time_metric: {unit}"
            wanted = f"for how many {unit} {self.script} trains" if number is None else ""
            yield self._setting("max_time", number or 1, f"as {self.length.place} says", wanted)

    def _setting(self, key: str, value: Any, comment: str, wanted: str) -> str:
        """Returns a line of the searcher; the user is asked to fill in what is ``wanted``."""
        if wanted:
            self.to_fill_in.append(f"searcher.{key}: {wanted}")
        return f"  {_entry(key, value, f'fill in: {wanted}' if wanted else comment)}"


def _values(parameters: Iterable[Parameter]) -> tuple[dict[str, Parameter], list[str]]:
    """Separates the parameters that have one value, which YAML can say, from the others, with the reasons."""
    by_name: dict[str, list[Parameter]] = {}
    for parameter in parameters:
        by_name.setdefault(parameter.name, []).append(parameter)
    known, left_out = {}, []
    for name, found in by_name.items():
        first = found[0]
        unknown = next((each for each in found if not each.has_value), None)
        other = next((each for each in found if repr(each.value) != repr(first.value)), None)
        if unknown is not None:
            left_out.append(f"{name}: {unknown.place}: {_shortened(unknown.text or 'no default')}")
        elif other is not None:
            left_out.append(f"{name}: {first.place}: {first.text}, but {other.place}: {other.text}")
        elif (problem := _problem(first.value)) is not None:
            left_out.append(f"{name}: {first.place}: {_shortened(first.text)} ({problem})")
        else:
            known[name] = first
    return known, left_out


def _problem(value: Any) -> str | None:
    """Says why a value does not arrive in a trial as it is."""
    match value:
        case bool() | str():
            return None
        case int():
            return None if abs(value) <= _LARGEST_INTEGER else "too large a number"
        case float():
            return None if math.isfinite(value) else "no number of JSON's"
        case list():
            return next(filter(None, map(_problem, value)), None)
        case dict():
            if not all(isinstance(key, str) for key in value):
                return "keys that are not text"
            if "type" in value:
                return "Determined takes a dictionary with a type for a range"
            return next(filter(None, map(_problem, value.values())), None)
        case None:
            return "no value"
    return f"YAML has no {type(value).__name__}"


def _entry(key: str, value: Any, comment: str = "") -> str:
    return f"{_flow(key)}: {_flow(value)}" + (f"  # {comment}" if comment else "")


def _block(mapping: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{_flow(key)}:"
            yield from _block(value, indent + "  ")
        else:
            yield f"{indent}{_entry(key, value)}"


def _flow(value: Any) -> str:
    """Returns a value on one line, which no version of YAML takes for anything else."""
    match value:
        case str() if _PLAIN.fullmatch(value):
            return value
        case list():
            return f"[{', '.join(map(_flow, value))}]"
        case dict():
            return f"{{{', '.join(_entry(key, each) for key, each in value.items())}}}"
        case float() if "." not in repr(value):
            # Without the point 1e-05 is a text for some.
            return repr(value).replace("e", ".0e")
    # YAML reads JSON, in which some more characters have to be escaped for it.
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


def configured_values(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns what a configuration of LightningCLI has for the constructors, by the class's name in Lightning."""
    sections = {"LightningModule": config.get("model"), "LightningDataModule": config.get("data")}
    values = {}
    for kind, section in sections.items():
        if isinstance(section, Mapping):
            values[kind] = dict(section.get("init_args") or {}) if "class_path" in section else dict(section)
    return values
