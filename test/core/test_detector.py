from __future__ import annotations

import math

import pytest

from efm_core.detector import DetectorSettings, SuccessDetector

SETTINGS = DetectorSettings(threshold=0.7, hold=2, release=0.3, minimum_ticks=2)


def run(values: list[float]) -> list[bool]:
    detector = SuccessDetector(SETTINGS)
    return [detector.update(value, tick) for tick, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # two agreeing ticks in a row, at the threshold itself too
        ([9, 9, 0.7, 0.1], [False, False, False, True]),
        # ticks 0 and 1 never count: a success at once is a bad reset
        ([0, 0, 0, 0], [False, False, False, True]),
        # 0.9 lies between threshold and release: neither confirms nor denies
        ([9, 9, 0.5, 0.9, 0.5], [False, False, False, False, True]),
        # 1.01 lies above 0.7 + 0.3 and clears the count
        ([9, 9, 0.5, 1.01, 0.5], [False] * 5),
        # reached success stays through the hysteresis and ends above it
        ([9, 9, 0.5, 0.5, 0.9, 2.0], [False, False, False, True, True, False]),
        # NaN never agrees and clears
        ([9, 9, 0.5, math.nan, 0.5], [False] * 5),
    ],
)
def test_hold_hysteresis_and_minimum_duration(values, expected):
    assert run(values) == expected


def test_reset_forgets():
    detector = SuccessDetector(SETTINGS)
    detector.update(0.1, 5)
    detector.reset()
    assert not detector.update(0.1, 6)
    assert detector.update(0.1, 7)
