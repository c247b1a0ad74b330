"""`efm models`: list, promote, rollback."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of versions")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="versions, what they came from, which aliases point at them")
    promote = actions.add_parser("promote", help="verify a version and put it in force")
    promote.add_argument("version")
    promote.add_argument("--alias", default="champion", choices=("champion", "candidate"))
    actions.add_parser("rollback", help="put the previous champion in force again")


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    from efm_core.registry import ALIASES, Registry

    if args.action == "list" and not args.models.is_dir():
        raise FileNotFoundError(f"{args.models}: no such folder; name it with --models")
    registry = Registry(args.models)
    if args.action == "promote":
        registry.promote(args.version, args.alias)
        print(f"{args.alias} is {args.version}")
        return 0
    if args.action == "rollback":
        registry.rollback()
        print(f"champion is {registry.alias('champion')}")
        return 0
    aliases = {name: registry.alias(name) for name in ALIASES}
    for version in registry.versions():
        names = [name for name, target in aliases.items() if target == version]
        print(_line(registry.path(version), version, names))
    return 0


def _line(path: Path, version: str, aliases: list[str]) -> str:
    from efm_core.checkpoint import verify_checkpoint

    mark = f"  <- {', '.join(aliases)}" if aliases else ""
    try:
        manifest = verify_checkpoint(path)
    except (ValueError, OSError) as error:
        return f"{version}  DAMAGED: {error}{mark}"
    parent = manifest.parent or "none"
    return f"{version}  {manifest.role}, {manifest.algorithm}, from {parent}{mark}"
