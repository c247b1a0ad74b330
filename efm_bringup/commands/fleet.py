"""`efm fleet`: start a fleet's processes and keep them running until Ctrl-C."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--fleet", type=Path, help="fleet description (default: the shipped one)")
    parser.add_argument(
        "--run-dir", type=Path, default=Path("runs/fleet"), help="logs, pids.json and ros.env"
    )


def run(args: argparse.Namespace) -> int:
    """Run until SIGINT, SIGTERM or SIGHUP; 0 then, 2 when every process refused its input."""
    from efm_bringup.environment import ros_environment, write_ros_env
    from efm_bringup.installed import share
    from efm_bringup.runner import Runner
    from efm_bringup.signals import StopSignal
    from efm_core.fleet import load_fleet
    from efm_core.fleet_processes import processes

    path = args.fleet or share("config/fleet.yaml")
    fleet = load_fleet(path)
    specs = processes(fleet, args.run_dir)
    environment, lease = ros_environment()
    write_ros_env(args.run_dir / "ros.env", environment)
    print(
        f"fleet {fleet.name}: {len(fleet.robots)} robots, {len(specs)} processes, "
        f"ROS_DOMAIN_ID={environment['ROS_DOMAIN_ID']}; "
        f"`source {args.run_dir / 'ros.env'}` to look on, Ctrl-C ends",
        flush=True,
    )
    with StopSignal() as stop, Runner(specs, args.run_dir, environment) as runner:
        while not stop.wait(0.2):
            runner.poll()
            if len(runner.refused) == len(specs):
                return 2
        print("ending", flush=True)
    if lease is not None:
        lease.close()
    return 0
