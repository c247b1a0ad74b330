"""Work done ahead by another thread, so that whoever needs its results does not wait for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], depth: int = 2
) -> Iterator[Result]:
    """`work` of every item, in order; up to `depth` of them are done or under way beforehand.

    One thread does it: of use where `work` lets others run (reading, decoding, numpy). Raises what
    `work` raises, at its item; what was not begun is left out when the iteration ends early.
    """
    pool = ThreadPoolExecutor(1, "ahead")
    under_way: deque[Future[Result]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) > depth:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
