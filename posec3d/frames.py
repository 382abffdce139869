"""Beside the path: a clip's video -> JPEG pictures of its people, in a table's `_frames/` -> what RGB networks see.

The pictures of a clip are joined to its row by clip_id. Removing `_frames/` leaves the table as it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posec3d import table as tables
from posec3d.clips import Rng, subject_box, uniform_sample
from posec3d.storage import write_whole
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

Crop = Literal["subject", "whole"]


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
    most: int = 64,
    crop: Crop = "subject",
    short_side: int = 256,
    quality: int = 90,
    padding: float = 0.25,
) -> Frames:
    """Take pictures out of a clip's video.

    Args:
        clip: a row of the table.
        most: pictures at most, spread evenly.
        crop: what people's joints span in the whole clip, grown by `padding` and made square, as far as it lies in the
            frame; or whole frames.
        short_side: pixels; smaller pictures keep their size.
        quality: of JPEG.
        padding: as of `posec3d.clips.ClipConfig`.

    Raises:
        ValueError: the clip has no video, or another length or size than its video.
        posec3d.video.VideoError: the video cannot be read.
    """
    import cv2

    region = (0, 0, clip.width, clip.height)
    if crop == "subject":
        x, y, w, h = subject_box(clip.keypoints, clip.scores, (clip.height, clip.width), padding)
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, clip.width), min(y + h, clip.height)
        if right - left > 1 and bottom - top > 1:
            region = left, top, right - left, bottom - top
    x, y, w, h = region
    scale = min(1.0, short_side / min(w, h))
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    indices = spread(clip.num_frames, most)
    images = []
    for frame in _decode(clip, indices):
        part = cv2.cvtColor(np.ascontiguousarray(frame[y : y + h, x : x + w]), cv2.COLOR_RGB2BGR)
        if size != (w, h):
            part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        images.append(cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
    return Frames(indices, region, images)


def _decode(clip: Clip, indices: np.ndarray) -> Iterator[np.ndarray]:
    """These frames (H, W, 3) uint8 RGB of a clip, rising numbers, straight from its video."""
    from posec3d.video import open_video

    if not clip.video:
        raise ValueError(f"clip {clip.clip_id} has no video to take frames from (imported poses)")
    wanted, number = list(indices[::-1]), -clip.start_frame
    with open_video(clip.video, fps=clip.fps or None) as video:
        if (video.info.height, video.info.width) != (clip.height, clip.width):
            raise ValueError(
                f"clip {clip.clip_id} was made from frames of {clip.height} x {clip.width}, {clip.video} has "
                f"{video.info.height} x {video.info.width}: another video"
            )
        for _, frame in video:
            if number == wanted[-1]:
                yield frame
                wanted.pop()
                if not wanted:
                    return
            number += 1
    raise ValueError(f"{clip.video} ends before frame {wanted[-1]} of clip {clip.clip_id}: another video")


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
    # JPEG does not compress any further.
    pq.write_table(pa.Table.from_pylist(list(rows), FRAMES), sink, row_group_size=1, compression="none")
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


def read_frames(path: str, row: int) -> Frames:
    """Read the frames of one clip from where `locate` found them."""
    (found,) = _open(path).read_row_group(row).to_pylist()
    region = tuple(found[name] for name in ("x", "y", "width", "height"))
    return Frames(np.array(found["indices"], np.int64), region, found["images"])


@lru_cache(4)
def _open(path: str) -> pq.ParquetFile:
    return tables.open_file(path)


def rgb_clips(
    clip: Clip,
    frames: Frames | None,
    place: np.ndarray,
    size: int,
    length: int,
    *,
    num_clips: int = 1,
    rng: Rng | None = None,
) -> np.ndarray:
    """Sample frames uniformly and warp them as the clip's coordinates are: what an RGB network sees.

    Args:
        clip: a row of the table; its people do not matter.
        frames: its pictures; None takes frames straight from its video.
        place: (2, 3) affine map from pixels of the video's frame to pixels of the result.
        size: side of the result.
        length: frames of a clip.
        num_clips: how many clips.
        rng: source of the draws; None is the test draw of `posec3d.clips.uniform_sample`.

    Returns:
        (num_clips, length, size, size, 3) uint8 RGB; black where there is no picture.

    Raises:
        ValueError: a picture is damaged; without pictures, as `cut_frames`.
        posec3d.video.VideoError: without pictures: the video cannot be read.
    """
    import cv2

    of = clip.num_frames if frames is None else len(frames.images)
    numbers, back = np.unique(uniform_sample(of, length, num_clips=num_clips, rng=rng), return_inverse=True)
    warped = np.empty((len(numbers), size, size, 3), np.uint8)
    if frames is None:
        for i, frame in enumerate(_decode(clip, numbers)):
            warped[i] = cv2.warpAffine(frame, place, (size, size), flags=cv2.INTER_LINEAR)
    else:
        x, y, w, h = frames.region
        for i, number in enumerate(numbers):
            image = cv2.imdecode(np.frombuffer(frames.images[number], np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                raise ValueError(
                    f"a stored frame of clip {clip.clip_id} is no JPEG; remove the table's _frames/ and make them again"
                )
            # Pixel centres lie at whole coordinates: a picture's pixel i shows the frame at x + (i + 1/2) step - 1/2.
            step_x, step_y = w / image.shape[1], h / image.shape[0]
            shown = np.array([[step_x, 0, x + step_x / 2 - 0.5], [0, step_y, y + step_y / 2 - 0.5], [0, 0, 1]])
            drawn = cv2.warpAffine(image, place @ shown, (size, size), flags=cv2.INTER_LINEAR)
            cv2.cvtColor(drawn, cv2.COLOR_BGR2RGB, dst=warped[i])
    return warped[back.reshape(num_clips, length)]
