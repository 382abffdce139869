"""Video -> frames: whatever FFmpeg reads, decoded by PyAV; and the way back, frames -> an H.264 file.

A long video is taken in pieces: `segments` says where to cut, `open_video` gives the frames of one piece. To which
piece a frame belongs is a matter of its time alone, so that pieces side by side give every frame once.
"""

import contextlib
import heapq
import itertools
import logging
import math
import os
import tempfile
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self, get_args

import av
import av.sidedata.sidedata
import fsspec
import numpy as np
from av.codec.hwaccel import HWAccel, HWDeviceType
from av.error import ExternalError, FFmpegError

from posec3d.redaction import unsigned
from posec3d.storage import content_version, reaching, whole_file

log = logging.getLogger(__name__)

Decoder = Literal["ffmpeg", "nvdec"]
"""FFmpeg alone, on the CPU; or FFmpeg with NVDEC, a GPU's decoder, in place of the part that makes pixels."""

_MATRIX = av.sidedata.sidedata.Type.DISPLAYMATRIX

_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"

_SEEKABLE = {_MP4, "matroska,webm", "avi", "flv"}
"""Formats in which a seek ends at a keyframe whose time is right."""

_READABLE = {"mpegts", "mpeg"}
"""Formats whose times are right only when read from the start: what lies before a piece is read, but not decoded."""

_STEPS_BACK_S = (0, 1, 10, 100)
"""A seek that ended too late, or where decoding cannot begin, is tried again from so much further back."""

_MAX_HELD_BYTES = 64 * 2**20
"""Of packets, while reading on for a later keyframe."""

_MAX_JUMP_S = 10
"""A longer step means that two streams were joined there; the ffmpeg tool uses the same threshold."""

_MAX_FILLED_S = 600
"""A longer time without a frame is not resampled: one damaged timestamp would make millions of copies of a frame."""

_MAX_REORDER = 8
"""Frames between order of coding and order of display, where the file does not tell."""

_NOISE_S = 1e-6
"""More than the rounding of times as floats, less than a tick of any clock."""

_LAST_S = 1e-3
"""Matroska rounds times to a millisecond: that must not cost a resampled video its last frame."""

_RATED = 100
"""Packets that tell the frame rate of a file that does not say it."""

_SAME_RATE = 1.0005
"""Rates so close are one rate: 29.97 is not 30, but what FFmpeg estimates as 30.01 is."""

_BLOCK_BYTES = 4 * 2**20
"""Fetched at a time from an object store; s3fs would fetch 50 MB after every seek."""


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
    """Average frames per second that iteration gives; 0 when unknown."""


@dataclass(frozen=True)
class Segment:
    """A piece of a video, as `segments` cuts it and `open_video` reads it."""

    start_s: float
    """Seconds since the video's first frame."""
    end_s: float | None
    """Where the next piece starts; None for the last one."""
    start_frame: int
    """How many frames the pieces before it have."""
    num_frames: int


class Video:
    """An open video: `.info`, and one pass over (timestamp_s, frame). Made by `open_video`."""

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        fps: float | None = None,
        decoder: Decoder = "ffmpeg",
    ) -> None:
        """Open the file and decode its first frame; see `open_video`."""
        self.uri = os.fspath(uri)
        self._decoder = decoder
        self._start_s, self._end_s = start_s, math.inf if end_s is None else end_s
        if not 0 <= self._start_s < self._end_s:
            raise ValueError(f"{self.uri}: wanted 0 <= start_s < end_s, got start_s {start_s} and end_s {end_s}")
        if fps is not None and not 0 < fps < math.inf:
            raise ValueError(f"{self.uri}: fps must be positive, got {fps}")
        if decoder not in get_args(Decoder):
            raise ValueError(f"{self.uri}: decoder must be one of {', '.join(get_args(Decoder))}, got {decoder}")
        self._taken = False
        self._open()
        own = float(self._stream.average_rate or 0)  # not what was seen of its beginning: it may vary
        self._fps = fps if fps and not 0 < own <= fps * _SAME_RATE else None
        height, width = self._size[::-1] if not self._orientation[0] else self._size
        self.info = VideoInfo(height, width, self._fps or self._rate)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield (timestamp_s, frame): seconds since the video's first frame, and (H, W, 3) uint8 RGB, upright."""
        if self._taken:
            raise RuntimeError(f"{self.uri}: a Video gives its frames once; open it again for a second pass")
        self._taken = True
        for time, frame in self._chosen():
            # NV12 is what NVDEC gives: the same samples in another order, which swscale turns into RGB by another rule.
            # One thread: by default each frame starts one a core, which costs several times what it saves.
            frame = frame.reformat(format="yuv420p", threads=1) if frame.format.name == "nv12" else frame
            # The size is given because some streams change it half-way: keypoints need one pixel frame.
            pixels = frame.to_ndarray(format="rgb24", width=self._size[0], height=self._size[1], threads=1)
            yield time, upright(pixels, self._orientation)
        announced = self._stream.frames if (self._start_s, self._end_s) == (0, math.inf) else 0
        if announced and self._format == _MP4:  # without what an edit list hides
            announced = sum(not entry.is_discard for entry in self._stream.index_entries)
        # Some writers count a few frames too many; a cut-off file lacks many.
        if self._num_bad or self._num_repeated or self._num_decoded < 0.95 * announced:
            log.warning(
                "%s: truncated or damaged: %d frames decoded, %s announced, %d packets unreadable, %d frames repeated",
                unsigned(self.uri), self._num_decoded, announced or "none", self._num_bad, self._num_repeated,
            )  # fmt: skip

    def _open(self) -> None:
        """Open the file, and read it up to its first frame."""
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(_open_file(self.uri))
            gpu = HWAccel(HWDeviceType.cuda) if self._decoder == "nvdec" else None
            try:
                self._container = stack.enter_context(av.open(file, "r", metadata_errors="replace", hwaccel=gpu))
            except FFmpegError as error:
                if gpu:
                    require_nvdec()
                how = "with NVDEC " if gpu else ""
                raise VideoError(f"{self.uri}: not a video FFmpeg can read {how}({error.strerror})") from error
            streams = [s for s in self._container.streams.video if not _is_cover_picture(s)]
            if not streams:
                kinds = ", ".join(sorted({s.type for s in self._container.streams if not _is_cover_picture(s)}))
                raise VideoError(f"{self.uri}: no video stream (streams: {kinds or 'none'})")
            self._stream = streams[0]
            if self._stream.codec_context is None:
                raise VideoError(f"{self.uri}: this FFmpeg build has no decoder for its video stream")
            self._stream.codec_context.thread_count = 1  # workers are many
            self._stream.thread_type = "AUTO"
            self._format = self._container.format.name
            self._tick_s = float(self._stream.time_base or 1)
            self._rate = float(self._stream.average_rate or 0)
            self._step = max(1, round(1 / (self._rate or 25) / self._tick_s))  # 25: where the file does not say it
            self._num_decoded = self._num_repeated = self._num_bad = 0
            self._opening: list[av.Packet] = []
            self._opened = self._has_times = self._exact = False
            packets = self._demux()
            if not self._rate:  # as in WebM that a browser records
                head = list(itertools.islice(packets, _RATED))
                packets, self._rate = itertools.chain(head, packets), _rate(head, self._tick_s)
            self._packets = self._noted(packets)
            frames = self._decode(self._packets)
            first = next(frames, None)
            if first is None:
                raise VideoError(f"{self.uri}: a video stream, but not one frame can be decoded")
            if gpu and self._stream.codec_context.pix_fmt != "cuda":
                codec, pixels = self._stream.codec_context.name, self._stream.codec_context.pix_fmt
                log.warning("%s: NVDEC does not decode %s of %s here; the CPU does", unsigned(self.uri), codec, pixels)
            self._origin, frame = first
            self._frames = itertools.chain([first], frames)
            self._opened = True
            self._has_times = self._say_when_shown(self._opening)
            # A packet is a frame; but the two fields of an interlaced one may be packets of their own.
            self._exact = self._has_times and self._format in _SEEKABLE and not frame.interlaced_frame
            self._size = frame.width, frame.height
            # Of the first frame only: side data and frame refer to each other, and wait for the garbage collector.
            self._orientation = orientation(frame)
            self._stack = stack.pop_all()

    def _say_when_shown(self, packets: list[av.Packet]) -> bool:
        """Whether packets say when their frame is shown, and not only when it is decoded."""
        codec = self._stream.codec_context
        if any(packet.pts is None for packet in packets if packet.size):
            return False
        if not codec.has_b_frames:
            return True
        # AVI has no such times, FFmpeg guesses; DivX packs two frames into a packet and leaves the next one empty;
        # some writers of MP4 give the times of decoding in their place.
        return self._format != "avi" and codec.name != "mpeg4" and any(p.pts != p.dts for p in packets)

    def _demux(self) -> Iterator[av.Packet]:
        """Give the stream's packets up to the end, or to where the file is cut off."""
        packets = self._container.demux(self._stream)
        shift, last = 0, None
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:  # a cut-off container: what came so far is what there is
                self._num_bad += 1
                return
            if packet is None:
                return
            if self._format in _READABLE and packet.dts is not None:
                if last is not None and not 0 <= packet.dts + shift - last <= _MAX_JUMP_S / self._tick_s:
                    shift = last + self._step - packet.dts
                last = packet.dts = packet.dts + shift
                if packet.pts is not None:
                    packet.pts += shift
            yield packet

    def _noted(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """Give packets, and keep those up to the first frame."""
        for packet in packets:
            if not self._opened:
                self._opening.append(packet)
            yield packet

    def _decode(self, packets: Iterable[av.Packet]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Give (time in ticks, frame) in the decoder's order; in exact files a lost frame is the one before it."""
        due: list[int] = []
        shown: av.VideoFrame | None = None
        time = -self._step
        for packet in itertools.chain(packets, [None]):
            if packet is not None and (shown_at := self._shown_at(packet)) is not None:
                heapq.heappush(due, shown_at)
            for frame in self._frames_of(packet):
                stamp = frame.pts if frame.pts is not None or self._has_times else frame.dts
                time = time + self._step if stamp is None else stamp
                while due and due[0] < time:
                    lost = heapq.heappop(due)
                    if self._exact and shown is not None:
                        self._num_repeated += 1
                        yield lost, shown
                if due and due[0] == time:
                    heapq.heappop(due)
                elif self._exact:  # given up as lost before: damage also delays frames
                    continue
                self._num_decoded += 1
                yield time, frame
                shown = frame
        while self._exact and shown is not None and due:
            self._num_repeated += 1
            yield heapq.heappop(due), shown

    def _frames_of(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """Decode one packet; None gets what the decoder still holds."""
        if packet is not None and not packet.size:  # to the decoder it would mean the end
            return []
        try:
            return self._stream.decode(packet)
        except FFmpegError as error:
            # CUDA's errors are no damage of the file, in which frames are repeated.
            if isinstance(error, ExternalError) and self._decoder == "nvdec":
                raise VideoError(f"{self.uri}: NVDEC failed ({error.strerror}); try the decoder ffmpeg") from error
            self._num_bad += 1
            return []

    def _shown_at(self, packet: av.Packet) -> int | None:
        """Tell when the packet's frame is shown; None where it has none to show."""
        # VP8 has frames that are only referred to, in packets of their own; a bit of the first byte says so.
        hidden = self._stream.codec_context.name == "vp8" and packet.size and not memoryview(packet)[0] & 0x10
        return None if hidden or packet.is_discard else packet.pts  # an edit list discards

    def _approach(self, target: int) -> Iterator[Iterable[av.Packet]]:
        """Give packets from a keyframe near and, as a rule, before the time `target` on, then from ones before it."""
        if self._format in _READABLE:
            yield _from_last_keyframe(itertools.chain(self._opening, self._packets), target)
            return
        for back_s in _STEPS_BACK_S:
            try:
                self._container.seek(target - round(back_s / self._tick_s), stream=self._stream)
            except FFmpegError:  # no index, or a broken one
                return
            yield itertools.dropwhile(lambda packet: not packet.is_keyframe, self._demux())

    def _reach(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Give (time in ticks, frame) from a keyframe at or before `start_s` on, at worst from the first frame."""
        if self._start_s and self._has_times and self._format in _SEEKABLE | _READABLE:
            target = self._origin + round(self._start_s / self._tick_s)
            for packets in self._approach(target):
                self._stream.codec_context.flush_buffers()
                frames = self._decode(packets)
                time, frame = next(frames, (0, None))
                if frame is not None and frame.key_frame and time <= target:
                    yield time, frame
                    yield from frames
                    return
            self._stack.close()
            self._open()
        yield from self._frames

    def _in_time(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Give (seconds since the video's first frame, frame), ascending, from at or before `start_s` on."""
        frames = self._reach()
        for time, frame in frames if self._has_times else _in_order(frames):
            yield max(0, time - self._origin) * self._tick_s, frame

    def _without_gap(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Give what `_in_time` does, up to a time without frames that is too long to be filled."""
        last = None
        for time, frame in self._in_time():
            if last is not None:
                _require_no_gap(self.uri, last, time)
            yield time, frame
            last = time

    def _chosen(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Give the frames that were asked for."""
        if self._fps:
            yield from _resample(self._without_gap(), self._fps, self._start_s, self._end_s)
            return
        for time, frame in self._in_time():
            if time >= self._end_s - _NOISE_S:
                return
            if time >= self._start_s - _NOISE_S:
                yield time, frame

    def _times(self) -> list[float]:
        """Find the times of all frames, ascending, without decoding where the file is exact."""
        if not self._exact:
            return [time for time, _ in self._in_time()]
        times = self._times_from_index() or self._shown_times(itertools.chain(self._opening, self._packets))
        return [(time - self._origin) * self._tick_s for time in times if time >= self._origin]

    def _times_from_index(self) -> list[int] | None:
        """Find the times of all frames in an MP4's index; None where it alone does not tell."""
        coded = [entry.timestamp for entry in self._stream.index_entries] if self._format == _MP4 else []
        steps = {after - before for before, after in itertools.pairwise(coded)}
        if len(steps) != 1 or len(coded) != self._stream.frames:
            return None
        # At a constant rate the order of coding does not matter. The end is read, as the file may be cut off there,
        # go on in fragments, or hide frames by an edit list.
        times = [self._origin + number * step for step in steps for number in range(len(coded))]
        tail = self._shown_times(next(self._approach(times[-1]), []))
        if tail and tail == times[-len(tail) :]:
            return times
        self._stack.close()
        self._open()
        return None

    def _shown_times(self, packets: Iterable[av.Packet]) -> list[int]:
        """Find when packets are shown, ascending."""
        return sorted(time for packet in packets if (time := self._shown_at(packet)) is not None)


def open_video(
    uri: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    fps: float | None = None,
    decoder: Decoder = "ffmpeg",
) -> Video:
    """Open a video; iterate it once for its frames and close it (a context manager).

    Rotation and mirroring in the container's display matrix are applied, timestamps are the container's own
    (a variable frame rate is kept), and a truncated file gives the frames it has, with a warning in the log.
    Memory does not grow with the length of the video.

    A later piece is reached by a seek in MP4, Matroska, AVI and FLV, and by reading in MPEG-TS and MPEG-PS; other
    formats, MPEG-4 part 2 (DivX) and AVI with B-frames lack dependable timestamps: all before the piece is decoded.
    Where pieces are reached by a seek, a frame that cannot be decoded is replaced by the one before it, so that the
    frames after it keep their number; elsewhere it is left out. All other frames keep their time in any case.

    Args:
        uri: a local path, or any URI fsspec opens.
        start_s: seconds since the video's first frame; the first frame given is not earlier.
        end_s: exclusive; None is the end of the video.
        fps: > 0; resample to this rate: frame k is the one nearest to the time k / fps, which is its timestamp, and
            those with k / fps in [start_s, end_s) are given. A video whose average rate is not higher keeps its own
            frames and times.
        decoder: "nvdec" leaves to NVDEC what it knows; a warning in the log names videos that the CPU decodes all the
            same. Times, seeks and rotation are FFmpeg's in either case.

    Returns:
        A `Video` with `.info`; iterating gives (timestamp_s, frame), frame (H, W, 3) uint8 RGB.

    Raises:
        VideoError: no such file, an empty file, not a video, no video stream, no decodable frame, or no NVDEC; while
            iterating, when it is to be resampled and lacks frames for more than ten minutes.
        ValueError: start_s is negative or not before end_s, fps is not positive, or no such decoder.
        OSError: while iterating, when reading the file fails for a reason other than its content.
    """
    return Video(uri, start_s=start_s, end_s=end_s, fps=fps, decoder=decoder)


def require_nvdec() -> None:
    """See that NVDEC decodes here, by a frame.

    Raises:
        VideoError: it does not; the message says what it takes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/black.mp4"
        write_video(path, [np.zeros((256, 256, 3), np.uint8)], 1)
        gpu = HWAccel(HWDeviceType.cuda, allow_software_fallback=False)
        cause = "no frame came"
        try:
            with av.open(path, hwaccel=gpu) as container:
                if next(container.decode(video=0), None):
                    return
        except (FFmpegError, RuntimeError) as error:  # the latter: a PyAV without it
            cause = str(error)
    raise VideoError(
        f"NVDEC does not decode here ({cause}): wanted an NVIDIA GPU that this process sees, its driver's libnvcuvid "
        "(containers: NVIDIA_DRIVER_CAPABILITIES with video) and a PyAV with CUDA; the decoder ffmpeg wants none of it"
    )


def segments(uri: str | os.PathLike[str], seconds: float, fps: float | None = None) -> list[Segment]:
    """Cut a video into equal pieces, and count the frames of each.

    The index of an MP4 of constant frame rate tells enough; other files that `open_video` seeks in are read as a whole,
    but not decoded; the rest is decoded, as are interlaced videos.

    Args:
        uri: a local path, or any URI fsspec opens.
        seconds: > 0, length of a piece; the last one is up to half longer or shorter. `math.inf` gives one piece, whose
            `num_frames` are those of the video.
        fps: as for `open_video`: the pieces are counted in resampled frames.

    Returns:
        The pieces in order, at least one, none without frames: iterating
        `open_video(uri, start_s=piece.start_s, end_s=piece.end_s, fps=fps)` gives `piece.num_frames` frames.

    Raises:
        VideoError: as for `open_video`.
        ValueError: seconds or fps is not positive.
    """
    if not seconds > 0:
        raise ValueError(f"{os.fspath(uri)}: seconds must be positive, got {seconds}")
    with open_video(uri, fps=fps) as video:
        times, own, rate = video._times(), video._rate, video._fps
    if rate:
        for before, after in itertools.pairwise(times):
            _require_no_gap(os.fspath(uri), before, after)

    def frames_before(time_s: float) -> int:
        return _first_at(time_s, rate) if rate else bisect_left(times, time_s - _NOISE_S)

    length = times[-1] + (1 / own if own else 0)
    num_frames = frames_before(times[-1] + _LAST_S)
    # By number of frames before: where a piece would be empty, the one before it is longer.
    cuts = {0: 0.0} | {
        frames_before(i * seconds): float(i * seconds) for i in range(1, math.floor(length / seconds + 0.5))
    }
    starts = [(number, cut) for number, cut in cuts.items() if number < num_frames]
    ends: list[tuple[int, float | None]] = [*starts[1:], (num_frames, None)]
    return [
        Segment(start_s, end_s, number, after - number)
        for (number, start_s), (after, end_s) in zip(starts, ends, strict=True)
    ]


def start_of(uri: str | os.PathLike[str], number: int, fps: float | None = None) -> float:
    """When a frame is shown: `open_video` with this `start_s` begins with it, and not with the video's first one.

    The times of a video are found as by `segments`, and kept for its other pieces.

    Args:
        uri: a local path, or any URI fsspec opens.
        number: >= 0, of the frame among all that `open_video(uri, fps=fps)` gives.
        fps: as for `open_video`.

    Raises:
        VideoError: as for `open_video`.
        ValueError: there are not so many frames.
    """
    if number == 0:
        return 0.0
    version = ""
    with contextlib.suppress(OSError):  # opening says why
        version = content_version(os.fspath(uri))
    rate, times = _clock(os.fspath(uri), fps, version)
    if rate:
        return number / rate
    if number >= len(times):
        raise ValueError(f"{os.fspath(uri)} has {len(times)} frames, no frame {number}")
    return float(times[number])


@lru_cache(4)
def _clock(uri: str, fps: float | None, version: str) -> tuple[float | None, np.ndarray]:
    """The rate a video is resampled to, or None and the times of its frames."""
    with open_video(uri, fps=fps) as video:
        return video._fps, np.array([] if video._fps else video._times())


def write_video(path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: float) -> None:
    """Write frames as H.264 (yuv420p, so that browsers play it); the file appears only when it is whole.

    Args:
        path: a local file name; its ending gives the container, as a rule .mp4.
        frames: each (H, W, 3) uint8 RGB, all of one size; an odd side is padded by repeating its last pixel.
        fps: frames per second, > 0.

    Raises:
        ValueError: no frames, fps not positive, or a frame of another size or type.
    """
    path = Path(path)
    if not fps > 0:
        raise ValueError(f"{path}: fps must be positive, got {fps}")
    shape: tuple[int, ...] | None = None
    with (
        whole_file(path, path.suffix) as part,
        av.open(str(part), "w", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast"}
        stream.codec_context.thread_count = 1
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


def _open_file(uri: str) -> IO[bytes]:
    """Open for reading; always a file object, as FFmpeg would take a colon in a name for a protocol."""
    try:
        if "://" in uri:
            with reaching(uri):
                filesystem, path = fsspec.url_to_fs(uri)
                file: Any = filesystem.open(path, "rb", block_size=_BLOCK_BYTES)
                begins = file.read(1)  # some stores refuse only this
        else:
            file = Path(uri).open("rb")
            begins = file.read(1)
    except FileNotFoundError as error:
        raise VideoError(f"{uri}: no such file") from error
    except Exception as error:  # fsspec lacks the protocol, or a store's own error, which need not be an OSError
        said = str(error).removeprefix(f"{uri}: ")
        raise VideoError(f"{uri}: cannot be opened ({type(error).__name__}: {said})") from error
    if not begins:
        file.close()
        raise VideoError(f"{uri}: the file is empty (0 bytes)")
    file.seek(0)
    return file


def _from_last_keyframe(packets: Iterator[av.Packet], target: int) -> Iterator[av.Packet]:
    """Drop what comes before the last keyframe that is shown at `target` or before it."""
    held: list[av.Packet] = []
    size = 0
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None and packet.pts <= target:
            held, size = [], 0
        held.append(packet)
        size += packet.size
        # No packet is shown before it is decoded: later keyframes are too late.
        if size > _MAX_HELD_BYTES or (packet.dts is not None and packet.dts > target):
            break
    yield from held
    del held
    yield from packets


def _rate(packets: Sequence[av.Packet], tick_s: float) -> float:
    """Frames a second, by the times of the first packets; 0 where they have none."""
    times = sorted({packet.pts for packet in packets if packet.pts is not None})
    return (len(times) - 1) / ((times[-1] - times[0]) * tick_s) if len(times) > 1 else 0.0


def _in_order(frames: Iterable[tuple[int, av.VideoFrame]]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Put times into order that frames brought along in order of coding; the frames are in order."""
    times: list[int] = []
    waiting: deque[av.VideoFrame] = deque()
    for time, frame in frames:
        heapq.heappush(times, time)
        waiting.append(frame)
        if len(waiting) > _MAX_REORDER:
            yield heapq.heappop(times), waiting.popleft()
    while waiting:
        yield heapq.heappop(times), waiting.popleft()


def _require_no_gap(uri: str, before_s: float, after_s: float) -> None:
    """See that the time between a frame and the next one may be filled with copies."""
    if after_s - before_s > _MAX_FILLED_S:
        raise VideoError(
            f"{uri}: no frame for {after_s - before_s:.0f} s after {before_s:.1f} s, where a video that is resampled "
            f"may lack them for {_MAX_FILLED_S} s at most: a timestamp is damaged, or it is a record with long pauses; "
            "leave out fps (--fps), or give the file even times first (ffmpeg -i FILE -vf setpts=N/25/TB -r 25 NEW)"
        )


def _first_at(time_s: float, fps: float) -> int:
    """Find the first k with k / fps at `time_s` or after it."""
    return math.ceil((time_s - _NOISE_S) * fps)


def _resample(
    frames: Iterable[tuple[float, av.VideoFrame]], fps: float, start_s: float, end_s: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Give for each k / fps in [start_s, end_s) the nearest of frames that ascend from at or before `start_s`."""
    k, stop = _first_at(start_s, fps), math.inf if math.isinf(end_s) else _first_at(end_s, fps)
    before: tuple[float, av.VideoFrame] | None = None
    for time, frame in frames:
        while k < stop and k / fps <= time:
            is_nearer = before is None or time - k / fps < k / fps - before[0] - _NOISE_S
            yield k / fps, (frame if before is None or is_nearer else before[1])
            k += 1
        if k >= stop:
            return
        before = time, frame
    if before is not None:
        while k < min(stop, _first_at(before[0] + _LAST_S, fps)):
            yield k / fps, before[1]
            k += 1


def _is_cover_picture(stream: Any) -> bool:
    return "attached_pic" in stream.disposition.name if stream.disposition else False


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Read a frame's display matrix, a quarter turn or a mirroring: (transpose, then flip x, flip y)."""
    side_data: Any = frame.side_data  # the stubs know only str keys
    matrix = side_data.get(_MATRIX)
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32, 5).tolist()  # x' = ax + cy, y' = bx + dy
    return (True, c < 0, b < 0) if abs(b) > abs(a) else (False, a < 0, d < 0)


def upright(pixels: np.ndarray, turn: tuple[bool, bool, bool]) -> np.ndarray:
    """A frame (H, W, 3) as it is to be seen, by its video's `orientation`."""
    transpose, flip_x, flip_y = turn
    pixels = pixels.transpose(1, 0, 2) if transpose else pixels
    return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])
