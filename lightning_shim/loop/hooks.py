"""Calls of Lightning's hooks: the callbacks' first, then the module's, as in Lightning's Trainer.

Overridden hooks are looked up once, so that a hook which nobody overrides costs one look-up in a set.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final

from lightning_shim.lightning1.hook_arguments import FormerValue, with_former_arguments
from lightning_shim.members.member import Kind
from lightning_shim.members.query import members
from lightning_shim.patching.attachment import CURRENT_FX_ATTRIBUTE
from lightning_shim.patching.wrappers import unpatched
from lightning_shim.session.session import Session
from lightning_shim.upstream.lightning import is_overridden, lightning_of
from lightning_shim.upstream.lightning_behaviour import TELLS_DATA_MODULES_OF_ERRORS
from lightning_shim.user_code.bytecode import is_own_method

Hook = Callable[..., Any]

_OF_MODULE: Final = {row.name: row for row in members("LightningModule") if row.kind is Kind.HOOK}
_OF_CALLBACK: Final = {row.name: row for row in members("Callback") if row.kind is Kind.HOOK}

_ONLY_IF_OVERRIDDEN: Final = frozenset(
    {"training_step", "validation_step", "configure_model", "configure_sharded_model", "on_validation_model_train"}
)
"""Of the hooks of a module, those that Lightning does not call where they are its own, though something wraps them."""


_NOT_MEASURED: Final = frozenset({*_ONLY_IF_OVERRIDDEN, "backward", "clip_gradients"})
"""Of the hooks of a module, those that Lightning's profiler measures as a part of something else."""


class Hooks:
    """The hooks of a module and its callbacks.

    There are none until the first :meth:`refresh`, which comes as soon as the callbacks are known.

    Attributes:
        names: The names of the hooks that the module or a callback overrides.
        state: The dictionary in which the module keeps the name of the running hook. Code that runs in each step sets
            it without :meth:`run`.
        lightning1_values: By name, functions that compute the arguments which only hooks of Lightning 1.x take.
    """

    def __init__(self, session: Session) -> None:
        self._session: Final = session
        self._module: Final = session.module
        self._profiling: Final = session.profiling
        self._lightning: Final = session.lightning
        # Assigning to the instance's dictionary saves nn.Module.__setattr__, which looks for parameters each time.
        self.state: Final = session.module.__dict__
        self.lightning1_values: Final[dict[str, FormerValue]] = {"dataloader_idx": lambda args: 0}
        self._callbacks: list[Any] = []
        self._trainer: Any = None
        self._set_on_instances: list[dict[str, Any]] = []
        self._with_lightning1_arguments: set[str] = set()
        self._of_module: dict[str, Hook] = {}
        self._of_module_or_default: dict[str, Hook] = {}
        self._of_callbacks: dict[str, list[Hook]] = {}
        self.names: frozenset[str] = frozenset()

    def refresh(self) -> None:
        """Looks up which hooks are overridden."""
        self._callbacks, self._trainer = list(self._session.callbacks), self._session.trainer_of_hooks
        owners = [type(owner) for owner in (self._module, self._session.datamodule, *self._callbacks)]
        self._of_module = {
            name: self._measured(name, self._adapted(name, getattr(self._module, name)))
            for name, row in _OF_MODULE.items()
            if self.calls(name) and not is_own_method(row, *owners)
        }
        # Lightning's own implementations: the patched ones are for calls from the user's code.
        defaults = {
            name: self._measured(name, unpatched(getattr(self._module, name)))
            for name in _OF_MODULE.keys() - self._of_module.keys()
            if hasattr(self._module, name)
        }
        self._of_module_or_default = {**defaults, **self._of_module}
        # Lightning calls those of its other namespace too.
        bases = [(callback, lightning_of(callback).Callback) for callback in self._callbacks]
        self._of_callbacks = {
            name: [
                self._profiling.measured(
                    f"[Callback]{callback.state_key}.{name}", self._adapted(name, getattr(callback, name), leading=2)
                )
                for callback, base in bases
                if self._is_called(name, callback, base) and not is_own_method(row, *owners)
            ]
            for name, row in _OF_CALLBACK.items()
        }
        self.names = frozenset([*self._of_module, *(name for name, hooks in self._of_callbacks.items() if hooks)])
        self._set_on_instances = self._hooks_of_instances()

    def refresh_if_changed(self) -> None:
        """Refreshes if a hook has been assigned to the module or a callback, as other hooks may do before an epoch."""
        if self._hooks_of_instances() != self._set_on_instances:
            self.refresh()

    def _hooks_of_instances(self) -> list[dict[str, Any]]:
        attributes = [(_OF_MODULE, vars(self._module))]
        attributes += [(_OF_CALLBACK, vars(callback)) for callback in self._callbacks]
        return [{name: entries[name] for name in rows.keys() & entries.keys()} for rows, entries in attributes]

    def _adapted(self, name: str, hook: Hook, leading: int = 0) -> Hook:
        adapted = with_former_arguments(name, hook, self.lightning1_values, leading)
        if adapted is not hook:
            self._with_lightning1_arguments.add(name)
        return adapted

    def overridden(self, name: str) -> bool:
        """Whether the module overrides a hook."""
        return is_overridden(name, self._module, self._lightning.LightningModule)

    def calls(self, name: str) -> bool:
        """Tells whether the module has a hook to call: one of its own, or one that wraps Lightning's default."""
        return self._is_called(name, self._module, self._lightning.LightningModule)

    def _is_called(self, name: str, owner: Any, base: type) -> bool:
        # A profiler measures those of Lightning's own as well.
        is_measured = self._profiling.is_on and name not in _NOT_MEASURED and hasattr(base, name)
        is_wrapped = name not in _ONLY_IF_OVERRIDDEN and callable(vars(owner).get(name))
        return is_measured or is_wrapped or is_overridden(name, owner, base)

    def _measured(self, name: str, hook: Hook) -> Hook:
        if name in _NOT_MEASURED:
            return hook
        return self._profiling.measured(f"[LightningModule]{type(self._module).__name__}.{name}", hook)

    def module(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls the module's hook if it is overridden, and returns its value."""
        hook = self._of_module.get(name)
        return None if hook is None else self.run(name, hook, *args, **kwargs)

    def module_or_default(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls the module's hook or, if it is not overridden, Lightning's default implementation."""
        return self.run(name, self._of_module_or_default[name], *args, **kwargs)

    def end_of_step(self, name: str, output: Any) -> Any:
        """Calls a hook of Lightning 1.x that may replace a step's output, and returns what counts."""
        if name not in self._of_module:
            return output
        result = self.module(name, output)
        return output if result is None else result

    def takes_lightning1_arguments(self, name: str) -> bool:
        """Whether the module or a callback defines a hook with its signature of Lightning 1.x."""
        return name in self._with_lightning1_arguments

    def callbacks(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Calls a hook on the callbacks that override it, with the trainer and the module before the arguments."""
        if name in self.names:
            for hook in self._of_callbacks.get(name, ()):
                self.run(name, hook, self._trainer, self._module, *args, **kwargs)

    def call(self, name: str, *args: Any) -> Any:
        """Calls a hook on the callbacks, then on the module, whose value it returns."""
        if name not in self.names:
            return None
        self.callbacks(name, *args)
        return self.module(name, *args)

    def call_epoch_end(self, name: str, synchronise: Callable[[], None]) -> None:
        """Calls a hook on the callbacks and the module; callbacks that monitor a metric come last.

        They would otherwise miss values that the module logs in the same hook, and follow the values of all processes.
        Lightning does the same at the end of a training epoch.
        """
        self._callbacks_that(name, monitor=False)
        self.module(name)
        synchronise()
        self._callbacks_that(name, monitor=True)

    def _callbacks_that(self, name: str, monitor: bool) -> None:
        """Calls a hook on the callbacks that monitor a metric, or on the others."""
        monitoring: Any = (self._lightning.EarlyStopping, self._lightning.Checkpoint)
        for hook in self._of_callbacks.get(name, ()):
            # A hook with a signature of Lightning 1.x is a function around the callback's method.
            if isinstance(getattr(inspect.unwrap(hook), "__self__", None), monitoring) is monitor:
                self.run(name, hook, self._trainer, self._module)

    def call_for_stage(self, name: str, stage: Any) -> None:
        """Calls ``setup`` or ``teardown`` on the data module, then on the callbacks, then on the module."""
        self.datamodule(name, stage=stage)
        self.callbacks(name, stage=stage)
        self.module(name, stage=stage)

    def on_exception(self, error: BaseException) -> None:
        """Reports an error that ends the trial to callbacks, data module, strategy and loggers."""
        self._session.trainer.state.status = self._lightning.TrainerStatus.INTERRUPTED
        self.callbacks("on_exception", error)
        if TELLS_DATA_MODULES_OF_ERRORS.is_of(self._lightning.version):
            self.datamodule("on_exception", error)
        self._session.trainer.strategy.on_exception(error)
        self._session.trainer.lightning_loggers.finalize("failed")

    @contextlib.contextmanager
    def telling_of_errors(self) -> Iterator[None]:
        """Calls :meth:`on_exception` if the block fails: for code that runs outside Determined's loop."""
        try:
            yield
        except BaseException as error:
            self.on_exception(error)
            raise

    def datamodule(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a hook of the data module, if there is one, and returns its value."""
        hook = getattr(self._session.datamodule, name, None)
        if not callable(hook):
            return None
        with self._profiling.action(f"[LightningDataModule]{type(self._session.datamodule).__name__}.{name}"):
            return hook(*args, **kwargs)

    def run(self, name: str, function: Hook, *args: Any, **kwargs: Any) -> Any:
        """Runs a function as a hook, so that ``self.log`` knows where it is called."""
        previous = self.state[CURRENT_FX_ATTRIBUTE]
        self.state[CURRENT_FX_ATTRIBUTE] = name
        try:
            return function(*args, **kwargs)
        finally:
            self.state[CURRENT_FX_ATTRIBUTE] = previous
