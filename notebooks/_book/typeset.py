"""Docstrings are plain text; here their formulas become readable, and harmless to reStructuredText."""

import re

LITERALS = re.compile(r"(``.+?``|:\w+:`[^`]+`|\*[A-Z][^*]+\*)", re.DOTALL)

WORDS = {
    "<=": "≤", ">=": "≥", "<-": "←", "->": "→", "+-": "±",
    "pi": "π", "tau": "τ", "eps": "ε", "theta": "θ", "lambda": "λ", "sigma": "σ", "Gamma": "Γ", "mu": "μ", "omega": "ω",
    "xi": "ξ", "rho": "ρ", "delta": "δ", "beta": "β", "gamma": "γ",
}  # fmt: skip

BASES = r"[A-Za-z]|II|Ric|grad|sum|max|min|inf|sup|mean|sdr|argmin|tau|Gamma|lambda|omega|xi|rho|sigma"
SUBSCRIPT = re.compile(rf"(?<![\w`.\"])({BASES})_(\w{{1,5}}(?:,\w)?|\([^()]*\))(?![\w`])")
SUPERSCRIPT = re.compile(r"(?<=[\w)|}⟩])\^(\((?:[^()]|\([^()]*\))*\)|\{[^{}]*\}|-?[A-Za-z0-9]+)")
BELOW = re.compile(r"(?<=`\\ )_([a-z]{1,5})\b")  # of Gamma^k_ij
BRACKETS = re.compile(r"<([^<>`\n]{1,30}, [^<>`\n]{1,30})>")


def _script(role: str, text: str) -> str:
    """A subscript or superscript; an outer pair of brackets is not needed there."""
    return rf"\ :{role}:`{text.strip('(){}') if text[0] in '({' and text.count(text[0]) == 1 else text}`\ "


def _symbols(text: str) -> str:
    for word, symbol in WORDS.items():
        edge = r"\b" if word.isalpha() else ""
        text = re.sub(rf"{edge}{re.escape(word)}{edge}", symbol, text)
    return text


def _prose(text: str) -> str:
    text = BRACKETS.sub(r"⟨\1⟩", text)
    text = re.sub(r"\bgrad(?=_[a-z]\b| (?:log|p)\b)", "∇", text)
    text = re.sub(r"\bsqrt(?=\()|\bsqrt (?=\w)", "√", text)
    text = re.sub(r"(?<![\w`.])∇_(\w)\b", lambda m: "∇" + _script("sub", m[1]), text)
    text = SUPERSCRIPT.sub(lambda m: _script("sup", _symbols(m[1])), text)
    text = BELOW.sub(lambda match: _script("sub", match[1]), text)
    text = SUBSCRIPT.sub(lambda m: _base(m[1]) + _script("sub", _symbols(m[2])), text)
    parts = re.split(r"(\\ :su[bp]:`[^`]*`)", text)  # what is in a role is done
    return "".join(part if k % 2 else _symbols(part).replace("|", r"\|") for k, part in enumerate(parts))


def _base(word: str) -> str:
    return {"sum": "Σ"}.get(word, _symbols(word))


def typeset(text: str) -> str:
    """Text of a docstring as reStructuredText; literals, roles and titles of books stay as they are."""
    parts = LITERALS.split(text)
    return "".join(part if k % 2 else _prose(part) for k, part in enumerate(parts))
