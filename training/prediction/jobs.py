"""What `predict` is to make of the files, folders and patterns that it was given, and where each result goes."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError
from core.images.decode import PHOTO_SUFFIXES
from core.runtime.files import TEMPORARY, files_below

FILM_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts")
MADE = ("_overlay", "_mask", "_beside")  # what the names of films that are made end with
FILM = ".webm"  # what every browser plays, and OpenCV's packages can write


@dataclass(frozen=True)
class Job:
    """A photograph or film, and what is made of it: for a photograph the mask, and the overlay where it is wished."""

    source: Path
    targets: tuple[Path, ...]

    @property
    def film(self) -> bool:
        """Whether it moves."""
        return self.source.suffix.lower() in FILM_SUFFIXES


def plan(inputs: list[str], out: Path, overlays: bool, film: str) -> list[Job]:
    """The jobs; a folder's tree is kept. Masks of an earlier run are no photographs: what lies in `out` is left out of a
    folder that holds it.

    Raises InputError: nothing there, two results of one name, a result that would replace a photograph or film.
    """
    jobs: dict[Path, Job] = {}
    seen: set[Path] = set()  # a file may be named twice: by itself and by its folder
    for source, place in (found for given in inputs for found in _found(given, out)):
        if source.absolute() in seen:
            continue
        seen.add(source.absolute())
        job = Job(source, tuple(_targets(source, out / place, overlays, film)))
        other = jobs.setdefault(job.targets[0], job)
        if other.source != source:
            told = f"{source} and {other.source} would both become {job.targets[0]}"
            raise InputError(f"{told}; predict them into two folders")
    _require_no_loss(list(jobs.values()))
    return list(jobs.values())


def _targets(source: Path, place: Path, overlays: bool, film: str) -> Iterator[Path]:
    if source.suffix.lower() in FILM_SUFFIXES:
        yield place.with_name(f"{place.stem}_{film}{FILM}")
        return
    yield place.with_suffix(".png")
    if overlays:
        yield place.with_name(f"{place.stem}_overlay.png")


def _found(given: str, out: Path) -> Iterator[tuple[Path, Path]]:
    """Photographs and films of an argument, each with its place in the tree."""
    path = Path(given)
    if path.is_dir():
        found = [each for each in files_below(path) if _is_wanted(each) and not _lies_in(each, out, path)]
        if not found:
            raise InputError(f"{given}: holds no photographs ({', '.join(PHOTO_SUFFIXES)}) and no films")
        yield from ((each, each.relative_to(path)) for each in found)
    elif path.exists():
        yield path, Path(path.name)
    elif glob.has_magic(given):  # a pattern that the shell has left as it is
        root = Path(*_before_magic(path))
        try:
            matches = sorted(root.glob(str(path.relative_to(root))))
        except ValueError as error:
            raise InputError(f"{given}: no pattern ({error}); expected such as 'drive/**/*.png'") from None
        found = [each for each in matches if each.is_file() and _is_wanted(each) and not _lies_in(each, out, root)]
        if not found:
            raise InputError(f"{given}: no photograph and no film has such a name")
        yield from ((each, each.relative_to(root)) for each in found)
    else:
        raise InputError(f"{given}: no such file or folder")


def _before_magic(pattern: Path) -> Iterator[str]:
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _is_wanted(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES + FILM_SUFFIXES and not path.match(TEMPORARY + ".*")


def _lies_in(path: Path, out: Path, root: Path) -> bool:
    """Whether a file is a result of an earlier run: it lies in the folder for them, or is a film that they were made of."""
    masks = out.resolve()
    made = path.suffix == FILM and path.stem.endswith(MADE) and masks in path.resolve().parents
    return made or (root.resolve() in masks.parents and masks in path.resolve().parents)


def _require_no_loss(jobs: list[Job]) -> None:
    given = {job.source.resolve() for job in jobs}
    written: dict[Path, Job] = {}
    for job in jobs:
        for target in job.targets:
            if target.resolve() in given:
                raise InputError(f"--out: {target} is a photograph and would be replaced; choose another folder")
            if target in written:
                one = written[target] if target == job.targets[0] else job
                raise InputError(
                    f"the overlay of {one.source} would take the place of another mask; predict them into two folders"
                )
            written[target] = job
