"""The embedded runner: restart, back-off, refusal, clean end, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from efm_bringup import runner as runner_module
from efm_bringup.runner import Runner

PATIENCE = 15.0


def eventually(condition: Callable[[], bool], act: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        act()
        time.sleep(0.02)


def spec(name: str, code: str) -> Any:
    return SimpleNamespace(name=name, executable=code, args=[], robot=None)


def python(spec: Any) -> list[str]:
    return [sys.executable, "-S", "-c", spec.executable]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


SLEEP = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


def test_all_run_and_none_is_left(tmp_path: Path) -> None:
    specs = [spec("one", SLEEP), spec("two", SLEEP)]
    with Runner(specs, tmp_path, os.environ, command=python) as runner:
        pids = dict(runner.pids)
        eventually(lambda: "up" in runner.log_path("two").read_text().splitlines())
        assert json.loads((tmp_path / "pids.json").read_text()) == pids
        assert all(alive(pid) for pid in pids.values())
    assert not any(alive(pid) for pid in pids.values())
    assert json.loads((tmp_path / "pids.json").read_text()) == {}


def test_a_killed_process_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "FIRST_DELAY", 0.05)
    with Runner([spec("one", SLEEP)], tmp_path, os.environ, command=python) as runner:
        first = runner.pids["one"]
        os.kill(first, signal.SIGKILL)
        eventually(lambda: runner.pids.get("one", first) != first, runner.poll)
        assert runner.restarts == 1


def test_delays_double_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(runner_module.time, "monotonic", lambda: now[0])
    with Runner([spec("bad", "raise SystemExit(1)")], tmp_path, {}, command=python) as runner:
        child = runner._children[0]
        delays = []
        for _ in range(8):
            assert child.process is not None
            child.process.wait()
            runner.poll()
            delays.append(child.start_at - now[0])
            now[0] = child.start_at
            runner.poll()
    # 0.5 s doubled seven times would be 64 s; the limit is 30 s.
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_bad_input_is_not_tried_again(tmp_path: Path) -> None:
    code = "print('fleet.yaml: robots: missing'); raise SystemExit(2)"
    with Runner([spec("bad", code)], tmp_path, os.environ, command=python) as runner:
        eventually(lambda: runner.refused == ["bad"], runner.poll)
        runner.poll()
        assert runner.pids == {}
    assert "robots: missing" in runner_module.last_line(runner.log_path("bad"))


def test_a_stubborn_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "POLITE_SECONDS", 0.3)
    with Runner([spec("one", STUBBORN)], tmp_path, os.environ, command=python) as runner:
        pid = runner.pids["one"]
        eventually(lambda: "up" in runner.log_path("one").read_text().splitlines())
        begin = time.monotonic()
    assert not alive(pid)
    assert time.monotonic() - begin < 3.0


def test_what_a_process_started_itself_ends_too(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; "
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']); "
        "print(p.pid, flush=True); time.sleep(60)"
    )
    with Runner([spec("parent", code)], tmp_path, os.environ, command=python) as runner:
        log = runner.log_path("parent")
        eventually(lambda: log.read_text().splitlines()[-1].isdigit())
        grandchild = int(log.read_text().splitlines()[-1])
        assert alive(grandchild)
    eventually(lambda: not alive(grandchild))


def test_children_die_with_a_killed_runner(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from types import SimpleNamespace\n"
        "from efm_bringup.runner import Runner\n"
        "child = 'import os, time; from efm_bringup.child import die_with; '"
        "'die_with(int(os.environ[\"EFM_RUNNER_PID\"])); '"
        "'print(\"up\", flush=True); time.sleep(60)'\n"
        "spec = SimpleNamespace(name='one', executable=child, args=[], robot=None)\n"
        "command = lambda s: [sys.executable, '-c', s.executable]\n"
        f"with Runner([spec], Path({str(tmp_path)!r}), os.environ, command=command):\n"
        "    time.sleep(60)\n"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    owner = subprocess.Popen([sys.executable, "-c", code], env=environment)
    log = tmp_path / "logs" / "one.log"
    try:
        eventually(lambda: log.exists() and "up" in log.read_text().splitlines())
        eventually((tmp_path / "pids.json").exists)
        pid = json.loads((tmp_path / "pids.json").read_text())["one"]
        assert alive(pid)
    finally:
        owner.kill()
        owner.wait()
    eventually(lambda: not alive(pid))
