"""Arrays in pieces on the devices of a mesh: eight simulated ones, in a process that starts with them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sharded

WORKER = Path(__file__).with_name("sharded.py")


def outcomes(*cases):
    command = [sys.executable, "-W", "error", str(WORKER), *cases]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return {name: text for name, text in json.loads(done.stdout.splitlines()[-1]).items() if text}


def test_eight_devices_give_what_one_gives():
    wrong = outcomes(*sharded.FAST)
    assert not wrong, "\n".join(wrong.values())


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(sharded.SLOW))
def test_slow_cases(case, tmp_path):
    wrong = outcomes(f"{case}={tmp_path}" if "kept" in case else case)
    assert not wrong, "\n".join(wrong.values())
