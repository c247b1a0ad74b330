"""Several processes as one trainer, started by torchrun; a single one needs nothing of this.

`World` is the seam: what a training loop asks of the processes beside it, a no-op where there is
none. `TorchWorld` answers by torch.distributed: gloo for what lies on the CPU, nccl for what lies
on a GPU. All processes draw the same random numbers and the same global batch; each computes its
own rows, and averaged gradients are those of the whole batch up to the order of summation.

Nothing waits for ever: `efm_trainer.peers` finds who died, who failed and who hangs.
"""

from __future__ import annotations

import io
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore
from torch.nn import Parameter, functional
from torch.overrides import TorchFunctionMode

from efm_trainer.peers import PeerLostError, PeerWatch, ToldElsewhereError
from efm_trainer.progress import TrainingCancelledError

_log = logging.getLogger(__name__)
Part = TypeVar("Part")

PATIENCE_S = 1800.0
"""How long a process waits for another one that is alive, in seconds."""


class World:
    """A single process: nobody to wait for."""

    rank, size = 0, 1
    local_rank, local_size = 0, 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to people."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """This process's part of `count` rows; parts are equal where `count` divides by `size`."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def average_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""

    def mean(self, values: Sequence[float]) -> list[float]:
        """Means over the processes; all give equally many values."""
        return list(values)

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return flag

    def gather(self, data: bytes) -> list[bytes]:
        """What each process gives, in the order of ranks, to all of them."""
        return [data]

    def broadcast(self, data: bytes) -> bytes:
        """What rank 0 gives, to all; what others give is ignored."""
        return data

    def barrier(self) -> None:
        """Return when all processes have come here."""

    def first_per_node(self) -> AbstractContextManager[None]:
        """A block that one process per machine goes through before its others."""
        return nullcontext()

    def dropout(self, start: int, stop: int, whole: int) -> AbstractContextManager[object]:
        """Inside, dropout masks are those of rows `start` to `stop` of a batch of `whole` rows."""
        if (start, stop) == (0, whole):
            return nullcontext()  # the mask of the whole batch, as torch draws it
        return _SharedDropout(start, stop, whole)

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        pass


ALONE = World()


class TorchWorld(World):
    """One of several processes. Collectives raise PeerLostError, which names the lost one."""

    def __init__(
        self, environment: Mapping[str, str] = os.environ, patience_s: float = PATIENCE_S
    ) -> None:
        """Join the processes that torchrun's variables describe; waits for all `patience_s` s."""
        self.rank, self.size = (_number(environment, name) for name in ("RANK", "WORLD_SIZE"))
        self.local_rank = int(environment.get("LOCAL_RANK", 0))
        self.local_size = int(environment.get("LOCAL_WORLD_SIZE", 1))
        cuda = torch.cuda.is_available()
        if cuda and self.local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"process {self.local_rank + 1} of this machine finds {torch.cuda.device_count()} "
                "GPUs; start at most one process per GPU (--nproc-per-node)"
            )
        if cuda:
            torch.cuda.set_device(self.local_rank)
        patience = timedelta(seconds=patience_s)
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=patience)
            store = TCPStore(
                environment["MASTER_ADDR"], _number(environment, "MASTER_PORT"),
                is_master=False, timeout=patience,
            )  # fmt: skip
        except RuntimeError as error:
            raise PeerLostError(
                f"rank {self.rank} of {self.size} could not join the others at "
                f"{environment.get('MASTER_ADDR')}:{environment.get('MASTER_PORT')} ({error}); "
                "start all of them, and set GLOO_SOCKET_IFNAME where there are several networks"
            ) from error
        attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._watch = PeerWatch(PrefixStore(f"efm/{attempt}", store), self.rank, self.size)
        self._watch.names = [
            name.decode() for name in self.gather(f"{socket.gethostname()}:{os.getpid()}".encode())
        ]
        self._watch.start()
        if self.is_main:
            _log.info("%d processes: %s", self.size, ", ".join(self._watch.names))

    def average_gradients(self, parameters: Iterable[Parameter]) -> None:
        """See `World`; one sum per device, after all passes of a batch."""
        gradients: dict[torch.device, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                gradients.setdefault(parameter.grad.device, []).append(parameter.grad)
        for parts in gradients.values():
            flat = torch.cat([part.reshape(-1) for part in parts])
            with self._together():
                dist.all_reduce(flat)
            flat /= self.size
            for part, mean in zip(
                parts, torch.split(flat, [p.numel() for p in parts]), strict=True
            ):
                part.copy_(mean.view_as(part))

    def mean(self, values: Sequence[float]) -> list[float]:
        """See `World`; in float64."""
        total = torch.tensor(values, dtype=torch.float64)
        with self._together():
            dist.all_reduce(total)
        found: list[float] = (total / self.size).tolist()
        return found

    def any(self, flag: bool) -> bool:
        """See `World`."""
        return self.mean([float(flag)])[0] > 0.0

    def gather(self, data: bytes) -> list[bytes]:
        """See `World`; costs memory of the longest times the number of processes."""
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self._together():
            dist.all_gather(sizes, torch.tensor([len(data)]))
        longest = max(int(size) for size in sizes)
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        with self._together():
            dist.all_gather(parts, _bytes(data, longest))
        return [
            part[: int(size)].numpy().tobytes() for part, size in zip(parts, sizes, strict=True)
        ]

    def broadcast(self, data: bytes) -> bytes:
        """See `World`."""
        size = torch.tensor([len(data)])
        with self._together():
            dist.broadcast(size, 0)
        sent = _bytes(data if self.is_main else b"", int(size))
        with self._together():
            dist.broadcast(sent, 0)
        return sent.numpy().tobytes()

    def barrier(self) -> None:
        """See `World`."""
        self.mean([0.0])  # dist.barrier would go over nccl where there is one

    @contextmanager
    def first_per_node(self) -> Iterator[None]:
        """See `World`."""
        if self.local_rank > 0:
            self.barrier()
        yield
        if self.local_rank == 0:
            self.barrier()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Part from the others, together; or tell them of the error that ended this one.

        Raises ToldElsewhereError in place of an error that another process has told already.
        """
        if error is None or isinstance(error, TrainingCancelledError):  # all of them ended so
            self._watch.stop()
            self.barrier()
            dist.destroy_process_group()
            return
        teller = self._watch.fail(error)
        self._watch.stop()
        if teller is not None:
            raise ToldElsewhereError(teller) from error

    @contextmanager
    def _together(self) -> Iterator[None]:
        self._watch.arrive()
        try:
            yield
        except RuntimeError as error:
            raise PeerLostError(self._watch.why(error)) from error


def join_world(
    environment: Mapping[str, str] = os.environ, patience_s: float = PATIENCE_S
) -> World:
    """The processes that torchrun started, `ALONE` where it did not or started one.

    Raises PeerLostError when the others do not come within `patience_s` s, ValueError for wrong
    variables and for more processes than GPUs.
    """
    if "WORLD_SIZE" not in environment or _number(environment, "WORLD_SIZE") == 1:
        return ALONE
    return TorchWorld(environment, patience_s)


def gather_in_turn(
    world: World, parts: Sequence[Part], compute: Callable[[Part], NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """`compute` of every part, in their order: each process computes every `size`-th.

    All get all; they meet after every `size` parts, so that little is on its way at a time.
    """
    if world.size == 1:
        return [compute(part) for part in parts]
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(parts), world.size):
        turn = parts[start : start + world.size]
        sent = io.BytesIO()
        if world.rank < len(turn):
            np.save(sent, compute(turn[world.rank]), allow_pickle=False)
        given = world.gather(sent.getvalue())[: len(turn)]
        found += [np.load(io.BytesIO(data), allow_pickle=False) for data in given]
    return found


class _SharedDropout(TorchFunctionMode):
    """Dropout as in one process: the mask of all rows is drawn, and of it our rows are taken."""

    def __init__(self, start: int, stop: int, whole: int) -> None:
        super().__init__()
        self._rows, self._whole = slice(start, stop), whole

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is not functional.dropout:
            return func(*args, **given)
        rows = args[0]
        ones = torch.ones((self._whole, *rows.shape[1:]), dtype=rows.dtype)
        return rows * functional.dropout(ones, *args[1:], **given)[self._rows].to(rows.device)


def _bytes(data: bytes, length: int) -> Tensor:
    padded = bytearray(length)
    padded[: len(data)] = data
    return torch.frombuffer(padded, dtype=torch.uint8) if length else torch.zeros(0).byte()


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdigit():
        raise ValueError(f"{name} is '{text}', not a number; start several processes by torchrun")
    return int(text)
