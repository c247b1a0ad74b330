"""The doctor names what is wrong and how to mend it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from efm_bringup import doctor
from efm_bringup.doctor import Finding

ROOT = Path(__file__).resolve().parents[2]


def assert_remedy(finding: Finding, level: str, words: str) -> None:
    assert finding.level == level, finding
    assert words in f"{finding.text} {finding.remedy}", finding
    assert finding.remedy


def test_this_machine_can_run_the_suite() -> None:
    assert doctor.python_version().level != "error"
    assert doctor.ros().level == "ok"
    assert doctor.dds_profile().level != "error"
    assert not [f for f in doctor.packages() if f.level == "error"]


def test_a_damaged_dds_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "profile.xml"
    path.write_text("<dds>")
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(path))
    assert_remedy(doctor.dds_profile(), "error", "unset FASTRTPS_DEFAULT_PROFILES_FILE")


@pytest.mark.parametrize(("domain", "level"), [("42", "ok"), ("233", "error"), ("x", "error")])
def test_domain_ids(domain: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    assert doctor.discovery().level == level


def test_open_discovery_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    assert_remedy(doctor.discovery(), "warning", "other machines can command these robots")


def test_humble_is_judged_by_its_own_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DISTRO", "humble")
    monkeypatch.setenv("ROS_LOCALHOST_ONLY", "0")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")  # not known there
    finding = doctor.discovery()
    assert finding.level == "warning"
    assert "set ROS_LOCALHOST_ONLY to 1" in finding.remedy
    monkeypatch.setenv("ROS_LOCALHOST_ONLY", "1")
    assert doctor.discovery().level == "ok"


def test_another_middleware_on_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    monkeypatch.setattr(doctor, "_python", lambda code, interpreter="": None)
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    assert_remedy(doctor.ros(), "error", "unset RMW_IMPLEMENTATION")


def test_two_onnx_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: "1.0")
    assert_remedy(doctor.inference_backend(), "error", "[gpu]")


def test_executables_under_an_interpreter_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\nexec {sys.executable} -I -S \"$@\"\n")
    script = tmp_path / "efm_inference"
    script.write_text(f"#!{bare}\n")
    for file in (bare, script):
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert_remedy(doctor.entry_points(), "error", "no torch")


def test_a_broken_fleet_file(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("robots: []\n")
    finding, fleet = doctor.fleet_description(path)
    assert fleet is None
    assert_remedy(finding, "error", "robots")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_DISK_GB", 1e9)
    assert_remedy(doctor.disk_space(tmp_path / "not" / "yet"), "warning", "free")


def test_silent_cameras_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "99")
    monkeypatch.setattr(doctor, "LISTEN_SECONDS", 0.3)
    _, fleet = doctor.fleet_description(ROOT / "config" / "fleet.yaml")
    assert fleet is not None
    findings = list(doctor.cameras(fleet))
    assert len(findings) == 2
    for finding in findings:
        assert_remedy(finding, "error", "/camera/front/image_raw")
