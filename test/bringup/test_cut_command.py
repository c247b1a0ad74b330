"""`efm bags cut` from the command line: an ordinary recording in, fine-tuning on it out."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from core.cutting_bag import MAPPING, session, streams, word, write_bag, write_lab
from trainer.toy import toy_model

from efm_bringup.cli import main
from efm_core.bags import check_episode
from efm_core.cutting import load_mapping
from efm_core.cutting.mapping import check_mapping
from efm_core.fleet import load_fleet
from efm_trainer.data import load_episodes
from efm_trainer.features import FeatureCache
from efm_trainer.sft import collect_samples, fine_tune
from efm_trainer.sft_config import SftConfig

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "config" / "cutting" / "ur_servo.yaml"


def command(tmp_path: Path, *bags: Path, mapping: str = MAPPING) -> list[str]:
    fleet, wanted = write_lab(tmp_path, mapping)
    words = ["bags", "cut", wanted, *bags, "--data-set", "cut", "--fleet", fleet]
    return [str(word) for word in words]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_from_a_recording_to_fine_tuning(tmp_path, capsys, storage):
    bag = write_bag(tmp_path / "take", session(), storage)
    assert main(command(tmp_path, bag)) == 0
    said = capsys.readouterr().out
    assert "2 episodes cut to" in said
    assert "20 ticks, success" in said
    assert main(command(tmp_path, bag)) == 0
    assert "0 episodes cut to" in capsys.readouterr().out
    assert main(command(tmp_path, bag, mapping=MAPPING + "split: validation")) == 0
    data = tmp_path / "data" / "cut"
    assert main(["bags", "check", str(data)]) == 0
    episodes, skipped = load_episodes(sorted(data.iterdir()))
    assert skipped == []
    assert [(len(e), e.end_row) for e in episodes] == [(21, 20)] * 4
    assert sum(e.succeeded for e in episodes) == 2
    model = toy_model()
    config = SftConfig(steps=6, batch=8, validate_every=3, save_every=3, warmup=1)
    samples = collect_samples(FeatureCache(model), episodes, config)
    # In each split 20 commands of the success; 21 observations of it know their steps-to-go.
    assert [(s.bins[:, 0] >= 0).sum() for s in samples] == [20, 20]
    assert [sorted(s.steps[s.steps >= 0].tolist()) for s in samples] == [list(range(21))] * 2
    assert len(fine_tune(model, *samples, config).history) == 2


def test_what_nobody_judged_is_said(tmp_path, capsys):
    bag = write_bag(tmp_path / "take", streams(2.0))
    whole = "\n".join(MAPPING.splitlines()[:6]) + "\ninstruction: go\n"
    assert main(command(tmp_path, bag, mapping=whole)) == 0
    said = capsys.readouterr().out
    # Pictures at 0.1 s to 1.9 s: that at 0 s has no joints before it.
    assert "18 ticks, unknown, 1 observations without joints or pose left out" in said
    assert "1 of them nobody judged" in said
    assert main(["bags", "info", str(bag)]) == 0
    assert "40  /cam/color/image_raw/compressed" in capsys.readouterr().out


def test_faults_are_one_line_with_the_remedy(tmp_path, capsys):
    bag = write_bag(tmp_path / "take", session())
    assert main(command(tmp_path, bag, mapping=MAPPING.replace("/joint_states", "/joints"))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no topic /joints" in line
    assert main(command(tmp_path, bag, mapping=MAPPING + "speed: 3")) == 2
    assert "mapping.yaml, field 'speed'" in capsys.readouterr().err
    assert main(command(tmp_path, bag, mapping=MAPPING.replace("front:", "wrist:"))) == 2
    assert "mapping.yaml: cameras: the mapping has wrist" in capsys.readouterr().err
    (bag / "metadata.yaml").unlink()
    assert main(command(tmp_path, bag)) == 2
    assert f"ros2 bag reindex {bag}" in capsys.readouterr().err
    odd = write_bag(tmp_path / "odd", [*streams(1.0), word(0.1, "/session/event", "begin"),
                                       *session()[-8:]])  # fmt: skip
    assert main(command(tmp_path, odd)) == 3
    assert "skipped, " in capsys.readouterr().out


def test_killed_in_the_middle_it_goes_on(tmp_path):
    """Signal KILL while the first episode is being written: nothing half is ever taken."""
    long = MAPPING.split("instruction:")[0] + "instruction: go\nsuccess: true\n"
    bag = write_bag(tmp_path / "take", streams(60.0))
    words = command(tmp_path, bag, mapping=long)
    data = tmp_path / "data" / "cut"
    process = subprocess.Popen([sys.executable, "-m", "efm_bringup.cli", *words], cwd=ROOT)
    deadline = time.monotonic() + 60.0
    while process.poll() is None and not list(data.glob("*.partial")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all(p.suffix == ".partial" for p in data.iterdir()) or process.returncode == 0
    assert main(words) == 0
    (episode,) = data.iterdir()
    assert check_episode(episode) == []


def test_the_shipped_example_fits_its_fleet_and_its_page():
    mapping = load_mapping(EXAMPLE)
    check_mapping(mapping, load_fleet(ROOT / "config/arms/ur_servo.yaml").robot(mapping.robot))
    assert EXAMPLE.read_text() in (ROOT / "docs" / "cutting.md").read_text()
