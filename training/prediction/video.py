"""Videos: frames decoded ahead of the segmentation, and a video of the results at the source's frame rate."""

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
from core.images.legend import add_legend
from core.inference.result import SegmentationResult
from core.runtime.atomic import makedirs_durable, temp_path_for
from training.tracking.progress_bar import progress_bar

CODEC = "VP80"  # of WebM; VP9 takes ten times as long
PREFETCH_FRAMES = 8
MIN_DECODED_FRACTION = 0.95  # of the frame count in the container's header, which is mostly an estimate
MAX_FPS = 480.0  # some containers specify 1000 frames per second if they do not know the rate
DEFAULT_FPS = 25.0  # for a video whose header has no usable frame rate
RENDERERS: dict[str, Callable[[SegmentationResult], RGB]] = {
    "overlay": lambda result: result.overlay(),
    "mask": lambda result: result.color_mask(),
    "beside": lambda result: np.hstack([result.image, result.overlay()]),
}


@dataclass(frozen=True)
class VideoSummary:
    """Frame size (height, width), number of frames, frames per second, and mean class fractions of a segmented video."""

    size: tuple[int, int]
    frames: int
    frame_rate: float
    class_fractions: dict[str, float]


def segment_video(
    source: Path, target: Path, segment: Callable[[RGB], SegmentationResult], rendering: str, legend: bool = False
) -> VideoSummary:
    """Segment a video and write the rendered frames at the source's frame rate, without sound.

    Args:
        source: The video to read.
        target: The WebM file to write.
        segment: Segments one frame.
        rendering: A key of RENDERERS.
        legend: Add the colors and names of all classes below each frame.

    Raises:
        InputError: The source can't be read as a video.
    """
    video = VideoReader(source)
    makedirs_durable(target.parent)
    sums: dict[str, float] = {}
    size = (0, 0)
    with video_writer(target, video.frame_rate) as writer, closing(iter(video)) as frames:
        for frame in progress_bar(source.name, True, frames, total=video.frames or None, unit="frame"):
            result = segment(frame)
            size = result.size
            for name, fraction in result.class_fractions.items():
                sums[name] = sums.get(name, 0) + fraction
            rendered = RENDERERS[rendering](result)
            writer.write(add_legend(rendered, result.classes) if legend else rendered)
    if not writer.frames:
        raise InputError(f"{source}: contains no readable frames")
    if writer.frames < MIN_DECODED_FRACTION * video.frames:
        print(f"warning: {source}: {writer.frames} frames could be read; its header specifies {video.frames}", file=sys.stderr)
    order = sorted(sums, key=lambda name: -sums[name])
    return VideoSummary(size, writer.frames, video.frame_rate, {name: sums[name] / writer.frames for name in order})


class VideoReader:
    """Reads a video: `frame_rate` in frames per second, and `frames`, their approximate number (0 if unknown)."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises InputError."""
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise InputError(f"{path}: can't be read as a video; expected MP4, MOV, AVI, MKV or WebM")
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.frame_rate = rate if 0 < rate <= MAX_FPS else DEFAULT_FPS
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Generator[RGB]:
        """Yield the frames, (H, W, 3) uint8 RGB, upright; a thread decodes the next ones meanwhile."""
        queue: Queue[RGB | BaseException | None] = Queue(PREFETCH_FRAMES)
        stop = threading.Event()

        def read() -> None:
            try:
                while not stop.is_set():
                    success, frame = self._capture.read()
                    if not success:
                        break
                    queue.put(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False))
                queue.put(None)
            except BaseException as error:  # raised in the thread that waits for the frames
                queue.put(error)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            while (frame := queue.get()) is not None:
                if isinstance(frame, BaseException):
                    raise InputError(f"{self.path}: can't be read to its end ({frame})") from frame
                yield frame
        finally:
            stop.set()
            while thread.is_alive():
                while not queue.empty():
                    queue.get_nowait()
                thread.join(0.05)
            self._capture.release()


class VideoWriter:
    """Encodes frames. Those of another size than the first are resized to it.

    An odd side loses its last row or column, which the codec does not support.
    """

    def __init__(self, path: Path, frame_rate: float) -> None:
        self.path, self.frame_rate, self.frames = path, frame_rate, 0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)  # (width, height)

    def write(self, rgb: RGB) -> None:
        """Append a frame, (H, W, 3) uint8 RGB.

        Raises:
            InputError: A side of the frame has less than two pixels.
            OSError: The file can't be written.
        """
        height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
        if not height or not width:
            raise InputError(f"a video of {rgb.shape[1]}x{rgb.shape[0]} pixels can't be written; a side needs at least two")
        if self._writer is None:
            with _silence_native_stderr():  # OpenCV warns that WebM has another tag for this codec.
                codec = cv2.VideoWriter.fourcc(*CODEC)
                self._writer = cv2.VideoWriter(str(self.path), codec, self.frame_rate, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"{self.path}: can't be written as a video of {width}x{height} pixels")
            self._size = (width, height)
        if (width, height) != self._size:  # OpenCV would drop the frame.
            rgb = cv2.resize(rgb, self._size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
            width, height = self._size
        self._writer.write(np.ascontiguousarray(rgb[:height, :width, ::-1]))
        self.frames += 1

    def close(self) -> None:
        """Flush the encoder. Raises OSError if frames are missing in the file, which OpenCV does not report."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        capture = cv2.VideoCapture(str(self.path))
        written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if written < 0:  # The header has no count if there is less than one frame in five seconds.
            written = sum(1 for _ in iter(capture.grab, False))
        if written != self.frames:
            raise OSError(f"{self.path}: {written} of {self.frames} frames could be written; is the disk full?")


@contextmanager
def _silence_native_stderr() -> Iterator[None]:
    """Discard what native code writes to the process's standard error."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextmanager
def video_writer(path: Path, frame_rate: float) -> Iterator[VideoWriter]:
    """Write a video atomically: the file appears at `path` when it is complete, and not after an exception."""
    temporary = temp_path_for(path)
    temporary = temporary.with_name(temporary.name + path.suffix)  # OpenCV selects the container by the suffix.
    writer = VideoWriter(temporary, frame_rate)
    try:
        yield writer
        writer.close()
        if writer.frames:
            temporary.replace(path)
    finally:
        with suppress(OSError):
            writer.close()
        temporary.unlink(missing_ok=True)
