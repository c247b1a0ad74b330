"""One tick of the reward model, from a picture's bytes to those of reward/state."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from efm_bringup.bench import material
from efm_bringup.bench.result import Finding, Settings, timed
from efm_bringup.bench.timing import Shown, Work, alternate, spread
from efm_core import messages
from efm_core.observation import Observation
from efm_core.topics import REWARD_STATE, camera
from efm_model.inference import Engine
from efm_reward_node.reward_logic import RewardLogic

MEASURED = (
    "What the reward node does for one robot and one picture, without DDS: the image message's "
    "bytes are read, the reward model alone (no policy) gives steps-to-go, `RewardLogic` gives the "
    "reward and the detector's word, and the bytes of reward/state are made. One thread. Baseline: "
    "the same tick with the trunk on torch; `model alone` is `Engine.steps_to_go` by itself."
)


def measure_reward(
    rounds: int = 500, episode: int = 40, seed: int = 0, shown: Shown | None = None
) -> Finding:
    """Time `rounds` ticks on both back ends, in turn, over episodes of `episode` pictures."""
    with tempfile.TemporaryDirectory(prefix="efm-bench-") as name:
        fleet = material.bench_fleet(Path(name))
        fast = material.engine(fleet, seed, "auto", policy=False)
        plain = material.engine(fleet, seed, "torch", policy=False)
        seen = material.observations(fleet, episode, seed)
    works: dict[str, Work] = {
        "fast": _Ticks(fast, seen), "torch": _Ticks(plain, seen),
        "model": lambda: fast.steps_to_go(seen[:1]),
        "model torch": lambda: plain.steps_to_go(seen[:1]),
    }  # fmt: skip
    taken = {key: spread(s) for key, s in alternate(works, rounds, shown=shown).items()}
    figures = (
        timed("reward tick", "ms", taken["fast"], 1e3, "torch", taken["torch"]),
        timed("model alone", "ms", taken["model"], 1e3, "torch", taken["model torch"]),
    )
    settings: Settings = {
        "backend": fast.backend, "rounds": rounds, "episode_ticks": episode, "seed": seed
    }  # fmt: skip
    return Finding(measured=MEASURED, settings=settings, figures=figures)


class _Ticks:
    """One call: the next tick of an episode that begins anew when its pictures are used up."""

    def __init__(self, brain: Engine, seen: Sequence[Observation]) -> None:
        self._brain, self._logic = brain, RewardLogic()
        kind = camera("front").type
        self._pictures = [
            messages.serialize(messages.image(o.stamp_ns, "front", o.images["front"]), kind)
            for o in seen
        ]
        self._kind, self._instructions = kind, [o.instruction for o in seen]
        self._tick = 0

    def __call__(self) -> bytes:
        tick, count = self._tick % len(self._pictures), self._tick // len(self._pictures)
        if tick == 0:
            self._logic.begin(f"episode-{count}")
        self._tick += 1
        message = messages.deserialize(self._pictures[tick], self._kind)
        stamp_ns = messages.stamp_of(message)
        seen = Observation(
            {"front": messages.read_image(message)}, self._instructions[tick], stamp_ns, tick
        )
        (word,) = self._brain.steps_to_go([seen])
        answer = self._logic.take(stamp_ns, tick, word, self._brain.detector)
        state = messages.reward_state(
            stamp_ns, material.REWARD, answer.mean, answer.std, answer.reward, answer.success
        )
        return messages.serialize(state, REWARD_STATE.type)
