"""Parameters as data: one table per node says what there is, and one function declares it.

A node's module holds a tuple `PARAMETERS`; the node calls `declare` with it and reads the values.
From the same tables `efm doctor --parameters` writes docs/parameters.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from efm_core.fleet import FleetDescription, RobotDescription, load_fleet

Value = bool | int | float | str | tuple[str, ...] | tuple[float, ...]

_TYPES = {bool: "bool", int: "integer", float: "double", str: "string"}
_SHOWN = 80
_EXAMPLES = {"bool": "true", "integer": "2", "double": "2.0", "string": "'text'"}


class ParameterError(ValueError):
    """A parameter that cannot be used: says which node, parameter and value, and what to give."""


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One parameter of a node.

    default: fixes the type too; a tuple is a list, and the empty one a list of texts. unit: of
    the value, "" for none. low, high: inclusive range of a number, both or none. choices: the
    only texts allowed. required: whether a text must not be empty. writable: whether it may be
    changed while the node runs. check: raises ValueError with the reason for a value that is no
    good.
    """

    name: str
    default: Value
    description: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    required: bool = False
    writable: bool = False
    check: Callable[[Any], object] | None = None

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise TypeError(f"parameter '{self.name}': give both ends of its range or none")

    @property
    def type(self) -> str:
        """The type's name as ROS tools write it: bool, integer, double, string, string[], ..."""
        if isinstance(self.default, tuple):
            return f"{_TYPES[type(self.default[0])] if self.default else 'string'}[]"
        return _TYPES[type(self.default)]

    @property
    def allowed(self) -> str:
        """What values are allowed, in words; "" when the type says all."""
        if self.choices:
            return " or ".join(self.choices)
        if self.low is not None:
            return f"{self._number(self.low)} to {self._number(self.high)}"
        return "not empty" if self.required else ""

    def _number(self, value: float | None) -> str:
        return str(float(value or 0)) if self.type == "double" else f"{value:.0f}"

    @property
    def descriptor(self) -> ParameterDescriptor:
        """What `ros2 param describe` shows."""
        made = ParameterDescriptor(
            description=f"{self.description} [{self.unit}]" if self.unit else self.description,
            read_only=not self.writable,
            additional_constraints=self.allowed if self.low is None else "",
        )
        if self.low is not None and self.high is not None:
            if self.type == "double":
                ends = {"from_value": float(self.low), "to_value": float(self.high)}
                made.floating_point_range = [FloatingPointRange(**ends)]
            else:
                ends = {"from_value": int(self.low), "to_value": int(self.high)}
                made.integer_range = [IntegerRange(step=1, **ends)]
        return made

    @property
    def declared_default(self) -> Any:
        """The default as rclpy takes it; an empty list has no type there."""
        if isinstance(self.default, tuple):
            return list(self.default) or [""]
        return self.default

    def read(self, value: Any) -> Any:
        """A declared value as the node uses it: lists as tuples, without empty texts."""
        if isinstance(self.default, tuple):
            return tuple(item for item in value if item != "")
        return value

    def problem(self, value: Any) -> str:
        """Why a value is no good and what to give instead; "" for a good one."""
        if not self._fits(value):
            return f"{self._wanted}, of type {self.type}, written as {self._example}"
        if self.low is not None and self.high is not None:
            if not self.low <= value <= self.high:
                return self._wanted
        elif self.choices and value not in self.choices:
            return self._wanted
        elif self.required and not value:
            return f"give the {self.description}: -p {self.name}:=..."
        if self.check is not None:
            try:
                self.check(self.read(value))
            except ValueError as error:
                return " ".join(str(error).split())
        return ""

    @property
    def _wanted(self) -> str:
        if self.low is not None:
            return f"give a number from {self.allowed}{f' {self.unit}' if self.unit else ''}"
        return f"use {self.allowed}" if self.choices else "give another value"

    @property
    def _example(self) -> str:
        example = _EXAMPLES[self.type.removesuffix("[]")]
        return f"[{example}]" if self.type.endswith("[]") else example

    def _fits(self, value: Any) -> bool:
        if not isinstance(self.default, tuple):
            return type(value) is type(self.default)
        kind = type(self.default[0]) if self.default else str
        is_list = isinstance(value, Iterable) and not isinstance(value, (str, bytes))
        return is_list and all(type(item) is kind for item in value)


def declare(
    node: Node,
    specs: Sequence[ParameterSpec],
    on_change: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Declare all of a node's parameters and return their values.

    on_change: called with the values of writable parameters that shall change; a ValueError of
    it refuses them all. Raises ParameterError for a value given at the start that is no good,
    and for a name that was most likely misspelt.
    """
    given = node._parameter_overrides
    name = node.get_fully_qualified_name()
    _refuse_misspelt(name, given, specs)
    values: dict[str, Any] = {}
    for spec in specs:
        value = given[spec.name].value if spec.name in given else spec.declared_default
        problem = spec.problem(value)
        if problem:
            raise ParameterError(f"{name}: {_complaint(spec, value, problem)}")
        node.declare_parameter(spec.name, spec.declared_default, spec.descriptor)
        values[spec.name] = spec.read(value)
    if any(spec.writable for spec in specs):
        node.add_on_set_parameters_callback(_judge(name, specs, on_change))
    return values


def _complaint(spec: ParameterSpec, value: Any, problem: str) -> str:
    shown = "empty" if value == "" else repr(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return f"parameter '{spec.name}' is {shown}; {problem}"


def _judge(
    node: str,
    specs: Sequence[ParameterSpec],
    on_change: Callable[[Mapping[str, Any]], None] | None,
) -> Callable[[list[Parameter]], SetParametersResult]:
    known = {spec.name: spec for spec in specs}

    def judge(parameters: list[Parameter]) -> SetParametersResult:
        changed = {p.name: p.value for p in parameters if p.name in known}
        for name, value in changed.items():
            problem = known[name].problem(value)
            if problem:
                reason = f"{node}: {_complaint(known[name], value, problem)}"
                return SetParametersResult(successful=False, reason=reason)
        if on_change is not None and changed:
            try:
                on_change({name: known[name].read(value) for name, value in changed.items()})
            except ValueError as error:
                return SetParametersResult(successful=False, reason=f"{node}: {error}")
        return SetParametersResult(successful=True)

    return judge


def _refuse_misspelt(node: str, given: Iterable[str], specs: Sequence[ParameterSpec]) -> None:
    """ROS drops a name that nobody declared without a word; a lab would wonder for hours.

    Only near misses are refused: the parameters of other nodes in a common file are none.
    """
    known = [spec.name for spec in specs]
    for name in given:
        close = [] if name in known else get_close_matches(name, known, 1, 0.8)
        if close:
            raise ParameterError(f"{node}: there is no parameter '{name}'; write '{close[0]}'")


FLEET = ParameterSpec("fleet", "", "path of the fleet description (YAML)", required=True)
ROBOT = ParameterSpec("robot", "", "the robot's name; empty: the node's namespace")


def described_fleet(values: Mapping[str, Any]) -> FleetDescription:
    """The fleet in the file that the parameter `fleet` names. Raises FleetError."""
    return load_fleet(Path(values[FLEET.name]))


def described_robot(
    node: Node, fleet: FleetDescription, values: Mapping[str, Any]
) -> RobotDescription:
    """The robot of the fleet that the parameter `robot`, else the namespace, names.

    Raises FleetError listing the robots there are, ParameterError when the node's namespace is
    not the robot's: its topics would be nobody's.
    """
    namespace = node.get_namespace().strip("/")
    name = values[ROBOT.name] or namespace
    robot = fleet.robot(name)
    if namespace != robot.name:
        raise ParameterError(
            f"{node.get_name()} of robot '{name}' runs in namespace '/{namespace}'; "
            f"start it with -r __ns:=/{name}"
        )
    return robot
