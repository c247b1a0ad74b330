"""An in-process episode as a bag: the messages that the nodes would have published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from efm_core import messages, topics
from efm_core.actions import ActionSpace
from efm_core.bags import EpisodeWriter
from efm_core.episode import EpisodeRecord
from efm_core.topics import Topic
from efm_trainer.episode_run import FinishedEpisode, Row

COMMAND_GROUP = "arm"
_Message = tuple[Topic, int, Any]


def record_episode(data_dir: Path, episode: FinishedEpisode) -> Path:
    """Write one finished episode below `data_dir`; its directory.

    Errors of the writer (disk full, a name that exists) pass through.
    """
    record = episode.record
    space = ActionSpace.model_validate(record.action_space)
    published = list(_messages(record, space, episode.rows))
    offered = {
        _absolute(record, topic): (topic.type, topic.qos)
        for topic in dict.fromkeys(topic for topic, _, _ in published)
    }
    writer = EpisodeWriter(data_dir, record, offered)
    try:
        for topic, stamp, message in published:
            data = messages.serialize(message, topic.type)
            writer.write(_absolute(record, topic), data, stamp)
        return writer.finish(record)
    except BaseException:
        writer.discard()
        raise


def _absolute(record: EpisodeRecord, topic: Topic) -> str:
    return f"/{record.robot}/{topic.name}"


def _messages(record: EpisodeRecord, space: ActionSpace, rows: list[Row]) -> Iterator[_Message]:
    start = record.start_ns
    yield topics.INSTRUCTION, start, messages.text(record.instruction)
    yield topics.RESET_STATUS, start, _reset_status(record)
    yield topics.EPISODE_STATUS, start, _episode_status(record, "running", 0)
    for tick, row in enumerate(rows):
        yield from _seen(row)
        yield from _decided(record, space, row)
        yield from _executed(record, space, row, tick)
    end = rows[-1].observation.stamp_ns
    yield topics.EPISODE_STATUS, end, _episode_status(record, "saving", record.ticks)


def _seen(row: Row) -> Iterator[_Message]:
    """What the robot publishes at one tick."""
    observation, stamp = row.observation, row.observation.stamp_ns
    for name, picture in observation.images.items():
        yield topics.camera(name), stamp, messages.image(stamp, name, picture)
    yield topics.JOINT_STATES, stamp, messages.named_scalars(stamp, "base", observation.state)
    position = (observation.state.get("ee_x", 0.0), observation.state.get("ee_y", 0.0), 0.0)
    yield topics.EE_POSE, stamp, messages.pose(stamp, "base", position)
    yield topics.TRUTH_STATE, stamp, messages.named_scalars(stamp, "base", row.truth)
    yield topics.TRUTH_SUCCESS, stamp, messages.boolean(row.truth["success"] > 0.5)


def _decided(record: EpisodeRecord, space: ActionSpace, row: Row) -> Iterator[_Message]:
    """What policy and reward publish at one tick."""
    stamp = row.observation.stamp_ns
    if row.decision is not None:
        values = space.decode(row.decision.bins)
        chunk = messages.action_chunk(stamp, record.episode_id, space, values)
        yield topics.ACTION_CHUNK, stamp, chunk
        yield topics.DECISION, stamp, messages.decision(
            stamp, record.policy_version, row.decision, space, 0.0, False, {}
        )  # fmt: skip
    if row.steps is not None:
        yield topics.REWARD_STATE, stamp, messages.reward_state(
            stamp, record.reward_version, row.steps.mean, row.steps.std, row.reward, row.success
        )  # fmt: skip
        yield topics.REWARD_STEPS_TO_GO, stamp, messages.float32(row.steps.mean)
        yield topics.REWARD_REWARD, stamp, messages.float32(row.reward)
        yield topics.REWARD_SUCCESS, stamp, messages.boolean(row.success)


def _executed(
    record: EpisodeRecord, space: ActionSpace, row: Row, tick: int
) -> Iterator[_Message]:
    """What operator, guard and episode manager publish at one tick."""
    stamp, report = row.observation.stamp_ns, row.report
    if row.command is not None:
        yield topics.TELEOP_TWIST, stamp, messages.twist_from_action(stamp, space, row.command)
    if report is not None:
        command = messages.twist_from_action(stamp, space, report.velocity)
        yield topics.twist_command(COMMAND_GROUP), stamp, command
        yield topics.GUARD_STATE, stamp, messages.guard_state(
            stamp, report.executed, space, int(report.source), report.modified, int(report.fault),
            report.chunk_age, report.point_index, record.episode_id,
        )  # fmt: skip
    yield topics.EPISODE_TICK, stamp, messages.tick(stamp, tick, record.episode_id)


def _reset_status(record: EpisodeRecord) -> Any:
    values = {
        "state": "done",
        "stamp_ns": str(record.start_ns),
        "scene_hash": record.scene_hash,
        "scene_seed": "" if record.scene_seed is None else str(record.scene_seed),
        "instruction": record.instruction,
        "reason": record.reset_reason,
    }
    return messages.status(record.start_ns, f"{record.robot}/reset", values)


def _episode_status(record: EpisodeRecord, phase: str, tick: int) -> Any:
    ended = phase != "running"
    values = {
        "phase": phase,
        "episode_id": record.episode_id,
        "mode": record.mode.value,
        "clock": record.clock,
        "start_ns": str(record.start_ns),
        "tick": str(tick),
        "outcome": record.outcome.value if ended else "",
        "termination_reason": record.termination_reason if ended else "",
        "policy_version": record.policy_version,
        "reward_version": record.reward_version,
        "plan": record.plan,
    }
    stamp = record.end_ns if ended else record.start_ns
    return messages.status(stamp, f"{record.robot}/episode", values)
