"""Those warnings that Lightning gives once in a process."""

from __future__ import annotations

import itertools
import sys

from lightning_utilities.core.rank_zero import WarningCache

# What has been looked at before: there are thousands of modules, and this is done for each test.
_known_modules: set[str] = set()
_caches: list[WarningCache] = []


def forget_given_warnings() -> None:
    """Lets Lightning give them again, as in a process of its own."""
    # The last imported are at the end.
    new_modules = [*itertools.takewhile(lambda name: name not in _known_modules, reversed(sys.modules))]
    _known_modules.update(new_modules)
    caches = (vars(sys.modules[name]).get("warning_cache") for name in new_modules)
    _caches.extend(cache for cache in caches if isinstance(cache, WarningCache))
    for cache in _caches:
        cache.clear()
