"""The command line: errors in one line, exit status, quick start without torch."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from efm_bringup.cli import COMMANDS, main, one_line


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"efm {name}" in capsys.readouterr().out


def test_no_command_prints_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("demo", "doctor", "bags"))


def test_an_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bags", "check", "/no/such/folder"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error == ["efm bags: /no/such/folder: no such folder; give an episode or a folder of "
                     "them"]  # fmt: skip


def test_a_validation_error_names_the_field() -> None:
    class Robot(BaseModel):
        rate: float

    class Fleet(BaseModel):
        robots: list[Robot]

    with pytest.raises(ValueError, match="rate") as caught:
        Fleet.model_validate({"robots": [{"rate": 1}, {"rate": "fast"}]})
    assert one_line(caught.value).startswith("robots.1.rate: Input should be a valid number")
    assert "\n" not in one_line(caught.value)


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("efm_bringup.commands.bags.run", interrupted)
    assert main(["bags", "info", "."]) == 130


def test_light_commands_start_fast_and_without_torch() -> None:
    code = (
        "import sys; from efm_bringup.cli import build_parser; build_parser()\n"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'rclpy', 'pybullet', 'cv2'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    assert time.monotonic() - begin < 5.0  # torch alone takes 2 to 4 s
