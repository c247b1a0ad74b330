"""A recording stand-in for launch and launch_ros: enough to execute our launch file.

Not a simulation of launch: it keeps what the file asked for, so that a test can compare that with
the fleet description. The real thing runs where a system ROS is sourced.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest


class Configuration:
    """launch.substitutions.LaunchConfiguration"""

    def __init__(self, name: str) -> None:
        self.name = name

    def perform(self, context: Context) -> str:
        return context.configurations[self.name]


@dataclass
class Context:
    """launch.LaunchContext"""

    configurations: dict[str, str] = field(default_factory=dict)


@dataclass
class Declared:
    """launch.actions.DeclareLaunchArgument"""

    name: str
    default_value: str
    description: str
    choices: tuple[str, ...] = ()


@dataclass
class Variable:
    """launch.actions.SetEnvironmentVariable"""

    name: str
    value: str


@dataclass
class Opaque:
    """launch.actions.OpaqueFunction"""

    function: Any
    condition: Any = None


class Node:
    """launch_ros.actions.Node"""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments


@dataclass
class Description:
    """launch.LaunchDescription"""

    entities: list[Any]


@dataclass
class Condition:
    """launch.conditions.IfCondition"""

    predicate: Configuration


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in where `import launch` finds it, until the test ends."""
    names: dict[str, dict[str, Any]] = {
        "launch": {
            "LaunchDescription": Description, "LaunchContext": Context,
            "LaunchDescriptionEntity": object,
        },
        "launch.actions": {
            "DeclareLaunchArgument": Declared, "OpaqueFunction": Opaque,
            "SetEnvironmentVariable": Variable,
        },
        "launch.conditions": {"IfCondition": Condition},
        "launch.substitutions": {"LaunchConfiguration": Configuration},
        "launch_ros": {},
        "launch_ros.actions": {"Node": Node},
    }  # fmt: skip
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


@dataclass
class Recorded:
    """What a launch file asked for, with its default arguments."""

    arguments: dict[str, Declared]
    variables: dict[str, str]
    nodes: list[dict[str, Any]]


def execute(description: Description, **configurations: str) -> Recorded:
    """Carry out the entities as launch would, arguments first."""
    recorded = Recorded({}, {}, [])
    context = Context(dict(configurations))
    for entity in description.entities:
        if isinstance(entity, Declared):
            recorded.arguments[entity.name] = entity
            context.configurations.setdefault(entity.name, entity.default_value)
            given = context.configurations[entity.name]
            if entity.choices and given not in entity.choices:  # launch's words
                allowed = ", ".join(f"'{choice}'" for choice in entity.choices)
                raise ValueError(f"argument '{entity.name}' is '{given}': not one of {allowed}")
    pending = list(description.entities)
    while pending:
        entity = pending.pop(0)
        if isinstance(entity, Opaque):
            if entity.condition is None or entity.condition.predicate.perform(context) == "true":
                pending = [*entity.function(context), *pending]
        elif isinstance(entity, Variable):
            recorded.variables[entity.name] = entity.value
        elif isinstance(entity, Node):
            condition = entity.arguments.get("condition")
            if condition is None or condition.predicate.perform(context) == "true":
                recorded.nodes.append(entity.arguments)
    return recorded
