"""The values that a search tries for a hyperparameter, around the one that the script has."""

from __future__ import annotations

import math
import re
from typing import Any, Final

_IN_DECADES: Final = frozenset(["lr", "learning", "rate", "decay", "wd", "l1", "l2", "eps", "epsilon"])
"""Words of names whose values are compared by their powers of ten."""

_NOT_SEARCHED: Final = re.compile(
    r"seed|workers|devices|nodes|^(n|num)_?(classes|labels|targets|outputs|inputs|features|channels)$|vocab"
    r"|(^|_)(in|input|out|output)_?(dim|size|channels|features)|image|(^|_)(idx|index|id|epochs?|steps|patience|interval)$"
    r"|batch_?size|max_len|seq_len|pin_memory|shuffle|verbose|debug|version"
)
"""Names of what the data determine, of lengths, and of what does not change a result."""

_DECADES: Final = 1
"""To either side of the script's value."""

_LIKE_ONE: Final = 0.5
"""From here on it is rather a factor, as the decay of an average is."""

_SMALL: Final = 0.01
"""Below it a range from half to twice the value would be narrow, whatever the name."""

_HUGE: Final = 1e300
"""Up to here twice a value is a number as well."""


def search_space(name: str, value: Any) -> dict[str, Any] | None:
    """Returns the values to try, as Determined's ``hyperparameters`` has them; None to keep the script's."""
    if _NOT_SEARCHED.search(name.lower()):
        return None
    match value:
        case bool():
            return {"type": "categorical", "vals": [value, not value]}
        # 0 and less are rather a way to say "none" or "all".
        case int() if value > 0:
            return {"type": "int", "minval": max(1, value // 2), "maxval": value * 2}
        case float() if 0 < value <= _HUGE:
            return _numbers(name, value)
    return None


def _numbers(name: str, value: float) -> dict[str, Any]:
    is_in_decades = value < _LIKE_ONE and set(re.findall(r"[a-z]+[0-9]*", name.lower())) & _IN_DECADES
    if is_in_decades or value < _SMALL:
        exponent = round(math.log10(value))
        return {"type": "log", "base": 10, "minval": exponent - _DECADES, "maxval": exponent + _DECADES}
    return {"type": "double", "minval": _rounded(value / 2), "maxval": _upper(value)}


def _upper(value: float) -> float:
    """Returns twice the value; what may be a share of 1 stays below 1."""
    if value >= 1:
        return _rounded(value * 2)
    upper = _rounded(min(value * 2, (1 + value) / 2))
    return upper if upper < 1 else value


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
