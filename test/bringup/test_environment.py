"""Domain, discovery and ros.env."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from efm_bringup import environment
from efm_bringup.environment import DOMAINS, DomainLease, ros_environment, write_ros_env
from efm_ros.dds import dds_environment


def test_two_runs_get_different_domains() -> None:
    first, second = DomainLease(), DomainLease()
    try:
        assert first.domain in DOMAINS
        assert second.domain in DOMAINS
        assert first.domain != second.domain
    finally:
        first.close()
        second.close()


def test_a_domain_is_free_again_after_close() -> None:
    first = DomainLease()
    first.close()
    again = DomainLease()
    assert again.domain == first.domain
    again.close()


def test_a_domain_that_other_ros_programs_use_is_skipped() -> None:
    lease = DomainLease()
    lease.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        # DDS: the first participant of domain d listens on 7400 + 250 d + 10.
        other.bind(("", 7410 + 250 * lease.domain))
        next_lease = DomainLease()
        assert next_lease.domain != lease.domain
        next_lease.close()


def test_no_free_domain_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_unused", lambda domain: False)
    with pytest.raises(OSError, match="ROS_DOMAIN_ID"):
        DomainLease()


def test_what_the_user_set_stays() -> None:
    base = {"ROS_DOMAIN_ID": "7", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "OMP_NUM_THREADS": "4"}
    made, lease = ros_environment(base)
    assert lease is None
    assert {name: made[name] for name in base} == base
    assert Path(made["FASTRTPS_DEFAULT_PROFILES_FILE"]).is_file()


def test_discovery_stays_on_this_machine_by_default() -> None:
    made, _ = ros_environment({"ROS_DOMAIN_ID": "7"})
    assert made["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert "ROS_LOCALHOST_ONLY" not in made
    humble, _ = ros_environment({"ROS_DOMAIN_ID": "7", "ROS_DISTRO": "humble"})
    assert humble["ROS_LOCALHOST_ONLY"] == "1"
    launched = dds_environment({"ROS_DISTRO": "humble"})  # what the launch files set
    assert launched["ROS_LOCALHOST_ONLY"] == "1"
    meant = {"ROS_DISTRO": "humble", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
    assert "ROS_LOCALHOST_ONLY" not in dds_environment(meant)


def test_ros_env_can_be_sourced(tmp_path: Path) -> None:
    path = tmp_path / "run one" / "ros.env"
    profile = "/a folder/profile.xml"
    write_ros_env(path, {"ROS_DOMAIN_ID": "44", "FASTRTPS_DEFAULT_PROFILES_FILE": profile})
    script = '. "$0" && env'
    shown = subprocess.run(["sh", "-c", script, path], capture_output=True, text=True, check=True)
    assert "ROS_DOMAIN_ID=44" in shown.stdout.splitlines()
    assert f"FASTRTPS_DEFAULT_PROFILES_FILE={profile}" in shown.stdout.splitlines()
