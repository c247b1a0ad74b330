"""TrainerNode: fine-tuning and practice for the running fleet. The only module here with ROS.

A job runs in a worker thread; the node's callbacks publish plans, watch the robots and report.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_srvs.srv import Trigger

from efm_core import messages
from efm_core.fleet import FleetDescription
from efm_core.plan import EpisodePlan
from efm_core.registry import Registry
from efm_core.topics import EPISODE_STATUS, Topic
from efm_model.config import CameraSpec
from efm_ros.channels import PLAN, TRAINER_STATUS, Sender, receive
from efm_ros.entrypoint import leave, run
from efm_ros.parameters import FLEET, ParameterSpec, declare, described_fleet
from efm_ros.status import ERROR, OK, WARNING, StatusSender
from efm_trainer.episode_data import EpisodeData
from efm_trainer.improve_run import saved_episodes
from efm_trainer.jobs import ImproveJob, SftJob, Workplace, fine_tune_job, improve_job
from efm_trainer.progress import Progress, TrainingCancelledError

PARAMETERS = (
    FLEET,
    ParameterSpec("run_dir", "runs", "folder of the run, for metrics and results", required=True),
    ParameterSpec("threads", 1, "threads of torch", "", 1, 256),
    ParameterSpec(
        "sft", "{}", "JSON fields of efm_trainer.jobs.SftJob, read by /trainer/sft", writable=True
    ),
    ParameterSpec(
        "improve", "{}", "JSON fields of efm_trainer.jobs.ImproveJob, read by /trainer/improve",
        writable=True,
    ),
)  # fmt: skip
POLL_SECONDS = 0.05
PARTED = "early warning: detector and operators' labels part, see result.json"
_Job = TypeVar("_Job", bound=BaseModel)
Work = Callable[[], dict[str, Any]]


class TrainerNode(Node):
    """Services `/trainer/sft`, `/trainer/improve`, `/trainer/cancel` (std_srvs/Trigger).

    Parameters: `PARAMETERS`.
    """

    def __init__(self, **options: Any) -> None:
        """Raises ValueError naming what is wrong with the fleet file or a parameter."""
        super().__init__("trainer", **options)
        values = declare(self, PARAMETERS)
        self._fleet = described_fleet(values)
        torch.set_num_threads(values["threads"])
        self._place = _workplace(self._fleet, Path(values["run_dir"]))
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._cancel = threading.Event()
        self._waiting: tuple[EpisodePlan, threading.Event] | None = None
        self._robots: dict[str, dict[str, str]] = {}
        self._make_channels()

    def _make_channels(self) -> None:
        self._plan = Sender(self, PLAN)
        self._status = StatusSender(
            self, TRAINER_STATUS, "trainer", state="idle", round=-1, version="", progress="0",
            eta_s="", reason="",
        )  # fmt: skip
        for robot in self._fleet.robots:
            topic = Topic(f"/{robot.name}/{EPISODE_STATUS.name}", EPISODE_STATUS.type, "latched")
            receive(self, topic, self._keeper(robot.name))
        for name, callback in (
            ("sft", self._on_sft), ("improve", self._on_improve), ("cancel", self._on_cancel),
        ):  # fmt: skip
            self.create_service(Trigger, f"/trainer/{name}", callback)
        self.create_timer(
            POLL_SECONDS, self._drain, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def _keeper(self, robot: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            self._robots[robot] = messages.read_status(message)
            self._check_plan()

        return keep

    # ---- services ----------------------------------------------------------------------------

    def _on_sft(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        def prepare() -> Work:
            job = self._settings("sft", SftJob)
            return lambda: fine_tune_job(self._place, job, self._tell, self._cancel.is_set)

        return self._start("sft", prepare, response)

    def _on_improve(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        def prepare() -> Work:
            job = self._settings("improve", ImproveJob)
            robots = tuple(robot.name for robot in self._fleet.robots)
            return lambda: improve_job(
                self._place, job, robots, self._collect, self._tell, self._cancel.is_set
            )

        return self._start("improve", prepare, response)

    def _on_cancel(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._busy
        response.message = "cancelling" if self._busy else "nothing is running"
        self._cancel.set()
        return response

    def _start(
        self, state: str, prepare: Callable[[], Work], response: Trigger.Response
    ) -> Trigger.Response:
        if self._busy:
            response.success = False
            response.message = "a job is running; call /trainer/cancel or wait"
            return response
        try:
            work = prepare()
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "JSON"
            response.success = False
            response.message = f"parameter '{state}': {where}: {first['msg']}"
            return response
        self._cancel.clear()
        self._status.announce(state=state, progress="0", eta_s="", reason="", round=-1)
        self._worker = threading.Thread(target=self._work, args=(work,), name=state)
        self._worker.start()
        response.success, response.message = True, f"{state} started"
        return response

    def _settings(self, name: str, kind: type[_Job]) -> _Job:
        return kind.model_validate_json(str(self.get_parameter(name).value))

    @property
    def _busy(self) -> bool:
        return self._worker is not None and self._worker.is_alive()

    # ---- in the worker thread ----------------------------------------------------------------

    def _work(self, work: Work) -> None:
        end: Callable[[], None]
        try:
            figures = work()
            version = str(figures["policy"])
            end = lambda: self._status.announce(  # noqa: E731
                state="done", progress="1", eta_s="0", version=version
            )
        except TrainingCancelledError as error:
            reason = str(error)
            end = lambda: self._status.announce(state="cancelled", reason=reason)  # noqa: E731
        except (ValueError, OSError) as error:
            reason = str(error)
            end = lambda: self._fail(reason)  # noqa: E731
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            self._events.put(lambda: self._fail(reason))
            raise  # a defect: the traceback belongs in the log
        self._events.put(end)

    def _collect(self, plan: EpisodePlan) -> Sequence[EpisodeData]:
        """Let the fleet run a plan and read its bags."""
        complete = threading.Event()
        self._events.put(lambda: self._publish_plan(plan, complete))
        while not complete.wait(0.1):
            if self._cancel.is_set():
                raise TrainingCancelledError(f"cancelled while the fleet ran '{plan.plan_id}'")
        episodes, skipped = saved_episodes(
            self._place.data_dir / plan.data_set, plan, self._place.camera_names
        )
        for entry in skipped:
            self.get_logger().warning(f"left out {entry.path}: {entry.reason}")
        return episodes

    def _tell(self, progress: Progress, version: str) -> None:
        eta = "" if progress.eta_s is None else f"{progress.eta_s:.1f}"
        values = {"progress": f"{progress.done:.4f}", "eta_s": eta, "version": version}
        alarm = PARTED if progress.metrics.get("warning/alarm") else ""
        if alarm:
            values["reason"] = alarm
        level = WARNING if alarm else OK
        self._events.put(lambda: self._status.announce(level=level, message=alarm, **values))

    # ---- in the executor's thread ------------------------------------------------------------

    def _drain(self) -> None:
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            event()

    def _fail(self, reason: str) -> None:
        self.get_logger().error(reason)
        self._status.announce(level=ERROR, message=reason, state="failed", reason=reason)

    def _publish_plan(self, plan: EpisodePlan, complete: threading.Event) -> None:
        self._waiting = (plan, complete)
        self._plan.send(messages.text(plan.model_dump_json()))
        self._status.announce(level=OK, round=plan.round, state="improve")
        self._check_plan()

    def _check_plan(self) -> None:
        if self._waiting is None:
            return
        plan, complete = self._waiting
        for robot, listed in plan.episodes.items():
            status = self._robots.get(robot, {})
            mine = status.get("plan") == plan.plan_id
            if listed and not (mine and int(status.get("plan_done", 0)) >= len(listed)):
                return
        self._waiting = None
        complete.set()

    def destroy_node(self) -> None:
        """Cancel and wait for the worker: what it saved can be resumed."""
        self._cancel.set()
        if self._worker is not None:
            self._worker.join()
        super().destroy_node()


def _workplace(fleet: FleetDescription, run_dir: Path) -> Workplace:
    first = fleet.robots[0]
    for robot in fleet.robots[1:]:
        if robot.space.hash != first.space.hash or robot.cameras != first.cameras:
            raise ValueError(
                f"{fleet.path}: robots '{first.name}' and '{robot.name}' differ in space or "
                "cameras; one trainer serves one kind of robot, give each kind its own fleet file"
            )
    cameras = tuple(CameraSpec(name=c.name, width=c.width, height=c.height) for c in first.cameras)
    return Workplace(
        Registry(fleet.models_dir), fleet.data_dir, run_dir, first.space, cameras
    )


def main() -> None:
    """Entry point `efm_trainer`."""
    leave(run(TrainerNode, yields=10))


if __name__ == "__main__":
    main()
