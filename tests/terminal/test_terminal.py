"""What a person sees who trains in a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.ports import free_ports
from tests.support.terminal import Seen, run_in_terminal
from tests.terminal.model import BATCHES, EPOCHS

SECONDS = 0.15
"""What a batch takes, so that bars are drawn after each: tqdm draws ten times in a second."""

FIT = ("-m", "tests.terminal.fit", str(SECONDS))
TRAIN = ("-m", "tests.terminal.train", "0")
RUN = ("-m", "lightning_shim", "run", *TRAIN)

ENDING = [
    "lightning_shim: what was reported:",
    "lightning_shim: trained to its length, after 2 epochs, 8 batches, 8 steps",
]
"""All that a trial says in the terminal of a script, whose Trainer has Lightning's bar or wants none."""


def torchrun() -> tuple[str, ...]:
    return ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_ports(1)[0]}")


def lines_of_the_trial(seen: Seen) -> list[str]:
    return [line for line in seen.screen if line.startswith("lightning_shim: ")]


def bars(seen: Seen, description: str) -> list[str]:
    return [text for text in seen.drawn if text.startswith(f"{description}:")]


def counts(drawn: list[str]) -> list[int]:
    """The batches that bars have counted, each once and in their order."""
    found = [int(match[1]) for bar in drawn if (match := re.search(rf"(\d+)/{BATCHES} \[", bar))]
    return list(dict.fromkeys(found))


def without_times(seen: Seen) -> list[str]:
    """What a script has had drawn and printed while it trained, without what depends on the time."""
    # The width of a bar depends on the speed that stands behind it.
    texts = [re.sub(r"\|[ \W]*\|", "|", re.sub(r"\[\d\d:\d\d<[^,]*, +[^,\]]*", "[", text)) for text in seen.drawn]
    return [text for text in texts if text.startswith(("Sanity", "Training", "Epoch", "Validation", "printed"))]


@pytest.fixture(scope="module")
def lightnings(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What is to be seen of a script under Lightning."""
    return run_in_terminal("-m", "tests.terminal.train", "0", folder=tmp_path_factory.mktemp("lightning"))


class TestScript:
    @pytest.mark.parametrize(
        "command",
        [RUN, (*TRAIN, "patched"), (*torchrun(), *RUN)],
        ids=["run", "patch", "run on two processes"],
    )
    def test_has_lightnings_bar(self, command: tuple[str, ...], lightnings: Seen, tmp_path: Path) -> None:
        seen = run_in_terminal(*command, folder=tmp_path)
        assert seen.exit_code == lightnings.exit_code == 0, seen.written
        assert without_times(seen) == without_times(lightnings)
        for epoch in range(EPOCHS):
            assert counts(bars(seen, f"Epoch {epoch}")) == [*range(BATCHES + 1)]
            for batch in range(BATCHES):
                assert f"printed in epoch {epoch}, batch {batch}" in seen.screen, "self.print was torn by the bar"
        assert lines_of_the_trial(seen) == ENDING

    def test_no_bar_where_the_script_wants_none(self, tmp_path: Path) -> None:
        seen = run_in_terminal(*RUN, "quiet", folder=tmp_path)
        assert seen.exit_code == 0
        assert "Epoch" not in seen.written
        assert "8 steps" in seen.screen
        assert lines_of_the_trial(seen) == ENDING

    def test_evaluations_have_lightnings_bar(self, tmp_path: Path) -> None:
        seen = run_in_terminal(*RUN, "evaluate", folder=tmp_path)
        assert seen.exit_code == 0
        for verb in ("Validation", "Testing", "Predicting"):
            assert f"{verb} DataLoader 0: 100%" in seen.written


class TestTraining:
    @pytest.mark.parametrize("command", [FIT, (*torchrun(), *FIT)], ids=["fit", "fit on two processes"])
    def test_is_to_be_seen(self, command: tuple[str, ...], tmp_path: Path) -> None:
        seen = run_in_terminal(*command, folder=tmp_path)
        assert seen.exit_code == 0, seen.written
        for epoch in range(EPOCHS):
            drawn = bars(seen, f"Epoch {epoch}/{EPOCHS - 1}")
            assert counts(drawn) == [*range(BATCHES + 1)]
            # Values are fetched once a second: in the first epoch first of all those of its first batch.
            shown = [match[1] for bar in drawn if (match := re.search(r"loss=0\.5, shown=(\S+?)[,\]]", bar))]
            assert set(shown) <= {str(batch) for batch in range(BATCHES)}
            assert shown
            assert epoch > 0 or shown[0] == "0"
            for batch in range(BATCHES):
                assert f"printed in epoch {epoch}, batch {batch}" in seen.screen, "self.print was torn by the bar"
        assert counts(bars(seen, "Validation")) == [*range(BATCHES + 1)]
        assert any("val_loss=1.5" in bar for bar in bars(seen, "Epoch 1/1"))
        assert "hidden=" not in seen.written
        start, *lines = lines_of_the_trial(seen)
        assert re.match(r"lightning_shim: training \w+, \d+ parameters, (1 process|2 processes) on cpu, up to", start)
        assert lines == [
            "lightning_shim: epoch 0, batch 4, validation: val_loss=1.5",
            "lightning_shim: epoch 0, batch 4, end of the epoch: of_epoch=0.75",
            "lightning_shim: epoch 1, batch 8, validation: val_loss=1.5",
            "lightning_shim: epoch 1, batch 8, end of the epoch: of_epoch=0.75",
            "lightning_shim: what was reported:",
            "lightning_shim: trained to its length, after 2 epochs, 8 batches, 8 steps",
        ]
        assert len([line for line in seen.screen if line.startswith("Checkpoint: ")]) == 1

    def test_values_are_about_a_second_old(self, tmp_path: Path) -> None:
        """Nothing is reported in between: the period is 100 batches."""
        seconds = 0.6
        seen = run_in_terminal("-m", "tests.terminal.fit", str(seconds), folder=tmp_path)
        shown = [
            (int(match[1]), int(match[2]))
            for bar in bars(seen, "Epoch 0/1")
            if (match := re.search(rf"(\d+)/{BATCHES} \[.*shown=(\d+)", bar))
        ]
        assert {batch for _, batch in shown} >= {0, 2}
        # A batch is late by the second that values last, and by itself.
        assert all(trained - 1 - batch <= 1 / seconds + 1 for trained, batch in shown), shown


class TestInterruption:
    """In a batch of which TensorBoard is told nothing: Ctrl+C at that moment could cost two minutes.

    TensorBoard's thread may miss the next thing that it is told then, which is to end, until it looks by itself.
    """

    @pytest.mark.parametrize(("command", "is_raised"), [(FIT, True), (RUN, False)], ids=["fit", "run"])
    def test_before_a_checkpoint(self, command: tuple[str, ...], is_raised: bool, tmp_path: Path) -> None:
        """A script that stays as it is ends as under Lightning, with a line and exit code 1."""
        seen = run_in_terminal(*command, folder=tmp_path, interrupt_at="printed in epoch 0, batch 0")
        assert seen.exit_code not in (0, 1) if is_raised else seen.exit_code == 1
        assert "lightning_shim: interrupted; no checkpoint was written yet" in seen.screen
        assert ("KeyboardInterrupt" in seen.written) is is_raised
        assert "Traceback" not in seen.written
        assert not bars(Seen(0, "\n".join(seen.screen)), "Epoch 0/1"), "the bar was left in the terminal"

    def test_after_a_checkpoint_of_determined(self, tmp_path: Path) -> None:
        seen = run_in_terminal(*FIT, folder=tmp_path, interrupt_at="printed in epoch 1, batch 0")
        assert seen.exit_code == 3
        assert "KeyboardInterrupt has come through" in seen.screen
        (line,) = [line for line in seen.screen if "interrupted" in line]
        assert Path(line.partition("the last checkpoint is ")[2], "state_dict.pth").is_file()

    def test_after_a_checkpoint_of_the_script(self, tmp_path: Path) -> None:
        seen = run_in_terminal(*RUN, folder=tmp_path, interrupt_at="printed in epoch 1, batch 0")
        (line,) = [line for line in seen.screen if "interrupted" in line]
        path = Path(line.partition("the last checkpoint is ")[2])
        assert path.suffix == ".ckpt"
        assert path.is_file()


class TestCheck:
    def test_is_to_be_seen(self, tmp_path: Path) -> None:
        seen = run_in_terminal("-m", "lightning_shim", "check", "tests.terminal.model:Lit", folder=tmp_path)
        assert seen.exit_code == 0
        assert "batch/s" not in seen.written
        assert any("training_step" in line for line in seen.screen)
