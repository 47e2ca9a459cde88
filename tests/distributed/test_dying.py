"""A process that comes to an end takes the others with it, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.torchrun import run

# In seconds. It takes about ten; Determined's processes would wait for each other for ever.
TIME_LIMIT = 90.0


@pytest.mark.parametrize(
    ("how", "rank", "said"),
    [
        ("raise", 1, "ValueError: the batch is bad"),
        ("os._exit 3", 0, "exitcode  : 3"),
        ("os._exit 0", 0, "lightning_shim: rank 0 has ended before the trial"),
        ("InvalidHP when built", 1, "lightning_shim: rank 1 has ended before the trial"),
        ("InvalidHP", 1, r"ConfigurationError: Rank 1 has raised InvalidHP('the loss explodes'), and other processes"),
        ("sys.exit", 0, "ConfigurationError: Rank 0 has raised SystemExit(), and other processes have not"),
    ],
    ids=str,
)
def test_all_end_with_an_error(how: str, rank: int, said: str) -> None:
    finished = run(Path(__file__).with_name("dies.py"), how, str(rank), time_limit=TIME_LIMIT)
    assert finished.returncode == 1, finished.stderr
    assert said in finished.stderr
    assert "trained to the end" not in finished.stdout


def test_all_may_end_together() -> None:
    finished = run(Path(__file__).with_name("dies.py"), "InvalidHP", "-1", time_limit=TIME_LIMIT)
    assert finished.returncode == 0, finished.stderr
    assert "ConfigurationError" not in finished.stderr
    assert "trained to the end" not in finished.stdout
