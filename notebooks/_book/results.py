"""Pages from files of the repository: the results, the changelog, how to contribute."""

import re
from pathlib import Path

from .files import write_folder

GROUPS = {
    "Claims of the two papers, checked": ("claims",),
    "How well the geometry is measured": (
        "accuracy", "convergence", "coverage", "coverage_reach", "coverage_samples", "real_images", "union",
    ),
    "Classifiers and their leaves": (
        "leaf", "history", "algorithm", "across", "involutivity", "uses", "coverage_information",
    ),
    "Layers of a network": ("layers", "figure6", "layers_cost"),
    "Fits, rates and estimators": (
        "bounds", "figure3", "figure4", "figure5", "calibration", "calibration_neighbourhoods",
        "calibration_noise", "calibration_reaches", "calibration_balls",
    ),
    "Time, memory and other packages": (
        "accelerator", "peer_fitting", "peer_projection", "peer_leaf", "scale", "survival",
    ),
}  # fmt: skip
"""Results by what they are about; what is not listed comes last, so that nothing is forgotten."""

TITLES = {
    "claims": "Claims of the two papers, checked",
    "peer_projection": "Time to project images",
}
"""Titles in the table of contents that are not the heading of the page."""

ABOUT = """\
Every page here was written by a program in the folder `benchmarks` of the repository, and has its raw data next to it in
`benchmarks/results`. It says on which machine, with which versions and from which commit.
"""

LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)")


def title_of(text: str) -> str:
    """Heading of a page."""
    return next(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))


def relink(text: str, places: dict[str, str]) -> str:
    """Links to files as they are reached from the book; to what is not part of it, only their text."""

    def link(match: re.Match[str]) -> str:
        label, target = match.groups()
        if target.startswith(("http:", "https:", "#", "mailto:")):
            return match[0]
        return f"{label}({places[target]})" if target in places else label.lstrip("!")[1:-1]

    return LINK.sub(link, text)


def result_pages(root: Path) -> dict[str, str]:
    """Text of every page of results, and of the page that lists them."""
    folder = root / "benchmarks" / "results"
    sources = {path.stem: path.read_text("utf8") for path in sorted(folder.glob("*.md"))}
    near = {f"{name}.md": f"{name}.md" for name in sources}
    near |= {path.name: f"../../benchmarks/results/{path.name}" for path in folder.glob("*.png")}
    pages = {f"{name}.md": relink(text, near) for name, text in sources.items()}
    return pages | {"index.md": contents(sources)}


def contents(sources: dict[str, str]) -> str:
    """The page that lists all results."""
    listed = [name for names in GROUPS.values() for name in names]
    groups = GROUPS | {"Other results": tuple(name for name in sources if name not in listed)}
    parts = ["# Results\n", ABOUT]
    for title, names in groups.items():
        rows = "\n".join(_entry(name) for name in names if name in sources)
        if rows:
            first = verdicts(sources["claims"]) + "\n\n" if "claims" in names else ""
            parts.append(f"## {title}\n\n{first}```{{toctree}}\n:maxdepth: 1\n\n{rows}\n```\n")
    return "\n".join(parts)


def _entry(name: str) -> str:
    return f"{TITLES[name]} <{name}>" if name in TITLES else name


def verdicts(claims: str) -> str:
    """How many claims of each paper hold: the line below each heading of the page."""
    return "\n\n".join(
        f"{paper}: {line}"
        for paper, line in re.findall(r"^## (.+)\n\n(\d+ tests: .+)$", claims, re.MULTILINE)
    )


def project_pages(root: Path) -> dict[str, str]:
    """The changelog and how to contribute, with links into the book where it has the page."""
    notebooks = {f"notebooks/{path.name}": f"../{path.name}" for path in (root / "notebooks").glob("0*.py")}
    files = ("CHANGELOG.md", "CONTRIBUTING.md")
    links = notebooks | {name: name.lower() for name in files}
    return {name.lower(): relink((root / name).read_text("utf8"), links) for name in files}


def write(root: Path, book: Path) -> None:
    """Write the pages that are made from other files."""
    write_folder(book / "results", result_pages(root))
    write_folder(book / "project", project_pages(root))
