"""A robot, a person and a model small enough for tests: a dot on a 16 x 16 picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from efm_core.actions import ActionDim, ActionSpace
from efm_core.detector import DetectorSettings
from efm_core.episode import Mode
from efm_core.guard import GuardSettings
from efm_core.observation import Decision, Observation, StepsToGo
from efm_core.plan import EpisodePlan, PlannedEpisode
from efm_core.steps_to_go import StepsToGoBins
from efm_model.config import CameraSpec, HeadConfig, ModelConfig, SmallBackboneConfig
from efm_model.model import EmbodiedModel
from efm_model.preprocess import Preprocessor, PreprocessorConfig

SPACE = ActionSpace(
    dims=(
        ActionDim(name="x", unit="m", low=-0.02, high=0.02, bins=5),
        ActionDim(name="y", unit="m", low=-0.02, high=0.02, bins=5),
    )
)
GUARD = GuardSettings(space=SPACE, workspace={"x": (0.0, 0.3), "y": (0.0, 0.3)})
SIDE = 16


class ToyRobot:
    """A dot in a square of 0.3 m that shall reach (0.15, 0.15) m; success within 0.03 m."""

    def __init__(self) -> None:
        self._position = np.zeros(2)
        self.instruction = "go to the middle"

    @property
    def scene_hash(self) -> str:
        return hashlib.sha256(self._position.tobytes()).hexdigest()

    @property
    def effector(self) -> NDArray[np.float64]:
        return self._position.copy()

    def reset(self, seed: int, instruction: str | None = None) -> None:
        self._position = np.random.default_rng(seed).uniform(0.02, 0.28, 2)
        self.instruction = instruction or "go to the middle"

    def restore_state(self, state: Mapping[str, object]) -> None:
        self._position = np.array(state["position"], dtype=np.float64)

    def step(self, velocity: ArrayLike) -> None:
        self._position = np.clip(self._position + np.asarray(velocity) / SPACE.rate, 0.0, 0.3)

    def observe(self, tick: int = 0, stamp_ns: int = 0) -> Observation:
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        row, column = np.minimum((self._position / 0.3 * SIDE).astype(int), SIDE - 1)
        image[row, column] = 255
        state = {"ee_x": float(self._position[0]), "ee_y": float(self._position[1])}
        return Observation({"front": image}, self.instruction, stamp_ns, tick, state)

    def truth(self) -> dict[str, float]:
        distance = float(np.linalg.norm(self._position - 0.15))
        return {"distance": distance, "success": float(distance < 0.03)}


class ToyPerson:
    """Steers straight to the middle."""

    def command(self, robot: ToyRobot) -> NDArray[np.float64]:
        way = 0.15 - robot.effector
        return np.clip(way * SPACE.rate, -0.2, 0.2)


class ToyBrain:
    """Two models on one trunk behind the batched call."""

    def __init__(
        self,
        policy: EmbodiedModel,
        reward: EmbodiedModel,
        policy_version: str = "p0",
        reward_version: str = "r0",
        detector: DetectorSettings | None = None,
    ) -> None:
        self._policy, self._reward = policy, reward
        self.policy_version, self.reward_version = policy_version, reward_version
        self.detector = detector or DetectorSettings()
        self.action_space = policy.config.action_space

    def infer(
        self, observations: Sequence[Observation], draws: NDArray[np.float64], temperature: float
    ) -> tuple[list[Decision], list[StepsToGo]]:
        pre = self._policy.preprocessor
        images = torch.from_numpy(np.stack([pre.images(o.images) for o in observations]))
        words = torch.from_numpy(np.stack([pre.tokens(o.instruction) for o in observations]))
        with torch.inference_mode():
            features = self._policy.features(images, words)
            logits = self._reward.steps_to_go_logits(features).double()
        bins, log_prob, entropy = self._policy.sample(features, draws, temperature)
        shape = (self.action_space.chunk, self.action_space.size)
        rule = self._reward.config.steps_to_go
        mean = rule.expectation(torch.softmax(logits, -1).numpy())
        decisions = [
            Decision(b.reshape(shape), float(p), float(e), temperature)
            for b, p, e in zip(bins, log_prob, entropy, strict=True)
        ]
        return decisions, [StepsToGo(float(m), 0.0) for m in mean]


def toy_model(seed: int = 0, space: ActionSpace = SPACE) -> EmbodiedModel:
    """A real model, tiny, with a frozen random trunk."""
    cameras = (CameraSpec(width=SIDE, height=SIDE),)
    words = ("go", "middle", "the", "to")
    preprocessor = Preprocessor(PreprocessorConfig(cameras=cameras, vocabulary=words))
    config = ModelConfig(
        cameras=cameras,
        action_space=space,
        steps_to_go=StepsToGoBins(count=24),
        small=SmallBackboneConfig(
            resolution=SIDE, vocabulary=preprocessor.vocabulary_size, stem=8, fine=8, width=8,
            blocks=1, words=8, language=8, free_maps=1, features=96,
        ),
        heads=HeadConfig(hidden=32, token_width=32),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # the same trunk for every seed of the heads
        model = EmbodiedModel(config, preprocessor)
        torch.manual_seed(seed)
        for head in (model.action_head, model.steps_to_go_head):
            for module in head.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
    model.freeze_trunk()
    return model.eval()


def toy_plan(mode: Mode, count: int, name: str = "plan", **changes: object) -> EpisodePlan:
    """`count` episodes from the seeds 0, 1, ..."""
    limit = int(changes.pop("limit", 20))  # type: ignore[call-overload]
    episodes = tuple(
        PlannedEpisode(index=i, scene={"seed": i}, limit=limit) for i in range(count)
    )
    fields: dict[str, object] = {
        "plan_id": name, "mode": mode, "policy_version": "p0", "reward_version": "r0",
        "end_on_success": mode is not Mode.EVALUATION, "data_set": mode.value,
        "episodes": {"toy": episodes},
    }  # fmt: skip
    return EpisodePlan(**{**fields, **changes})
