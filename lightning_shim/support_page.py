"""Writes ``SUPPORT.md``: the table of members, and the differences that no member says, for a reader.

``python -m lightning_shim.support_page`` prints it. Standard library only.
"""

from __future__ import annotations

from typing import Final

from lightning_shim.members import OWNERS, Member, Support, members

_INTRODUCTION: Final = """\
# What works on Determined

<!-- Generated from the table of members by: python -m lightning_shim.support_page > SUPPORT.md -->

An unchanged LightningModule trains on Determined. This page says what becomes there of each public member of
the classes that a module deals with. For each class, the members of Lightning 2 come first, then those that
Lightning removed, which modules written for 0.9 to 1.9 may use. What needs attention comes first in a table.

| support | what it means | what you see |
| --- | --- | --- |
| refused | Leaving it out would change the weights or lose a result. | An error, before training starts if \
you override a hook, otherwise where you call or read the member. |
| ignored | It has no effect, and the weights and results do not depend on it. | A warning that points at \
your line; the training goes on. |
| backed | Determined answers it in place of Lightning's Trainer. | Nothing; the table has the answer. |
| called | It is a hook, and the trial calls it. | Nothing. |
| native | It works untouched. | Nothing. |

A method that is ignored, or that Lightning removed, can still be called by hand if your class defines it. The
last column has the versions of Lightning that have the member, written as for pip.
"""

# What is not the same although no member says so: the matter, what happens, and why.
DIFFERENCES: Final = (
    (
        "reports of steps",
        "`reporting_period` counts batches; Lightning's `log_every_n_steps` counts steps, which "
        "`accumulate_grad_batches` makes fewer.",
        "Determined counts batches.",
    ),
    (
        "step values in validation",
        "`self.log(..., on_step=True)` in `validation_step` is in `trainer.logged_metrics`, but not reported.",
        "Determined takes one report for a validation.",
    ),
    (
        "dictionaries that `validation_step` returns",
        "If a module logs nothing in validation, the numbers that it returns are averaged over batches and reported.",
        "Determined's own trials do so, and a trial without validation metrics is of little use.",
    ),
    (
        "modules of Lightning 1.x",
        "Hooks with the signatures of Lightning 1.x, several optimizers in turn, truncated backpropagation, and hooks "
        "that get an epoch's outputs work as in Lightning 1.9, although the installed Lightning 2 would refuse them.",
        "A module need not be rewritten to move to Determined.",
    ),
    (
        "`ckpt_path` of a checkpoint that Lightning wrote within an epoch",
        "The trial goes on with the batches that were left; Lightning takes as many from the beginning of the loader.",
        "They are what the epoch had not trained on.",
    ),
    (
        "`ckpt_path` of a checkpoint that Lightning wrote in an epoch's last batch, or in the validation after it",
        "The trial goes on with the next epoch; Lightning ends the former one first.",
        "Lightning's checkpoint does not hold the metrics that the end of the epoch needs.",
    ),
    (
        "one name for steps and epoch",
        "A name logged for each step and again at the end of the epoch is reported once for the epoch's last batch, "
        "with the step's value; a warning says so, and TensorBoard has both.",
        "Determined takes one value of a name for a batch.",
    ),
    (
        "validation on several processes",
        "Its metrics are those of all processes, whether `sync_dist` is set or not.",
        "A search compares them.",
    ),
    (
        "additional validations",
        "There is one at the end of the training if the period brings none, also when training ends within an epoch; "
        "none in a script.",
        "Determined wants the metrics of what was trained last.",
    ),
    (
        "epochs that end early",
        "If `on_train_batch_start` returns -1, or a loader has fewer batches than it said, the epoch is counted to its "
        "end and validated; the random numbers of that validation count.",
        "All epochs of Determined have the same length.",
    ),
    (
        "loaders without a length",
        "They train with `max_length` and periods in batches; by default each of their epochs is validated.",
        "Determined counts epochs by the length of the loader.",
    ),
    (
        "`trainer.should_stop` on several processes",
        "It is looked at when Determined reports or validates, not after each batch.",
        "All processes have to stop at the same batch.",
    ),
    (
        "continuing",
        "Of a DataLoader with a map-style dataset, what was trained on is not loaded again. An iterable dataset, or a "
        "loader that is no DataLoader, is read again and dropped, unless it has `state_dict` and `load_state_dict`: "
        "they are used in the middle of an epoch, as in Lightning. What else a dataset or loader remembers starts "
        "anew, but for its random generators and its samplers' counters.",
        "Nobody else knows their state.",
    ),
    (
        "continuing: attributes",
        "What has changed since the first batch in attributes of the module, its submodules, and callbacks of the "
        "user's without a `state_dict` is in Determined's checkpoints: whatever Python can pickle (numbers, text, "
        "tensors, arrays, containers, random generators, objects of the user's own classes), functions and classes by "
        "their names, and buffers that are not persistent. Containers, tensors and objects of the user's own classes "
        "that were there before the first batch stay the same objects; what cannot be pickled in them stays as it is. "
        "It is restored just before the first batch. A new object that cannot be pickled, such as an open file or a "
        "lambda, and datasets, loaders and samplers give a warning at the next checkpoint, unless the module has "
        "`on_save_checkpoint` and `on_load_checkpoint`; what changes within objects of other packages that were there "
        "is seen by their `state_dict` alone. A tensor of more than 64 MiB is not read to see whether it has changed: "
        "PyTorch counts the writes to it, but not those by `tensor.data`, by a NumPy array over its memory or by "
        "another process, which are seen if they reach all of it. If a class has moved when a trial goes on, a warning "
        "names the attributes, and the others are restored. What has not changed is as `__init__` and the hooks before "
        "the first batch make it: random numbers drawn there are the same if the seed is. A data module says by its "
        "`state_dict` what there is to keep.",
        "Lightning's checkpoints have nothing of this; its Trainer starts it anew.",
    ),
    (
        "continuing on another number of processes, or with loaders of another length",
        "Weights, optimizers, schedulers, steps and epochs are those of the checkpoint. The running epoch goes on "
        "after the same part of its batches, rounded down, in another order of the samples; what it has logged, and "
        "gradients that were being accumulated, are lost. Determined's count of batches becomes what it would be with "
        "these loaders, which `max_length` and periods in batches follow; of loaders without a length it "
        "stays. All processes go on from rank 0's random numbers, and another number of them from its attributes. A "
        "warning says so.",
        "The samples are shared out anew, and other processes have no state of their own.",
    ),
    (
        "the folder of `ModelCheckpoint`",
        "Unless `dirpath` is given it is `checkpoints` in `default_root_dir`, also with a logger.",
        "The folder of a logger, in which Lightning puts it, is another one after a pause.",
    ),
    (
        "the trainer of a script's module",
        "`max_epochs`, `max_steps`, `val_check_interval`, `check_val_every_n_epoch`, `log_every_n_steps` and "
        "`fast_dev_run` are those of the script's own Trainer, whatever the table says.",
        "Its validations and reports follow them.",
    ),
    (
        "weights that `on_train_end` changes",
        "They are in `trial.module`, not in the last checkpoint. `StochasticWeightAveraging` takes over its averages "
        "there if the module has no batch normalisation, or the length is in batches; the checkpoint holds them as "
        '`["callbacks"]["StochasticWeightAveraging"]["average_model_state"]`. With batch normalisation they are the '
        "weights of the epoch that it adds, and in its checkpoints.",
        "Determined writes its last checkpoint before the training ends.",
    ),
    (
        "checkpoints off-cluster",
        "There is one after each validation, and nothing deletes them; the working directory is not copied into them. "
        "A script has those of its own ModelCheckpoint instead.",
        "Only a cluster knows which validation was the best, and collects garbage.",
    ),
)

_SUBTITLES: Final = {
    "LightningModule": "What a module overrides, calls and reads on `self`.",
    "LightningDataModule": "What a data module overrides, calls and reads on `self`.",
    "Trainer": "What is there as `self.trainer`, and as the argument `trainer` of a callback's hooks.",
    "Logger": "What is there as `self.logger`, with the members of Lightning's TensorBoardLogger.",
    "Callback": "What a callback of the trial overrides and reads on `self`.",
    "callbacks": "Lightning's own callbacks; a subclass is treated as its base.",
}

_ATTENTION: Final = (Support.REFUSED, Support.IGNORED, Support.BACKED, Support.CALLED, Support.NATIVE)


def _markdown_table(rows: list[Member]) -> list[str]:
    lines = ["| member | support | what happens | versions |", "| --- | --- | --- | --- |"]
    for row in sorted(rows, key=lambda row: _ATTENTION.index(row.support)):
        # Markdown would print __init__ as a bold "init".
        sentence = row.sentence[0].upper() + row.sentence[1:].replace("__", r"\_\_")
        lines.append(f"| `{row.name}` | {row.support.value} | {sentence} | `{row.versions}` |")
    return lines


def _differences() -> list[str]:
    lines = ["## Differences", "", "| what | what happens | why |", "| --- | --- | --- |"]
    return lines + [f"| {what} | {happens} | {why} |" for what, happens, why in DIFFERENCES]


def support_page() -> str:
    """Writes the page ``SUPPORT.md``.

    Returns:
        Its text, in Markdown.
    """
    lines = [*_INTRODUCTION.splitlines(), "", *_differences()]
    for owner in OWNERS:
        current = [row for row in members(owner) if not row.is_removed]
        removed = [row for row in members(owner) if row.is_removed]
        lines += ["", f"## {owner}", "", _SUBTITLES[owner], "", *_markdown_table(current)]
        if removed:
            lines += ["", f"### {owner}: what Lightning removed", "", *_markdown_table(removed)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(support_page(), end="")
