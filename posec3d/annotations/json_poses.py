"""Annotations -> table: JSON of pose estimators, COCO keypoints and OpenPose, people by frame -> people as tracks."""

import json
import math
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from posec3d import coco as coco_json
from posec3d.annotations.entries import (
    MAX_FRAMES,
    Annotations,
    Entry,
    Options,
    by_name,
    choose_skeleton,
    failing,
    make_clip,
)
from posec3d.annotations.source import File, Source
from posec3d.table import Clip
from posec3d.track import link

_OPENPOSE = {25: "openpose25", 18: "openpose18"}
_OPENPOSE_NAME = re.compile(r"(.*?)_?(\d+)_keypoints\.json$")
_MAX_PERSONS = 10  # as jobs.extract keeps


@dataclass(frozen=True)
class _Person:
    """One person in one frame: (V, 3) x, y, score, and a track if the file knows it."""

    joints: np.ndarray
    track: int | None


def openpose(source: Source, options: Options) -> Annotations:
    """OpenPose: a file <video>_<frame>_keypoints.json a frame, with people[].pose_keypoints_2d in pixels.

    The folder of the files is the clip, if it holds one video's; the folder above is its label, the one above that its
    split. The size of the frames is --size, else the smallest frame that has all points. People are linked into tracks,
    or are tracks already if OpenPose numbered them (person_id).
    """
    by_clip: dict[tuple[str, str], dict[int, File]] = defaultdict(dict)
    for file in source.ending("_keypoints.json"):
        folder, base = posixpath.split(file.name)
        if named := _OPENPOSE_NAME.match(base):
            by_clip[folder, named[1]][int(named[2])] = file
    videos = Counter(folder for folder, _ in by_clip)
    paths = {posixpath.join(*of) for of in by_clip}  # a folder may be called as a video beside it
    clips = {
        (folder if folder and videos[folder] == 1 and folder not in paths else posixpath.join(folder, video)): files
        for (folder, video), files in by_clip.items()
    }
    names = sorted({label for clip in clips if (label := _label(clip))})

    def read(clip: str, files: dict[int, File]) -> Clip:
        frames = {number: _openpose_people(file) for number, file in files.items()}
        size = options.size or _extent(frames)
        return _clip(clip, frames, (min(files), max(files)), size, names, _OPENPOSE, "openpose", options)

    return Annotations(
        Entry(clip, posixpath.dirname(min(files.items())[1].uri), partial(read, clip, files), i / len(clips))
        for i, (clip, files) in enumerate(sorted(clips.items()), 1)
    )


def _openpose_people(file: File) -> list[_Person]:
    content = _json(file)
    people = []
    for person in content.get("people", ()) if isinstance(content, dict) else ():
        flat = person.get("pose_keypoints_2d", person.get("pose_keypoints", ()))  # the second before version 1.3
        track = next(iter(person.get("person_id", ())), -1)
        people.append(_Person(_joints(flat, file.name), track if track >= 0 else None))
    return people


def coco(source: Source, options: Options) -> Annotations:
    """COCO keypoint JSON with images and annotations, of any number of videos.

    Images are frames of videos as the module posec3d.given says: video_id and frame_id, or file names
    <video>/<frame>.jpg. Labels and splits are the folders above the video. People are linked into tracks, unless all
    have a track_id. A visibility of 1 or 2 is a score of 1.
    """
    return Annotations(_coco(source, options))


@dataclass
class _Video:
    """What a COCO file says of one video; the size is of its frames."""

    uri: str
    size: tuple[int, int]
    frames: dict[int, list[_Person]]


def _coco(source: Source, options: Options) -> Iterator[Entry]:
    videos: dict[str, _Video] = {}
    for file in source.ending(".json"):
        try:
            for clip, video in _coco_videos(file).items():  # its frames may be spread over several files
                known = videos.setdefault(clip, video)
                if known is not video:
                    if again := known.frames.keys() & video.frames.keys():
                        raise ValueError(f"frame {min(again)} of {clip} is in another file too, wanted it once")
                    known.frames |= video.frames
                    known.size = max(known.size, video.size)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            cause = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
            yield Entry(file.name, file.uri, failing(ValueError(f"not COCO keypoints: {cause}")), 0.0)
        except ValueError as error:
            yield Entry(file.name, file.uri, failing(error), 0.0)
    names = sorted({label for clip in videos if (label := _label(clip))})

    def read(clip: str, video: _Video) -> Clip:
        span = min(video.frames), max(video.frames)
        return _clip(clip, video.frames, span, options.size or video.size, names, {17: "coco17"}, "coco", options)

    for i, (clip, video) in enumerate(sorted(videos.items()), 1):
        yield Entry(clip, video.uri, partial(read, clip, video), i / len(videos))


def _coco_videos(file: File) -> dict[str, _Video]:
    content = _json(file)
    places = coco_json.places(content)
    found: dict[str, _Video] = {}
    for image in content["images"]:
        clip, frame = places[image["id"]]
        size = int(image.get("height", 0)), int(image.get("width", 0))
        video = found.setdefault(clip, _Video(file.uri, size, {}))
        video.size = max(video.size, size)
        video.frames.setdefault(frame, [])
    for (clip, frame), annotation in coco_json.people(content, places):
        if keypoints := annotation.get("keypoints"):
            found[clip].frames[frame].append(_Person(_joints(keypoints, file.name), annotation.get("track_id")))
    return found


def _json(file: File) -> Any:
    try:
        return json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name}: not JSON that can be read ({error})"[:300]) from error


def _joints(flat: Any, where: str) -> np.ndarray:
    if not isinstance(flat, Sequence) or not flat or len(flat) % 3 or isinstance(flat, str):
        raise ValueError(f"{where}: keypoints are no list of x, y, score of each joint")
    try:
        joints = np.array(flat, np.float32).reshape(-1, 3)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: keypoints are no list of numbers ({error})"[:300]) from error
    joints[~np.isfinite(joints).all(-1)] = 0
    return joints


def _label(clip: str) -> str | None:
    return posixpath.basename(posixpath.dirname(clip)) or None


def _extent(frames: Mapping[int, Sequence[_Person]]) -> tuple[int, int]:
    """The smallest frame that holds every point with a score, (h, w)."""
    points = [person.joints[person.joints[:, 2] > 0, :2] for people in frames.values() for person in people]
    points = [part for part in points if len(part)]
    if not points:
        return 1, 1
    width, height = np.concatenate(points).max(0)
    if max(width, height) <= 1:
        raise ValueError("coordinates of 0 to 1, wanted pixels: run OpenPose with --keypoint_scale 0")
    return math.floor(height) + 1, math.floor(width) + 1


def _clip(
    clip: str,
    frames: Mapping[int, Sequence[_Person]],
    span: tuple[int, int],
    size: tuple[int, int],
    names: Sequence[str],
    usual: dict[int, str],
    source: str,
    options: Options,
) -> Clip:
    """People by the number of the frame, from the first to the last of `span` -> the row of a clip."""
    start, length = span[0], span[1] - span[0] + 1
    if length > min(MAX_FRAMES, 100 * len(frames) + 1000):
        raise ValueError(f"frames {start} to {span[1]}, but only {len(frames)} of them are there; is a number wrong?")
    counts = {len(person.joints) for people in frames.values() for person in people}
    if len(counts) != 1:
        what = f"people of {sorted(counts)} joints, wanted one number" if counts else "nobody in any of its frames"
        raise ValueError(what)
    joints = counts.pop()
    skeleton = choose_skeleton(joints, options, usual)
    by_frame = [frames.get(start + t, ()) for t in range(length)]
    poses = [np.array([person.joints for person in people]).reshape(-1, joints, 3) for people in by_frame]
    tracks = _tracks(by_frame, poses, options)
    people = np.zeros((*tracks.shape, joints, 3), np.float32)
    for m, t in zip(*np.nonzero(tracks >= 0), strict=True):
        people[m, t] = poses[t][tracks[m, t]]
    above = posixpath.dirname(clip)
    label, split = _label(clip), posixpath.basename(posixpath.dirname(above))
    return make_clip(
        clip,
        people[..., :2],
        np.minimum(people[..., 2], 1),
        size=size,
        skeleton=skeleton,
        source=source,
        options=options,
        label=by_name(label, names, options) if label else None,
        splits=[split] if split else [],
        start_frame=start,
    )


def _tracks(by_frame: Sequence[Sequence[_Person]], poses: Sequence[np.ndarray], options: Options) -> np.ndarray:
    """(M, T): which person of each frame is in each track, -1 for none, those with most frames first."""
    most = options.max_persons or _MAX_PERSONS
    if all(person.track is not None for people in by_frame for person in people):
        rows: dict[int, np.ndarray] = {}
        for t, people in enumerate(by_frame):
            for i, person in enumerate(people):
                row = rows.setdefault(int(person.track or 0), np.full(len(by_frame), -1))
                if row[t] >= 0:
                    raise ValueError(f"two people of track {person.track} in one frame")
                row[t] = i
        kept = sorted(rows.values(), key=lambda row: -int((row >= 0).sum()))[:most]
        return np.array(kept, np.int64).reshape(-1, len(by_frame))
    boxes = []
    for frame in poses:
        seen = np.where(frame[..., 2:] > 0, frame[..., :2], np.nan)
        low = np.nan_to_num(np.nanmin(seen, 1, initial=np.inf), posinf=0) if len(seen) else np.zeros((0, 2))
        high = np.nan_to_num(np.nanmax(seen, 1, initial=-np.inf), neginf=0) if len(seen) else np.zeros((0, 2))
        boxes.append(np.concatenate([low, high], 1))
    return link(boxes, poses, fps=options.fps, max_persons=most)
