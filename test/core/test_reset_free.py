from __future__ import annotations

from efm_core.episode import Mode, Outcome
from efm_core.reset_free import Misses


def test_only_failures_of_practice_in_a_row_count():
    misses = Misses()
    for outcome in (Outcome.FAILURE, Outcome.INTERRUPTED, Outcome.FAULT, Outcome.FAILURE):
        misses.over(Mode.PRACTICE, outcome)
    misses.over(Mode.EVALUATION, Outcome.FAILURE)
    misses.over(Mode.EVALUATION, Outcome.SUCCESS)
    assert misses.count == 2
    assert misses.reason(3) == misses.reason(0) == ""
    assert misses.reason(2) == "2 episodes in a row without success"
    misses.over(Mode.PRACTICE, Outcome.SUCCESS)
    assert misses.reason(1) == ""
    misses.over(Mode.PRACTICE, Outcome.FAILURE)
    assert misses.reason(1)
    misses.fresh()
    assert misses.reason(1) == ""
