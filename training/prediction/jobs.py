"""Planning of `predict`: which files the inputs name, and where the results of each are written."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError
from core.images.decode import IMAGE_SUFFIXES
from core.runtime.atomic import TMP_GLOB
from core.runtime.files import list_files

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".wmv", ".flv", ".ogv"),
    *(".vob", ".dv"),
)
VIDEO_OUTPUT_SUFFIXES = ("_overlay", "_mask", "_beside")  # of the names of written videos, before the file extension
VIDEO_FORMATS = (".mp4", ".webm")  # that can be written
STDIN, STDIN_NAME = "-", Path("stdin")  # as an input, and as the name of its results


@dataclass(frozen=True)
class Job:
    """An image or a video, and the files to write: the video's result, or the image's mask and what was requested beside it."""

    source: Path  # of a camera, a stream or standard input, only a name
    targets: tuple[Path, ...]
    url: str = ""  # of a camera (`/dev/video0`) or a stream (`rtsp://...`)
    data: bytes = b""  # the encoded image, if it comes from standard input

    @property
    def is_video(self) -> bool:
        """Whether the source is a video."""
        return bool(self.url) or _is_video(self.source)


def plan_jobs(
    inputs: list[str],
    out: Path,
    image_suffixes: Sequence[str],
    rendering: str,
    video_format: str = ".mp4",
    stdin: bytes = b"",
) -> list[Job]:
    """Return the jobs for files, directories, glob patterns, streams and `-`, which is standard input.

    The tree below a directory or a pattern is kept. Results of earlier runs are not inputs: if a directory contains `out`,
    the files in `out` are skipped. If two files differ only in their suffix, the second one's results keep the suffix:
    x.png -> x.png, x.jpg -> x.jpg.png.

    Args:
        inputs: What the user named.
        out: The output directory.
        image_suffixes: What to write for an image beside its mask: `_overlay`, `_confidence`.
        rendering: What a video shows.
        video_format: File name extension of written videos.
        stdin: The image on standard input, whose results are named `stdin`.

    Raises:
        InputError: An input names no files, two inputs have the same name, or a result would overwrite an input.
    """
    sources: dict[Path, tuple[Path, Path]] = {}  # a file may be named twice: by itself and by its directory
    video_suffix = f"_{rendering}{video_format}"
    streams = [_stream_job(given, out, video_suffix) for given in inputs if _is_stream(given)]
    if STDIN in inputs:
        streams.append(Job(STDIN_NAME, _targets(STDIN_NAME, out / STDIN_NAME, image_suffixes, video_suffix), data=stdin))
    files = [given for given in inputs if not _is_stream(given) and given != STDIN]
    for source, relative in (pair for given in files for pair in _find_sources(given, out)):
        sources.setdefault(source.absolute(), (source, relative))
    owners: dict[Path, tuple[Path, Path]] = {}  # first target -> source and its relative path
    jobs: dict[Path, Job] = {}
    renamed: list[Job] = []
    # A PNG comes first, so that it is the one whose mask has the same name.
    for source, relative in sorted(sources.values(), key=lambda pair: pair[1].suffix.lower() != ".png"):
        job = Job(source, _targets(source, out / relative.with_suffix(""), image_suffixes, video_suffix))
        owner = owners.setdefault(job.targets[0], (source, relative))
        if owner[0] != source and owner[1] != relative:
            job = Job(source, _targets(source, out / relative, image_suffixes, video_suffix))
            owner = owners.setdefault(job.targets[0], (source, relative))
            renamed.append(job)
        if owner[0] != source:
            raise InputError(
                f"{source} and {owner[0]} would both be written to {job.targets[0]}; predict them into two directories"
            )
        jobs[source] = job
    planned = [jobs[source] for source, _ in sources.values()] + streams
    _check_no_overwrite(planned)
    if renamed:
        more = f" (and {len(renamed) - 1} more)" if len(renamed) > 1 else ""
        print(
            f"warning: {renamed[0].source}{more}: another input has the same name without the suffix, so the result keeps it:"
            f" {renamed[0].targets[0]}",
            file=sys.stderr,
        )
    return planned


def _targets(source: Path, stem: Path, image_suffixes: Sequence[str], video_suffix: str) -> tuple[Path, ...]:
    if _is_video(source):
        return (stem.with_name(f"{stem.name}{video_suffix}"),)
    return tuple(stem.with_name(f"{stem.name}{suffix}.png") for suffix in ("", *image_suffixes))


def _is_stream(given: str) -> bool:
    return "://" in given or given.startswith("/dev/video")


def _stream_job(url: str, out: Path, video_suffix: str) -> Job:
    """Return the job of a camera or stream, named after its address without scheme and password."""
    name = re.sub(r"[^\w.-]+", "_", re.sub(r"^(\w+://([^/@]*@)?|/dev/)", "", url)).strip("_") or "stream"
    return Job(Path(name), (out / f"{name}{video_suffix}",), url)


def _find_sources(given: str, out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the images and videos of an argument, each with its path relative to the output directory."""
    path = Path(given)
    if path.is_dir():
        files = [file for file in list_files(path) if _is_supported(file) and not _is_own_output(file, out, path)]
        if not files:
            raise InputError(f"{given}: contains no images ({', '.join(IMAGE_SUFFIXES)}) and no videos")
        yield from ((file, file.relative_to(path)) for file in files)
    elif path.exists():
        yield path, Path(path.name)
    elif glob.has_magic(given):  # A quoted pattern, which the shell has not expanded.
        root = Path(*_before_magic(path))
        try:
            matches = sorted(root.glob(str(path.relative_to(root))))
        except ValueError as error:
            raise InputError(f"{given}: not a valid pattern ({error}); expected one such as 'drive/**/*.png'") from None
        files = [f for f in matches if f.is_file() and _is_supported(f) and not _is_own_output(f, out, root)]
        if not files:
            raise InputError(f"{given}: no image or video matches the pattern")
        yield from ((file, file.relative_to(root)) for file in files)
    else:
        raise InputError(f"{given}: no such file or directory")


def _before_magic(pattern: Path) -> Iterator[str]:
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _is_supported(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES and not path.match(TMP_GLOB + ".*")


def _is_own_output(path: Path, out: Path, root: Path) -> bool:
    """Return whether a file is a result of an earlier run: it is in `out` below `root`, or a written video in `out`."""
    out = out.resolve()
    in_out = out in path.resolve().parents
    written_video = path.suffix in VIDEO_FORMATS and path.stem.endswith(VIDEO_OUTPUT_SUFFIXES)
    return in_out and (written_video or root.resolve() in out.parents)


def _check_no_overwrite(jobs: list[Job]) -> None:
    inputs = {job.source.resolve() for job in jobs if not job.url and not job.data}
    written: dict[Path, Job] = {}
    for job in jobs:
        for target in job.targets:
            if target.resolve() in inputs:
                raise InputError(f"--out: {target} is an input image and would be overwritten; choose another directory")
            if target in written:
                other = written[target] if target == job.targets[0] else job
                raise InputError(
                    f"{target}, a result of {other.source}, would overwrite the mask of another image;"
                    " predict them into two directories"
                )
            written[target] = job
