"""Models are loaded once beside the callbacks, questions of a wake-up share a pass."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import wait

import numpy as np
import pytest

from efm_bringup.batcher import Batcher
from efm_bringup.model_shelf import BadCheckpointError, Loaded, ModelShelf, Versions
from efm_core.detector import DetectorSettings
from efm_core.observation import Decision, Observation, StepsToGo


class CountingEngine:
    """Answers from the observation alone and counts passes."""

    detector = DetectorSettings()

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.sizes: list[int] = []

    def _check(self, observations):
        self.sizes.append(len(observations))
        if any(o.instruction == "unreadable" for o in observations):
            raise ValueError("instruction 'unreadable' holds no word")

    def act(self, observations, draws, temperature):
        self.calls["act"] += 1
        self._check(observations)
        return [Decision(np.array([[o.tick]]), float(d[0]), 0.0, temperature)
                for o, d in zip(observations, draws, strict=True)]  # fmt: skip

    def steps_to_go(self, observations):
        self.calls["judge"] += 1
        self._check(observations)
        return [StepsToGo(float(o.tick), 0.0) for o in observations]

    def infer(self, observations, draws, temperature):
        self.calls["both"] += 1
        self._check(observations)
        decisions = [Decision(np.array([[o.tick]]), float(d[0]), 0.0, temperature)
                     for o, d in zip(observations, draws, strict=True)]  # fmt: skip
        return decisions, [StepsToGo(float(o.tick), 0.0) for o in observations]


class Bench:
    """A shelf and a batcher whose wake-ups are served by `settle`."""

    def __init__(self, seconds: float = 0.001) -> None:
        self.engine = CountingEngine()
        self.seconds = seconds
        self.loaded: list[Versions] = []
        self.woken = threading.Semaphore(0)
        self.shelf = ModelShelf(self._load, lambda robot: "one kind", self.woken.release)
        self.batcher = Batcher(self.shelf, self.woken.release)

    def _load(self, versions, robot):
        self.loaded.append(versions)
        if versions.policy == "cut":
            raise BadCheckpointError("policy", "cut", "model.safetensors does not match its hash")
        return Loaded(self.engine, self.seconds)

    def load(self, *robots, policy="p1", reward="r1"):
        for robot in robots:
            self.shelf.want(robot, policy, reward)
        wait(list(self.shelf._loading.values()), timeout=5.0)
        return self.shelf.settle()


def ask(bench, robot, observation, got):
    draws = np.array([observation.tick / 10])
    bench.batcher.act(robot, observation, draws, 0.8, lambda d: got.append((robot, "act", d)))


def judge(bench, robot, observation, got):
    bench.batcher.judge(robot, observation, lambda w: got.append((robot, "judge", w)))


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.batcher.close()
    made.shelf.close()


def test_two_robots_share_one_engine_that_is_loaded_once(bench):
    assert bench.load("robot_1", "robot_2") == ["robot_1", "robot_2"]
    assert bench.loaded == [Versions("p1", "r1")]
    assert bench.shelf.engines == 1
    assert bench.shelf.engine("robot_1") is bench.shelf.engine("robot_2")


def test_an_old_engine_goes_when_the_last_robot_has_left_it(bench):
    bench.load("robot_1", "robot_2")
    bench.load("robot_1", policy="p2")
    assert bench.shelf.engines == 2
    bench.load("robot_2", policy="p2")
    assert bench.shelf.engines == 1
    assert bench.shelf.state("robot_2").versions == Versions("p2", "r1")


def test_no_version_means_the_one_in_force(bench):
    bench.load("robot_1")
    bench.shelf.want("robot_1", "", "")
    assert bench.shelf.state("robot_1").versions == Versions("p1", "r1")
    assert not bench.shelf.state("robot_1").loading


def test_a_refused_checkpoint_leaves_the_old_one_in_force_and_is_tried_again(bench):
    bench.load("robot_1")
    assert bench.load("robot_1", policy="cut") == ["robot_1"]
    state = bench.shelf.state("robot_1")
    assert state.versions == Versions("p1", "r1")
    assert "does not match its hash" in state.errors["policy"]
    assert bench.shelf.engine("robot_1") is not None
    bench.load("robot_1", policy="cut")
    assert bench.loaded.count(Versions("cut", "r1")) == 2
    bench.load("robot_1", policy="p1")
    assert state.errors == {}


def test_both_questions_of_one_observation_are_one_pass_for_all_robots(bench):
    bench.load("robot_1", "robot_2")
    got = []
    for robot, tick in (("robot_1", 3), ("robot_2", 4)):
        seen = Observation({}, "push a to b", tick=tick)
        ask(bench, robot, seen, got)
        judge(bench, robot, seen, got)
    bench.batcher.flush()
    assert bench.engine.calls == {"both": 1}
    assert bench.engine.sizes == [2]
    answers = {(robot, what): answer for robot, what, answer in got}
    assert answers["robot_2", "act"].log_prob == 0.4
    assert answers["robot_1", "judge"].mean == 3.0
    assert len(got) == 4


def test_single_questions_need_no_other_head(bench):
    bench.load("robot_1", "robot_2")
    got = []
    ask(bench, "robot_1", Observation({}, "a", tick=1), got)
    judge(bench, "robot_2", Observation({}, "a", tick=2), got)
    bench.batcher.flush()
    assert bench.engine.calls == {"act": 1, "judge": 1}
    assert len(got) == 2


def test_the_newest_question_of_a_robot_replaces_its_older_one(bench):
    bench.load("robot_1")
    got = []
    for tick in (1, 2, 3):
        ask(bench, "robot_1", Observation({}, "a", tick=tick), got)
    bench.batcher.flush()
    assert [answer.bins[0, 0] for _, _, answer in got] == [3]
    assert bench.batcher.superseded == 2


def test_one_robot_with_an_unreadable_goal_does_not_cost_the_others_their_answer(bench):
    bench.load("robot_1", "robot_2")
    got = []
    ask(bench, "robot_1", Observation({}, "unreadable", tick=1), got)
    ask(bench, "robot_2", Observation({}, "push a to b", tick=2), got)
    bench.batcher.flush()
    answers = {robot: answer for robot, _, answer in got}
    assert isinstance(answers["robot_1"], ValueError)
    assert answers["robot_2"].bins[0, 0] == 2


def test_a_slow_model_answers_in_a_thread():
    bench = Bench(seconds=0.05)
    bench.load("robot_1")
    while bench.woken.acquire(blocking=False):
        pass
    got = []
    ask(bench, "robot_1", Observation({}, "a", tick=1), got)
    assert bench.woken.acquire(timeout=1.0)  # a flush is asked for
    bench.batcher.flush()
    assert got == []
    assert bench.woken.acquire(timeout=5.0)  # the thread has answered
    bench.batcher.flush()
    assert len(got) == 1
    bench.batcher.close()
    bench.shelf.close()
