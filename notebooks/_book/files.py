"""Files of the book that are written at every build."""

from pathlib import Path


def write_folder(folder: Path, texts: dict[str, str]) -> None:
    """Make a folder hold these files and no others; what has not changed is left alone, and not read again."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text("utf8") != text:
            path.write_text(text, "utf8")
