"""Video -> frames: whatever FFmpeg reads, decoded by PyAV; and the way back, frames -> an H.264 file."""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import av
import av.sidedata.sidedata
import fsspec
import numpy as np
from av.error import FFmpegError

log = logging.getLogger(__name__)

_MATRIX = av.sidedata.sidedata.Type.DISPLAYMATRIX


class VideoError(ValueError):
    """A file that cannot be read as a video; the message names the file and the cause."""


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video once its first frame is decoded."""

    height: int
    """Pixels, after rotation."""
    width: int
    """Pixels, after rotation."""
    fps: float
    """Average frames per second; 0 when unknown."""


class Video:
    """An open video: `.info`, and one pass over (timestamp_s, frame). Made by `open_video`."""

    def __init__(self, uri: str | os.PathLike[str], *, threads: int = 1) -> None:
        """Open the file and decode its first frame; see `open_video`."""
        self.uri = os.fspath(uri)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(_open_file(self.uri))
            try:
                self._container = stack.enter_context(av.open(file, "r", metadata_errors="replace"))
            except FFmpegError as error:
                raise VideoError(f"{self.uri}: not a video FFmpeg can read ({error.strerror})") from error
            streams = [s for s in self._container.streams.video if not _is_cover_picture(s)]
            if not streams:
                kinds = ", ".join(sorted({s.type for s in self._container.streams if not _is_cover_picture(s)}))
                raise VideoError(f"{self.uri}: no video stream (streams: {kinds or 'none'})")
            self._stream = streams[0]
            if self._stream.codec_context is None:
                raise VideoError(f"{self.uri}: this FFmpeg build has no decoder for its video stream")
            self._stream.codec_context.thread_count = threads
            self._stream.thread_type = "AUTO"
            self._bad_packets = 0
            self._decoded = self._decode()
            self._first = next(self._decoded, None)
            if self._first is None:
                raise VideoError(f"{self.uri}: a video stream, but not one frame can be decoded")
            self._size = self._first.width, self._first.height
            # Of the first frame only: side data and frame refer to each other, and wait for the garbage collector.
            self._orientation = _orientation(self._first)
            height, width = self._size[::-1] if not self._orientation[0] else self._size
            rate = self._stream.average_rate
            self.info = VideoInfo(height, width, float(rate) if rate else 0.0)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield (timestamp_s, frame): seconds since the first frame, and (H, W, 3) uint8 RGB, upright."""
        if self._first is None:
            raise RuntimeError(f"{self.uri}: a Video gives its frames once; open it again for a second pass")
        first, self._first = self._first, None
        step = 1 / self.info.fps if self.info.fps else 0.04  # only where the container has no timestamps
        start, time, count = first.time or 0.0, -step, 0
        for frame in _chain(first, self._decoded):
            stamp = time if frame.time is None else frame.time - start
            # Frames come in the right order, but packed B frames in an AVI carry each other's timestamps.
            time = stamp if stamp > time else time + step
            # The size is given because some streams change it half-way: keypoints need one pixel frame.
            pixels = frame.to_ndarray(format="rgb24", width=self._size[0], height=self._size[1])
            count += 1
            transpose, flip_x, flip_y = self._orientation
            pixels = pixels.transpose(1, 0, 2) if transpose else pixels
            yield time, np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])
        announced = self._stream.frames
        # Edit lists hide a few frames of sound files; a cut-off file lacks many.
        if self._bad_packets or count < 0.95 * announced:
            log.warning(
                "%s: truncated or damaged: %d frames decoded, %s announced, %d packets unreadable",
                self.uri, count, announced or "none", self._bad_packets,
            )  # fmt: skip

    def _decode(self) -> Iterator[av.VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:  # a cut-off container: what came so far is what there is
                self._bad_packets += 1
                packet = None
            try:
                yield from self._stream.decode(packet)
            except FFmpegError as error:
                # A decoder that was flushed twice reports the end of the stream, which is no damage.
                self._bad_packets += not isinstance(error, av.error.EOFError)
            if packet is None:
                return


def open_video(uri: str | os.PathLike[str], *, threads: int = 1) -> Video:
    """Open a video; iterate it once for its frames and close it (a context manager).

    Rotation and mirroring in the container's display matrix are applied, timestamps are the container's own
    (a variable frame rate is kept), and a truncated file gives the frames it has, with a warning in the log.

    Args:
        uri: a local path, or any URI fsspec opens.
        threads: decoder threads; 1 because the workers are many.

    Returns:
        A `Video` with `.info`; iterating gives (timestamp_s, frame), frame (H, W, 3) uint8 RGB.

    Raises:
        VideoError: no such file, an empty file, not a video, no video stream, or no decodable frame.
        OSError: while iterating, when reading the file fails for a reason other than its content.
    """
    return Video(uri, threads=threads)


def write_video(path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: float, *, threads: int = 1) -> None:
    """Write frames as H.264 (yuv420p, so that browsers play it); the file appears only when it is whole.

    Args:
        path: a local file name; its ending gives the container, as a rule .mp4.
        frames: each (H, W, 3) uint8 RGB, all of one size; an odd side is padded by repeating its last pixel.
        fps: frames per second, > 0.
        threads: encoder threads.

    Raises:
        ValueError: no frames, fps not positive, or a frame of another size or type.
    """
    path = Path(path)
    if not fps > 0:
        raise ValueError(f"{path}: fps must be positive, got {fps}")
    part = path.with_name(f".{uuid.uuid4().hex}.part{path.suffix}")
    shape: tuple[int, ...] | None = None
    try:
        with av.open(str(part), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "18", "preset": "veryfast"}
            stream.codec_context.thread_count = threads
            for number, frame in enumerate(frames):
                if shape is None:
                    shape = frame.shape
                    stream.height, stream.width = (side + side % 2 for side in shape[:2])
                if frame.shape != shape or frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
                    raise ValueError(
                        f"{path}: frame {number} is {frame.dtype} {frame.shape}, wanted uint8 (H, W, 3), "
                        f"all of one size; the first is {shape}"
                    )
                even = np.pad(frame, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even))))
            if shape is None:
                raise ValueError(f"{path}: no frames to write")
            container.mux(stream.encode())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _open_file(uri: str) -> IO[bytes]:
    """Open for reading; always a file object, as FFmpeg would take a colon in a name for a protocol."""
    try:
        file: Any = fsspec.open(uri, "rb").open() if "://" in uri else Path(uri).open("rb")
    except FileNotFoundError as error:
        raise VideoError(f"{uri}: no such file") from error
    except (OSError, ValueError, ImportError) as error:  # the last two: fsspec lacks the protocol
        raise VideoError(f"{uri}: cannot be opened ({type(error).__name__}: {error})") from error
    if not file.read(1):
        file.close()
        raise VideoError(f"{uri}: the file is empty (0 bytes)")
    file.seek(0)
    return file


def _is_cover_picture(stream: Any) -> bool:
    return "attached_pic" in stream.disposition.name if stream.disposition else False


def _chain(first: av.VideoFrame, rest: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    yield first
    del first  # a decoded 4K frame is 12 MB: do not hold it to the end
    yield from rest


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Read a frame's display matrix, a quarter turn or a mirroring: (transpose, then flip x, flip y)."""
    side_data: Any = frame.side_data  # the stubs know only str keys
    matrix = side_data.get(_MATRIX)
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32, 5).tolist()  # x' = ax + cy, y' = bx + dy
    return (True, c < 0, b < 0) if abs(b) > abs(a) else (False, a < 0, d < 0)
