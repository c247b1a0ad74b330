"""Practice without resets in one process: who goes on from where, and what a reset costs."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from trainer.toy import GUARD, ToyBrain, ToyRobot, toy_model, toy_plan

from efm_core.detector import DetectorSettings
from efm_core.episode import Mode
from efm_core.plan import EpisodePlan
from efm_core.reset_free import NO_SCENE
from efm_trainer.lasting import LastingScenes
from efm_trainer.practice import PracticeSettings, episode_metrics, round_plan
from efm_trainer.rollout import InProcessFleet

SETTINGS = PracticeSettings(
    robots=("a", "b"), episodes_per_round=8, limit=6, reset_free=True, misses=3
)


class LastingToy(ToyRobot):
    """Goes on from where its dot is, but for the right edge of the square."""

    def save_state(self):
        return {"position": self._position.tolist()}

    def go_on_or_reset(self, seed, instruction=None):
        if self._position[0] > 0.2:
            self.reset(seed, instruction)
            return "too far right"
        return ""


def brain(threshold=1e-9):
    """Threshold 1e-9: no episode ever succeeds; 30: every one does."""
    detector = DetectorSettings(threshold=threshold, hold=2, minimum_ticks=0)
    return ToyBrain(toy_model(1), toy_model(2), detector=detector)


def practise(plan, worlds=3, scenes=None, **changes):
    fleet = InProcessFleet([LastingToy() for _ in range(worlds)], GUARD, scenes=scenes)
    return fleet, fleet.practise(plan, brain(**changes))


def by_robot(episodes, name):
    return [e for e in episodes if e.record.robot == name]


def test_each_robot_goes_on_from_its_own_last_position():
    plan = round_plan(SETTINGS.model_copy(update={"misses": 0}), 0, "p0", "r0")
    assert plan.misses == 0
    _, episodes = practise(plan)
    for name in SETTINGS.robots:
        own = by_robot(episodes, name)
        assert [e.record.index for e in own] == [e.index for e in plan.episodes[name]]
        assert own[0].record.reset_reason == NO_SCENE
        for before, after in pairwise(own):
            left, begun = before.data.state["ee_x"][-1], after.data.state["ee_x"][0]
            record = after.record
            assert record.reset_reason == ("too far right" if left > 0.2 else "")
            assert record.reset_asked == bool(record.reset_reason)
            if not record.reset_asked:
                assert begun == left
                assert record.scene_seed is None
            else:
                assert record.scene_seed is not None
    metrics = episode_metrics([e.data for e in episodes])
    resets = sum(e.record.reset_asked for e in episodes)
    assert (metrics["episodes/resets"], metrics["episodes/resets_per_100"]) == (
        resets, 100.0 * resets / 8
    )  # fmt: skip


def test_failures_in_a_row_bring_a_fresh_scene_and_success_does_not():
    settings = SETTINGS.model_copy(update={"episodes_per_round": 14})
    plan = round_plan(settings, 0, "p0", "r0")
    reasons = [e.record.reset_reason for e in by_robot(practise(plan)[1], "a")]
    since = 0
    for reason in reasons:
        assert ("in a row" in reason) == (since == 3)
        since = 1 if reason else since + 1
    _, won = practise(plan, threshold=30.0)
    assert not any("in a row" in e.record.reset_reason for e in won)


def test_worlds_cuts_and_evaluations_change_nothing():
    plans = [round_plan(SETTINGS, number, "p0", "r0") for number in range(2)]
    one, first = practise(plans[0], worlds=1)
    whole = [*first, *one.practise(plans[1], brain())]
    many, again = practise(plans[0], worlds=4)
    many.practise(toy_plan(Mode.EVALUATION, 3, policy_version="p0"), brain())
    taken_up = LastingScenes(json.loads(json.dumps(many.scenes.saved())))
    again = [*again, *practise(plans[1], worlds=2, scenes=taken_up)[1]]
    for a, b in zip(whole, again, strict=True):
        assert a.record.scene_hash == b.record.scene_hash
        assert a.record.reset_reason == b.record.reset_reason
        assert a.data.bins.tolist() == b.data.bins.tolist()


def test_a_robot_that_lost_its_scene_resets_in_full():
    plans = [round_plan(SETTINGS, number, "p0", "r0") for number in range(2)]
    practise(plans[0])
    _, anew = practise(plans[1])
    assert {by_robot(anew, n)[0].record.reset_reason for n in "ab"} == {NO_SCENE}


def test_robots_whose_scenes_cannot_last_are_refused():
    fleet = InProcessFleet([ToyRobot()], GUARD)
    with pytest.raises(ValueError, match="scenes are to last"):
        fleet.practise(round_plan(SETTINGS, 0, "p0", "r0"), brain())


def test_plans_say_so_alone_where_it_is_wanted():
    plan = round_plan(SETTINGS, 0, "p0", "r0")
    assert plan.misses == 3
    assert all(e.lasting for listed in plan.episodes.values() for e in listed)
    usual = round_plan(SETTINGS.model_copy(update={"reset_free": False}), 0, "p0", "r0")
    assert usual.misses == 0
    assert not any(e.lasting for listed in usual.episodes.values() for e in listed)
    seeds = [[e.scene["seed"] for e in p.episodes["a"]] for p in (plan, usual)]
    assert seeds[0] == seeds[1]
    assert EpisodePlan.model_validate_json(plan.model_dump_json()) == plan
