"""What fine-tuning a vision-language model will take in memory, told before any weight is read.

Parameters, gradients and optimiser are counted exactly; activations are counted on the model's own
layers for one observation (`efm_model.vlm_measure`) and scaled; the vision encoder's scratch space
is an upper estimate. The episodes' pictures, which lie in the host's memory however the model is
trained, are not in the plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from efm_core.actions import ActionSpace
from efm_core.steps_to_go import StepsToGoBins
from efm_model.config import CameraSpec, HeadConfig
from efm_model.heads import ActionHead, StepsToGoHead
from efm_model.vlm_config import BackboneRequest
from efm_model.vlm_measure import Measured, Survey, measure, survey
from efm_trainer.sft_lora import LoraTraining

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_FLOAT = 4  # what learns is float32, whatever the frozen weights are
_WORKING = 512 << 20
"""Scratch space of torch and its libraries, bytes."""
_KEPT_COPIES = 5
"""Of what learns, on the host while a resume point is written: two bests, weights, moments."""
_LONGEST = StepsToGoBins(count=512)
"""Stands for the horizon, which is known when the demonstrations are read."""


class MemoryPlanError(ValueError):
    """Training would not fit into memory; says what would."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where the model runs and what is free, in bytes. `device` is "cpu" or "cuda"."""

    device: str
    free: int
    host_free: int

    def shared(self, processes: int) -> Room:
        """Each one's share where several train on this machine, each on a GPU of its own, if any.
        """
        free = self.free if self.device == "cuda" else self.free // processes
        return Room(self.device, free, self.host_free // processes)


@dataclass(frozen=True, slots=True)
class Asked:
    """What shall be trained; the plan is a function of it."""

    request: BackboneRequest
    lora: LoraTraining | None
    space: ActionSpace
    cameras: tuple[CameraSpec, ...]
    heads: HeadConfig
    batch: int
    tokens: bool = False


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Named parts in bytes on the device and, beside a GPU, on the host.

    remarks: part -> what it is made of.
    """

    title: str
    room: Room
    device_parts: dict[str, int]
    host_parts: dict[str, int]
    remarks: dict[str, str]

    @property
    def needed(self) -> int:
        """Bytes on the device."""
        return sum(self.device_parts.values())

    @property
    def fits(self) -> bool:
        """Whether all of it is free now, on the device and on the host."""
        return (
            self.needed <= self.room.free and sum(self.host_parts.values()) <= self.room.host_free
        )

    def lines(self) -> list[str]:
        """The plan as text, one part a line."""
        table = [f"memory plan: {self.title}"]
        for parts in (self.device_parts, self.host_parts):
            table += [
                f"  {name:<22}{_gigabytes(size):>10}  {self.remarks.get(name, '')}".rstrip()
                for name, size in parts.items()
            ]
        places = [(self.room.device, self.needed, self.room.free)]
        if self.host_parts:
            places.append(("the host", sum(self.host_parts.values()), self.room.host_free))
        table += [
            f"  {'fits' if need <= free else 'DOES NOT FIT'}: {_gigabytes(need)} needed, "
            f"{_gigabytes(free)} free on {place}"
            for place, need, free in places
        ]
        return table


def free_memory() -> Room:
    """What is free now, on the GPU that torch sees and on this machine (container limits count)."""
    host = _host_free()
    if not torch.cuda.is_available():
        return Room("cpu", host, host)
    free, _ = torch.cuda.mem_get_info()
    return Room("cuda", int(free), host)


def _host_free() -> int:
    free = _first_number(Path("/proc/meminfo"), "MemAvailable:") * 1024
    group = Path("/sys/fs/cgroup")
    limit = _first_number(group / "memory.max")
    if limit:
        used = _first_number(group / "memory.current")
        idle = _first_number(group / "memory.stat", "inactive_file")
        free = min(free or limit, max(limit - used + idle, 0))
    if not free:
        raise MemoryPlanError("cannot tell how much memory is free: /proc/meminfo is not readable")
    return free


def _first_number(path: Path, name: str = "") -> int:
    """The number in a file, behind `name` where one is given; 0 where there is none."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    words = next((line.removeprefix(name).split() for line in lines if line.startswith(name)), [])
    return int(words[0]) if words and words[0].isdigit() else 0


def plan_memory(
    asked: Asked, store: Path, room: Room, tell: Callable[[str], None]
) -> MemoryPlan:
    """Tell the plan line by line and return it when it fits.

    Only the model's configuration and processor are read. Raises MemoryPlanError, naming the first
    option that helps, when it does not fit; BackboneError for a model that cannot be used.
    """
    found = survey(asked.request, asked.cameras, store)
    plan = _plan(asked, found, room)
    for line in plan.lines():
        tell(line)
    if not plan.fits:
        raise MemoryPlanError("\n".join([*plan.lines(), *_remedies(asked, found, room)]))
    return plan


def _plan(asked: Asked, found: Survey, room: Room) -> MemoryPlan:
    request, lora = asked.request, asked.lora
    mixed = room.device == "cuda" and lora is not None
    counts = measure(
        found, lora.adapter if lora else None, "bfloat16" if mixed else request.dtype
    )
    learnt = counts.adapter + _head_parameters(asked, counts.features)
    weight = _BYTES[request.dtype]
    device = {
        "frozen weights": counts.base * weight,
        "what learns": learnt * _FLOAT,
        "gradients": learnt * _FLOAT,
        "optimiser": 2 * learnt * _FLOAT,
        "activations": _activations(counts, asked, _BYTES["bfloat16"] if mixed else weight),
        "vision encoder": counts.seeing * request.rows_per_pass,
        "working space": _WORKING,
    }
    if mixed and weight == _FLOAT:  # autocast keeps bfloat16 copies for the backward pass
        device["copies of weights"] = _BYTES["bfloat16"] * counts.language
    copies = _KEPT_COPIES * learnt * _FLOAT
    whole = counts.parameters * weight
    host: dict[str, int] = {}
    if room.device == "cpu":
        device["copies to keep"] = copies
        if not found.present:
            device["taking the model over"] = max(2 * whole - sum(device.values()), 0)
    else:
        host["model on its way"] = whole if found.present else 2 * whole
        host["copies to keep"] = copies
    return MemoryPlan(
        _title(asked, found, room), room, device, host, _remarks(asked, found, counts, learnt)
    )


def _title(asked: Asked, found: Survey, room: Room) -> str:
    what = f"LoRA of rank {asked.lora.rank}" if asked.lora else "heads alone"
    what += ", answers as tokens" if asked.tokens else ""
    return f"{Path(found.source).name}, {what}, batch {asked.batch}, on {room.device}"


def _remarks(asked: Asked, found: Survey, counts: Measured, learnt: int) -> dict[str, str]:
    adapter = f", {counts.adapter / 1e6:.2f} M of them the adapter" if asked.lora else ""
    again = ", layers recomputed" if asked.lora and asked.lora.recompute else ""
    return {
        "frozen weights": f"{counts.base / 1e6:.1f} M parameters, {asked.request.dtype}",
        "what learns": f"{learnt / 1e6:.2f} M parameters, float32{adapter}",
        "activations": f"{asked.request.rows_per_pass} observations of {found.tokens} tokens in "
        f"one pass{again}",
        "copies to keep": "best of each role, resume point",
    }


def _activations(counts: Measured, asked: Asked, size: int) -> int:
    """Bytes kept for the backward pass, plus what one layer is working on."""
    of_layer = counts.kept // counts.layers
    kept = of_layer
    if asked.lora is not None and asked.lora.recompute:
        kept += of_layer + counts.layers * counts.tokens * counts.features * size
    elif asked.lora is not None:
        kept += counts.kept
    return kept * asked.request.rows_per_pass


def _head_parameters(asked: Asked, features: int) -> int:
    if asked.tokens:  # rows: two questions, and bins of actions twice, read and written
        bins = max(dim.bins for dim in asked.space.dims)
        return (2 + 2 * bins + _LONGEST.count) * features
    with torch.random.fork_rng(devices=[]):
        heads: tuple[nn.Module, ...] = (
            ActionHead(features, asked.space, asked.heads),
            StepsToGoHead(features, _LONGEST, asked.heads),
        )
    return sum(p.numel() for head in heads for p in head.parameters())


def _remedies(asked: Asked, found: Survey, room: Room) -> list[str]:
    """What each option, and all of them so far, would need; the first that fits is to be taken."""
    told: list[str] = []
    for option, change in _options(asked):
        asked = change(asked)
        plan = _plan(asked, found, room)
        told.append(f"  with {option}: {_gigabytes(plan.needed)} on {room.device}")
        if plan.fits:
            return [*told, "  take these options, or free memory"]
        told[-1] += ", still too much"
    return [*told, "  take a smaller model, or a machine with more memory"]


def _options(asked: Asked) -> list[tuple[str, Callable[[Asked], Asked]]]:
    """Options not in use yet, the least costly first; each adds to those before it."""
    found: list[tuple[str, Callable[[Asked], Asked]]] = []
    if asked.request.rows_per_pass > 1:
        found.append(("--rows-per-pass 1", lambda a: _requesting(a, rows_per_pass=1)))
    if asked.lora is not None and not asked.lora.recompute:
        found.append(("--activation-checkpointing too", lambda a: _learning(a, recompute=True)))
    if asked.request.dtype == "float32":
        found.append(("--backbone-dtype bfloat16 too", lambda a: _requesting(a, dtype="bfloat16")))
    if asked.lora is not None and not asked.tokens:
        found.append(("the heads alone (no --lora)", lambda a: replace(a, lora=None)))
    return found


def _requesting(asked: Asked, **changes: object) -> Asked:
    return replace(asked, request=asked.request.model_copy(update=changes))


def _learning(asked: Asked, **changes: object) -> Asked:
    assert asked.lora is not None  # its options are offered for an adapter alone
    return replace(asked, lora=asked.lora.model_copy(update=changes))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
