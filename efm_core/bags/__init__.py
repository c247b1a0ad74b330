"""Episodes on disk: standard rosbag2 directories with an `episode.json` beside the bag."""

from __future__ import annotations

from efm_core.bags.episode_writer import EpisodeWriter
from efm_core.bags.errors import BagError, DiskFullError
from efm_core.bags.mcap_writer import McapBagWriter
from efm_core.bags.reader import (
    EpisodeReader,
    check_episode,
    list_episodes,
    read_bag,
    read_episode,
    read_record,
)
from efm_core.bags.recovery import RecoveredEpisode, recover, recover_all
from efm_core.bags.rosbag_writer import RosbagBagWriter
from efm_core.bags.writer import BagWriter

__all__ = [
    "BagError",
    "BagWriter",
    "DiskFullError",
    "EpisodeReader",
    "EpisodeWriter",
    "McapBagWriter",
    "RecoveredEpisode",
    "RosbagBagWriter",
    "check_episode",
    "list_episodes",
    "read_bag",
    "read_episode",
    "read_record",
    "recover",
    "recover_all",
]
