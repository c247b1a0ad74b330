"""Policy and reward model behind one batched call, as the robot and the roll-outs use them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efm_core.actions import ActionSpace
from efm_core.checkpoint import Manifest
from efm_core.detector import DetectorSettings
from efm_core.observation import Decision, Observation, StepsToGo
from efm_model.decoding import Sampler
from efm_model.loading import load_model
from efm_model.model import EmbodiedModel
from efm_model.trunk_runner import Backend, trunk_runner
from efm_model.weights import trunk_hash


class _Role:
    """One checkpoint in memory: its model, the hash of its trunk, and what runs its trunk."""

    def __init__(self, model: EmbodiedModel, backend: Backend) -> None:
        self.model = model.eval()
        self.trunk_hash = trunk_hash(model.trunk)
        self.run = trunk_runner(model, self.trunk_hash, backend)

    def inputs(
        self, observations: Sequence[Observation]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return self.model.preprocessor.batch(observations)

    def features(self, inputs: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> Tensor:
        return torch.from_numpy(self.run(*inputs))

    def shared(self, features: Tensor) -> Any:
        """Features for both roles: with the prompt in the KV cache, where the trunk can do so."""
        prefill = getattr(self.model.trunk, "prefill", None)
        return features if prefill is None else prefill(features)


class Engine:
    """Answers for N observations at a time; a trunk that both roles share runs once.

    The answer to an observation depends neither on the others of its batch (beyond 1e-5) nor on
    the back end (beyond 1e-4 in steps-to-go and log-probability).
    """

    def __init__(
        self,
        policy: EmbodiedModel | None,
        reward: EmbodiedModel | None,
        detector: DetectorSettings | None = None,
        policy_version: str = "",
        reward_version: str = "",
        backend: Backend = "torch",
    ) -> None:
        """Wrap models that are in memory; see `load`. Raises ValueError when neither is given."""
        if policy is None and reward is None:
            raise ValueError("an engine needs a policy or a reward model; neither was given")
        self.policy_version, self.reward_version = policy_version, reward_version
        self.detector = detector or DetectorSettings()
        self._policy = _Role(policy, backend) if policy is not None else None
        self._reward = _Role(reward, backend) if reward is not None else None
        self._sampler: Sampler | None = None
        if policy is not None:
            self._sampler = policy.action_head.sampler()
        self._shared = (
            self._policy is not None
            and self._reward is not None
            and self._policy.trunk_hash == self._reward.trunk_hash
            and self._policy.model.preprocessor.config == self._reward.model.preprocessor.config
        )

    @classmethod
    def load(
        cls, policy: Path | None, reward: Path | None, backend: Backend = "auto", threads: int = 1
    ) -> Engine:
        """The checkpoints at two paths, either may be None; the trunk runs on `backend`.

        "auto" takes ONNX Runtime where it is installed and agrees with torch, and says so in the
        log; "onnx" raises ValueError where it cannot be used. Raises CheckpointError for a
        checkpoint that must not be used.
        """
        torch.set_num_threads(threads)
        loaded: dict[str, tuple[EmbodiedModel, Manifest] | None] = {
            "policy": load_model(policy, "policy") if policy is not None else None,
            "reward": load_model(reward, "reward") if reward is not None else None,
        }
        acting, judging = loaded["policy"], loaded["reward"]
        return cls(
            acting[0] if acting else None,
            judging[0] if judging else None,
            judging[1].detector if judging else None,
            policy.name if policy is not None else "",
            reward.name if reward is not None else "",
            backend,
        )

    @property
    def backend(self) -> str:
        """The back end in use: "onnx" or "torch"."""
        roles = [role for role in (self._policy, self._reward) if role is not None]
        return "onnx" if all(role.run.backend == "onnx" for role in roles) else "torch"

    @property
    def action_space(self) -> ActionSpace:
        """The action space of the policy. Raises ValueError without a policy."""
        return self._acting().model.config.action_space

    def act(
        self, observations: Sequence[Observation], draws: NDArray[np.float64], temperature: float
    ) -> list[Decision]:
        """Sample one decision per observation from draws float64 (N, tokens) in [0, 1)."""
        role = self._acting()
        return self._decide(role, role.features(role.inputs(observations)), draws, temperature)

    def steps_to_go(self, observations: Sequence[Observation]) -> list[StepsToGo]:
        """d(o, g) and its deviation, in steps, of every observation."""
        role = self._judging()
        return _judge(role, role.features(role.inputs(observations)))

    def infer(
        self, observations: Sequence[Observation], draws: NDArray[np.float64], temperature: float
    ) -> tuple[list[Decision], list[StepsToGo]]:
        """`act` and `steps_to_go` of the same observations, a shared trunk run once."""
        if not self._shared:
            return self.act(observations, draws, temperature), self.steps_to_go(observations)
        role = self._acting()
        features = role.shared(role.features(role.inputs(observations)))
        decisions = self._decide(role, features, draws, temperature)
        return decisions, _judge(self._judging(), features)

    def _decide(
        self, role: _Role, features: Any, draws: NDArray[np.float64], temperature: float
    ) -> list[Decision]:
        if self._sampler is None:
            raise ValueError("this engine holds no policy; load one to act")
        bins, log_prob, entropy = self._sampler(features, draws, temperature)
        space = role.model.config.action_space
        return [
            Decision(bins[i].reshape(space.chunk, space.size), float(log_prob[i]),
                     float(entropy[i]), float(temperature))
            for i in range(len(bins))
        ]  # fmt: skip

    def _acting(self) -> _Role:
        if self._policy is None:
            raise ValueError("this engine holds no policy; load one to act")
        return self._policy

    def _judging(self) -> _Role:
        if self._reward is None:
            raise ValueError("this engine holds no reward model; load one to judge")
        return self._reward


def _judge(role: _Role, features: Any) -> list[StepsToGo]:
    with torch.no_grad():
        logits = role.model.steps_to_go_logits(features).double()
    probabilities = torch.softmax(logits, dim=-1).numpy()
    bins = role.model.config.steps_to_go
    means, deviations = bins.expectation(probabilities), bins.deviation(probabilities)
    return [StepsToGo(float(m), float(s)) for m, s in zip(means, deviations, strict=True)]
