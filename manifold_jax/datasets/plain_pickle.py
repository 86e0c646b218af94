"""Reads what Python pickled, as far as it consists of arrays, strings, lists, dicts and numbers.

Nothing is unpickled: the opcodes are only parsed (``pickletools.genops`` of the standard library, which
executes none) and interpreted here, up to protocol 3. Three names are known, with which NumPy builds arrays
of numbers, and one with which Python 3 spells bytes; any other name, and with it any code, is refused.
"""

from __future__ import annotations

import math
import pickletools
import struct
import warnings
from typing import Any

import numpy as np

PROTOCOL = 3
_VALUES = """
NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING
UNICODE BINUNICODE SHORT_BINBYTES BINBYTES
"""
_PUSHED = frozenset(_VALUES.split())
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_PAIRS = {f"{core}.multiarray _reconstruct": "array" for core in ("numpy.core", "numpy._core")}
_NAMES = _PAIRS | {"numpy ndarray": "ndarray", "numpy dtype": "dtype", "_codecs encode": "bytes"}
_MARK = object()


class _Name(str):
    """One of the known names, as what is called."""


class _Built:
    """An array or a type that is being built: its state comes after it is called."""

    def __init__(self, value: Any) -> None:
        self.value = value


def read_plain_pickle(content: bytes | bytearray) -> dict[Any, Any]:
    """The dict that was pickled; strings of Python 2 come as text in Latin-1.

    Raises:
        ValueError: It is truncated or damaged, no dict, or holds anything but arrays of numbers, strings,
            lists, tuples, dicts and numbers.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        with warnings.catch_warnings(action="ignore"):  # damaged strings have invalid escape sequences
            for opcode, argument, _ in pickletools.genops(content):
                _step(opcode.name, argument, stack, memo)
        (result,) = stack
    except ValueError as error:
        raise ValueError(str(error)[:160]) from error  # some quote all that they met
    except (LookupError, TypeError, AttributeError, OverflowError, struct.error, RecursionError) as error:
        raise ValueError(f"a damaged pickle ({type(error).__name__})") from error
    if not isinstance(result, dict):
        raise ValueError(f"a pickled {type(result).__name__}, expected a dict")
    return {key: value.value if isinstance(value, _Built) else value for key, value in result.items()}


def _step(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """Carry out one opcode."""
    if name in _PUSHED:
        stack.append(_CONSTANTS.get(name, argument))
    elif name in _EMPTY:
        stack.append(_EMPTY[name]())
    elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "MARK":
        stack.append(_MARK)
    elif name in ("LIST", "DICT", "TUPLE"):
        items = _above_mark(stack)
        stack.append({"LIST": list, "DICT": _pairs, "TUPLE": tuple}[name](items))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        items = [stack.pop() for _ in range(int(name[-1]))]
        stack.append(tuple(items[::-1]))
    elif name in ("APPEND", "APPENDS"):
        items = _above_mark(stack) if name == "APPENDS" else [stack.pop()]
        list.extend(stack[-1], items)
    elif name in ("SETITEM", "SETITEMS"):
        items = _above_mark(stack) if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
        dict.update(stack[-1], _pairs(items))
    elif name == "GLOBAL":
        if argument not in _NAMES:
            raise ValueError(f"the name {argument.replace(' ', '.')[:80]!r}, which is never looked up")
        stack.append(_Name(_NAMES[argument]))
    elif name == "REDUCE":
        arguments, function = stack.pop(), stack.pop()
        stack.append(_call(function, arguments))
    elif name == "BUILD":
        state, built = stack.pop(), stack[-1]
        built.value = _set_state(built.value, state)
    elif name == "PROTO":
        if argument > PROTOCOL:
            raise ValueError(f"a pickle of protocol {argument}, expected at most {PROTOCOL}")
    elif name != "STOP":
        raise ValueError(f"the opcode {name}, which pickled arrays, strings, lists and numbers do not need")


def _above_mark(stack: list[Any]) -> list[Any]:
    """Take what lies above the last mark."""
    at = len(stack) - 1
    while stack[at] is not _MARK:
        at -= 1
        if at < 0:
            raise IndexError
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    """An array or type without its state yet, or bytes."""
    if not isinstance(function, _Name):
        raise ValueError("a call of something that is not a name")
    if function == "bytes":
        text, encoding = arguments
        if encoding != "latin1":
            raise ValueError("text in another encoding than Latin-1")
        return text.encode("latin1")
    if function == "dtype" and isinstance(arguments[0], str):
        dtype = np.dtype({"b1": "?"}.get(arguments[0], arguments[0]))
        if dtype.kind not in "buif":
            raise ValueError(f"an array of {dtype}, expected numbers")
        return _Built(dtype)
    if function == "array" and isinstance(arguments[0], _Name) and arguments[0] == "ndarray":
        return _Built(None)
    raise ValueError(f"a call of {function!s} that makes no array")


def _set_state(value: Any, state: tuple[Any, ...]) -> Any:
    """A type in its byte order, or the array."""
    if isinstance(value, np.dtype):
        return value.newbyteorder(state[1])
    if value is not None:
        raise ValueError("an array that is built twice")
    _, shape, dtype, fortran, data = state
    raw = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(dtype, _Built) or not isinstance(raw, bytes) or any(n < 0 for n in shape):
        raise ValueError("an array that is not of numbers")
    if len(raw) != math.prod(shape) * dtype.value.itemsize or max(shape, default=0) > len(raw):
        raise ValueError(f"an array of {len(raw)} bytes where its header says {shape}")
    return np.frombuffer(raw, dtype.value).reshape(shape, order="F" if fortran else "C")
