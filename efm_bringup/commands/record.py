"""`efm record`: have a running fleet record a number of episodes, an operator at the keys."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efm_bringup.plan_client import FleetProgress, PlanClient
    from efm_bringup.signals import StopSignal
    from efm_bringup.teleop.desk import Desk
    from efm_bringup.teleop.terminal import Terminal
    from efm_core.fleet import FleetDescription
    from efm_core.plan import EpisodePlan

KEY_POLL_SECONDS = 0.05
PATIENCE_SECONDS = 600.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--fleet", type=Path, help="the running fleet's file (default: shipped)")
    parser.add_argument("--episodes", type=int, default=20, help="over all robots")
    parser.add_argument(
        "--mode", choices=("demo", "practice", "evaluation", "calibration"), default="demo",
        help="demo: people or demonstrators drive; the others: the policy does",
    )  # fmt: skip
    parser.add_argument("--data-set", help="folder below the fleet's data_dir (default: the mode)")
    parser.add_argument("--plan", help="name of the list; the same name again goes on with it")
    parser.add_argument("--instruction", help="what to do (default: drawn by robot or manager)")
    parser.add_argument("--seed", type=int, default=0, help="of start scenes and action draws")
    parser.add_argument("--limit", type=int, default=150, help="control ticks per episode")
    parser.add_argument("--policy", default="", help="version (default: the champion)")
    parser.add_argument("--reward", default="", help="version (default: the champion's)")
    parser.add_argument("--temperature", type=float, default=0.5, help="of the policy")
    parser.add_argument(
        "--patience", type=float,
        help=f"s without a saved episode (default: {PATIENCE_SECONDS:g}; with keys: for ever)",
    )  # fmt: skip
    parser.add_argument("--robot", action="append", help="record with this one only; repeatable")
    parser.add_argument(
        "--pause", action="store_true", help="wait for Enter before each take: set the scene"
    )
    parser.add_argument(
        "--drive", metavar="ROBOT", help="drive this robot with the keys of this terminal too"
    )
    parser.add_argument("--no-keys", action="store_true", help="leave the terminal alone")


def run(args: argparse.Namespace) -> int:
    """Publish the plan and wait until it is done; 2 when nothing moves any more."""
    import os

    if "ROS_DOMAIN_ID" not in os.environ:
        raise ValueError(
            "ROS_DOMAIN_ID is not set: `source runs/<name>/ros.env` of the running fleet first"
        )
    from contextlib import ExitStack

    from efm_bringup.installed import share
    from efm_bringup.plan_client import PlanClient
    from efm_bringup.signals import StopSignal
    from efm_bringup.teleop.terminal import Terminal
    from efm_core.fleet import load_fleet

    fleet = load_fleet(args.fleet or share("config/fleet.yaml"))
    robots = [fleet.robot(name).name for name in args.robot or [r.name for r in fleet.robots]]
    plan = _plan(args, robots)
    keys = not args.no_keys and Terminal.usable()
    if not keys and (args.pause or args.drive):
        raise ValueError("--pause and --drive need keys: run it in the foreground of a terminal")
    with ExitStack() as stack:
        client = stack.enter_context(PlanClient(robots))
        stop = stack.enter_context(StopSignal())
        terminal = stack.enter_context(Terminal()) if keys else None
        session = _Session(args, fleet, plan, client, terminal, stop)
        done, discarded = session.record()
    gone = f", {discarded} discarded again" if discarded else ""
    print(f"{done} takes{gone}; saved below {fleet.data_dir / plan.data_set}")
    return 0


class _Session:
    """One run of the command: what happens a few times a second while the robots record."""

    def __init__(
        self,
        args: argparse.Namespace,
        fleet: FleetDescription,
        plan: EpisodePlan,
        client: PlanClient,
        terminal: Terminal | None,
        stop: StopSignal,
    ) -> None:
        self._plan, self._client, self._terminal, self._stop = plan, client, terminal, stop
        self._pause = args.pause
        forever = math.inf if terminal is not None else PATIENCE_SECONDS
        self._patience = forever if args.patience is None else args.patience
        self._poll = KEY_POLL_SECONDS if terminal is not None else 4 * KEY_POLL_SECONDS
        self._desk = self._make_desk(args, fleet)

    def _make_desk(self, args: argparse.Namespace, fleet: FleetDescription) -> Desk:
        from efm_bringup.teleop.desk import Desk
        from efm_bringup.teleop.drivers import KeyboardDriver
        from efm_bringup.teleop.screen import Screen

        driver = None
        if args.drive:
            robot = fleet.robot(args.drive)
            driver = KeyboardDriver(self._client.add_node(robot.name, "teleop"), robot)
        robots = list(self._plan.episodes)
        desk = Desk(self._plan.plan_id, robots, self._client, Screen(), args.pause, driver)
        if args.drive in robots:
            desk.chosen = args.drive
        return desk

    def record(self) -> tuple[int, int]:
        """How many takes the list has now, and how many were discarded in this session."""
        if self._pause:
            self._pause_first()
        try:
            end = self._client.run(self._plan, self._idle, self._patience, self._poll)
            if self._terminal is not None:
                self._last_word(end)
        finally:
            self._desk.release()
            self._client.spin(KEY_POLL_SECONDS)
        self._desk.show(end.done, end.total, keys=False, final=True)
        return end.done, self._desk.count("discarded_total")

    def _pause_first(self) -> None:
        """Nothing begins before the first Enter."""
        for robot in self._plan.episodes:
            self._client.call(robot, "episode/pause_next", lambda good, text: None)
        self._client.spin(KEY_POLL_SECONDS)

    def _idle(self, progress: FleetProgress) -> None:
        self._check()
        self._desk.hold_between()
        self._desk.show(progress.done, progress.total, self._terminal is not None)

    def _check(self) -> None:
        if self._terminal is not None:
            self._desk.keys(self._terminal.read(), time.monotonic())
        if self._stop.received or self._desk.leaving:
            raise KeyboardInterrupt

    def _last_word(self, end: FleetProgress) -> None:
        """The newest take may still be judged or discarded; q, or the verdict, ends it."""
        while not self._desk.finishing or self._desk.asking:
            if self._terminal is None or self._terminal.closed:
                return
            try:
                self._check()
            except KeyboardInterrupt:
                if self._desk.leaving:
                    return
                raise
            self._desk.show(end.done, end.total, keys=True)
            self._client.spin(KEY_POLL_SECONDS)


def _plan(args: argparse.Namespace, robots: list[str]) -> EpisodePlan:
    from efm_bringup.plans import scene_seed, shared_out
    from efm_core.episode import Mode
    from efm_core.plan import EpisodePlan, PlannedEpisode

    evaluation = args.mode == "evaluation"
    episodes = [
        PlannedEpisode(
            index=i,
            instruction=args.instruction,
            scene={"seed": scene_seed(args.seed, args.mode, i)},
            limit=args.limit,
            split="none" if evaluation else "train",
        )
        for i in range(args.episodes)
    ]
    return EpisodePlan(
        plan_id=args.plan or f"{args.mode}-{args.seed}-{args.episodes}",
        mode=Mode(args.mode),
        policy_version=args.policy,
        reward_version=args.reward,
        temperature=args.temperature,
        seed=args.seed,
        end_on_success=not evaluation,
        data_set=args.data_set or args.mode,
        episodes=shared_out(episodes, robots),
    )
