"""Videos: frames decoded ahead of the segmentation, and a video of the results with the source's timestamps and sound."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from queue import Queue
from typing import NamedTuple, cast

import av
import av.filter
import cv2
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from core.errors import InputError
from core.images.decode import RGB
from core.images.legend import add_legend
from core.inference.result import SegmentationResult
from core.runtime.atomic import makedirs_durable, temp_path_for
from training.tracking.progress_bar import progress_bar

PREFETCH_FRAMES = 8
MIN_DECODED_FRACTION = 0.95  # of the frames that the container's header promises
CODECS = {  # by file name extension: video codec and its options, audio codecs that are copied, the one to convert others to
    ".mp4": ("libx264", {"crf": "20", "preset": "veryfast"}, ("aac", "mp3", "ac3", "alac"), "aac"),
    ".webm": ("libvpx", {"crf": "10", "b": "4M", "deadline": "realtime", "cpu-used": "8"}, ("opus", "vorbis"), "libopus"),
}
RENDERERS: dict[str, Callable[[SegmentationResult], RGB]] = {
    "overlay": lambda result: result.overlay(),
    "mask": lambda result: result.color_mask(),
    "beside": lambda result: np.hstack([result.image, result.overlay()]),
}


@dataclass(frozen=True)
class VideoSummary:
    """Frame size (height, width), number of frames, mean frames per second, and mean class fractions of a segmented video."""

    size: tuple[int, int]
    frames: int
    frame_rate: float
    class_fractions: dict[str, float]


class Frame(NamedTuple):
    """A decoded frame, upright and with square pixels; times are in units of the video's time base."""

    rgb: RGB  # (H, W, 3) uint8
    pts: int  # presentation time
    duration: int


def segment_video(
    source: Path | str, target: Path, segment: Callable[[RGB], SegmentationResult], rendering: str, legend: bool = False
) -> VideoSummary:
    """Segment a video and write the rendered frames with the timestamps and the sound of the source.

    Args:
        source: The video to read: a file, a camera (`/dev/video0`) or a stream (`rtsp://...`).
        target: The MP4 (H.264) or WebM (VP8) file to write.
        segment: Segments one frame.
        rendering: A key of RENDERERS.
        legend: Add the colors and names of all classes below each frame.

    Raises:
        InputError: The source can't be read as a video, or not to its end.
    """
    makedirs_durable(target.parent)
    sums: dict[str, float] = {}
    size, frames, is_live = (0, 0), 0, isinstance(source, str)
    with closing(VideoReader(source)) as video, video_writer(target, video) as writer, closing(iter(video)) as items:
        bar = progress_bar(video.name, total=video.frames or None, unit="frame")
        try:
            for item in items:
                if not isinstance(item, Frame):
                    writer.write_audio(item)
                    continue
                result = segment(item.rgb)
                size, frames = result.size, frames + 1
                for name, fraction in result.class_fractions.items():
                    sums[name] = sums.get(name, 0) + fraction
                rendered = RENDERERS[rendering](result)
                writer.write(item._replace(rgb=add_legend(rendered, result.classes) if legend else rendered))
                bar.update()
        except KeyboardInterrupt:
            if not is_live:
                raise
        finally:
            bar.close()
        if not frames:
            raise InputError(f"{video.name}: contains no readable frames")
        if frames < MIN_DECODED_FRACTION * video.frames and not is_live:
            raise InputError(f"{video.name}: damaged or incomplete: {frames} of {video.frames} frames could be read")
    order = sorted(sums, key=lambda name: -sums[name])
    rate = frames / writer.seconds if writer.seconds else 0.0
    return VideoSummary(size, frames, round(rate, 3), {name: sums[name] / frames for name in order})


class VideoReader:
    """Reads a video: iterating over it yields its frames and, in between, the packets of its first sound track.

    Interlaced frames are deinterlaced, rotated ones turned upright, and pixels that are not square are resampled.

    Attributes:
        name: The source, for messages.
        frames: Number of frames that the header states; 0 if it does not.
        time_base: Unit of the frames' timestamps in seconds.
        start: Timestamp at which the source starts, which becomes zero.
        audio: The sound track, None if there is none.
    """

    def __init__(self, source: Path | str) -> None:
        """Open the source. Raises InputError."""
        self.name = re.sub(r"//[^/@]*@", "//", str(source))  # without a password
        try:
            kind = "v4l2" if str(source).startswith("/dev/video") else None
            self._container: InputContainer = av.open(str(source), format=kind)
        except (FFmpegError, OSError, ValueError) as error:
            raise InputError(f"{self.name}: can't be read as a video ({_reason(error)})") from None
        if not self._container.streams.video:
            self._container.close()
            raise InputError(f"{self.name}: can't be read as a video (it has no pictures)")
        self._stream: VideoStream = self._container.streams.video[0]
        if self._stream.codec_context is None:
            self._container.close()
            raise InputError(f"{self.name}: can't be read as a video (there is no decoder for its codec)")
        self._stream.thread_type = "AUTO"
        self.frames = self._stream.frames
        self.time_base = Fraction(self._stream.time_base or Fraction(1, 90_000))
        # Of MPEG files, the first timestamp is not zero.
        self.start = round(Fraction(self._container.start_time or 0, 1_000_000) / self.time_base)
        self.frame_rate = self._stream.average_rate or Fraction(25)
        self.audio: AudioStream | None = next(iter(self._container.streams.audio), None)
        self._graph: av.filter.Graph | None = None  # made for the first frame
        self._turns = 0  # counterclockwise quarter turns that make a frame upright

    def close(self) -> None:
        """Close the source."""
        self._container.close()

    def __iter__(self) -> Generator[Frame | av.Packet[AudioStream]]:
        """Yield frames and audio packets; a thread decodes the next ones meanwhile."""
        queue: Queue[Frame | av.Packet[AudioStream] | BaseException | None] = Queue(PREFETCH_FRAMES)
        stop = threading.Event()

        def read() -> None:
            try:
                for item in self._decode():
                    if stop.is_set():
                        return
                    queue.put(item)
                queue.put(None)
            except BaseException as error:  # raised in the thread that waits for the frames
                queue.put(error)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            while (item := queue.get()) is not None:
                if isinstance(item, FFmpegError):
                    raise InputError(f"{self.name}: can't be read to its end ({_reason(item)})") from item
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            while thread.is_alive():
                while not queue.empty():
                    queue.get_nowait()
                thread.join(0.05)

    def _decode(self) -> Iterator[Frame | av.Packet[AudioStream]]:
        streams = [self._stream, *([self.audio] if self.audio else [])]
        for packet in self._container.demux(streams):
            if packet.stream is not self._stream:
                if packet.dts is not None:
                    yield cast("av.Packet[AudioStream]", packet)
                continue
            for frame in cast("av.Packet[VideoStream]", packet).decode():
                yield from self._filter(frame)
        yield from self._filter(None)

    def _filter(self, frame: VideoFrame | None) -> Iterator[Frame]:
        """Yield the frames that the filters return for a frame, or at the end of the video for None."""
        if frame is not None and self._graph is None:
            self._graph = _make_graph(self._stream, frame)
            self._turns = round(frame.rotation / 90)
        if self._graph is None:
            return
        self._graph.push(frame)
        while True:
            try:
                filtered = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            rgb = np.rot90(cast(VideoFrame, filtered).to_ndarray(format="rgb24"), self._turns)
            pts = filtered.pts if filtered.pts is not None else self.start
            scale = Fraction(filtered.time_base or self.time_base) / self.time_base
            duration = round((filtered.duration or 0) * scale)
            yield Frame(np.ascontiguousarray(rgb), round(pts * scale) - self.start, duration)


def _make_graph(stream: VideoStream, frame: VideoFrame) -> av.filter.Graph:
    """Return filters that deinterlace interlaced frames and make the pixels square."""
    graph = av.filter.Graph()
    links = [graph.add_buffer(template=stream, width=frame.width, height=frame.height, format=frame.format)]
    links.append(graph.add("yadif", "mode=send_frame:deint=interlaced"))
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if aspect not in (0, 1):
        width, height = round(frame.width * max(float(aspect), 1)), round(frame.height / min(float(aspect), 1))
        links.append(graph.add("scale", f"{width}:{height}"))
    links.append(graph.add("buffersink"))
    graph.link_nodes(*links).configure()
    return graph


class VideoWriter:
    """Encodes frames. Those of another size than the first are resized to it.

    An odd side loses its last row or column, which the codecs do not support.

    Attributes:
        seconds: Duration of the frames that were written.
    """

    def __init__(self, path: Path, video: VideoReader, extension: str) -> None:
        self.path, self.seconds = path, 0.0
        codec, options, copied, converted = CODECS[extension]
        self._video = video
        self._container: OutputContainer = av.open(str(path), "w", format=extension[1:])
        self._stream = cast(VideoStream, self._container.add_stream(codec, rate=video.frame_rate, options=options))
        self._stream.pix_fmt, self._stream.time_base = "yuv420p", video.time_base
        self._stream.codec_context.time_base = video.time_base
        self._durations: dict[int, int] = {}
        self._size = (0, 0)  # (width, height)
        self._early_audio: list[av.Packet[AudioStream]] = []  # The file's header, with the size, comes before all packets.
        self._audio: AudioStream | None = None
        self._resampler: AudioResampler | None = None
        if video.audio is not None:
            if video.audio.codec_context.name in copied:
                self._audio = self._container.add_stream_from_template(video.audio)
            else:
                self._audio = cast(AudioStream, self._container.add_stream(converted, rate=48_000))
                context = self._audio.codec_context
                self._resampler = AudioResampler(context.format or "fltp", context.layout, 48_000)

    def write(self, frame: Frame) -> None:
        """Append a frame.

        Raises:
            InputError: A side of the frame has less than two pixels.
            OSError: The file can't be written.
        """
        rgb = frame.rgb
        height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
        if not height or not width:
            raise InputError(f"a video of {rgb.shape[1]}x{rgb.shape[0]} pixels can't be written; a side needs at least two")
        if self._size == (0, 0):
            self._size = width, height
            self._stream.width, self._stream.height = width, height
            for packet in self._early_audio:
                self._write_audio(packet)
        if (width, height) != self._size:
            rgb = cv2.resize(rgb, self._size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
            width, height = self._size
        encoded = VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), format="rgb24")
        encoded.pts, encoded.time_base = frame.pts, self._video.time_base
        self._durations[frame.pts] = frame.duration
        self.seconds = max(self.seconds, float((frame.pts + frame.duration) * self._video.time_base))
        self._mux_video(encoded)

    def write_audio(self, packet: av.Packet[AudioStream]) -> None:
        """Append a packet of the source's sound track."""
        if self._size == (0, 0):
            self._early_audio.append(packet)
        else:
            self._write_audio(packet)

    def _write_audio(self, packet: av.Packet[AudioStream]) -> None:
        if self._audio is None:
            return
        if self._resampler is None:
            start = self._audio_start(packet.time_base)
            packet.pts, packet.dts = (None if time is None else time - start for time in (packet.pts, packet.dts))
            packet.stream = self._audio
            self._container.mux(packet)
            return
        for frame in packet.decode():
            frame.pts = None if frame.pts is None else frame.pts - self._audio_start(frame.time_base)
            for resampled in self._resampler.resample(frame):
                self._container.mux(self._audio.encode(resampled))

    def _audio_start(self, time_base: Fraction | None) -> int:
        """Return the timestamp at which the source starts in another time base."""
        return round(self._video.start * self._video.time_base / (time_base or self._video.time_base))

    def close(self) -> None:
        """Flush the encoders, and close the file. Raises OSError if it can't be written completely."""
        if self._size != (0, 0):
            self._mux_video(None)
        if self._audio is not None and self._resampler is not None:
            for resampled in self._resampler.resample(None):
                self._container.mux(self._audio.encode(resampled))
            self._container.mux(self._audio.encode(None))
        self._container.close()

    def _mux_video(self, frame: VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            # Encoders state no durations, without which the last frame would have none.
            if packet.pts is not None and not packet.duration:
                packet.duration = self._durations.pop(packet.pts, 0)
            self._container.mux(packet)


@contextmanager
def video_writer(path: Path, video: VideoReader) -> Iterator[VideoWriter]:
    """Write a video atomically: the file appears at `path` when it is complete, and not after an exception."""
    temporary = temp_path_for(path)
    try:
        writer = VideoWriter(temporary, video, path.suffix)
        try:
            yield writer
            writer.close()
        except FFmpegError as error:
            raise OSError(f"{path}: can't be written ({_reason(error)}); is the disk full?") from None
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
