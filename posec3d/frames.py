"""Beside the path: a clip's video -> JPEG pictures of its people, in a table's `_frames/` -> what RGB networks see.

The pictures of a clip are joined to its row by clip_id. Removing `_frames/` leaves the table as it was.
"""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posec3d import table as tables
from posec3d.clips import Rng, clip_box, uniform_sample
from posec3d.storage import exists, write_whole
from posec3d.table import Clip

FRAMES = pa.schema(
    [
        ("clip_id", pa.string()),
        ("indices", pa.list_(pa.int32())),  # F numbers of the frames, within the clip, rising
        ("x", pa.int32()),  # the part of the frame that the pictures show, pixels
        ("y", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("images", pa.list_(pa.binary())),  # (F,) JPEG
    ],
    metadata=tables.SCHEMA.metadata,
)

STAGE = "frames"
"""Of the failure rows of clips whose pictures could not be made."""

Crop = Literal["subject", "whole"]

MOST = 64
"""Pictures of a clip, unless told otherwise."""

SHORT_SIDE = 256
"""Of a picture, pixels, unless told otherwise."""

PADDING = 0.25
"""Growth of what stored pictures of the subjects show, relative: clips that are cropped wider want whole frames."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Some frames of a clip, cropped alike."""

    indices: np.ndarray
    """(F,) numbers within the clip, rising."""
    region: tuple[int, int, int, int]
    """x, y, width, height in pixels of the frame: what the pictures show."""
    images: Sequence[bytes]
    """(F,) JPEG, all of one size."""


def frames_uri(table: str) -> str:
    """Where the frames of the table at this URI lie."""
    return f"{table.rstrip('/')}/_frames"


def spread(num_frames: int, most: int) -> np.ndarray:
    """Numbers of at most `most` of a clip's frames, from the middles of equal parts of it."""
    count = min(num_frames, most)
    return ((np.arange(count) + 0.5) * num_frames / count).astype(np.int64)


def cut_frames(
    clip: Clip,
    *,
    most: int = MOST,
    crop: Crop = "subject",
    short_side: int = SHORT_SIDE,
    quality: int = 90,
) -> Frames:
    """Take pictures out of a clip's video.

    Args:
        clip: a row of the table.
        most: pictures at most, spread evenly.
        crop: what people's joints span in the whole clip, grown by `PADDING` and made square, as far as it lies in the
            frame; or whole frames.
        short_side: pixels; smaller pictures keep their size.
        quality: of JPEG.

    Raises:
        ValueError: the clip has no video, or another length or size than its video.
        posec3d.video.VideoError: the video cannot be read.
    """
    import cv2

    indices = spread(clip.num_frames, most)
    region = _region(clip, PADDING if crop == "subject" else None)
    images = []
    for picture in _cut(clip, indices, region, short_side):
        pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        images.append(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
    return Frames(indices, region, images)


def _region(clip: Clip, padding: float | None) -> tuple[int, int, int, int]:
    """x, y, width, height of the part of the frame with the clip's people in it; None is the whole frame."""
    x, y, w, h = clip_box(clip.keypoints, clip.scores, (clip.height, clip.width), padding)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, clip.width), min(y + h, clip.height)
    return (
        (left, top, right - left, bottom - top)
        if min(right - left, bottom - top) > 1
        else (0, 0, clip.width, clip.height)
    )


def _cut(clip: Clip, indices: np.ndarray, region: tuple[int, int, int, int], short_side: int) -> Iterator[np.ndarray]:
    """The region (h, w, 3) uint8 RGB of these frames of a clip, shrunk: what pictures are before they are JPEG."""
    import cv2

    x, y, w, h = region
    scale = min(1.0, short_side / min(w, h))
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    for frame in _decode(clip, indices):
        part = np.ascontiguousarray(frame[y : y + h, x : x + w])
        yield part if size == (w, h) else cv2.resize(part, size, interpolation=cv2.INTER_AREA)


def clip_frames(clip: Clip) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 RGB of a clip from its video, as many as there still are.

    Raises:
        ValueError: the clip has no video, or its video ends before it.
        posec3d.video.VideoError: the video cannot be read.
    """
    from posec3d.video import open_video, start_of

    if not clip.video:
        raise ValueError(f"clip {clip.clip_id} has no video to take frames from (imported poses)")
    fps = clip.fps or None
    with open_video(clip.video, start_s=start_of(clip.video, clip.start_frame, fps), fps=fps) as video:
        for _, frame in itertools.islice(video, clip.num_frames):
            yield frame


def _decode(clip: Clip, indices: np.ndarray) -> Iterator[np.ndarray]:
    """These frames (H, W, 3) uint8 RGB of a clip, rising numbers, straight from its video."""
    wanted = set(indices.tolist())
    for number, frame in enumerate(clip_frames(clip)):
        if frame.shape[:2] != (clip.height, clip.width):
            raise ValueError(
                f"clip {clip.clip_id} was made from frames of {clip.height} x {clip.width}, {clip.video} has "
                f"{frame.shape[0]} x {frame.shape[1]}: another video"
            )
        if number in wanted:
            yield frame
            wanted.remove(number)
            if not wanted:
                return
    raise ValueError(f"{clip.video} ends before frame {min(wanted)} of clip {clip.clip_id}: another video")


def to_row(clip_id: str, frames: Frames) -> dict[str, Any]:
    """A row of `FRAMES`."""
    x, y, w, h = frames.region
    return {
        "clip_id": clip_id,
        "indices": frames.indices.tolist(),
        "x": x,
        "y": y,
        "width": w,
        "height": h,
        "images": list(frames.images),
    }


def write_frames(rows: Sequence[dict[str, Any]], table: str, name: str) -> str:
    """Write rows of `FRAMES` as one file beside a table, whole or not at all; each is a row group, read by itself."""
    sink = pa.BufferOutputStream()
    # JPEG does not compress any further, and no two pictures are one.
    made = pa.Table.from_pylist(list(rows), FRAMES)
    pq.write_table(made, sink, row_group_size=1, compression="none", use_dictionary=False)
    path = f"{frames_uri(table)}/{name}.parquet"
    write_whole(path, sink.getvalue().to_pybytes())
    return path


def locate(table: str) -> tuple[list[str], dict[str, tuple[int, int]]]:
    """Where the frames beside a table lie: files, and clip_id -> (number of its file, row there)."""
    files = tables.data_files(frames_uri(table))
    places: dict[str, tuple[int, int]] = {}
    for number, path in enumerate(files):
        ids = tables.open_file(path).read(["clip_id"])["clip_id"].to_pylist()
        places |= {clip_id: (number, row) for row, clip_id in enumerate(ids)}
    return files, places


def partial(files: Sequence[str], sizes: Mapping[str, tuple[int, int]]) -> int:
    """How many of these clips (clip_id -> width and height) have pictures that do not show all of the frame."""
    found = 0
    for path in files:
        for row in tables.open_file(path).read(["clip_id", "x", "y", "width", "height"]).to_pylist():
            shown, size = (row["x"], row["y"], row["width"], row["height"]), sizes.get(row["clip_id"])
            found += size is not None and shown != (0, 0, *size)
    return found


def failed(table: str) -> set[str]:
    """The clips of a table whose latest failure is that no pictures could be made."""
    return {clip_id for clip_id, row in tables.read_failures(table).items() if row["stage"] == STAGE}


def without_video(videos: Mapping[str, str]) -> set[str]:
    """Of clips (clip_id -> video) those that have no video, or whose video is gone."""
    names = sorted(set(videos.values()) - {""})
    with ThreadPoolExecutor(32) as pool:  # a request each on an object store
        there = {name for name, found in zip(names, pool.map(exists, names), strict=True) if found}
    return {clip_id for clip_id, video in videos.items() if video not in there}


def read_frames(path: str, row: int) -> Frames:
    """Read the frames of one clip from where `locate` found them."""
    (found,) = _open(path).read_row_group(row, use_threads=False).to_pylist()  # threads cost more than they save
    region = tuple(found[name] for name in ("x", "y", "width", "height"))
    return Frames(np.array(found["indices"], np.int64), region, found["images"])


@lru_cache(4)
def _open(path: str) -> pq.ParquetFile:
    return tables.open_file(path)


os.register_at_fork(after_in_child=_open.cache_clear)  # forked processes would share, and move, a file's position


def rgb_clips(
    clip: Clip,
    frames: Frames | None,
    place: np.ndarray,
    size: int,
    length: int,
    *,
    padding: float | None = PADDING,
    num_clips: int = 1,
    rng: Rng | None = None,
) -> np.ndarray:
    """Sample frames uniformly and warp them as the clip's coordinates are: what an RGB network sees.

    Args:
        clip: a row of the table; its people matter only where there are no `frames`: those are cut around them.
        frames: its pictures; None makes those that are sampled from its video, as `cut_frames` would.
        place: (2, 3) affine map from pixels of the video's frame to pixels of the result.
        size: side of the result.
        length: frames of a clip.
        padding: of the clip's crop, as of `posec3d.clips.ClipConfig`: from its video as much of the frame is taken as
            it wants, and no less than stored pictures show.
        num_clips: how many clips.
        rng: source of the draws; None is the test draw of `posec3d.clips.uniform_sample`.

    Returns:
        (num_clips, length, size, size, 3) uint8 RGB; black where there is no picture.

    Raises:
        ValueError: a picture is damaged; without pictures, as `cut_frames`.
        posec3d.video.VideoError: without pictures: the video cannot be read.
    """
    import cv2

    of = min(clip.num_frames, MOST) if frames is None else len(frames.images)
    numbers, back = np.unique(uniform_sample(of, length, num_clips=num_clips, rng=rng), return_inverse=True)
    grown = None if padding is None else max(padding, PADDING)
    x, y, w, h = region = _region(clip, grown) if frames is None else frames.region
    warped = np.empty((len(numbers), size, size, 3), np.uint8)
    for picture, out in zip(_pictures(clip, frames, region, numbers), warped, strict=True):
        # Pixel centres lie at whole coordinates: a picture's pixel i shows the frame at x + (i + 1/2) step - 1/2.
        step_x, step_y = w / picture.shape[1], h / picture.shape[0]
        to_frame = np.array([[step_x, 0, x + step_x / 2 - 0.5], [0, step_y, y + step_y / 2 - 0.5], [0, 0, 1]])
        cv2.warpAffine(picture, place @ to_frame, (size, size), dst=out, flags=cv2.INTER_LINEAR)
    return warped[back.reshape(num_clips, length)]


def _pictures(
    clip: Clip, frames: Frames | None, region: tuple[int, int, int, int], numbers: np.ndarray
) -> Iterator[np.ndarray]:
    """These of a clip's pictures (h, w, 3) uint8 RGB; None makes them, of the region."""
    import cv2

    if frames is None:
        yield from _cut(clip, spread(clip.num_frames, MOST)[numbers], region, SHORT_SIDE)
        return
    for number in numbers:
        picture = cv2.imdecode(np.frombuffer(frames.images[number], np.uint8), cv2.IMREAD_COLOR_RGB)
        if picture is None:
            raise ValueError(
                f"a stored frame of clip {clip.clip_id} is no JPEG; remove the table's _frames/ and make them again"
            )
        yield picture
