"""Damages files in repeatable ways and counts what a reader makes of them.

Import it with ``sys.path``: ``tests`` is on it, so ``from fuzz.mutate import mutations, trial``.
"""

import contextlib
import os
import resource
import signal
from collections import Counter
from pathlib import Path

import numpy as np

SECONDS, GIGABYTE = 10, 2**30
NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**40,
    2**63 - 1,
    2**64 - 1,
)


def _flip(content, rng):
    """A few bits, anywhere or at the ends, where headers and directories lie."""
    for _ in range(rng.integers(1, 5)):
        content[_place(content, rng)] ^= 1 << rng.integers(8)
    return content


def _truncate(content, rng):
    end = rng.integers(len(content)) if rng.random() < 0.5 else max(0, len(content) - rng.integers(1, 65))
    return content[:end]


def _splice(content, rng):
    """A piece that is removed, doubled, moved, zeroed or followed by garbage."""
    start, length = _place(content, rng), int(rng.choice([1, 4, 16, 64, 512, 4096]))
    piece, kind = content[start : start + length], rng.integers(5)
    if kind == 0:
        return content[:start] + content[start + length :]
    if kind == 1:
        return content[:start] + piece + content[start:]
    if kind == 2:
        target = _place(content, rng)
        return content[:target] + piece + content[target + len(piece) :]
    if kind == 3:
        return content[:start] + bytes(len(piece)) + content[start + length :]
    return content + piece


def _number(content, rng):
    """A number of 1 to 8 bytes, of either byte order, that is extreme or a little off."""
    size, start = int(rng.choice([1, 2, 4, 8])), _place(content, rng)
    order = "big" if rng.random() < 0.5 else "little"
    old = int.from_bytes(content[start : start + size], order)
    new = old + int(rng.integers(-3, 4)) if rng.random() < 0.3 else NUMBERS[rng.integers(len(NUMBERS))]
    content[start : start + size] = (new % 256**size).to_bytes(size, order)
    return content


def _place(content, rng):
    """An index: half of them near the beginning or the end."""
    near, last = int(rng.integers(min(len(content), 256))), len(content) - 1
    return int((near, last - near, rng.integers(len(content)), rng.integers(len(content)))[rng.integers(4)])


KINDS = (_flip, _truncate, _splice, _number)


def mutations(content, count, seed=0):
    """``(name, damaged content)``, ``count`` of them and the same ones every time, of every kind in turn."""
    for k in range(count):
        rng = np.random.default_rng([*np.atleast_1d(seed), k])
        kind = KINDS[k % len(KINDS)]
        yield f"{kind.__name__[1:]} {k} of seed {seed}", bytes(kind(bytearray(content), rng))


@contextlib.contextmanager
def limits(seconds=SECONDS, size=GIGABYTE):
    """No more than so many seconds (TimeoutError) and, on Linux, bytes beyond today's (MemoryError)."""

    def late(*_):
        raise TimeoutError(f"more than {seconds} s")

    seconds *= max(1.0, os.getloadavg()[0] / os.cpu_count())  # other programs run too
    before, held = signal.signal(signal.SIGALRM, late), resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/statm")
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        if status.exists():
            used = int(status.read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + size, held[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, held)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def trial(
    file, read, same, *, count, seed=0, refusals=(ValueError, FileNotFoundError), checked=True, named=None
):
    """Damage a file many times and read it.

    Args:
        file: A good file; it is good again afterwards.
        read: Function without arguments that reads it.
        same: Whether what was read equals what is in the good file.
        count: How often.
        seed: Of the mutations.
        refusals: Exceptions that are refusals, if they are one sentence that names the file.
        checked: The format has checksums, so that other data must not come out of it.
        named: What a refusal names, by default the file.

    Returns:
        How many mutations ended in ``"right"``, ``"refused"`` and, without checksums, ``"other"`` data.
    """
    good, outcomes, faults = file.read_bytes(), Counter(), []
    assert same(read())
    try:
        for name, content in mutations(good, count, seed):
            file.write_bytes(content)
            try:
                with limits():
                    result = read()
                outcome = "right" if same(result) else "other"
            except refusals as error:
                text = str(error)
                outcome = "refused"
                if "\n" in text or len(text) > 600 or (named or file.name) not in text:
                    faults.append(f"{name}: {type(error).__name__}: {text[:200]!r}")
            except Exception as error:
                faults.append(f"{name}: {type(error).__name__}: {error}"[:200])
                outcome = "fault"
            outcomes[outcome] += 1
            if outcome == "other" and checked:
                faults.append(f"{name}: other data were read")
    finally:
        file.write_bytes(good)
    assert not faults, f"{len(faults)} of {count}: " + "\n".join(faults[:10])
    return outcomes
