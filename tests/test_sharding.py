"""Arrays in pieces on the devices of a mesh: simulated ones, in processes that start with them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sharded
import sharded_points
import sharded_rows

COMMAND = [sys.executable, str(Path(__file__).with_name("run_sharded.py"))]


def devices(count):
    return os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


def outcomes(*cases):
    options = {"capture_output": True, "text": True, "timeout": 900, "env": devices(8)}
    done = subprocess.run([*COMMAND, *cases], **options)
    assert done.returncode == 0, done.stderr
    return {name: text for name, text in json.loads(done.stdout.splitlines()[-1]).items() if text}


@pytest.mark.thorough
def test_eight_devices_give_what_one_gives():
    for case in (sharded_rows.trainings, sharded_points.images_in_pieces):
        assert case.__name__ in sharded.FAST
    wrong = outcomes(*sharded.FAST)
    assert not wrong, "\n".join(wrong.values())


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(sharded.SLOW))
def test_slow_cases(case, tmp_path):
    wrong = outcomes(f"{case}={tmp_path}" if "kept" in case else case)
    assert not wrong, "\n".join(wrong.values())


@pytest.mark.slow
def test_two_processes_give_what_one_device_gives():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*COMMAND, "--process", k, port], env=devices(2), **pipes) for k in "01"]
    try:
        for process in both:
            out, wrong = process.communicate(timeout=300)
            assert process.returncode == 0, wrong[-3000:]
            assert out.splitlines()[-1] == "2.0"
    finally:
        for process in both:
            process.kill()
            process.communicate()
