"""One run of the learning benchmark: demonstrations, fine-tuning, then practice or more of them.

All in one process with the trainer's own parts. After every measured budget everything that the
run needs to go on is on disk.
"""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from efm_bringup.learning.protocol import Arm, Protocol
from efm_bringup.learning.run_state import (
    POLICY,
    REWARD,
    Learner,
    load_learner,
    new_learner,
    practice_settings,
    save_learner,
)
from efm_bringup.plans import scene_seed
from efm_bringup.simulated_robots import ScriptedPerson
from efm_core.detector import DetectorSettings
from efm_core.episode import Mode
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_core.steps_to_go import StepsToGoBins
from efm_model.config import CameraSpec
from efm_model.inference import Engine
from efm_model.model import EmbodiedModel
from efm_model.weights import GROUNDING, pretrained_model
from efm_trainer.calibrate import CalibrationConfig, TooFewLabelsError, calibrate, trace_of
from efm_trainer.episode_data import EpisodeData
from efm_trainer.episode_run import FinishedEpisode
from efm_trainer.evaluate import evaluate, evaluation_plan
from efm_trainer.features import FeatureCache
from efm_trainer.lasting import LastingScenes
from efm_trainer.practice import PracticeSettings
from efm_trainer.rollout import InProcessFleet
from efm_trainer.sft import collect_samples, fine_tune
from efm_trainer.sft_config import SftConfig
from efm_trainer.sft_run import horizon

Told = Callable[[str], None]
START_SEED = 77_000_000
"""Evaluation starts of every run: nothing else draws from this seed."""


def frozen_hash(protocol: Protocol) -> str:
    """Changes with the protocol, with any default of the trainer and with the shipped trunk.

    What concerns resets alone counts in protocols that practise without them; what ends
    practice never, for success is measured at fixed budgets.
    """
    arms = ["default", "reinforce"]
    apart = {"reset_free", "misses", "stop", "stopping", "warning"}
    if "reset_free" in protocol.arms:
        arms, apart = [*arms, "reset_free"], {"stop", "stopping", "warning"}
    practice = [
        practice_settings(
            arm, 0, protocol.per_round, protocol.limit, protocol.practice_temperature
        ).model_dump_json(exclude=apart)
        for arm in arms
    ]
    others = SftConfig(steps=protocol.sft_steps), CalibrationConfig(), DetectorSettings()
    trunk = (GROUNDING / "manifest.json").read_text(encoding="utf-8")
    return protocol.hash("|".join([*practice, *(o.model_dump_json() for o in others), trunk]))


class LearningRun:
    """Carries one (arm, size, seed) from budget to budget."""

    def __init__(
        self, protocol: Protocol, arm: Arm, size: int, seed: int, fleet: InProcessFleet,
        folder: Path, told: Told,
    ) -> None:  # fmt: skip
        self.protocol, self.arm, self.size, self.seed = protocol, arm, size, seed
        self.hash = frozen_hash(protocol)
        self._fleet, self._told = fleet, told
        self.state_file = folder / f"{arm}-{size}-{seed}.safetensors"

    def advance(self, result: Path) -> bool:
        """Do what comes next, up to the next measured budget; False when nothing was left.

        result: the run's JSON file, replaced when there is something new.
        """
        if not result.exists():
            self._write(result, self._start())
            return True
        figures = json.loads(result.read_text())
        if figures["protocol"] != self.hash:
            raise ValueError(
                f"{result} was measured under protocol {figures['protocol']}, this one is "
                f"{self.hash}; choose another folder with --out"
            )
        left = [
            b for b in self.protocol.budgets_of(self.arm) if str(b) not in figures["budgets"]
        ]
        if not left:
            self.state_file.unlink(missing_ok=True)
            return False
        began = time.monotonic()
        if self.arm == "cloning":
            learner, resets = self._fine_tuned(self.size + left[0]), {}
        else:
            learner = load_learner(self.state_file, self._model, self._settings())
            resets = self._practise(learner, left[0])
            save_learner(self.state_file, learner)
        figures["budgets"][str(left[0])] = self._measured(learner) | resets
        figures["seconds"] += time.monotonic() - began
        self._write(result, figures)
        return True

    def _start(self) -> dict[str, Any]:
        began = time.monotonic()
        learner = self._fine_tuned(self.size)
        figures: dict[str, Any] = {
            "protocol": self.hash, "arm": self.arm, "size": self.size,
            "seed": self.seed, **learner.facts, "sft": self._measured(learner), "budgets": {},
        }  # fmt: skip
        if self.arm != "cloning":
            save_learner(self.state_file, learner)
        figures["seconds"] = time.monotonic() - began
        return figures

    def _write(self, result: Path, figures: dict[str, Any]) -> None:
        result.parent.mkdir(parents=True, exist_ok=True)
        partial = result.with_suffix(".partial")
        partial.write_text(json.dumps(figures, indent=1) + "\n")
        partial.replace(result)

    # ---- the stages ---------------------------------------------------------------------------

    def _settings(self) -> PracticeSettings:
        p = self.protocol
        return practice_settings(
            self.arm, self.seed, p.per_round, p.limit, p.practice_temperature
        )

    def _model(self, bins: int) -> EmbodiedModel:
        return pretrained_model(
            self._fleet.space, (CameraSpec(),), StepsToGoBins(count=bins), seed=self.seed
        )

    def _fine_tuned(self, demonstrations: int) -> Learner:
        protocol = self.protocol
        self._told(f"{demonstrations} demonstrations")
        data = self._demonstrations(demonstrations)
        self._told("fine-tuning")
        config = SftConfig(seed=self.seed, steps=protocol.sft_steps)
        model = self._model(horizon(data) + 1)
        cache = FeatureCache(model, backend="auto")
        found = fine_tune(model, *collect_samples(cache, data, config), config)
        policy, reward = copy.deepcopy(model), copy.deepcopy(model)
        policy.load_state_dict(found.heads["policy"], strict=False)
        reward.load_state_dict(found.heads["reward"], strict=False)
        learner = new_learner(policy.eval(), reward.eval(), self._settings())
        self._told("calibration")
        self._calibrate(learner)
        steps = sum(e.record.ticks for e in data)
        learner.facts |= {"demonstrations": len(data), "demonstrated_ticks": steps}
        return learner

    def _demonstrations(self, count: int) -> list[EpisodeData]:
        episodes = tuple(
            PlannedEpisode(
                index=i, scene={"seed": scene_seed(self.seed, "demo", i)},
                limit=self.protocol.demonstration_limit,
                split="validation" if i % 6 == 5 else "train",
            )
            for i in range(count + count // 5)
        )  # fmt: skip
        plan = EpisodePlan(
            plan_id="demonstrations", mode=Mode.DEMO, seed=self.seed, data_set="demo",
            episodes={"robot1": episodes},
        )  # fmt: skip
        done = self._fleet.demonstrate(plan, lambda p: ScriptedPerson(int(p.scene["seed"])))
        return [episode.data for episode in done]

    def _calibrate(self, learner: Learner) -> None:
        episodes = tuple(
            PlannedEpisode(
                index=i, scene={"seed": scene_seed(self.seed, "calibration", i)},
                limit=self.protocol.limit, split="none",
            )
            for i in range(self.protocol.calibration)
        )  # fmt: skip
        plan = EpisodePlan(
            plan_id="calibration", mode=Mode.CALIBRATION, seed=self.seed, temperature=0.8,
            end_on_success=False, data_set="calibration", episodes={"robot1": episodes},
        )  # fmt: skip
        done = self._fleet.practise(plan, self._engine(learner), oracle=True)
        traces = [trace_of(e.data, e.data.steps_to_go) for e in done]
        try:
            found = calibrate([t for t in traces if t is not None], CalibrationConfig())
        except TooFewLabelsError as error:
            learner.facts["calibration"] = str(error)
            return
        learner.detector = found.settings
        learner.facts["calibration"] = found.settings.model_dump()
        learner.facts["labels"] = len(done)

    def _practise(self, learner: Learner, budget: int) -> dict[str, Any]:
        """Up to `budget` episodes; without resets, those that were needed since the last one."""
        protocol, practice = self.protocol, learner.practice
        practice.settings = practice.settings.model_copy(
            update={"rounds": budget // protocol.per_round}
        )

        def collect(plan: EpisodePlan) -> list[EpisodeData]:
            self._told(f"practice, round {plan.round + 1} of {budget // protocol.per_round}")
            engine = self._engine(learner, practice.version)
            done = self._fleet.practise(plan, engine)
            reasons.extend(e.record.reset_reason for e in done)
            return [episode.data for episode in done]

        reasons: list[str] = []
        practice.collect = collect
        self._fleet.scenes = LastingScenes(learner.scenes)
        while practice.round < practice.settings.rounds:
            practice.one_round()
        learner.scenes = self._fleet.scenes.saved()
        if not practice.settings.reset_free:
            return {}
        needed = Counter(reason for reason in reasons if reason)
        return {"practised": len(reasons), "resets": dict(needed)}

    def _engine(self, learner: Learner, version: str = POLICY) -> Engine:
        return Engine(learner.policy, learner.reward, learner.detector, version, REWARD, "auto")

    def _measured(self, learner: Learner) -> dict[str, Any]:
        """Success on the common starts, per start as a string of 0 and 1, and the detector's."""
        self._told("evaluation")
        seeds = [scene_seed(START_SEED, "evaluation", i) for i in range(self.protocol.starts)]
        plan = evaluation_plan(
            "evaluation", seeds, POLICY, REWARD, self.protocol.limit, self.protocol.temperature
        )
        ticks: list[int] = []

        def finished(episode: FinishedEpisode) -> None:
            if episode.truth.any():
                ticks.append(int(np.argmax(episode.truth)))

        found = evaluate(self._fleet, self._engine(learner), plan, on_finished=finished)
        return {
            "success": "".join(str(int(r.success)) for r in found.results),
            "autonomous": "".join(str(int(r.autonomous)) for r in found.results),
            "ticks": float(np.mean(ticks)) if ticks else None,
            "detector": found.detector(),
        }

