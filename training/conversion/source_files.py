"""The files of an export: the directory in which it starts, its images, its JSON documents and its splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from core.errors import InputError
from core.images.decode import IMAGE_SUFFIXES
from core.runtime.files import list_files

TRAIN = "train"
SPLIT_NAMES = (TRAIN, "val", "valid", "validation", "test")
MAX_DEPTH = 3  # directories between SOURCE and the export: archives have some around it
UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-")  # Label Studio's, before the name of an uploaded file


def find_root(source: Path, *expected: str) -> Path:
    """Return the directory at or below `source` that contains all of the relative paths `expected`.

    Raises:
        InputError: There is none, or more than one.
    """
    level, roots = [source], []
    for _ in range(MAX_DEPTH + 1):
        roots = [path for path in level if all((path / name).exists() for name in expected)]
        if roots:
            break
        level = [child for path in level for child in _subdirectories(path)]
    if len(roots) > 1:
        raise InputError(f"{source}: has several exports ({', '.join(map(str, roots[:5]))}); choose one of them as SOURCE")
    if not roots:
        raise InputError(
            f"{source}: not an export of this format; expected {' and '.join(f'SOURCE/{name}' for name in expected)}"
        )
    return roots[0]


def _subdirectories(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{directory}: can't be read ({error.strerror})") from None


def read_file(path: Path) -> bytes:
    """Return the content of a file. Raises InputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None


def index_by_stem(directory: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Map the relative paths of the files below `directory`, without suffix, to these files."""
    files = [path for path in list_files(directory) if path.suffix.lower() in suffixes]
    return {path.relative_to(directory).with_suffix("").as_posix(): path for path in files}


def as_split(name: str) -> str:
    """Return the split that a name such as `train2017`, `Train` or `default` (CVAT's name for no split) means."""
    plain = re.sub(r"[\d_-]*$", "", name).lower()
    return TRAIN if plain in ("", "default") else plain if plain in SPLIT_NAMES else name


def split_of_directory(path: Path, source: Path) -> str:
    """Return the split of a file in a directory such as SOURCE/val; `train` if no directory is named after a split."""
    return next((part.lower() for part in path.relative_to(source).parts[:-1] if part.lower() in SPLIT_NAMES), TRAIN)


class ImageFinder:
    """Finds the images of an export by the names in its annotations, which often have the directories of another computer."""

    def __init__(self, source: Path, excluded: Sequence[Path] = ()) -> None:
        """Index the files below `source`, but not those in the directories `excluded`."""
        self.source = source
        self.files: dict[str, list[Path]] = {}
        for path in list_files(source):
            if path.parent not in excluded:
                self.files.setdefault(path.name, []).append(path)

    def find(self, name: str, *near: str) -> Path:
        """Return the file whose path has the most trailing parts in common with `name`, a path or URL.

        Args:
            near: Names of directories; a file in one of them is preferred to another one of the same name.

        Raises:
            InputError: There is no such file, or several fit equally well.
        """
        parts = [part for part in _as_path(name).split("/") if part not in ("", ".", "..")]
        candidates = self.files.get(parts[-1], []) if parts else []
        if not candidates and parts:
            parts[-1] = UPLOAD_PREFIX.sub("", parts[-1], count=1)
            candidates = self.files.get(parts[-1], [])
        if not candidates:
            raise InputError(f"{self.source / name}: no such image below {self.source}")
        ranks = [(self._common_parts(path, parts), not set(near).isdisjoint(path.parts)) for path in candidates]
        best = [path for path, rank in zip(candidates, ranks, strict=True) if rank == max(ranks)]
        if len(best) > 1:
            raise InputError(f"{self.source / name}: could be {best[0]} or {best[1]}; remove one of them")
        return best[0]

    def _common_parts(self, path: Path, parts: list[str]) -> int:
        pairs = zip(reversed(path.relative_to(self.source).parts), reversed(parts), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _as_path(name: str) -> str:
    """Return the path in a URL such as `/data/local-files/?d=street/1.jpg`; a plain or Windows path with slashes."""
    url = urlsplit(name)
    if url.query and (url.scheme or name.startswith("/data/")):
        return parse_qs(url.query).get("d", [unquote(url.path)])[0]
    return unquote(url.path) if len(url.scheme) > 1 or name.startswith("/data/") else name.replace("\\", "/")
