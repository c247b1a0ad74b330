"""Rounds on the recorder alone: SIGKILL while it writes, then count what is left."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from efm_bringup.faults.causes import LOST_TAIL_SECONDS
from efm_bringup.faults.fleet_rounds import Findings
from efm_bringup.faults.results import Round, Trial
from efm_bringup.signals import StopSignal
from efm_core import messages, topics
from efm_core.bags import EpisodeWriter, check_episode, read_record, recover_all
from efm_core.episode import EpisodeRecord, Mode, Outcome, new_episode_id

EPISODE_TICKS = 40
TICK_SECONDS = 0.01
LATEST_SECONDS = 1.5
_IMAGE, _JOINTS = topics.camera("front"), topics.JOINT_STATES
_TABLE = {f"/robot1/{t.name}": (t.type, t.qos) for t in (_IMAGE, _JOINTS)}


def writer_round(folder: Path, trial: Trial, number: int, seed: int, stop: StopSignal) -> Round:
    """Let a process write episodes, kill it at a random moment, recover, compare.

    Raises KeyboardInterrupt after a signal.
    """
    rng = random.Random(f"{seed}/{trial.name}/{number}")
    data = folder / "writer"
    shutil.rmtree(data, ignore_errors=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=write_for_ever, args=(data, theirs), daemon=True)
    process.start()
    theirs.close()
    said: list[tuple[str, str, int]] = [ours.recv()]  # it has opened its first episode
    end = time.monotonic() + rng.uniform(0.0, LATEST_SECONDS)
    while (left := end - time.monotonic()) > 0 and not stop.received:
        if ours.poll(left):
            said.append(ours.recv())
    process.kill()
    process.join()
    said += _drain(ours)
    process.close()
    if stop.received:
        raise KeyboardInterrupt
    return judge(data, said, trial, number, seed)


def write_for_ever(data: Path, out: Connection) -> None:
    """Write episodes; tell ("open" | "sent" | "saved", episode id, log time in ns) of each step."""
    picture = messages.image(0, "front", _noise())
    image = messages.serialize(picture, _IMAGE.type)
    while True:
        record = _record()
        writer = EpisodeWriter(data, record, _TABLE, reserve_bytes=0)
        out.send(("open", record.episode_id, time.time_ns()))
        for k in range(EPISODE_TICKS):
            now = time.time_ns()
            joints = messages.named_scalars(now, "base", {"j": float(k)})
            writer.write(f"/robot1/{_JOINTS.name}", messages.serialize(joints, _JOINTS.type), now)
            writer.write(f"/robot1/{_IMAGE.name}", image, now)
            out.send(("sent", record.episode_id, now))
            time.sleep(TICK_SECONDS)
        writer.finish(record.model_copy(update={"end_ns": now, "outcome": Outcome.SUCCESS}))
        out.send(("saved", record.episode_id, now))


def judge(
    data: Path, said: list[tuple[str, str, int]], trial: Trial, number: int, seed: int
) -> Round:
    """Recover what is below `data` and compare it with what the killed process said."""
    found = Findings()
    recovered = recover_all(data)
    found.expect(recover_all(data) == [], "recovery left a partial episode")
    acknowledged = [episode for what, episode, _ in said if what == "saved"]
    found.figures["acknowledged"] = len(acknowledged)
    for episode in acknowledged:
        path = data / episode
        found.expect(path.is_dir() and not check_episode(path), "an acknowledged episode is lost")
    opened = {e: ns for what, e, ns in said if what == "open"}
    sent = {e: ns for what, e, ns in said if what in ("open", "sent")}
    for result in recovered:
        episode = result.partial.name.removesuffix(".partial")
        kept_ns, found.note = opened.get(episode, 0), "nothing on disk yet"
        if result.path is not None:
            record = read_record(result.path)
            found.problems += [f"damaged episode: {text}" for text in check_episode(result.path)]
            marks = (Outcome.INTERRUPTED, Outcome.SUCCESS)  # the latter: killed before the rename
            found.expect(record.recovered and record.outcome in marks, "not marked")
            kept_ns, found.note = record.end_ns, record.outcome.value
        tail = max(0, sent.get(episode, 0) - kept_ns) / 1e9
        found.figures["lost_tail_s"] = tail
        lost = [ns for what, e, ns in said if (what, e) == ("sent", episode) and ns > kept_ns]
        found.figures["lost_ticks"] = len(lost)
        found.expect(tail <= LOST_TAIL_SECONDS, f"lost more than {LOST_TAIL_SECONDS:g} s")
    return Round(trial, number, seed, found.figures, found.problems, found.note or "between")


def _drain(connection: Connection) -> list[Any]:
    """What was said before the end; a last, cut message is dropped."""
    rest = []
    try:
        while connection.poll():
            rest.append(connection.recv())
    except (EOFError, OSError):
        connection.close()
    return rest


def _record() -> EpisodeRecord:
    return EpisodeRecord(
        episode_id=new_episode_id(), mode=Mode.PRACTICE, robot="robot1", instruction="push",
        transport="in_process", clock="lockstep", rate=10.0, start_ns=time.time_ns(),
    )  # fmt: skip


def _noise() -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
