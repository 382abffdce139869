"""Timeline: poses of a video, in one piece or in many -> windows -> probabilities -> who does what, from when to when.

A long video is looked at in windows that overlap. Each moment's probabilities are the mean of the windows that cover
it; its action is the likeliest, runs of one action are merged, and runs that are too short go to their neighbours.
Pieces come one by one, and those that no window needs any more are dropped: memory does not grow with the length.
"""

import csv
import heapq
import io
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posec3d.pieces import LEAST_PRESENCE, alone, joined, numbered
from posec3d.table import Clip

BATCH = 8
"""Looks that a model has together."""

Probabilities = Callable[[Sequence[Clip]], np.ndarray]
"""N clips -> (N, classes)."""


def likeliest(labels: Sequence[str], scores: np.ndarray, k: int = 5) -> list[tuple[str, float]]:
    """The k likeliest of (classes,) probabilities by name, best first."""
    return [(labels[i], float(scores[i])) for i in np.argsort(-scores)[:k]]


@dataclass(frozen=True, kw_only=True)
class How:
    """How a video is looked at."""

    window_s: float | None = None
    """Length of a window; None looks at all of the video at once."""
    stride_s: float | None = None
    """From one window's start to the next one's; None is a quarter of a window."""
    per_person: bool = False
    """Look at each person alone."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.window_s is None and self.stride_s is not None:
            raise ValueError(f"a stride of {self.stride_s} s and no window: give the window's length too")
        if self.window_s is not None and not self.window_s > 0:
            raise ValueError(f"the window must be > 0 seconds long, got {self.window_s}")
        if self.window_s is not None and self.stride_s is not None and not 0 < self.stride_s <= self.window_s:
            raise ValueError(
                f"the stride must be > 0 and at most the window's {self.window_s} s, or moments between windows would "
                f"be seen by none; got {self.stride_s}"
            )


@dataclass(frozen=True)
class Action:
    """What somebody, or everybody together, does for a time."""

    start_frame: int
    """Among all frames of the video."""
    end_frame: int
    """Exclusive."""
    person: int | None
    """Number of the track through the whole video; None is everybody together."""
    label: str
    probability: float
    scores: np.ndarray
    """(classes,) probabilities, the mean over its moments."""


@dataclass(frozen=True)
class Look:
    """What the model said of one window, of one person or of all."""

    start_frame: int
    end_frame: int
    person: int | None
    scores: np.ndarray
    """(classes,)"""


@dataclass(frozen=True, eq=False, repr=False)
class Timeline:
    """What a video shows, from when to when."""

    clip_id: str
    video: str
    fps: float
    """0 when unknown."""
    start_frame: int
    num_frames: int
    people: int
    """Tracks through the whole video."""
    how: How
    labels: tuple[str, ...]
    actions: tuple[Action, ...]
    """In order of their start; nothing for the time nobody is seen."""
    looks: tuple[Look, ...]
    """The windows they were made from, but those with nobody in them."""
    pieces: Iterable[Clip]
    """The poses, for the overlay."""

    def __repr__(self) -> str:
        """What a notebook shows: the actions, a line each."""
        lines = [f"Timeline({self.clip_id}, people={self.people}, actions={len(self.actions)})"]
        for action in self.actions[:20]:
            who = "" if action.person is None else f"#{action.person} "
            lines.append(f"  {self._clock(action)}  {who}{action.label} {action.probability:.0%}")
        return "\n".join(lines + ["  ..."] * (len(self.actions) > 20))

    def _clock(self, action: Action) -> str:
        start, end = self.seconds(action.start_frame), self.seconds(action.end_frame)
        return f"frames {action.start_frame}-{action.end_frame}" if start is None else f"{start:7.2f}-{end:.2f} s"

    def seconds(self, frame: int) -> float | None:
        """When a frame is shown, in seconds since the video's first one; None when the rate is unknown."""
        return round(frame / self.fps, 3) if self.fps else None

    def top(self, scores: np.ndarray, k: int = 5) -> list[tuple[str, float]]:
        """The k likeliest labels of (classes,) probabilities, best first."""
        return likeliest(self.labels, scores, k)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it: the actions, and the windows they come from, with the five likeliest labels."""

        def row(part: Action | Look) -> dict[str, Any]:
            top = [{"label": name, "probability": round(p, 4)} for name, p in self.top(part.scores)]
            return {
                "person": part.person,
                "start_s": self.seconds(part.start_frame),
                "end_s": self.seconds(part.end_frame),
                "top": top,
            }

        return {
            "video": self.video,
            "clip_id": self.clip_id,
            "fps": self.fps,
            "start_s": self.seconds(self.start_frame),
            "end_s": self.seconds(self.start_frame + self.num_frames),
            "window_s": self.how.window_s,
            "stride_s": self.how.stride_s,
            "people": self.people,
            "actions": [{**row(a), "label": a.label, "probability": round(a.probability, 4)} for a in self.actions],
            "windows": [row(look) for look in self.looks],
        }

    def as_csv(self) -> str:
        """The actions as CSV: person, start_s, end_s, label, probability."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(("person", "start_s", "end_s", "label", "probability"))
        for a in self.actions:
            person = "" if a.person is None else a.person
            times = self.seconds(a.start_frame), self.seconds(a.end_frame)
            writer.writerow((person, *times, a.label, f"{a.probability:.4f}"))
        return text.getvalue()

    def strip(self, path: str | Path) -> None:
        """Write the actions as a picture, a PNG: time from left to right, a row for each person.

        Raises:
            ValueError: the video's rate is unknown.
        """
        from posec3d import draw

        if not self.fps:
            raise ValueError(f"{self.clip_id}: the frame rate is unknown, so there are no times to show")
        bars = [
            (a.person, a.start_frame / self.fps, a.end_frame / self.fps, a.label, a.probability) for a in self.actions
        ]
        span = self.start_frame / self.fps, (self.start_frame + self.num_frames) / self.fps
        draw.timeline_strip(path, bars, span)

    def overlay(self, path: str | Path) -> None:
        """Write the video with skeletons, the tracks' numbers, and at each moment what is done; by whom, per person.

        Raises:
            ValueError: the clips have no video (imported poses).
        """
        from posec3d.overlay import write_overlay

        write_overlay(path, self.pieces, self.actions)


def timelines(
    videos: Sequence[Iterable[Clip]], probabilities: Probabilities, labels: tuple[str, ...], how: How
) -> list[Timeline]:
    """Look at videos, clips of several in one batch.

    Args:
        videos: of each its pieces, in order; gone through once here, and once more by each overlay.
        probabilities: what the model says.
        labels: names of the classes.
        how: in windows or not, everybody together or each alone.

    Raises:
        ValueError: a video without a piece; windows, and a frame rate that is unknown.
    """
    watchers = [_Watcher(pieces, how) for pieces in videos]
    ahead = ((watcher, clip, person) for watcher in watchers for clip, person in watcher.clips())
    while batch := list(itertools.islice(ahead, BATCH)):
        for (watcher, clip, person), scores in zip(batch, probabilities([clip for _, clip, _ in batch]), strict=True):
            look = Look(clip.start_frame, clip.start_frame + clip.num_frames, person, scores)
            watcher.looks.append(look)
    return [watcher.timeline(labels) for watcher in watchers]


class _Watcher:
    """Gives a video's windows as clips, and makes a timeline of what was said of them."""

    def __init__(self, pieces: Iterable[Clip], how: How) -> None:
        self.pieces, self.how = pieces, how
        self.looks: list[Look] = []
        self.first: Clip | None = None
        self.people = self.end = 0
        self.starts: list[int] = []

    def clips(self) -> Iterator[tuple[Clip, int | None]]:
        """What is to be looked at: clips with somebody in them, and the number of that person, or None."""
        for clip, numbers in self._windows():
            if not self.how.per_person:
                if clip.num_persons:
                    yield clip, None
                continue
            for person, number in enumerate(numbers):
                seen = (clip.scores[person] > 0).any(-1)
                if not seen.any():
                    continue
                if self.how.window_s is None:  # from when that person comes to when they go
                    first, last = np.flatnonzero(seen)[[0, -1]]
                    yield alone(clip, person, int(first), int(last) + 1), number
                elif seen.mean() >= LEAST_PRESENCE:
                    yield alone(clip, person), number

    def _windows(self) -> Iterator[tuple[Clip, list[int]]]:
        held: list[tuple[Clip, list[int]]] = []
        length = 0
        for clip, numbers in numbered(self.pieces):
            if self.first is None:
                self.first = clip
                if self.how.window_s is not None and not clip.fps:
                    raise ValueError(
                        f"{clip.clip_id}: the frame rate is unknown, so no window of {self.how.window_s} s can be cut; "
                        "leave --window out"
                    )
            self.people = max(self.people, *(n + 1 for n in numbers), 0)
            self.end = clip.start_frame + clip.num_frames
            held.append((clip, numbers))
            if self.how.window_s is None:
                continue
            length = max(1, round(self.how.window_s * clip.fps))
            while (start := self.edge(len(self.starts))) + length <= self.end:
                self.starts.append(start)
                yield joined(held, start, start + length)
            # The last window of all may begin earlier than the one that is next now.
            needed = self.edge(len(self.starts) - 1)
            held = [(c, numbers) for c, numbers in held if c.start_frame + c.num_frames > needed]
        if self.first is None:
            raise ValueError("a video without any clip: nothing can be said of it")
        covered = self.starts[-1] + length if self.starts else -1
        if covered < self.end:
            start = self.first.start_frame if self.how.window_s is None else self.end - length
            self.starts.append(max(start, self.first.start_frame))
            yield joined(held, self.starts[-1], self.end)

    def edge(self, number: int) -> int:
        """The frame at which a window begins, and with it a moment."""
        assert self.first is not None and self.how.window_s is not None  # noqa: S101
        stride = max(1, (self.how.stride_s or self.how.window_s / 4) * self.first.fps)  # a frame at least
        return self.first.start_frame + max(0, round(number * stride))

    def timeline(self, labels: tuple[str, ...]) -> Timeline:
        """What was said of the windows, as actions."""
        assert self.first is not None  # noqa: S101 - `clips` has run
        actions = []
        by_person: dict[int | None, list[Look]] = {}
        for look in self.looks:
            by_person.setdefault(look.person, []).append(look)
        edges = [self.first.start_frame]
        while self.how.window_s is not None and edges[-1] < self.end:
            edges.append(min(self.edge(len(edges)), self.end))
        for person, looks in by_person.items():
            if self.how.window_s is None:
                parts = [(look.start_frame, look.end_frame, int(look.scores.argmax()), look.scores) for look in looks]
            else:
                length = looks[0].end_frame - looks[0].start_frame  # all windows are as long
                parts = smoothed(self.starts, length, {look.start_frame: look.scores for look in looks}, edges)
            for start, end, best, scores in parts:
                actions.append(Action(start, end, person, labels[best], float(scores[best]), scores))
        actions.sort(key=lambda a: (a.start_frame, a.person or 0))
        first, start = self.first, self.first.start_frame
        name = first.clip_id
        return Timeline(
            name, first.video, first.fps, start, self.end - start, self.people, self.how, labels,
            tuple(actions), tuple(self.looks), self.pieces,
        )  # fmt: skip


def smoothed(
    starts: Sequence[int], length: int, scores: Mapping[int, np.ndarray], edges: Sequence[int]
) -> list[tuple[int, int, int, np.ndarray]]:
    """Windows' probabilities -> (first frame, end, class, probabilities) of one action after the other.

    The time between two edges is a moment. Its probabilities are the mean of the windows that cover its middle; one
    with nobody in it speaks for "nobody", which is a class like all others here. Moments of one likeliest class are
    merged. As long as a run is shorter than half a window, the shortest goes to that one of its neighbours whose class
    is likelier in it.

    Args:
        starts: first frames of all windows, ascending.
        length: of each, frames.
        scores: (classes,) probabilities by a window's start; of those with somebody in them.
        edges: first frames of the moments, ascending, and the end of the last one.

    Returns:
        What is not "nobody". The class is that of the run; the probabilities are the mean over its moments and add up
        to 1: where a run was given short ones, another class may be likelier in them.
    """
    starts, edges = list(starts), list(edges)
    classes = len(next(iter(scores.values())))
    nobody = np.append(np.zeros(classes), 1.0)
    first, last = min(scores), max(scores) + length
    low, high = max(0, bisect_right(edges, first) - 1), bisect_left(edges, last)
    moments = []
    for start, end in zip(edges[low:high], edges[low + 1 : high + 1], strict=False):
        middle = (start + end - 1) / 2
        covering = starts[bisect_right(starts, middle - length) : bisect_right(starts, middle)]
        said = [np.append(scores[at], 0.0) if at in scores else nobody for at in covering]
        moments.append(np.mean(said, 0) if said else nobody)
    p = np.array(moments)
    found = []
    for a, b, label in _merged(p, edges[low : high + 1], length / 2):
        mean = p[a:b, :classes].mean(0)
        if label < classes:
            found.append((edges[low + a], edges[low + b], label, (mean / mean.sum()).astype(np.float32)))
    return found


def _merged(p: np.ndarray, edges: Sequence[int], least: float) -> list[tuple[int, int, int]]:
    """Runs (first moment, end, class) of moments' probabilities (moments, classes), none of less than `least` frames.

    The shortest is given away first, of equal ones the first; a heap has it at hand, for a day has many thousands.
    """
    best = p.argmax(1)
    cuts = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist(), len(best)]
    runs = {a: (b, int(best[a])) for a, b in itertools.pairwise(cuts)}  # by first moment
    before = {b: a for a, (b, _) in runs.items()}  # first moment by end
    heap = [(edges[b] - edges[a], a, b) for a, (b, _) in runs.items()]
    heapq.heapify(heap)
    while len(runs) > 1 and heap[0][0] < least:
        _, a, b = heapq.heappop(heap)
        if a not in runs or runs[a][0] != b:
            continue  # part of a longer run by now
        beside = [runs[i][1] for i in (before.get(a), b) if i in runs]
        label = max(beside, key=lambda label: p[a:b, label].sum())
        left = before.get(a)
        if left is not None and runs[left][1] == label:
            del runs[a]
            a = left
        if b in runs and runs[b][1] == label:
            b = runs.pop(b)[0]
        runs[a], before[b] = (b, label), a
        heapq.heappush(heap, (edges[b] - edges[a], a, b))
    return [(a, b, label) for a, (b, label) in sorted(runs.items())]
