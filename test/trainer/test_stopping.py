"""The stop rule: its arithmetic by hand, its behaviour on simulated learning curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from efm_core.episode import EpisodeRecord, Intervention, Outcome, new_episode_id
from efm_trainer.stopping import RoundTally, StopSettings, best_round, judge, tally_of

LIMIT, PER_ROUND, ROUNDS = 60, 48, 40
RULE = StopSettings()
RUNS = 30
EPISODES = np.arange(ROUNDS) * PER_ROUND


def record(reason: str, ticks: int, taken_over: bool = False) -> EpisodeRecord:
    return EpisodeRecord(
        episode_id=new_episode_id(), mode="practice", robot="a", instruction="go",
        transport="in_process", clock="lockstep", rate=10.0, ticks=ticks,
        outcome=Outcome.SUCCESS if reason in ("detector", "operator") else Outcome.FAILURE,
        termination_reason=reason,
        interventions=[Intervention(start_ns=0, end_ns=1)] if taken_over else [],
    )  # fmt: skip


def simulated(rate: NDArray[np.float64], seed: int) -> list[RoundTally]:
    """Rounds of a policy whose episodes are detected at `rate` (ROUNDS,), quicker where better."""
    generator = np.random.default_rng(seed)
    tallies = []
    for p in rate:
        ticks = generator.normal(40 - 20 * p, 9, size=generator.binomial(PER_ROUND, p))
        whole = np.clip(ticks, 5, LIMIT).astype(int)
        tallies.append(
            RoundTally(
                episodes=PER_ROUND, detected=len(whole), ticks=int(whole.sum()),
                squared_ticks=int((whole**2).sum()),
            )
        )  # fmt: skip
    return tallies


def ends_after(tallies: list[RoundTally]) -> int:
    """Rounds that are run."""
    return next(
        (k for k in range(1, len(tallies)) if judge(tallies[:k], LIMIT, RULE).ends), len(tallies)
    )


def many(rate: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Over RUNS seeds: episodes until the end, and what the kept version lacks of the peak."""
    lengths, lost = [], []
    for seed in range(RUNS):
        tallies = simulated(rate, seed)
        rounds = ends_after(tallies)
        lengths.append(rounds * PER_ROUND)
        lost.append(rate.max() - rate[best_round(tallies[:rounds], LIMIT, RULE)])
    return np.array(lengths), np.array(lost)


def test_a_tally_counts_what_the_detector_and_the_limit_ended():
    records = [
        record("detector", 10), record("detector", 30), record("timeout", 60),
        record("detector", 20, taken_over=True), record("operator", 15), record("stop", 4),
        record("crash", 3), record("fault:camera", 2),
    ]  # fmt: skip
    assert tally_of(records) == RoundTally(
        episodes=4, detected=2, ticks=40, squared_ticks=1000
    )


def test_a_score_is_the_mean_over_episodes_with_their_variance():
    # Detected at 10 and 30 of 60 ticks, two at the limit: each loses half of its share of the time.
    each = [1 - 0.5 * 10 / 60, 1 - 0.5 * 30 / 60, 0.0, 0.0]
    tally = RoundTally(episodes=4, detected=2, ticks=40, squared_ticks=1000)
    assert tally.score(LIMIT, 0.5) == (pytest.approx(np.mean(each)), pytest.approx(np.var(each)))
    assert RoundTally().score(LIMIT, 0.5) == (0.0, 0.0)


def test_rise_and_error_are_those_of_the_least_squares_line_through_all_episodes():
    counts, detected = (10, 20, 30), (2, 9, 18)
    tallies = [RoundTally(episodes=n, detected=k) for n, k in zip(counts, detected, strict=True)]
    found = judge(tallies, LIMIT, StopSettings(window=60, slowness=0.0))
    # Every episode at the middle of its round: 5, 20 and 45.
    x = np.repeat([5.0, 20.0, 45.0], counts)
    y = np.concatenate([np.arange(n) < k for n, k in zip(counts, detected, strict=True)])
    slope = np.polyfit(x, y.astype(float), 1)[0]
    within = sum(n * (k / n) * (1 - k / n) for n, k in zip(counts, detected, strict=True)) / 60
    assert found.score == pytest.approx(29 / 60)
    assert found.rise == pytest.approx(slope * 40)
    assert found.error == pytest.approx(40 * math.sqrt(within / ((x - x.mean()) ** 2).sum()))
    assert not found.ends  # 0.39 in 40 episodes, standard error 0.14


def test_the_end_comes_where_the_rise_is_within_its_standard_error():
    rule = StopSettings(window=200, slowness=0.0)
    # Two rounds of 100 with variance v each: the error of their difference is sqrt(2 v / 100),
    # with p = 0.5 it is 0.071.
    def two(first: int, second: int) -> bool:
        rounds = [RoundTally(episodes=100, detected=k) for k in (first, second)]
        return judge(rounds, LIMIT, rule).ends

    assert two(50, 57)
    assert not two(50, 58)
    assert two(50, 20)


def test_no_end_before_the_window_is_full_and_no_choice_without_a_round():
    few = [RoundTally(episodes=10, detected=5)] * 3
    assert not judge(few, LIMIT, StopSettings(window=31)).ends
    assert judge(few, LIMIT, StopSettings(window=30)).ends
    assert judge([], LIMIT, RULE) == judge([RoundTally()], LIMIT, RULE)  # all cut by faults
    assert not judge([RoundTally()], LIMIT, RULE).ends
    assert best_round([RoundTally(), RoundTally()], LIMIT, RULE) == 1
    with pytest.raises(ValueError, match="no round"):
        best_round([], LIMIT, RULE)


def test_practice_goes_on_while_it_rises():
    steady = 0.3 + 0.6 * EPISODES / EPISODES[-1]  # 3 points in 100 episodes
    lengths, _ = many(steady)
    assert (lengths == ROUNDS * PER_ROUND).mean() >= 0.9
    assert np.quantile(lengths, 0.05) >= 1152


def test_it_ends_soon_after_a_plateau_begins():
    # From 0.5 to 0.85 in 480 episodes, then level: patience and the window say how soon.
    rate = 0.5 + 0.35 * np.minimum(EPISODES / 480, 1.0)
    lengths, lost = many(rate)
    assert np.median(lengths) <= 480 + RULE.window
    assert np.quantile(lengths, 0.9) <= 480 + 1.5 * RULE.window
    assert lost.mean() <= 0.01


def test_a_flat_run_is_ended_almost_at_once():
    lengths, _ = many(np.full(ROUNDS, 0.6))
    assert np.median(lengths) <= RULE.window + PER_ROUND


def test_of_a_run_that_declines_the_peak_is_kept():
    # Up to 0.85 within 576 episodes, down by 5 points in 100 after that.
    rate = np.where(EPISODES <= 576, 0.5 + 0.35 * EPISODES / 576, 0.85 - (EPISODES - 576) / 2000)
    lengths, lost = many(rate)
    assert np.quantile(lengths, 0.9) <= 576 + RULE.window
    assert lost.mean() <= 0.03
    assert np.quantile(lost, 0.9) <= 0.06
