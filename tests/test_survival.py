"""Work that is killed (SIGKILL) at random moments and called again gives what it gives in one go."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import survivor

KILLS = 5


def work(kind, folder, cache, *seconds):
    """What work that came to its end printed, None of a process that was killed."""
    folder.mkdir(exist_ok=True)
    script = str(Path(survivor.__file__))
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(
        [sys.executable, script, kind, str(folder), *map(str, seconds)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, -9), done.stderr
    return tuple(done.stdout.split()) if done.returncode == 0 else None


@pytest.mark.slow
@pytest.mark.parametrize("kind", survivor.KINDS)
def test_work_that_is_killed_goes_on_to_the_same_end(kind, tmp_path):
    moments = random.Random(kind)
    work(kind, tmp_path / "first", tmp_path / "cache")  # compiles
    seconds, whole, first = work(kind, tmp_path / "whole", tmp_path / "cache")
    kills = 0
    for _ in range(4 * KILLS):
        moment = moments.uniform(0.1, 0.9) * float(seconds)
        ended = work(kind, tmp_path / "killed", tmp_path / "cache", moment)
        kills += ended is None
        if ended is not None:  # enough was kept to come to the end before the moment
            assert ended[1] == whole
            (tmp_path / "killed").rename(tmp_path / f"killed-{kills}-{len(list(tmp_path.iterdir()))}")
        if kills == KILLS:
            break
    assert kills == KILLS
    kept = [path for path in (tmp_path / "killed").rglob("*") if path.is_file() and path.name != "points.npy"]
    _, digest, done = work(kind, tmp_path / "killed", tmp_path / "cache")
    assert digest == whole
    assert int(done) > int(first) or not kept, "what was kept is not done again"
    assert not list((tmp_path / "killed").glob("partial-*"))
