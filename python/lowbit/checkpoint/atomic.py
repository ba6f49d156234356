"""Directories that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_directory(path: Path, fill: Callable[[Path], None], *, keep: Callable[[str], bool]) -> None:
    """Fills a new directory beside `path` and then puts it in its place.

    Whatever goes wrong before that, an existing directory is untouched and nothing else is left behind. Where
    `path` is a link to a directory, that directory is replaced.

    Args:
        path: the directory to make or replace.
        fill: writes the files into the directory it is given.
        keep: which files of a replaced directory go into the new one, by name, where `fill` made none.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        new = aside / "new"
        new.mkdir()
        fill(new)
        if path.is_dir():
            for old in path.iterdir():
                if keep(old.name) and not (new / old.name).exists():
                    _copy(old, new / old.name)
        for file in new.rglob("*"):
            _flush(file)
        _exchange(new, path, aside / "old")
    finally:
        # An old directory that could not be put back must not go with the rest.
        if path.exists() or not (aside / "old").exists():
            shutil.rmtree(aside, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _flush(file: Path) -> None:
    if file.is_file():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def _exchange(new: Path, path: Path, old: Path) -> None:
    """Two renames; when the second does not happen, be it for Ctrl-C, the first is undone."""
    if not path.exists():
        os.rename(new, path)
        return
    try:
        os.rename(path, old)
        os.rename(new, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        raise
