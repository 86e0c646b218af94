"""Callables as programs: what they compute now, with all arrays that they hold as data.

JAX knows a function by its identity. A module, bound method or closure that is changed in place stays the
same object, and what was compiled for it would return its old numbers. So public functions trace what they
are given once, at every call: arrays become leaves of a ``jax.tree_util.Partial``, the program is its static
part, and equal programs are one, so that other weights do not compile anything again.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jax.tree_util import Partial

KEPT = 512  # programs that are known again
ORDERS = 3  # derivatives by custom rules that are compared: of two jvps and a gradient
RULES = {"custom_jvp_call": ("jvp_jaxpr_fun",), "custom_vjp_call": ("fwd_jaxpr_thunk", "bwd", "out_trees")}
_LATEST: WeakKeyDictionary[Any, tuple[Any, Any]] = WeakKeyDictionary()  # keys without and with custom rules
STATE = "the function changes its own state when it is called, as BatchNorm and Dropout do in training"


def first_line(error: Exception) -> str:
    """What an error says, without the pages that JAX adds."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def as_function(source: Any) -> Any:
    """A callable as it is, a pair ``(module or apply, params)`` as a callable; anything else as it is."""
    if callable(source) or not isinstance(source, tuple) or len(source) != 2:
        return source
    apply = getattr(source[0], "apply", source[0])  # modules of Flax Linen, transformed functions of Haiku
    return Partial(apply, source[1]) if callable(apply) else source


class Program:
    """What a callable computes, without the arrays that it holds: equal where the computation is.

    Attributes:
        jaxpr: The computation; arrays that were held come before the arguments.
        arguments: Shapes and dtypes of the arguments, a tuple of pytrees.
        result: Those of the result, a pytree.
    """

    def __init__(self, jaxpr: Jaxpr, arguments: tuple[Any, ...], result: Any, key: Any) -> None:
        self.jaxpr, self.arguments, self.result = jaxpr, arguments, result
        types, structures = zip(*(jax.tree.flatten(tree) for tree in (arguments, result)), strict=True)
        kinds = tuple(_kind(leaf) for part in types for leaf in part)
        self._key = (key, structures, kinds)
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Program) and self._key == other._key)

    def fits(self, arguments: tuple[Any, ...]) -> bool:
        """Whether it was traced for arguments of this kind."""
        mine, given = jax.tree.leaves(self.arguments), jax.tree.leaves(arguments)
        same_tree = jax.tree.structure(self.arguments) == jax.tree.structure(arguments)
        return same_tree and [*map(_kind, mine)] == [*map(_kind, given)]

    def __call__(self, *values: Any) -> Any:
        """The result; ``values`` are the constants, a list of arrays, and the arguments."""
        constants, *arguments = values
        arguments = jax.tree.map(jnp.asarray, tuple(arguments))
        if not self.fits(arguments):
            raise TypeError(f"this program takes {self.arguments}, got {arguments}.")
        count = len(self.jaxpr.constvars)
        run = jaxpr_as_fun(ClosedJaxpr(self.jaxpr, constants[:count]))
        flat = run(*constants[count:], *jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(self.result), flat)


@lru_cache(maxsize=KEPT)
def _interned(program: Program) -> Program:
    """The first of all equal programs."""
    return program


def program_of(function: Any) -> Program | None:
    """The program of what :func:`frozen` returns; None for another callable."""
    program = function.func if isinstance(function, Partial) else None
    return program if isinstance(program, Program) else None


def result_of(function: Partial) -> Any:
    """Shape and dtype of what a callable from :func:`frozen` returns, a pytree."""
    return function.func.result  # type: ignore[attr-defined]


def frozen(function: Callable[..., Any], *at: Any) -> Partial:
    """A callable as it is now, for arguments shaped like ``at``, as a pytree.

    Its leaves are all arrays that the callable holds. It is compiled once for all weights, and once for equal
    computations, whichever objects they come from.

    Raises:
        ValueError: The callable changes its own state, such as the statistics of a BatchNorm in training.
    """
    arguments = jax.tree.map(_shape_of, at)
    known = program_of(function)
    if known is not None and known.fits(arguments):
        return function  # type: ignore[return-value]
    return _traced(function, arguments, known_again=True)


def frozen_once(function: Callable[..., Any], *at: Any) -> Partial:
    """As :func:`frozen` for one use: its program equals no other, so that none has to be compared."""
    return _traced(function, jax.tree.map(_shape_of, at), known_again=False)


def _traced(function: Callable[..., Any], arguments: tuple[Any, ...], *, known_again: bool) -> Partial:
    """What :func:`frozen` returns; its program is one with those that equal it only if it is known again."""
    while hasattr(function, "lower") and (inside := getattr(function, "__wrapped__", None)) is not None:
        function = inside  # under jax.jit arrays would be part of the program
    held, rebuild = _arrays(function)

    def run(held: Any, *arguments: Any) -> Any:
        instance = rebuild(held)
        result = instance(*arguments)
        after = _arrays(instance)[0]
        if len(after) == len(held) and any(a is not b for a, b in zip(after, held, strict=True)):
            raise ValueError(f"{STATE}: call module.eval() first.")
        return result

    # Arrays on a mesh count by shape alone: a program may run on every device of it by itself.
    plain = [_shape_of(x) if isinstance(x, jax.Array) and _on_mesh(x) else x for x in held]
    try:
        closed, result = jax.make_jaxpr(run, return_shape=True)(plain, *arguments)
    except Exception as error:
        if type(error).__name__ == "TraceContextError":  # Flax's, for a module inside a closure
            raise ValueError(f"{STATE}: call module.eval() first.") from error
        raise
    result = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), result)
    key = _key_of(function, closed.jaxpr) if known_again else object()
    program = Program(closed.jaxpr, arguments, result, key)
    program = _interned(program) if known_again else program
    # Copies: NumPy arrays may be changed in place while the program runs.
    constants = [jnp.array(x) if isinstance(x, np.ndarray) else x for x in (*closed.consts, *held)]
    return Partial(program, constants)


def _arrays(function: Any) -> tuple[list[Any], Callable[[list[Any]], Callable[..., Any]]]:
    """Arrays in a callable that is a pytree, or a method of one, and how it is built from others.

    Closures hold theirs where only tracing finds them. Numbers count in a ``Partial``, as for ``jax.jit``.
    """
    if isinstance(function, types.MethodType):
        held, whole = _arrays(function.__self__)
        return held, lambda arrays: types.MethodType(function.__func__, whole(arrays))
    leaves, structure = jax.tree.flatten(function)
    numbers = (float, np.floating) if isinstance(function, Partial) else ()
    places = [k for k, x in enumerate(leaves) if isinstance(x, (jax.Array, np.ndarray, *numbers))]

    def rebuild(arrays: list[Any]) -> Callable[..., Any]:
        new = dict(zip(places, arrays, strict=True))
        return jax.tree.unflatten(structure, [new.get(k, leaf) for k, leaf in enumerate(leaves)])

    return [leaves[k] for k in places], rebuild


def _shape_of(x: Any) -> jax.ShapeDtypeStruct:
    x = x if hasattr(x, "dtype") else jnp.asarray(x)
    return jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype, allow_extended_dtype=True))


def _on_mesh(x: jax.Array) -> bool:
    return not jax.typeof(x).sharding.mesh.empty


def _kind(array: Any) -> tuple[Any, Any]:
    return tuple(array.shape), array.dtype


class _Same:
    """An object that equals itself only, and is kept, so that no other takes its place."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


def _key_of(function: Any, jaxpr: Jaxpr) -> Any:
    """The key of a program. Custom rules, slow to compare, count as those that a function had at first.

    Another function, or one that computes something else than before, is compared again.
    """
    plain = _jaxpr_key(jaxpr, ORDERS)
    try:
        known = _LATEST.get(function)
        if known is None or known[0] != plain:
            _LATEST[function] = known = plain, _jaxpr_key(jaxpr, 0)
    except TypeError:  # it has no hash, or no weak reference
        return _jaxpr_key(jaxpr, 0)
    return known[1]


def _jaxpr_key(jaxpr: Jaxpr, order: int) -> Any:
    """All that a program is made of, with its variables numbered; unequal where in doubt."""
    numbers: dict[Any, int] = {}

    def name(atom: Any) -> Any:
        if hasattr(atom, "val"):  # a literal
            return _value_key(atom.aval, order), _array_key(atom.val)
        return numbers.setdefault(atom, len(numbers))

    def binders(variables: Any) -> tuple[Any, ...]:
        return tuple((name(v), _value_key(v.aval, order)) for v in variables)

    inputs = binders(jaxpr.constvars), binders(jaxpr.invars)
    equations = [
        (e.primitive, tuple(map(name, e.invars)), binders(e.outvars), _parameters_key(jaxpr, e, order))
        for e in jaxpr.eqns
    ]
    return inputs, tuple(equations), tuple(map(name, jaxpr.outvars))


def _parameters_key(jaxpr: Jaxpr, equation: Any, order: int) -> Any:
    """Parameters of an equation; every trace has a new rule of derivatives, which is compared by doing."""
    parameters = dict(equation.params)
    rules = [parameters.pop(name, None) for name in RULES.get(equation.primitive.name, ())]
    custom = any(rule is not None for rule in rules) and order < ORDERS
    plain = tuple((name, _value_key(value, order)) for name, value in sorted(parameters.items()))
    return plain, _rule_key(jaxpr, equation, order + 1) if custom else None


def _rule_key(jaxpr: Jaxpr, equation: Any, order: int) -> Any:
    """The derivative that a custom rule gives, as a program."""
    inputs = list(dict.fromkeys(v for v in equation.invars if not hasattr(v, "val")))
    single = jaxpr.replace(constvars=[], invars=inputs, outvars=equation.outvars, eqns=[equation])
    function = jaxpr_as_fun(ClosedJaxpr(single, []))
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in inputs]
    smooth = [k for k, s in enumerate(shapes) if jnp.issubdtype(s.dtype, jnp.inexact)]

    def derivative(point: list[Any], vectors: list[Any]) -> Any:
        still = [np.zeros(s.shape, jax.dtypes.float0) for s in shapes]
        tangents = dict(zip(smooth, vectors, strict=True))
        return jax.jvp(function, point, [tangents.get(k, zero) for k, zero in enumerate(still)])

    def gradient(point: list[Any], vectors: list[Any]) -> Any:
        def of_smooth(*values: Any) -> list[Any]:
            new = dict(zip(smooth, values, strict=True))
            return [
                y for y, s in zip(function(*map(new.get, range(len(point)), point)), ends, strict=True) if s
            ]

        return jax.vjp(of_smooth, *[point[k] for k in smooth])[1](vectors)

    if equation.primitive.name == "custom_jvp_call":
        return _value_key(jax.make_jaxpr(derivative)(shapes, [shapes[k] for k in smooth]), order)
    ends = [jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in equation.outvars]
    cotangents = [_shape_of(v.aval) for v, s in zip(equation.outvars, ends, strict=True) if s]
    return _value_key(jax.make_jaxpr(gradient)(shapes, cotangents), order)


def _value_key(value: Any, order: int) -> Any:
    """A parameter: programs by what they do, plain values by value, all else by identity."""
    if isinstance(value, ClosedJaxpr):
        return _jaxpr_key(value.jaxpr, order), tuple(map(_array_key, value.consts))
    if isinstance(value, Jaxpr):
        return _jaxpr_key(value, order)
    if isinstance(value, (tuple, list)):
        return type(value), tuple(_value_key(part, order) for part in value)
    if isinstance(value, (jax.Array, np.ndarray)):
        return _array_key(value)
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return type(value), value


def _array_key(value: Any) -> Any:
    """JAX's arrays cannot be changed; those of NumPy and numbers are compared bit by bit."""
    if isinstance(value, jax.Array):
        return _Same(value)
    array = np.asarray(value)
    return type(value), array.dtype, array.shape, array.tobytes()
