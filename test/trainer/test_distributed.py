from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trainer.parallel_sft import CONFIG, forgetful_model, made_up, train

from efm_trainer.distributed import ALONE, World, gather_in_turn, join_world
from efm_trainer.sft_state import STATE_FILE, head_weights
from efm_trainer.sft_steps import SftRun, check_batch

HERE = Path(__file__).parent
SECONDS = 120.0
"""For processes to end that cannot wait for ever; a busy machine needs long to import torch."""


class Part(World):
    """One of `size` processes, without the others: what it computes by itself."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


class Together:
    """Processes on this machine, as torchrun would start them."""

    def __init__(self, *words: str, size: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        paths = [str(HERE.parent), str(HERE.parents[1]), str(HERE.parents[1] / "sim")]
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
        }  # fmt: skip
        self.ranks = [
            subprocess.Popen(
                [sys.executable, str(HERE / "parallel_sft.py"), *words],
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE, text=True,
            )
            for rank in range(size)
        ]  # fmt: skip

    def wait(self) -> list[str]:
        """What each wrote to stderr, when all have ended."""
        try:
            return [rank.communicate(timeout=SECONDS)[1] for rank in self.ranks]
        finally:
            for rank in self.ranks:
                if rank.poll() is None:
                    rank.kill()


def difference(a, b) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """The folder of two processes that trained without a break."""
    folder = tmp_path_factory.mktemp("pair")
    both = Together(str(folder))
    errors = both.wait()
    assert [rank.returncode for rank in both.ranks] == [0, 0], errors
    return folder


def test_two_processes_equal_one(pair, tmp_path):
    alone = head_weights(train(tmp_path))
    first, second = (load_file(pair / f"rank{rank}.safetensors") for rank in (0, 1))
    assert equal(first, second)
    assert difference(alone, head_weights(forgetful_model())) > 1e-2  # it has learnt something
    assert difference(alone, first) < 1e-6
    lines = [(d / "metrics.jsonl").read_text().splitlines() for d in (tmp_path, pair)]
    assert len(lines[0]) == len(lines[1]) == 3  # rank 0 alone writes


def test_the_other_ends_when_one_is_killed_and_the_run_goes_on(pair, tmp_path):
    both = Together(str(tmp_path), "--pause", "1.0")
    limit = time.monotonic() + SECONDS
    while not (tmp_path / STATE_FILE).exists() or time.monotonic() > limit:
        assert both.ranks[0].poll() is None, both.wait()
        time.sleep(0.1)
    both.ranks[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    told, _ = both.wait()
    assert time.monotonic() - killed < 15.0
    assert both.ranks[0].returncode == 1
    assert "rank 1 of 2" in told
    assert "resume point" in told
    assert not (tmp_path / "rank0.safetensors").exists()
    kept = (tmp_path / STATE_FILE).read_bytes()

    again = Together(str(tmp_path))
    errors = again.wait()
    assert "resuming fine-tuning at step" in errors[0]
    whole = load_file(pair / "rank0.safetensors")
    assert equal(load_file(tmp_path / "rank0.safetensors"), whole)  # promise P9, bit for bit
    (tmp_path / STATE_FILE).write_bytes(kept)  # and with another number of processes
    assert difference(head_weights(train(tmp_path)), whole) < 1e-6


def test_an_error_of_one_ends_all_and_is_told_once(tmp_path):
    both = Together(str(tmp_path), "--other-data")
    errors = both.wait()
    assert [rank.returncode for rank in both.ranks] == [1, 1]
    raised = [text.strip().splitlines()[-1] for text in errors]
    assert sum("ranks [1] have other data" in line for line in raised) == 1
    assert sum("ToldElsewhereError" in line for line in raised) == 1


def test_who_does_not_come_is_named(tmp_path):
    both = Together(str(tmp_path), "--late")
    told = both.ranks[0].communicate(timeout=SECONDS)[1]
    assert both.ranks[0].returncode != 0
    assert "rank 1 of 2" in told
    assert "did not come in time" in told
    both.wait()
    assert both.ranks[1].returncode == 1  # ended, though it slept for a minute


@pytest.mark.parametrize("size", [2, 4])
def test_the_parts_make_up_the_batch(size):
    def seen(world: World):
        """Each step's gradients, and the targets in the order in which they were looked at."""
        run, bins, steps = SftRun(forgetful_model(), *data, CONFIG, world), [], []
        action_loss, steps_loss = run._action_loss, run._steps_loss
        run._action_loss = lambda *drawn: bins.append(drawn) or action_loss(*drawn)
        run._steps_loss = lambda *drawn: steps.append(drawn) or steps_loss(*drawn)
        run.advance()
        return bins[0], steps[0], [p.grad.clone() for p in run._parameters]

    data = made_up(), made_up(9)
    clip = CONFIG.gradient_norm
    assert clip > 0
    whole, parts = seen(ALONE), [seen(Part(rank, size)) for rank in range(size)]
    for objective in (0, 1):
        for column in range(3):
            joined = torch.cat([part[objective][column] for part in parts])
            assert torch.equal(joined, whole[objective][column])


def test_dropout_is_that_of_the_whole_batch():
    def dropped(world: World, start: int, stop: int) -> torch.Tensor:
        torch.manual_seed(3)
        with world.dropout(start, stop, 12):
            return torch.nn.Dropout(0.4)(rows[start:stop])

    rows = torch.randn(12, 7)
    whole = dropped(ALONE, 0, 12)
    assert (whole == 0).any()
    parts = [dropped(ALONE, start, start + 4) for start in (0, 4, 8)]
    assert torch.equal(torch.cat(parts), whole)


def test_a_batch_that_does_not_divide_is_refused():
    config = CONFIG.model_copy(update={"batch": 128})
    check_batch(config, Part(0, 4))
    with pytest.raises(ValueError, match=r"batch 128 .* 3 processes .* --batch 126 or 132"):
        check_batch(config, Part(0, 3))
    with pytest.raises(ValueError, match="take --batch 400"):
        check_batch(config, Part(0, 200))


def test_one_process_has_nobody_to_wait_for():
    assert join_world({}) is ALONE
    assert join_world({"WORLD_SIZE": "1", "RANK": "0"}) is ALONE
    with pytest.raises(ValueError, match="WORLD_SIZE is 'two'"):
        join_world({"WORLD_SIZE": "two"})
    with pytest.raises(ValueError, match="RANK is ''"):
        join_world({"WORLD_SIZE": "2"})
    found = gather_in_turn(ALONE, [1, 2], lambda n: np.full(2, n, np.float32))
    assert [part.tolist() for part in found] == [[1.0, 1.0], [2.0, 2.0]]
