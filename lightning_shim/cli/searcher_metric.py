"""The metric that an experiment's searcher compares trials by, and whether less of it is better."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from lightning_shim.user_code.logged_names import OF_THE_FIRST_LOADER, LoggedNames
from lightning_shim.user_code.training_script import Monitor

PREFERRED: Final = "val_loss"

FILL_IN: Final = "FILL_IN"
"""What stands in the YAML where the source does not say the name."""

_LESS_IS_BETTER: Final = re.compile(
    r"loss|error|err|mse|rmse|mae|mape|msle|nll|bce|ce|crossentropy|entropy|perplexity|ppl|wer|cer|eer|fid|kl"
    r"|distance|divergence"
)
_MORE_IS_BETTER: Final = re.compile(
    r"acc|accuracy|f1|fbeta|auc|auroc|auprc|ap|map|precision|recall|specificity|sensitivity|iou|miou|jaccard|dice|kappa"
    r"|mcc|bleu|rouge|psnr|ssim|r2|top1|top5|reward|return|score"
)
"""Words of metrics' names."""


@dataclass(frozen=True, slots=True)
class SearcherMetric:
    """A metric."""

    name: str  # its name; `FILL_IN` if it is not known
    place: str  # `"file:line"` of what says so; empty if nothing does
    smaller_is_better: bool | None  # whether less of it is better; None if that is not known


def choose_metric(logged: LoggedNames, monitors: Iterable[Monitor]) -> SearcherMetric:
    """Chooses the searcher's metric: what the user has called best for a callback comes before all others."""
    for monitor in monitors:
        # A name that was not found may still be among those that the source does not say.
        is_logged = monitor.metric in logged.places or (logged.unread and smaller_is_better(monitor.metric) is not None)
        if is_logged and not monitor.metric.startswith("train"):
            by_mode = {"min": True, "max": False}.get(monitor.mode or "")
            is_smaller = smaller_is_better(monitor.metric) if by_mode is None else by_mode
            return SearcherMetric(monitor.metric, monitor.place, is_smaller)
    if not logged.places:
        return SearcherMetric(FILL_IN, "", None)
    name = min(logged.places, key=_rank)
    return SearcherMetric(name, logged.places[name], smaller_is_better(name))


def _rank(name: str) -> int:
    """Orders names; among those of one rank the first in the source is taken."""
    plain = name.removesuffix(OF_THE_FIRST_LOADER).removesuffix("_epoch")
    if plain == PREFERRED:
        return 0
    direction = smaller_is_better(plain)
    if direction is True and "loss" in _words(plain):
        return 1
    return 2 if direction is not None else 3


def smaller_is_better(name: str) -> bool | None:
    """Tells by a metric's name whether less of it is better; None if the name does not say it."""
    # The last word is what it is: `error_recall` is a recall.
    for word in reversed(_words(name)):
        if _LESS_IS_BETTER.fullmatch(word):
            return True
        if _MORE_IS_BETTER.fullmatch(word):
            return False
    return None


def _words(name: str) -> list[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[a-z]+[0-9]*", apart.lower())
