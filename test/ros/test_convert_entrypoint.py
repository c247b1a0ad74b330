"""A node process ends with status 0 on SIGINT and SIGTERM, with 2 on bad configuration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from efm_ros.dds import PROFILE_VARIABLE, dds_environment, profile_path

NODE = """
import sys
from rclpy.node import Node
from efm_core import messages
from efm_core.topics import EPISODE_STATUS
from efm_ros.entrypoint import run
from efm_ros.status import StatusSender

class Talking(Node):
    def __init__(self):
        super().__init__("talking")
        self.status = StatusSender(self, EPISODE_STATUS, "talking", phase="idle")
        self.create_timer(0.001, self.status.send)
        print("started", flush=True)

def broken():
    raise ValueError("fleet.yaml: robots[0].name: 'fleet' is reserved; choose another")

sys.exit(run(broken if "broken" in sys.argv else Talking))
"""


def _environment(domain: int) -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]
    environment = dds_environment(domain=domain)
    environment["PYTHONPATH"] = f"{root}{os.pathsep}{root / 'sim'}"
    return environment


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_publishing_node_with_status_0(domain, number):
    child = subprocess.Popen(
        [sys.executable, "-c", NODE], env=_environment(domain), stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "started\n"
    child.send_signal(number)
    assert child.wait(timeout=10) == 0
    child.stdout.close()


def test_bad_configuration_is_one_line_and_status_2(domain):
    done = subprocess.run(
        [sys.executable, "-c", NODE, "broken"],
        env=_environment(domain),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert "robots[0].name: 'fleet' is reserved" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_user_set_stays():
    environment = dds_environment({PROFILE_VARIABLE: "mine.xml"}, domain=43)
    assert environment[PROFILE_VARIABLE] == "mine.xml"
    assert environment["ROS_DOMAIN_ID"] == "43"
    assert dds_environment({})[PROFILE_VARIABLE] == str(profile_path())
