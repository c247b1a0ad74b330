"""Who is driven by which joystick, from two lists as they are written on a command line."""

from __future__ import annotations

from efm_core.fleet import FleetDescription


def joysticks(fleet: FleetDescription, robots: str, devices: str) -> list[tuple[str, int]]:
    """(robot's name, number of its joystick) from comma-separated lists.

    robots: names; "" is the fleet's first. devices: numbers as `joy_enumerate_devices` prints
    them; "" counts from 0. Raises FleetError for an unknown robot, ValueError for lists that
    don't fit together or a robot that a scripted demonstrator drives.
    """
    names = [name.strip() for name in robots.split(",") if name.strip()] or [fleet.robots[0].name]
    numbers = [text.strip() for text in devices.split(",") if text.strip()]
    numbers = numbers or [str(i) for i in range(len(names))]
    if len(numbers) != len(names) or not all(number.isdigit() for number in numbers):
        raise ValueError(f"devices='{devices}': give {len(names)} numbers, one for each robot")
    for name in names:
        if fleet.robot(name).demonstrator:
            raise ValueError(
                f"robot '{name}' has a scripted demonstrator; set its `demonstrator: false`, for "
                "two who publish teleop/twist are a fault"
            )
    return list(zip(names, map(int, numbers), strict=True))
