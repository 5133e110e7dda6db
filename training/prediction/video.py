"""Films: frames decoded ahead of whoever segments them, and a film of the results at the source's frame rate."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import cv2
import numpy as np

from core.errors import InputError
from core.images.decode import RGB
from core.inference.result import Result
from core.runtime.files import make_folder, temporary_beside
from training.tracking.progress_bar import bar

CODEC = "VP80"  # of WebM; VP9 takes ten times as long
AHEAD = 8  # frames
TOLD = 0.95  # of the frames that a container tells of; it is mostly an estimate
MOST = 480.0  # frames a second: some containers tell 1000 where they don't know
PLAIN_RATE = 25.0  # of a film that does not tell its own
KINDS: dict[str, Callable[[Result], RGB]] = {
    "overlay": lambda result: result.overlay(),
    "mask": lambda result: result.colours(),
    "beside": lambda result: np.hstack([result.photo, result.overlay()]),
}


@dataclass(frozen=True)
class Made:
    """What a film's segmentation gave: (height, width) of its frames, and class shares over all of them."""

    size: tuple[int, int]
    frames: int
    rate: float
    shares: dict[str, float]


def segment_film(source: Path, target: Path, segment: Callable[[RGB], Result], kind: str) -> Made:
    """Write a film of one of KINDS, without sound, at the source's frame rate. Raises InputError where it can't be read."""
    film = Film(source)
    make_folder(target.parent)
    sums: dict[str, float] = {}
    size = (0, 0)
    with writing(target, film.rate) as writer, closing(iter(film)) as frames:
        for frame in bar(source.name, True, frames, total=film.frames or None, unit="frame"):
            result = segment(frame)
            size = result.size
            for name, share in result.shares.items():
                sums[name] = sums.get(name, 0) + share
            writer.add(KINDS[kind](result))
    if not writer.frames:
        raise InputError(f"{source}: holds no frames that can be read")
    if writer.frames < TOLD * film.frames:
        print(f"warning: {source}: {writer.frames} frames could be read, and it tells of {film.frames}", file=sys.stderr)
    order = sorted(sums, key=lambda name: -sums[name])
    return Made(size, writer.frames, film.rate, {name: sums[name] / writer.frames for name in order})


class Film:
    """A film to read: its `rate` in frames a second, and about how many `frames` it has (0 where it does not tell)."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises InputError."""
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise InputError(f"{path}: can't be read as a film; expected MP4, MOV, AVI, MKV or WebM")
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.rate = rate if 0 < rate <= MOST else PLAIN_RATE
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Generator[RGB]:
        """Its frames, (H, W, 3) uint8 RGB, upright; the next ones are decoded in a thread meanwhile."""
        queue: Queue[RGB | BaseException | None] = Queue(AHEAD)
        leaving = threading.Event()

        def read() -> None:
            try:
                while not leaving.is_set():
                    there, frame = self._capture.read()
                    if not there:
                        break
                    queue.put(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False))
                queue.put(None)
            except BaseException as error:  # whoever waits for the frames gets it
                queue.put(error)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            while (frame := queue.get()) is not None:
                if isinstance(frame, BaseException):
                    raise InputError(f"{self.path}: can't be read to its end ({frame})") from frame
                yield frame
        finally:
            leaving.set()
            while thread.is_alive():
                while not queue.empty():
                    queue.get_nowait()
                thread.join(0.05)
            self._capture.release()


class Writer:
    """Takes frames; those of another size than the first are brought to it. An odd side loses its last row or column, which
    the codec can't hold."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate, self.frames = path, rate, 0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)  # (width, height)

    def add(self, rgb: RGB) -> None:
        """Append a frame, (H, W, 3) uint8 RGB. Raises OSError where the film can't be written, InputError for one row."""
        height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
        if not height or not width:
            raise InputError(f"a film of {rgb.shape[1]}x{rgb.shape[0]} pixels can't be written; a side needs two")
        if self._writer is None:
            with _without_complaints():  # that WebM has a tag of its own for this codec
                self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*CODEC), self.rate, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"{self.path}: can't be written as a film of {width}x{height}")
            self._size = (width, height)
        if (width, height) != self._size:  # OpenCV would leave it out
            rgb = cv2.resize(rgb, self._size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
            width, height = self._size
        self._writer.write(np.ascontiguousarray(rgb[:height, :width, ::-1]))
        self.frames += 1

    def close(self) -> None:
        """Write out what is buffered. Raises OSError where not all of it has arrived, of which OpenCV says nothing."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        film = cv2.VideoCapture(str(self.path))
        written = int(film.get(cv2.CAP_PROP_FRAME_COUNT))
        if written < 0:  # at less than a frame in five seconds it does not tell
            written = sum(1 for _ in iter(film.grab, False))
        if written != self.frames:
            raise OSError(f"{self.path}: {written} of {self.frames} frames could be written; is the disk full?")


@contextmanager
def _without_complaints() -> Iterator[None]:
    """Keep from the terminal what a library writes there past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def writing(path: Path, rate: float) -> Iterator[Writer]:
    """A film that is there when it is whole, and not before."""
    temporary = temporary_beside(path)
    temporary = temporary.with_name(temporary.name + path.suffix)  # OpenCV goes by it
    writer = Writer(temporary, rate)
    try:
        yield writer
        writer.close()
        if writer.frames:
            temporary.replace(path)
    finally:
        with suppress(OSError):
            writer.close()
        temporary.unlink(missing_ok=True)
