from __future__ import annotations

import threading

import pytest

from efm_trainer.ahead import ahead


def test_results_come_in_order():
    assert list(ahead(lambda x: x * x, range(10))) == [x * x for x in range(10)]
    assert list(ahead(str, [])) == []


def test_what_comes_next_is_done_before_it_is_asked_for():
    begun = [threading.Event() for _ in range(4)]

    def work(number: int) -> int:
        begun[number].set()
        return number

    results = ahead(work, range(4))
    assert next(results) == 0
    assert begun[2].wait(10.0)  # nobody asked for 1 and 2
    assert not begun[3].is_set()
    assert list(results) == [1, 2, 3]


def test_an_error_comes_up_at_its_item():
    def work(number: int) -> float:
        return 1 / (2 - number)

    results = ahead(work, range(4))
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_no_thread_is_left_behind():
    results = ahead(str, range(100))
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]
