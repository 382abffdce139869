"""Live: a camera or a stream -> its newest frames -> poses -> a sliding window -> what is done now.

    python -m posec3d.live RUN... --source rtsp://camera/stream

A thread reads the stream and keeps its newest frame alone: what cannot be looked at in time is skipped, and no queue
grows. A line of JSON tells what is done, how many frames a second were looked at, and how old the newest of them was
when that was known.
"""

import argparse
import errno
import json
import logging
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.error import FFmpegError, InvalidDataError

from posec3d.pieces import LEAST_PRESENCE, alone, joined
from posec3d.pose import Seen, estimate, tracked
from posec3d.recognizer import Predictor, load
from posec3d.table import Clip
from posec3d.timeline import likeliest
from posec3d.video import VideoError, orientation, upright
from posec3d.weights import WeightsError

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
"""A stream that gives no frame for so long is over."""
MEMORY_S = 2.0
"""People are followed in what was seen for so long before the window, too."""
MIN_FRAMES = 4
"""A window of fewer says nothing yet, nor does one whose oldest frame is younger than half of it."""

_NETWORK = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay"}


class Newest:
    """The newest frame of a stream, which a thread reads.

    Args:
        source: URL or path of anything FFmpeg reads, or the number of a camera (Linux, /dev/video<number>). A file is
            played at its own speed.

    Raises:
        VideoError: it cannot be opened.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        camera = source.isdecimal()
        try:
            self._container = av.open(
                f"/dev/video{source}" if camera else source,
                format="v4l2" if camera else None,
                options=_NETWORK if "://" in source else {},
                timeout=TIMEOUT_S,
            )
            self._stream = self._container.streams.video[0]
        except (FFmpegError, IndexError) as error:
            what = "no video stream" if isinstance(error, IndexError) else error.strerror
            raise VideoError(f"{source}: cannot be opened as a live video ({what})") from error
        self._stream.thread_type = "NONE"  # threads of frames hold frames back
        self._paced = not camera and ("://" not in source or source.startswith("file:"))
        self._changed = threading.Condition()
        self._frame: tuple[float, av.VideoFrame] | None = None
        self._turn: tuple[bool, bool, bool] | None = None
        self._size = 0, 0
        self._over = False
        self.error: str | None = None
        self.received = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        if not self._paced:  # a file waits until somebody looks
            self._thread.start()

    def _read(self) -> None:
        start: float | None = None
        try:
            for frame in self._frames():
                if self._over:
                    return
                if self._paced and frame.time is not None:
                    start = time.monotonic() - frame.time if start is None else start
                    time.sleep(max(0.0, start + frame.time - time.monotonic()))
                with self._changed:
                    if self._turn is None:  # of the first frame only, as of a `Video`: poses share one pixel frame
                        self._turn, self._size = orientation(frame), (frame.width, frame.height)
                    self._frame = time.monotonic(), frame
                    self.received += 1
                    self._changed.notify()
        except FFmpegError as error:
            self.error = error.strerror
        finally:
            with self._changed:
                self._over = True
                self._changed.notify()

    def _frames(self) -> Iterator[av.VideoFrame]:
        last = time.monotonic()
        damage: InvalidDataError | None = None
        # Packets of all streams: PyAV's timeout begins anew at each, so that sound would hide that no picture comes.
        for packet in self._container.demux():
            if self._over:
                return
            try:
                for frame in self._stream.decode(packet) if packet.stream is self._stream else ():
                    yield frame
                    last, damage = time.monotonic(), None
            except InvalidDataError as error:  # damaged on its way; the next ones may be whole
                damage = error
            if time.monotonic() - last > TIMEOUT_S:
                raise damage or av.error.TimeoutError(errno.ETIMEDOUT, f"no frame came for {TIMEOUT_S:g} s")
        if damage and not self.received:
            raise damage

    def take(self) -> tuple[float, np.ndarray] | None:
        """Wait for a frame newer than the last one; None when the stream is over.

        Returns:
            When it came, by the monotonic clock, and (H, W, 3) uint8 RGB, upright.
        """
        if self._thread.ident is None:
            self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._over)
            taken, self._frame = self._frame, None
        if taken is None or self._turn is None:
            return None
        width, height = self._size
        return taken[0], upright(taken[1].to_ndarray(format="rgb24", width=width, height=height, threads=1), self._turn)

    def close(self) -> None:
        """Stop reading. A read that waits for data has a second to end, and is left to itself then."""
        self._over = True
        if self._thread.ident is not None:
            self._thread.join(1)
        if not self._thread.is_alive():  # else it still reads from the container
            self._container.close()


@dataclass(frozen=True)
class Moment:
    """What is done in the last seconds of a stream."""

    seconds: float
    """Since the first frame, when it was known."""
    people: int
    actions: tuple[tuple[int | None, list[tuple[str, float]]], ...]
    """The person's number (None: all together), and the likeliest labels, (name, probability); empty: nobody."""
    frames: int
    """In the window."""
    fps: float
    """Frames a second that were looked at, lately, while no answer was made."""
    skipped: int
    """Frames of the stream so far that were not looked at."""
    latency_s: float
    """From when the newest frame had come to when this was known."""

    def as_dict(self) -> dict[str, Any]:
        """It as JSON takes it."""
        actions = [
            {"person": person, "top": [{"label": name, "probability": round(p, 4)} for name, p in top]}
            for person, top in self.actions
        ]
        return {
            "seconds": round(self.seconds, 3),
            "people": self.people,
            "actions": actions,
            "frames": self.frames,
            "fps": round(self.fps, 2),
            "skipped": self.skipped,
            "latency_s": round(self.latency_s, 3),
        }


def watch(
    recognizer: Predictor,
    source: str,
    *,
    window: float = 2.0,
    every: float = 0.5,
    per_person: bool = False,
) -> Iterator[Moment]:
    """Say again and again what is done in a stream, until it is over.

    Args:
        recognizer: whose networks find the poses, too.
        source: as of `Newest`.
        window: seconds that are looked at; an answer takes `MIN_FRAMES` in them, from half of them or more.
        every: seconds from one answer to the next one, at least.
        per_person: look at each person alone who is seen in half of the window.

    Raises:
        VideoError: the stream cannot be opened.
        ValueError: window or every is not positive, or a model sees RGB, poses in 3D or stored heatmaps.
    """
    for part in recognizer.parts:
        clip = part.config.clip
        if clip.rgb_length or clip.space == "body" or clip.maps == "stored":
            what = "poses in 3D" if clip.space == "body" else "RGB frames" if clip.rgb_length else "stored heatmaps"
            raise ValueError(
                f"a live stream gives poses in 2D alone, and a {part.config.model.name} of these runs looks at {what}: "
                "leave it out here, and ask it with jobs.predict, or with jobs.evaluate for stored heatmaps"
            )
    if not (window > 0 and every > 0):
        raise ValueError(f"window and every must be > 0 seconds, got {window} and {every}")
    return _moments(recognizer, Newest(source), window, every, per_person)


def _moments(recognizer: Predictor, newest: Newest, window: float, every: float, per_person: bool) -> Iterator[Moment]:
    held: deque[tuple[float, Seen, list[int]]] = deque()  # when it came, who is in it, and their numbers
    started = answered = free = -math.inf  # when the first frame came; the one last answered; since when it only looks
    looked = count = 0
    told = False
    try:
        detector, estimator = recognizer.networks  # which may take long; a file is not played before
        while (taken := newest.take()) is not None:
            came, frame = taken
            looked += 1
            started, free = (came, came) if math.isinf(started) else (started, free)
            (seen,) = estimate(estimator, frame[None], detector.detect(frame[None]))
            seen = seen.real()
            held.append((came, seen, [-1] * len(seen.boxes)))
            while held[0][0] < came - window - MEMORY_S:
                held.popleft()
            times = np.array([when for when, _, _ in held])
            inside = int((times >= came - window).sum())
            if inside < MIN_FRAMES and came - free >= window and not told:
                log.warning(
                    "%s: only %d frames were looked at in %g s, and an answer takes %d: give a longer window, a "
                    "smaller picture or a faster machine",
                    newest.source, inside, window, MIN_FRAMES,
                )  # fmt: skip
                told = True
            if inside < MIN_FRAMES or came - times[-inside] < window / 2 or came - answered < every:
                continue
            answered = came
            fps = 1 / max(float(np.median(np.diff(times))), 1e-3)  # the mean would count the pauses for answers
            clip, tracks = tracked([s for _, s, _ in held], frame.shape[:2], fps, estimator.skeleton)
            numbers, count = _same(tracks, [n for _, _, n in held], count)
            clip, numbers = joined([(clip, numbers)], len(held) - inside, len(held))
            chosen: list[tuple[int | None, Clip]] = [(None, clip)] if clip.num_persons else []
            if per_person:
                presence = (clip.scores > 0).any(-1).mean(1)
                there = np.flatnonzero(presence >= LEAST_PRESENCE).tolist()
                chosen = [(numbers[m], alone(clip, m)) for m in there]
            scores = recognizer.probabilities([one for _, one in chosen], clips=1) if chosen else ()
            yield Moment(
                seconds=time.monotonic() - started,
                people=clip.num_persons,
                actions=tuple(
                    (number, likeliest(recognizer.labels, row)) for (number, _), row in zip(chosen, scores, strict=True)
                ),
                frames=inside,
                fps=fps,
                skipped=newest.received - looked,
                latency_s=time.monotonic() - came,
            )
            free = time.monotonic()
    finally:
        newest.close()
    if newest.error:
        raise VideoError(f"{newest.source}: the stream broke off ({newest.error})")


def _same(tracks: np.ndarray, numbers: Sequence[list[int]], count: int) -> tuple[list[int], int]:
    """Number the tracks (M, T) of a window as those of the window before, by the frames that both have."""
    found: list[int] = []
    for track in tracks:
        known = [numbers[t][i] for t, i in enumerate(track) if i >= 0 and numbers[t][i] >= 0]
        votes = [number for number in known if number not in found]
        number = max(set(votes), key=votes.count) if votes else count
        count = max(count, number + 1)
        found.append(number)
        for t, i in enumerate(track):
            if i >= 0:
                numbers[t][i] = number
    return found, count


def main(args: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 if the stream cannot be opened or breaks off."""
    parser = argparse.ArgumentParser(prog="python -m posec3d.live", description="Say what is done in a live video.")
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of jobs.train or .safetensors file; several: fused"
    )
    parser.add_argument("--source", required=True, help="RTSP, HTTP or other URL, file, or number of a camera")
    parser.add_argument("--window", type=float, default=2.0, help="seconds that are looked at (2)")
    parser.add_argument("--every", type=float, default=0.5, help="seconds between answers, at least (0.5)")
    parser.add_argument("--per-person", action="store_true", help="look at each person alone")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for the recognition")
    given = parser.parse_args(args)
    try:
        recognizer = load(given.runs, given.device)
        how = {"window": given.window, "every": given.every, "per_person": given.per_person}
        for moment in watch(recognizer, given.source, **how):
            print(json.dumps(moment.as_dict()), flush=True)
    except BrokenPipeError:  # nobody reads any more, as after `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
