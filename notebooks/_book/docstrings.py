"""How docstrings and signatures enter the reference."""

import dataclasses
import enum
import inspect
import re
import sys
from pathlib import Path
from types import UnionType
from typing import Any

from jaxtyping import PRNGKeyArray

from .typeset import typeset

SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Example|Examples|Note):\s*$")
ARGUMENT = re.compile(r"^(    \*{0,2}\w+): (.*)$")
ENUMERATOR = re.compile(r"^([A-Za-z]|[ivxlc]+)\.")  # "d." would begin a list
REFERENCE = re.compile(r":(?:func|class|meth|attr|data|mod):`~?\.?([\w.]+)`")


class Docstrings:
    """The hooks of autodoc; ``paths`` are those of the public names, for references between docstrings."""

    def __init__(self, paths: dict[str, str]) -> None:
        self.paths = paths

    def process(self, _app: Any, what: str, _name: str, obj: Any, _options: Any, lines: list[str]) -> None:
        """Rewrite the lines of a docstring in place."""
        types = annotations_of(obj) if what == "class" else {}
        text = self.rewrite("\n".join(lines), types)
        lines[:] = re.sub("^Attributes:$", "Fields:", text, flags=re.MULTILINE).splitlines()

    def rewrite(self, text: str, types: dict[str, str]) -> str:
        """Prose typeset, formulas that stand alone as they were written, types of attributes, references."""
        section, done = "", []
        for block in re.split(r"\n\n", text):
            heading = SECTION.match(block.splitlines()[0]) if block.strip() else None
            section = heading[1] if heading else section if block.startswith((" ", "    ")) else ""
            if section.startswith("Example"):
                done.append(block)
            elif not section and block.startswith("    "):
                done.append(formula(block))
            else:
                done.append(self._typeset(block, types if section == "Attributes" else {}))
        return "\n\n".join(done)

    def _typeset(self, block: str, types: dict[str, str]) -> str:
        """Arguments keep their names; the rest, which may run over lines, is typeset as one."""
        parts: list[list[str]] = [["", ""]]  # names as they are, and the text after each
        for line in block.splitlines(keepends=True):
            argument = ARGUMENT.match(line.rstrip("\n"))
            if argument:
                head, rest = argument.groups()
                kept = types.get(head.strip())
                parts.append(
                    [f"{head}{f' (``{kept}``)' if kept else ''}: ", rest + "\n" * line.endswith("\n")]
                )
            else:
                parts[-1][1] += line
        return "".join(head + typeset(linked(rest, self.paths)) for head, rest in parts)


def linked(text: str, paths: dict[str, str]) -> str:
    """References between docstrings as references of the book; to what is not public, the name alone."""

    def link(match: re.Match[str]) -> str:
        first, _, rest = match[1].removeprefix("manifold_jax.").partition(".")
        if first not in paths:
            return f"``{match[1]}``"
        return f":py:obj:`{match[1]} <{'.'.join(filter(None, (paths[first], rest)))}>`"

    return REFERENCE.sub(link, text)


def formula(block: str) -> str:
    """Lines that stand alone and indented, each as a line of its own."""
    lines = [f"| {typeset(line.strip())}" for line in block.splitlines()]
    return "\n".join([".. rst-class:: formula", "", *lines])


def annotations_of(value: Any) -> dict[str, str]:
    """Types of the fields of a result."""
    scope = scope_of(value)
    return {
        name: expanded(plain(note), scope) for name, note in getattr(value, "__annotations__", {}).items()
    }


def scope_of(value: Any) -> dict[str, Any]:
    """What the names in the annotations of a function or class stand for."""
    own = vars(sys.modules[inspect.unwrap(value).__module__])
    modules = (
        part for part in own.values() if inspect.ismodule(part) and part.__name__.startswith("manifold_jax")
    )
    return {name: part for names in (*map(vars, modules), own) for name, part in names.items()}


def plain(annotation: Any) -> str:
    """An annotation as it was written, without the quotes around it and the modules of its parts."""
    if isinstance(annotation, str):
        text = annotation
    elif hasattr(annotation, "__forward_arg__"):
        text = annotation.__forward_arg__
    elif isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        text = annotation.__name__
    else:
        text = repr(annotation)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text).replace('"', "'")


def expanded(text: str, scope: dict[str, Any]) -> str:
    """An annotation in which short names of types are written out, since no page says what they are."""

    def word(match: re.Match[str]) -> str:
        value = scope.get(match[0])
        if value is Path:  # a result has this name too
            return "pathlib.Path"
        alias = hasattr(value, "__origin__") or isinstance(value, UnionType)
        shaped = isinstance(value, type) and hasattr(value, "dim_str")  # of jaxtyping
        return plain(value.__name__ if shaped else value) if alias or shaped else match[0]

    quoted = re.split(r"('[^']*')", text)
    written = (part if k % 2 else re.sub(r"[A-Za-z]\w*", word, part) for k, part in enumerate(quoted))
    return "".join(written).replace(plain(PRNGKeyArray), "PRNGKeyArray")  # says more than what it stands for


def plain_default(value: Any) -> str:
    return value.__name__ if callable(value) and hasattr(value, "__name__") else repr(value)


def signature_of(value: Any) -> tuple[str, str] | None:
    """Arguments and result of a function or class; nothing for what a user does not build."""
    if inspect.isclass(value) and (hasattr(value, "_fields") or issubclass(value, enum.Enum)):
        return "", ""
    function = value.__init__ if inspect.isclass(value) and not dataclasses.is_dataclass(value) else value
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    empty, scope = inspect.Parameter.empty, scope_of(value)
    parameters = [
        p.replace(
            annotation=empty if p.annotation is empty else Text(expanded(plain(p.annotation), scope)),
            default=empty if p.default is empty else Text(plain_default(p.default)),
        )
        for p in parameters
    ]
    result = signature.return_annotation
    hidden = inspect.isclass(value) or result is empty
    return str(inspect.Signature(parameters)), "" if hidden else expanded(plain(result), scope)


class Text(str):
    """Text that a signature shows without quotes."""

    def __repr__(self) -> str:
        return str(self)


def process_signature(_app: Any, what: str, _name: str, obj: Any, *_rest: Any) -> tuple[str, str] | None:
    """Signatures as they were written: shapes as jaxtyping has them, and no paths of modules."""
    return signature_of(obj) if what in {"function", "class", "method"} else None


def setup(app: Any, paths: dict[str, str]) -> None:
    """Connect the hooks, before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", Docstrings(paths).process, priority=400)
    app.connect("autodoc-process-signature", process_signature)
