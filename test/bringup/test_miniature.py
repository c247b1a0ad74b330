"""The whole demo, small, over real DDS, with a stranger looking on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")

from bringup.miniature import ROBOTS, command, left_running, own_domain  # noqa: E402
from mcap.reader import make_reader  # noqa: E402
from rosbags.highlevel import AnyReader  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402

from efm_core import topics  # noqa: E402
from efm_core.bags import EpisodeReader  # noqa: E402


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """The folder of a complete miniature; `heard.json` is the stranger's."""
    folder = tmp_path_factory.mktemp("miniature")
    watching = [sys.executable, str(Path(__file__).with_name("onlooker.py"))]
    with own_domain() as environment:
        stranger = subprocess.Popen([*watching, str(folder / "heard.json")], env=environment)
        try:
            found = subprocess.run(
                command(folder / "run"), env=environment, capture_output=True, text=True,
                timeout=400,
            )  # fmt: skip
        finally:
            stranger.send_signal(signal.SIGTERM)
            stranger.wait(20)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    (folder / "said.txt").write_text(found.stdout)
    return folder


def test_a_stranger_hears_every_topic_of_every_robot(demo):
    heard = json.loads((demo / "heard.json").read_text())
    wanted = [*topics.ROBOT_TOPICS, topics.camera("front"), topics.twist_command("arm")]
    for robot in ROBOTS:
        for topic in wanted:
            found = heard.get(f"/{robot}/{topic.name}")
            assert found, f"/{robot}/{topic.name} was never there"
            assert found["type"] == topic.type
            assert found["heard"] > 0, f"/{robot}/{topic.name} was silent"
    fleet = topics.FLEET
    for name in (fleet.STOPPED, fleet.PLAN, fleet.STATUS, fleet.TRAINER_STATUS):
        assert heard[name]["heard"] > 0, f"{name} was silent"


def test_every_episode_opens_in_other_readers(demo):
    episodes = [file.parent for file in (demo / "run" / "data").glob("*/*/episode.json")]
    assert len(episodes) == 8 + 4 + 10 + 2 * 10 + 4
    assert not list((demo / "run" / "data").glob("*/*.partial"))
    for path in episodes:
        mine = [message[0] for message in EpisodeReader(path).messages()]
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
            theirs = [connection.topic for connection, _, _ in reader.messages()]
        (bag,) = path.glob("*.mcap")
        with bag.open("rb") as file:
            others = [channel.topic for _, channel, _ in make_reader(file).iter_messages()]
        assert sorted(mine) == sorted(theirs) == sorted(others)
        assert len(mine) > 12


def test_decisions_over_dds_repeat_in_one_process(demo):
    report = json.loads((demo / "run" / "report.json").read_text())
    said = (demo / "said.txt").read_text()
    assert report["repetition"] == {"episodes": 4, "agreeing": 4, "same_decisions": 4}, said[-2000:]
    assert report["episodes_by_transport"] == {"dds": 8 + 10 + 4, "in_process": 4 + 2 * 10}
    assert (report["human_interventions"], report["practice_episodes"]) == (0, 10)
    assert (demo / "run" / "report.html").stat().st_size > 10_000


def test_nothing_is_left_running(demo):
    assert json.loads((demo / "run" / "pids.json").read_text()) == {}
    assert left_running(demo) == []
