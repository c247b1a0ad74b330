"""Typestore messages of `efm_core.messages` as classes of rclpy, through their CDR bytes.

Nodes rarely need this: channels publish and receive the bytes themselves, which costs half of
what rclpy's own conversion does. It is for code that wants stock classes; the readers in
`efm_core.messages` take those as they are, so there is no way back.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from rclpy.serialization import deserialize_message

from efm_core import messages


@cache
def message_class(type_name: str) -> Any:
    """The rclpy class of "pkg/msg/Type" or "pkg/srv/Type".

    Raises ValueError when no installed package has it.
    """
    try:
        package, kind, name = type_name.split("/")
        return getattr(import_module(f"{package}.{kind}"), name)
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(
            f"message type '{type_name}' is unknown here; "
            "write it as pkg/msg/Type and install the package that holds it"
        ) from error


def to_ros(message: Any, type_name: str) -> Any:
    """A typestore message -> a new instance of the rclpy class `type_name`."""
    return deserialize_message(messages.serialize(message, type_name), message_class(type_name))
