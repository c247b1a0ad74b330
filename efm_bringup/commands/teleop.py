"""`efm teleop`: drive one robot of a running fleet, by joystick or by the keys of a terminal."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efm_core.fleet import FleetDescription, RobotDescription

POLL_SECONDS = 0.02
_KEYS = """\
w/s or k/j: forward, back   a/d or h/l: left, right   u/o: up, down   [ ]: turn   .: stop
t: take over   g: give back   n or right: end and save   r or left: redo   space: success
y/f: judge the last take   x: discard it   p: pause   Enter: go on   q or Esc: leave"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--fleet", type=Path, help="the running fleet's file (default: shipped)")
    parser.add_argument("--robot", help="whom to drive (default: the fleet's only one)")
    parser.add_argument("--keyboard", action="store_true", help="by the keys of this terminal")
    parser.add_argument("--joy", default="joy", help="topic of the joystick, below the robot's")
    parser.add_argument("--speed", type=float, help="m/s (default: joystick 0.2, keyboard 0.1)")


def run(args: argparse.Namespace) -> int:
    """Drive until q, Esc or a signal."""
    import os

    if "ROS_DOMAIN_ID" not in os.environ:
        raise ValueError(
            "ROS_DOMAIN_ID is not set: `source runs/<name>/ros.env` of the running fleet first"
        )
    from efm_bringup.installed import share
    from efm_core.fleet import load_fleet

    fleet = load_fleet(args.fleet or share("config/fleet.yaml"))
    if args.robot is None and len(fleet.robots) > 1:
        names = ", ".join(robot.name for robot in fleet.robots)
        raise ValueError(f"--robot is missing: say which of {names}")
    robot = fleet.robot(args.robot or fleet.robots[0].name)
    if args.speed is not None and not 0.0 < args.speed < 10.0:
        raise ValueError(f"--speed {args.speed}: give m/s above 0")
    return _by_keys(robot, args.speed) if args.keyboard else _by_joystick(fleet, robot, args)


def _by_joystick(fleet: FleetDescription, robot: RobotDescription, args: argparse.Namespace) -> int:
    """The node `efm_teleop` in this process."""
    import json

    from efm_bringup.teleop.node import TeleopNode
    from efm_core.topics import remap_rules
    from efm_ros.entrypoint import run as spin

    values = ["efm_teleop", "--ros-args", "-r", f"__ns:=/{robot.name}", "-r", f"joy:={args.joy}"]
    values += remap_rules(robot.remaps)
    values += ["-p", f"fleet:={json.dumps(str(fleet.path))}"]
    if args.speed is not None:
        values += ["-p", f"speed:={args.speed}"]
    return spin(TeleopNode, values)


def _by_keys(robot: RobotDescription, speed: float | None) -> int:
    import sys

    from efm_bringup.plan_client import PlanClient
    from efm_bringup.signals import StopSignal
    from efm_bringup.teleop.desk import Desk
    from efm_bringup.teleop.drivers import KeyboardDriver
    from efm_bringup.teleop.keyboard import SPEED
    from efm_bringup.teleop.screen import Screen, robot_line
    from efm_bringup.teleop.terminal import Terminal

    if not Terminal.usable():
        raise ValueError("--keyboard needs a terminal: run it in the foreground, or `ssh -t`")
    screen = Screen()
    with PlanClient([robot.name]) as client, StopSignal() as stop, Terminal() as terminal:
        driver = KeyboardDriver(client.add_node(robot.name, "teleop"), robot, speed or SPEED)
        desk = Desk("", [robot.name], client, screen, driver=driver, owner=False)
        sys.stderr.write(f"{_KEYS}\n")
        while not (desk.leaving or terminal.closed):
            if stop.received:
                raise KeyboardInterrupt
            desk.keys(terminal.read(), time.monotonic())
            screen.show([robot_line(robot.name, client.status.get(robot.name, {}))])
            client.spin(POLL_SECONDS)
    return 0
