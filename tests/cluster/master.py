"""A stand-in for Determined's master, of one trial: the part of its API that a trial's processes ask for.

It is strict where the real master is: a metric that is reported twice for the same batch is an error.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from werkzeug.exceptions import BadRequest, HTTPException, InternalServerError, NotFound, Unauthorized
from werkzeug.routing import Map, Rule
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

CLUSTER_ID = "the-cluster"
EXPERIMENT_ID = 7
TRIAL_ID = 11

# How long the master waits for what has to come; the tests fail when it does not.
PATIENCE = 10.0
# From the moment when the signal to pause is sent, until the trial's thread has surely read it.
SIGNAL_TIME = 0.5


@dataclass(frozen=True)
class RecordedRequest:
    """A request, as far as the next version of the client may change it.

    Attributes:
        method: HTTP's.
        route: The path, with names in the place of identifiers.
        names: The names of the query's parameters and of the body's entries.
        body: What was sent, or None.
    """

    method: str
    route: str
    names: tuple[str, ...]
    body: Any


@dataclass
class Run:
    """A trial's time between two pauses, which the agent knows as an allocation.

    Attributes:
        run_id: Its number.
        steps_completed: The batches trained before it.
        latest_checkpoint: The UUID of the checkpoint that it continues from.
        pause_after: The batch after which it is told to pause, if it is.
        allocation_id: The allocation's name.
        metrics: What it has reported: values by name, by batches trained, by group.
        load: What Determined's profiler has reported of the machine: a list by group, of no batch.
        checkpoints: The UUIDs of the checkpoints that it has written, by batches trained.
        progress: What it has reported of its progress.
        acknowledged: Whether it has acknowledged the signal to pause.
    """

    run_id: int
    steps_completed: int
    latest_checkpoint: str | None
    pause_after: int | None
    allocation_id: str = field(default_factory=lambda: f"{TRIAL_ID}.{uuid.uuid4()}")
    metrics: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    load: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)
    progress: list[float] = field(default_factory=list)
    acknowledged: bool = False
    is_to_pause: bool = False
    was_told_to_pause: bool = False
    batches_started: int = 0
    validations: int = 0


class Master:
    """Serves one trial until the ``with`` block ends.

    Args:
        config: The experiment's configuration.
        seed: The trial's seed.
        trial_id: The trial's number.
        agents: How many machines share the trial's slots.
        stops: Is given the metrics of each validation, and says whether the search stops the trial by it.
        is_ill: Whether it answers nobody who asks for the trial's state once there is a validation.
        warm_start: The UUID of another trial's checkpoint that the first run starts from.

    Attributes:
        config: The experiment's configuration.
        trial_id: The trial's number.
        agents: How many machines share the trial's slots.
        requests: All that was asked.
        refused: What could not be answered, in words.
        runs: The trial's runs.
        early_exits: The reasons that the trial gave for not being started again.
    """

    def __init__(
        self,
        config: dict[str, Any],
        seed: int = 3,
        *,
        trial_id: int = TRIAL_ID,
        agents: int = 1,
        stops: Callable[[Mapping[str, Any]], bool] = lambda metrics: False,
        is_ill: bool = False,
        warm_start: str | None = None,
    ) -> None:
        self.config = config
        self.trial_id = trial_id
        self.agents = agents
        self.requests: list[RecordedRequest] = []
        self.refused: list[str] = []
        self.runs: list[Run] = []
        self.early_exits: list[str] = []
        self._seed = seed
        self._stops = stops
        self._is_stopped = False
        self._is_ill = is_ill
        self._warm_start = warm_start
        self._token = str(uuid.uuid4())
        self._is_closed = False
        self._changed = threading.Condition()
        self._routes = self._make_routes()
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_QuietRequestHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Master:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # What the tests and the agent ask.

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def token(self) -> str:
        return self._token

    @property
    def slots(self) -> int:
        return int(self.config["resources"]["slots_per_trial"])

    @property
    def run(self) -> Run:
        """The present run."""
        return self.runs[-1]

    @property
    def checkpoints(self) -> dict[int, str]:
        """The UUIDs of all checkpoints, by batches trained, in the order in which they were written."""
        return {steps: storage_id for run in self.runs for steps, storage_id in run.checkpoints.items()}

    def metrics(self, group: str) -> dict[int, dict[str, Any]]:
        """Returns what all runs have reported, by batches trained."""
        merged: dict[int, dict[str, Any]] = {}
        for run in self.runs:
            for steps, metrics in run.metrics.get(group, {}).items():
                merged.setdefault(steps, {}).update(metrics)
        return merged

    def start_run(self, pause_after: int | None = None) -> Run:
        """Starts a run from the newest checkpoint.

        Args:
            pause_after: The batch after which it is told to pause. The signal is sent while that batch is trained,
                which the master knows of a trial that reports each batch.
        """
        steps, storage_id = list(self.checkpoints.items())[-1] if self.checkpoints else (0, self._warm_start)
        self.runs.append(Run(len(self.runs) + 1, steps, storage_id, pause_after, batches_started=steps))
        return self.run

    def environment(self, agent: int = 0) -> dict[str, str]:
        """Returns the variables that a container of the present run gets from the master.

        Args:
            agent: The number of the container's machine.
        """
        hparams = {name: _sampled(parameter) for name, parameter in self.config["hyperparameters"].items()}
        variables = {
            "DET_MASTER": self.url,
            "DET_CLUSTER_ID": CLUSTER_ID,
            "DET_AGENT_ID": f"agent-{agent}",
            "DET_CONTAINER_ID": f"container-{agent}",
            "DET_RESOURCES_ID": f"resources-{agent}",
            "DET_RESOURCES_TYPE": "docker-container",
            "DET_SLOT_IDS": list(range(self.slots // self.agents)),
            "DET_TASK_ID": "task",
            "DET_TASK_TYPE": "TRIAL",
            "DET_ALLOCATION_ID": self.run.allocation_id,
            "DET_SESSION_TOKEN": self._token,
            "DET_USER": "user",
            "DET_EXPERIMENT_ID": EXPERIMENT_ID,
            "DET_TRIAL_ID": self.trial_id,
            "DET_TRIAL_RUN_ID": self.run.run_id,
            "DET_TRIAL_SEED": self._seed,
            "DET_HPARAMS": hparams,
            "DET_EXPERIMENT_CONFIG": self.config,
            "DET_STEPS_COMPLETED": self.run.steps_completed,
        }
        if self.run.latest_checkpoint is not None:
            variables["DET_LATEST_CHECKPOINT"] = self.run.latest_checkpoint
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in variables.items()}

    # What the trial asks.

    def _make_routes(self) -> Map:
        allocation = "/api/v1/allocations/<allocation>"
        routes = {
            f"POST {allocation}/acceleratorData": self._accept,
            f"GET {allocation}/resources/<resources>/rendezvous": self._rendezvous,
            f"GET {allocation}/signals/preemption": self._preemption,
            f"POST {allocation}/signals/ack_preemption": self._acknowledge_preemption,
            "POST /api/v1/runs/start": self._accept,
            "GET /api/v1/trials/<trial>": self._trial,
            "POST /api/v1/trials/<trial>/runner/metadata": self._runner_metadata,
            "POST /api/v1/trials/<trial>/metrics": self._report_metrics,
            "POST /api/v1/trials/<trial>/progress": self._report_progress,
            "POST /api/v1/trials/<trial>/early_exit": self._report_early_exit,
            "GET /api/v1/experiments/<experiment>/searcher/best_searcher_validation_metric": self._best_validation,
            "POST /api/v1/checkpoints": self._report_checkpoint,
        }
        rules = []
        for route, answer in routes.items():
            method, path = route.split()
            rules.append(Rule(path, methods=[method], endpoint=answer))
        return Map(rules)

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Any:
        request = Request(environ)
        try:
            response = self._answer(request)
        except HTTPException as error:
            # "None yet" is an answer, and an illness is what a test wants.
            if not isinstance(error, (_NoneYet, InternalServerError)):
                self.refused.append(f"{request.method} {request.path}: {error.description}")
            response = _json({"error": {"message": error.description}}, error.code or 500)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        rule, arguments = self._routes.bind_to_environ(request.environ).match(return_rule=True)
        if request.headers.get("Grpc-Metadata-x-allocation-token") != f"Bearer {self._token}":
            raise Unauthorized("without the session token of the task")
        known = {
            "allocation": {self.run.allocation_id},
            "trial": {str(self.trial_id)},
            "experiment": {str(EXPERIMENT_ID)},
            "resources": {f"resources-{agent}" for agent in range(self.agents)},
        }
        for name, value in arguments.items():
            if value not in known[name]:
                raise NotFound(f"there is no {name} {value}")
        body = json.loads(request.data) if request.data else None
        names = tuple(sorted([*request.args, *_names(body)]))
        with self._changed:
            self.requests.append(RecordedRequest(str(request.method), rule.rule, names, body))
            answer = rule.endpoint(body, request)
            self._changed.notify_all()
        return _json(answer or {})

    # The answers; the lock is held.

    def _accept(self, body: Any, request: Request) -> None:
        """Has nothing to say."""

    def _rendezvous(self, body: Any, request: Request) -> dict[str, Any]:
        rank = int(request.path.split("/")[-2].removeprefix("resources-"))
        addresses, slots = ["127.0.0.1"] * self.agents, [self.slots // self.agents] * self.agents
        return {"rendezvousInfo": {"addresses": addresses, "rank": rank, "slots": slots}}

    def _trial(self, body: Any, request: Request) -> dict[str, Any]:
        validations = self.metrics("validation")
        if not validations:
            return {"trial": {"state": "STATE_RUNNING"}}
        if self._is_ill:
            raise InternalServerError("the database is gone")
        # The real one tells a running trial in no other way.
        return {
            "trial": {
                "latestValidation": {"totalBatches": max(validations)},
                "state": "STATE_STOPPING_COMPLETED" if self._is_stopped else "STATE_RUNNING",
            }
        }

    def _preemption(self, body: Any, request: Request) -> dict[str, Any]:
        run = self.run
        timeout = float(request.args["timeout_seconds"])
        # A trial that has ended does not close its connection in any way that could be waited for.
        self._changed.wait_for(lambda: run.is_to_pause or run is not self.run or self._is_closed, timeout)
        run.was_told_to_pause = run.is_to_pause
        return {"preempt": run.is_to_pause}

    def _acknowledge_preemption(self, body: Any, request: Request) -> None:
        self.run.acknowledged = True

    def _runner_metadata(self, body: Any, request: Request) -> None:
        run = self.run
        if body["state"] != "training":
            return
        run.batches_started += 1
        if run.batches_started == run.pause_after:
            run.is_to_pause = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: run.was_told_to_pause, PATIENCE)
            self._changed.wait_for(lambda: False, SIGNAL_TIME)

    def _report_metrics(self, body: Any, request: Request) -> None:
        group, report = body["group"], body["metrics"]
        if (report["trialId"], report["trialRunId"]) != (self.trial_id, self.run.run_id):
            raise BadRequest(f"metrics of trial {report['trialId']}, run {report['trialRunId']}")
        metrics = report["metrics"]["avgMetrics"]
        if report.get("stepsCompleted") is None:
            self.run.load.setdefault(group, []).append(metrics)
            return
        reported = self.run.metrics.setdefault(group, {}).setdefault(report["stepsCompleted"], {})
        twice = reported.keys() & metrics.keys()
        if twice:
            raise BadRequest(f"{group} metrics {sorted(twice)} twice for batch {report['stepsCompleted']}")
        reported.update(metrics)
        if group == "validation" and self._stops(metrics):
            self._is_stopped = True

    def _report_progress(self, body: Any, request: Request) -> None:
        self.run.progress.append(body["progress"])

    def _report_early_exit(self, body: Any, request: Request) -> None:
        self.early_exits.append(body["reason"])

    def _best_validation(self, body: Any, request: Request) -> dict[str, Any]:
        run, searcher = self.run, self.config["searcher"]
        # The trial asks before each report, and a thread of it may still be sending the reports before.
        self._changed.wait_for(lambda: len(run.metrics.get("validation", {})) >= run.validations, PATIENCE)
        run.validations += 1
        values = [
            metrics[searcher["metric"]]
            for metrics in self.metrics("validation").values()
            if searcher["metric"] in metrics
        ]
        if not values:
            raise _NoneYet("no validation yet")
        return {"metric": min(values) if searcher["smaller_is_better"] else max(values)}

    def _report_checkpoint(self, body: Any, request: Request) -> None:
        self.run.checkpoints[body["metadata"]["steps_completed"]] = body["uuid"]


class _NoneYet(NotFound):
    pass


class _QuietRequestHandler(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Prints no line for each request."""


def _json(answer: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(answer), status, content_type="application/json")


def _names(body: Any, prefix: str = "") -> list[str]:
    """Lists the names in a body, but those that are the user's or the configuration's."""
    names: list[str] = []
    for name, value in body.items() if isinstance(body, dict) else ():
        if isinstance(value, dict) and name not in {"avgMetrics", "checkpointStorage", "resources"}:
            names += _names(value, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def _sampled(hyperparameter: Any) -> Any:
    """Returns the value that a trial gets for a hyperparameter of a configuration; nested ones stay nested."""
    if not isinstance(hyperparameter, dict):
        return hyperparameter
    if "type" in hyperparameter:
        return hyperparameter["val"]
    return {name: _sampled(each) for name, each in hyperparameter.items()}
