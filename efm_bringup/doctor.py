"""What is missing or wrong on this machine, and how to mend it: `efm doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from efm_bringup.executables import EXECUTABLES
from efm_core.fleet import FleetDescription, load_fleet
from efm_ros.dds import HUMBLE_VARIABLE, PROFILE_VARIABLE, RANGE_VARIABLE, profile_path

OLDEST_PYTHON = (3, 10)
LEAST_DISK_GB = 5.0
LISTEN_SECONDS = 2.0
_ABSENT = "not installed"

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `remedy` says what to do; empty when all is well."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


def examine(fleet_file: Path | None) -> Iterator[Finding]:
    """Every check in turn; the DDS ones take `LISTEN_SECONDS` when a domain is given."""
    yield python_version()
    yield from packages()
    yield ros()
    yield dds_profile()
    yield discovery()
    yield torch_and_gpu()
    yield inference_backend()
    yield entry_points()
    fleet = None
    if fleet_file is not None:
        finding, fleet = fleet_description(fleet_file)
        yield finding
    yield disk_space(fleet.data_dir if fleet else Path("."))
    if fleet is not None:
        yield from cameras(fleet)


def python_version() -> Finding:
    """Is the interpreter new enough and inside a virtual environment?"""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        return Finding("error", "Python", version, "install Python 3.10 or newer")
    if sys.prefix == sys.base_prefix:
        return Finding(
            "warning", "Python", f"{version}, no virtual environment", "run `make venv`, use .venv"
        )
    return Finding("ok", "Python", f"{version} in {sys.prefix}")


def packages() -> Iterator[Finding]:
    """Do the packages import that nothing works without? torch and ROS have their own checks."""
    for module, package in (
        ("numpy", "numpy"), ("pydantic", "pydantic"), ("mcap", "mcap"), ("rosbags", "rosbags"),
        ("safetensors", "safetensors"), ("cv2", "opencv-python"), ("pybullet", "pybullet"),
    ):  # fmt: skip
        if importlib.util.find_spec(module) is None:
            yield Finding("error", package, "not installed", "run `make venv`")
            continue
        if module == "cv2":
            yield _opencv()
            continue
        yield Finding("ok", package, _version(package))


def _opencv() -> Finding:
    # In a child: a missing system library must not take this process down.
    result = _python("import cv2")
    if result is None:
        names = ("opencv-python", "opencv-python-headless")
        found = [f"{name} {_version(name)}" for name in names if _version(name) != _ABSENT]
        return Finding("ok", "OpenCV", ", ".join(found) or "from the system")
    return Finding("error", "OpenCV", result, "sudo apt install libgl1 libglib2.0-0")


def ros() -> Finding:
    """System ROS or wheels, and does rclpy load?"""
    distro = os.environ.get("ROS_DISTRO")
    problem = _python("import rclpy, sensor_msgs.msg, diagnostic_msgs.msg")
    if problem is not None:
        remedy = (
            f"use the Python that ROS {distro} was built for, in a venv with --system-site-packages"
            if distro
            else "run `make venv` (installs ROS 2 wheels), or source a system ROS 2 first"
        )
        return Finding("error", "ROS 2", f"rclpy does not load: {problem}", remedy)
    middleware = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    if distro:
        return Finding("ok", "ROS 2", f"system ROS {distro}, {middleware}")
    text = f"wheels, rclpy {_version('ros-rclpy')}, {middleware}"
    if middleware != "rmw_fastrtps_cpp":
        return Finding("error", "ROS 2", text, "unset RMW_IMPLEMENTATION: wheels hold Fast DDS")
    return Finding("ok", "ROS 2", text)


def dds_profile() -> Finding:
    """Is the Fast DDS profile there and well-formed?"""
    path = Path(os.environ.get(PROFILE_VARIABLE) or profile_path())
    try:
        ElementTree.parse(path)
    except (OSError, ElementTree.ParseError) as error:
        remedy = f"unset {PROFILE_VARIABLE} to use the shipped profile, or mend the file"
        return Finding("error", "DDS profile", f"{path}: {error}", remedy)
    free = shutil.disk_usage("/dev/shm").free / 2**20 if Path("/dev/shm").is_dir() else 0.0
    if free < 256:
        remedy = "give /dev/shm more room (docker: --shm-size=1g): pictures travel through it"
        return Finding("warning", "DDS profile", f"{path}, /dev/shm has {free:.0f} MB", remedy)
    return Finding("ok", "DDS profile", str(path))


def discovery() -> Finding:
    """Which ROS processes will see each other?"""
    domain = os.environ.get("ROS_DOMAIN_ID")
    reach = os.environ.get(RANGE_VARIABLE, "LOCALHOST (set by efm)")
    text = f"domain {domain or 'chosen by efm'}, range {reach}"
    if domain is not None and not (domain.isdigit() and int(domain) <= 232):
        return Finding("error", "discovery", text, "ROS_DOMAIN_ID must be 0..232")
    variable, confined = RANGE_VARIABLE, ("LOCALHOST", "OFF")
    if os.environ.get("ROS_DISTRO") == "humble":  # which does not know the range
        variable, confined = HUMBLE_VARIABLE, ("1",)
        reach = os.environ.get(variable, "1")
        text = f"domain {domain or 'chosen by efm'}, {variable} {reach}"
    if variable in os.environ and reach not in confined:
        remedy = "other machines can command these robots; "
        remedy += f"set {variable} to {confined[0]} unless meant"
        return Finding("warning", "discovery", text, remedy)
    try:
        socket.getaddrinfo("localhost", None)
    except socket.gaierror as error:
        return Finding("error", "discovery", f"localhost: {error}", "mend /etc/hosts")
    return Finding("ok", "discovery", text)


def torch_and_gpu() -> Finding:
    """Does torch load, and does it see the GPU that the driver sees?"""
    if importlib.util.find_spec("torch") is None:
        return Finding("error", "torch", "not installed", "run `make venv`")
    has_driver = shutil.which("nvidia-smi") is not None
    problem = _python("import torch, sys; sys.exit(0 if torch.cuda.is_available() else 'no CUDA')")
    version = _version("torch")
    if problem is None:
        return Finding("ok", "torch", f"{version} with CUDA")
    if has_driver:
        remedy = "install a CUDA build of torch that fits the driver (nvidia-smi shows its version)"
        return Finding("warning", "torch", f"{version} sees no GPU: {problem}", remedy)
    return Finding("ok", "torch", f"{version}, CPU")


def inference_backend() -> Finding:
    """Which ONNX Runtime is installed, and never two of them?"""
    found = [p for p in ("onnxruntime", "onnxruntime-gpu") if _version(p) != _ABSENT]
    if len(found) == 2:
        remedy = "pip uninstall both, then install one: `.[cpu]` or `.[gpu]`"
        return Finding("error", "ONNX Runtime", "both CPU and GPU packages", remedy)
    if not found:
        return Finding("warning", "ONNX Runtime", _ABSENT, "pip install '.[cpu]' or '.[gpu]'")
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in
                 onnxruntime.get_available_providers()]  # fmt: skip
    return Finding("ok", "ONNX Runtime", f"{found[0]} {_version(found[0])}: {', '.join(providers)}")


def entry_points() -> Finding:
    """Do the installed executables start under an interpreter that has torch?"""
    name = "efm_inference"
    place = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if place is None:
        remedy = "run `make venv`, or `colcon build` and source install/setup.bash"
        return Finding("warning", "executables", f"{name} is not on PATH", remedy)
    first = Path(place).read_bytes().split(b"\n", 1)[0].decode(errors="replace")
    interpreter = first.removeprefix("#!").split()
    if interpreter[:1] == ["/usr/bin/env"]:
        interpreter = [shutil.which(interpreter[-1]) or interpreter[-1]]
    code = "import importlib.util as u, sys; sys.exit(0 if u.find_spec('torch') else 'no torch')"
    problem = _python(code, interpreter[0])
    if problem is not None:
        remedy = "activate the virtual environment that holds torch, then build or install again"
        return Finding("error", "executables", f"{place} runs {interpreter[0]}: {problem}", remedy)
    return Finding("ok", "executables", f"{len(EXECUTABLES)} in {Path(place).parent}")


def fleet_description(path: Path) -> tuple[Finding, FleetDescription | None]:
    """Is the fleet file valid?"""
    try:
        fleet = load_fleet(path)
    except (OSError, ValueError) as error:
        return Finding("error", "fleet", str(error), f"mend {path}"), None
    robots = ", ".join(robot.name for robot in fleet.robots)
    return Finding("ok", "fleet", f"{path}: {robots}"), fleet


def disk_space(folder: Path) -> Finding:
    """Is there room for bags? Looks at the nearest existing parent of `folder`."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    if free < LEAST_DISK_GB:
        remedy = f"free some space: below {LEAST_DISK_GB:g} GB a long run ends for want of it"
        return Finding("warning", "disk", f"{free:.1f} GB free at {place}", remedy)
    return Finding("ok", "disk", f"{free:.0f} GB free at {place}")


def cameras(fleet: FleetDescription) -> Iterator[Finding]:
    """Does every camera of the fleet publish? Listens only when ROS_DOMAIN_ID is set."""
    if "ROS_DOMAIN_ID" not in os.environ:
        remedy = "source the run's ros.env (or set ROS_DOMAIN_ID) to look at a running fleet"
        yield Finding("warning", "cameras", "not looked at: no ROS_DOMAIN_ID", remedy)
        return
    from efm_bringup.listen import publishing_cameras

    counts = publishing_cameras(fleet, LISTEN_SECONDS)
    for topic, count in counts.items():
        if count == 0:
            remedy = "start the camera's driver or the fleet; compare the topic with fleet.yaml"
            yield Finding("error", "camera", f"{topic}: nothing in {LISTEN_SECONDS:g} s", remedy)
        else:
            yield Finding("ok", "camera", f"{topic}: {count / LISTEN_SECONDS:.1f} Hz")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return _ABSENT


def _python(code: str, interpreter: str = sys.executable) -> str | None:
    """Run `code` in a fresh interpreter: None when it succeeded, else its last line."""
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
    try:
        result = run([interpreter, "-c", code], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if result.returncode == 0:
        return None
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit {result.returncode}"
