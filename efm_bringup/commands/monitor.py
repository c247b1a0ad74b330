"""`efm monitor`: write the viewers' configurations for a fleet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in (
        ("rviz", "configuration for RViz 2: rviz2 -d FILE"),
        ("foxglove", "layout for Foxglove or Lichtblick: import it from the file"),
    ):
        action = actions.add_parser(
            name, help=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        action.add_argument("--fleet", type=Path, help="fleet description (default: the shipped)")
        action.add_argument("--out", type=Path, help="file to write (default: standard output)")
        action.add_argument(
            "--robots", type=int, help="draw this many robots like the fleet's first instead"
        )


def run(args: argparse.Namespace) -> int:
    """Write the file and say on standard error where each robot is drawn."""
    from efm_bringup.installed import share
    from efm_bringup.monitor.foxglove import foxglove_text
    from efm_bringup.monitor.layout import places
    from efm_bringup.monitor.rviz import rviz_text
    from efm_bringup.monitor.viewing import of_size
    from efm_core.fleet import load_fleet

    fleet = load_fleet(args.fleet or share("config/fleet.yaml"))
    if args.robots is not None:
        fleet = of_size(fleet, args.robots)
    text = rviz_text(fleet) if args.action == "rviz" else foxglove_text(fleet)
    if args.out is None:
        print(text, end="")
    else:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    for robot, place in places(fleet).items():
        x, y, z = place.offset.tolist()
        print(f"{robot}: base at x {x:g}, y {y:g}, z {z:g} m of frame '{place.frame}'",
              file=sys.stderr)  # fmt: skip
    return 0
