"""An experiment's configuration, made of what a script trains."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from lightning_shim.cli.search_space import search_space
from lightning_shim.cli.searcher_metric import FILL_IN, SearcherMetric
from lightning_shim.user_code.training_script import Parameter

_LAUNCHER: Final = "python3 -m determined.launch.torch_distributed"

_MAX_RESTARTS: Final = 1
_MAX_TRIALS: Final = 16

_LARGEST_INTEGER: Final = 2**53
"""Determined's master keeps numbers as JavaScript does."""

_INDENT: Final = 2
_WIDTH: Final = 2**16

_ENVIRONMENT: Final = """\
# Without an image Determined takes its own, and the startup hook installs in each container what that lacks.
# environment:
#   image: my-registry/my-image:1
"""

_PLAIN: Final = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null|none)$)[a-z_][\w/.-]*", re.IGNORECASE | re.ASCII)
"""Texts that no version of YAML takes for anything else."""


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
        top = CommentedMap()
        top["name"] = _quoted(self.name)
        top["entrypoint"] = self.entrypoint if self.slots == 1 else f"{_LAUNCHER} {self.entrypoint}"
        top["hyperparameters"] = self._hyperparameters(top)
        top["searcher"] = self._searcher()
        top["resources"] = CommentedMap(slots_per_trial=self.slots)
        top["resources"].yaml_set_comment_before_after_key(
            "slots_per_trial",
            f"One slot is one GPU. With more than one, the entrypoint begins with: {_LAUNCHER}"
            if self.slots == 1
            else "One slot is one GPU, with a process of its own.",
            indent=_INDENT,
        )
        top["max_restarts"] = _MAX_RESTARTS
        _comment(top, "max_restarts", "How often a trial that fails is started again, from its last checkpoint.")
        top.yaml_set_start_comment(f"Written for {self.script} by: lightning_shim init\n")
        stream = io.StringIO()
        _yaml().dump(top, stream)
        return stream.getvalue() + _ENVIRONMENT

    # The hyperparameters.

    def _hyperparameters(self, top: CommentedMap) -> CommentedMap:
        known, left_out = _values(self.parameters)
        kept = CommentedMap()
        for name, parameter in known.items():
            kept[_quoted(name)] = self._hyperparameter(name, parameter.value)
            if isinstance(kept[name], CommentedMap):
                _comment(kept, name, f"{parameter.place}: {_shortened(parameter.text)}", indent=_INDENT)
            else:
                kept.yaml_add_eol_comment(parameter.place, name)
        lines = [f"They take the place of the values in {self.script}, by the constructors' parameter names."]
        if self.is_search:
            lines.append("The ranges are around those values: see to it that they make sense together.")
        if left_out:
            lines += ["Left out, so that they stay as the script has them:", *(f"  {line}" for line in left_out)]
        _comment(top, "hyperparameters", "\n".join(lines))
        return kept

    def _hyperparameter(self, name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return CommentedMap({_quoted(key): self._hyperparameter(key, each) for key, each in value.items()})
        space = search_space(name, value) if self.is_search else None
        if space is not None:
            self.searched.append(name)
            return CommentedMap(space)
        return _quoted(value)

    # The searcher.

    def _searcher(self) -> CommentedMap:
        searcher = CommentedMap(name="adaptive_asha" if self.is_search else "single")
        searcher["metric"] = _quoted(self.metric.name)
        if self.metric.name == FILL_IN:
            self._ask(searcher, "metric", "a name that the module logs in validation")
        elif self.metric.place:
            searcher.yaml_add_eol_comment(self.metric.place, "metric")
        searcher["smaller_is_better"] = self.metric.smaller_is_better is not False
        if self.metric.smaller_is_better is None:
            self._ask(searcher, "smaller_is_better", "true for a loss or an error, false for an accuracy")
        if self.is_search:
            searcher["max_trials"] = _MAX_TRIALS
            searcher["time_metric"] = self.length.unit
            searcher["max_time"] = self.length.number or 1
            if self.length.number is None:
                self._ask(searcher, "max_time", f"for how many {self.length.unit} {self.script} trains")
            else:
                searcher.yaml_add_eol_comment(f"as {self.length.place} says", "max_time")
        return searcher

    def _ask(self, searcher: CommentedMap, key: str, what: str) -> None:
        searcher.yaml_add_eol_comment(f"fill in: {what}", key)
        self.to_fill_in.append(f"searcher.{key}: {what}")


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


def _quoted(value: Any) -> Any:
    """Quotes texts that some version of YAML would take for something else, and keeps lists on one line."""
    match value:
        case str():
            return value if _PLAIN.fullmatch(value) else DoubleQuotedScalarString(value)
        case list():
            items = CommentedSeq(map(_quoted, value))
            items.fa.set_flow_style()
            return items
        case dict():
            entries = CommentedMap({_quoted(key): _quoted(each) for key, each in value.items()})
            entries.fa.set_flow_style()
            return entries
    return value


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


def _comment(owner: CommentedMap, key: str, text: str, indent: int = 0) -> None:
    owner.yaml_set_comment_before_after_key(key, text, indent=indent)


class _Representer(RoundTripRepresenter):
    """Writes numbers such as 1e-05 in the way that all versions of YAML take for numbers."""

    def represent_float(self, data: float) -> Any:
        text = repr(data)
        if "e" in text and "." not in text:
            text = text.replace("e", ".0e")
        return self.represent_scalar("tag:yaml.org,2002:float", text)


_Representer.add_representer(float, _Representer.represent_float)


def _yaml() -> YAML:
    yaml = YAML()
    yaml.Representer = _Representer
    # A comment at the end of a line belongs to the whole of it.
    yaml.width = _WIDTH
    return yaml


def configured_values(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns what a configuration of LightningCLI has for the constructors, by the class's name in Lightning."""
    sections = {"LightningModule": config.get("model"), "LightningDataModule": config.get("data")}
    values = {}
    for kind, section in sections.items():
        if isinstance(section, Mapping):
            values[kind] = dict(section.get("init_args") or {}) if "class_path" in section else dict(section)
    return values
