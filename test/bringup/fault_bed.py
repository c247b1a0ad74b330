"""A test bed of `efm faults` in a ROS domain of its own."""

from __future__ import annotations

from contextlib import contextmanager

from efm_bringup.environment import ros_environment
from efm_bringup.faults.testbed import testbed as bring_up
from efm_bringup.installed import share
from efm_bringup.signals import StopSignal


@contextmanager
def bed_of(folder, clock, shape, monkeypatch):
    """A running fleet of that shape below `folder`."""
    environment, lease = ros_environment()
    for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        if name in environment:
            monkeypatch.setenv(name, environment[name])
    template = share("config/fleet.yaml")
    with StopSignal() as stop, bring_up(
        template, folder, clock, environment, stop, shape
    ) as bed:
        yield bed
    if lease is not None:
        lease.close()
