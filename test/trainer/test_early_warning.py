"""Detector against operators' labels: the arithmetic, how often it cries wolf, how soon it warns.

The figures of docs/training.md are those of the simulations here.
"""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from efm_core.episode import EpisodeRecord, Labels, Outcome, new_episode_id
from efm_trainer.early_warning import LabelTally, WarningSettings, labels_of, watch

SETTINGS = WarningSettings()
P0 = 0.9


def record(reason: str, label: bool | None) -> EpisodeRecord:
    return EpisodeRecord(
        episode_id=new_episode_id(), mode="practice", robot="a", instruction="go",
        transport="in_process", clock="lockstep", rate=10.0, outcome=Outcome.SUCCESS,
        termination_reason=reason, labels=Labels(operator=label),
    )  # fmt: skip


def stream(precision: list[float], labels: int, seed: int) -> list[LabelTally]:
    """Rounds of `labels` labelled detections each."""
    right = np.random.default_rng(seed).binomial(labels, precision)
    return [LabelTally(right=int(k), wrong=labels - int(k)) for k in right]


def test_only_labelled_detections_count():
    records = [
        record("detector", True), record("detector", False), record("detector", None),
        record("timeout", True), record("operator", True),
    ]  # fmt: skip
    assert labels_of(records) == LabelTally(right=1, wrong=1)


def test_without_labels_nothing_is_said():
    quiet = watch([LabelTally()] * 5, P0, SETTINGS)
    assert (quiet.evidence, quiet.alarmed, quiet.labels, quiet.text) == (1.0, None, 0, "")
    assert watch([], P0, SETTINGS).alarmed is None


def test_the_evidence_is_the_averaged_likelihood_ratio():
    q = np.linspace(0.05, 0.8, 20)
    first = (q / P0) ** 3 * ((1 - q) / (1 - P0)) ** 2
    second = (q / P0) ** 4 * ((1 - q) / (1 - P0)) ** 1
    tallies = [LabelTally(right=3, wrong=2), LabelTally(), LabelTally(right=4, wrong=1)]
    one = watch(tallies[:1], P0, SETTINGS)
    assert one.evidence == pytest.approx(0.5 * first.mean() + 0.5)
    two = watch(tallies, P0, SETTINGS)
    expected = 0.5 * (first * second).mean() + second.mean() / 6 + 1 / 3
    assert two.evidence == pytest.approx(expected)
    assert two.since == (0 if (first * second).mean() > second.mean() else 2)


def test_no_run_of_labels_makes_more_of_one_than_one_in_the_mean():
    """One round of five labels, all outcomes weighed by their chance: exactly at most 1."""
    for p in (0.9, 0.95, 1.0):
        mean = sum(
            comb(5, k) * p**k * (1 - p) ** (5 - k)
            * watch([LabelTally(right=k, wrong=5 - k)], P0, SETTINGS).evidence
            for k in range(6)
        )  # fmt: skip
        assert mean <= 1.0 + 1e-9
        if p == P0:
            assert mean == pytest.approx(1.0)


@pytest.mark.parametrize("labels", [2, 10, 30])
def test_false_alarms_are_rarer_than_the_level(labels):
    rounds = 400 // labels
    alarms = [
        watch(stream([P0] * rounds, labels, seed), P0, SETTINGS).alarmed is not None
        for seed in range(200)
    ]
    assert np.mean(alarms) <= SETTINGS.level


@pytest.mark.parametrize(("begins", "median", "most"), [(0, 40, 80), (10, 60, 110)])
def test_a_fall_from_95_to_70_percent_is_told_soon(begins, median, most):
    delays = []
    for seed in range(200):
        tallies = stream([0.95] * begins + [0.7] * 25, 10, seed)
        alarmed = watch(tallies, P0, SETTINGS).alarmed
        delays.append(np.inf if alarmed is None else 10 * (alarmed - begins + 1))
    assert np.median(delays) <= median
    assert np.quantile(delays, 0.9, method="higher") <= most


def test_an_alarm_stays_and_says_since_when():
    tallies = [*stream([0.95] * 10, 10, 1), *stream([0.5] * 4, 10, 1), *stream([1.0] * 20, 10, 1)]
    first = next(k for k in range(len(tallies)) if watch(tallies[: k + 1], P0, SETTINGS).alarmed)
    told = watch(tallies[: first + 1], P0, SETTINGS)
    assert told.alarmed == first
    assert 9 <= told.since <= 11
    assert f"in round {first}: since round {told.since}" in told.text
    assert watch(tallies, P0, SETTINGS).alarmed == first


def test_what_is_expected_of_a_detector_has_bounds():
    assert SETTINGS.expected(None) == 0.9
    assert SETTINGS.expected(0.87) == 0.87
    assert SETTINGS.expected(1.0) == 0.9  # no error in a few dozen labels
    assert watch([LabelTally(wrong=30)], SETTINGS.expected(0.0), SETTINGS).expected == 0.2
