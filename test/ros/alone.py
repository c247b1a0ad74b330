"""Managed nodes under test come up by themselves: no orchestrator is there."""

from __future__ import annotations

from rclpy.parameter import Parameter

ALONE = Parameter("autostart", value=True)
MODELS_ALONE = {"policy": [ALONE], "reward": [ALONE]}
ALONE_ARGS = ["-p", "autostart:=true"]
