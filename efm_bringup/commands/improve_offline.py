"""`efm train improve-offline`: its options, and what it starts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efm_core.fleet import FleetDescription


def configure(actions: Any) -> argparse.ArgumentParser:
    """Add it to the actions of `efm train`; its parser, without what all of them have."""
    parser: argparse.ArgumentParser = actions.add_parser(
        "improve-offline", help="improve on recorded practice bags alone"
    )
    parser.add_argument("--policy", required=True, help="version or alias to start from")
    parser.add_argument("--reward", required=True, help="the reward version of the bags")
    parser.add_argument(
        "--method", choices=("importance", "tapered", "weighted"),
        help="docs/training.md (default: the trainer's)",
    )  # fmt: skip
    parser.add_argument("--passes", type=int, help="over all bags (default: the trainer's)")
    return parser


def run(
    args: argparse.Namespace, fleet: FleetDescription, tell: Any, cancelled: Any
) -> dict[str, Any]:
    """Improve and publish; the figures of its result.json."""
    from efm_bringup.workplace import workplace
    from efm_core.registry import Registry
    from efm_trainer.offline import OfflineSettings
    from efm_trainer.offline_run import OfflineJob, improve_offline_job

    given = {k: v for k, v in (("method", args.method), ("passes", args.passes)) if v is not None}
    job = OfflineJob(
        policy=Registry(fleet.models_dir).resolve(args.policy), reward=args.reward,
        data_set=args.data_set, name=args.name, seed=args.seed,
        settings=OfflineSettings.model_validate(given),
    )  # fmt: skip
    figures = improve_offline_job(workplace(fleet, args.run_dir), job, tell, cancelled)
    print(
        f"  {figures['policy']} from {figures['episodes']} episodes, "
        f"{figures['decisions_used']:.0f} decisions; measure it with `efm evaluate`"
    )
    return figures
