"""Names that are monitored and never logged: a warning when the trial is built, not an error after an epoch.

The names that a module logs are read from its source. Where that does not tell all of them, nothing is said.
"""

from __future__ import annotations

import difflib
import linecache
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from lightning_shim.diagnostics.warn import warn_at_place
from lightning_shim.members.member import Kind
from lightning_shim.members.query import members
from lightning_shim.upstream.lightning import Lightning
from lightning_shim.user_code.class_source import ClassSource, is_users
from lightning_shim.user_code.logged_names import LoggedNames, logged_elsewhere, logged_in_validation, logged_otherwise
from lightning_shim.user_code.project import Ancestry, ClassDefinition, SourceError, SourceModule
from lightning_shim.user_code.user_class import files_around

_SUFFIX: Final = re.compile(r"(_step|_epoch)?(/dataloader_idx_\d+)?$")
"""What Lightning adds to the names of values that are logged twice, or by several loaders."""

_ALWAYS_THERE: Final = frozenset({"epoch", "step"})
"""The names that ModelCheckpoint adds to the logged ones."""

_LOGS: Final = re.compile(r"\.log(_dict)?\(|callback_metrics(\[|\.update\()")


def warn_of_names_never_logged(
    lightning: Lightning,
    module: Any,
    others: Sequence[Any],
    monitors: Iterable[tuple[str, str]],
    searcher_metric: str | None,
) -> None:
    """Warns of names that the module never logs, though somebody monitors them (in words, and the name).

    Determined looks for the searcher's metric in validations; off-cluster there is none.
    """
    # Lightning's LearningRateMonitor adds names of its own.
    wanted = [
        (who, name) for who, name in monitors if name not in _ALWAYS_THERE and not name.startswith(("lr-", "lr/"))
    ]
    if not wanted and searcher_metric is None:
        return
    try:
        logged = _Logged(lightning, module, others)
    except SourceError:
        return
    for who, name in wanted:
        logged.warn(f"{who} monitors {name!r}", name, logged.everywhere)
    if searcher_metric is not None and logged.validation:
        logged.warn(
            f"searcher.metric of the experiment's configuration is {searcher_metric!r}",
            searcher_metric,
            logged.validation,
        )


class _Logged:
    """What a module logs, as far as its source tells."""

    def __init__(self, lightning: Lightning, module: Any, others: Sequence[Any]) -> None:
        self._modules: Final[dict[str, SourceModule]] = {}
        self._class: Final = type(module)
        base: type = lightning.LightningModule
        own = [cls for cls in self._class.__mro__ if cls not in base.__mro__ and is_users(cls.__module__)]
        sources = {cls: ClassSource(cls) for cls in own}
        hooks = {row.name for row in members("LightningModule") if row.kind is Kind.HOOK}
        self._is_known = hooks.isdisjoint(vars(module)) and all(
            source.node is not None and source.is_complete for source in sources.values()
        )
        self.validation: frozenset[str] = frozenset()
        self.everywhere: frozenset[str] = frozenset()
        if self._is_known:
            self._place = sources[own[0]].location
            ancestry: Ancestry = [
                ClassDefinition(self._module(source.source.name), source.node)
                for source in sources.values()
                if source.source is not None and source.node is not None
            ]
            involved = {cls for part in (*module.modules(), *others) for cls in type(part).__mro__}
            self._read(ancestry, [cls for cls in involved if is_users(cls.__module__)])

    def _module(self, file: str) -> SourceModule:
        if file not in self._modules:
            self._modules[file] = SourceModule(Path(file), "")
        return self._modules[file]

    def _read(self, ancestry: Ancestry, involved: list[type]) -> None:
        in_validation, elsewhere = logged_in_validation(ancestry), logged_elsewhere(ancestry)
        places = [ClassSource(cls).location for cls in involved]
        known = in_validation.calls | elsewhere.calls
        otherwise: list[LoggedNames] = []
        for file in files_around((file for file, _ in places), involved):
            # Only files whose text logs are parsed, which takes longer than looking.
            if _LOGS.search("".join(linecache.getlines(file))):
                lines = {line for other, line in places if other == file}
                otherwise.append(logged_otherwise(self._module(file), lines, known))
        self._is_known = not any(names.unread for names in (in_validation, elsewhere, *otherwise))
        self.validation = frozenset().union(in_validation.places, *(names.places for names in otherwise))
        self.everywhere = self.validation.union(elsewhere.places)

    def warn(self, what: str, wanted: str, names: frozenset[str]) -> None:
        """Warns that a name cannot come, unless it can or nobody knows; ``what`` begins the sentence."""
        plain = {_SUFFIX.sub("", name) for name in names}
        if not self._is_known or _SUFFIX.sub("", wanted) in plain:
            return
        file, line = self._place
        similar = difflib.get_close_matches(wanted, plain, n=1)
        hint = f" Did you mean {similar[0]!r}?" if similar else ""
        listed = ", ".join(map(repr, sorted(plain))) or "nothing"
        message = f"{what}, which {self._class.__qualname__} never logs; it logs {listed}.{hint}"
        warn_at_place(file, line, self._class.__module__, message)
