"""Report: statistics of a keypoint table -> one self-contained HTML file.

The file asks the network for nothing: styles are inline, pictures are data: URIs, there is no script, and a content
security policy says so. jinja2 escapes every name; a label called `<script>` is shown as just that.
"""

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import jinja2
import numpy as np
from PIL import Image

from posec3d.draw import evenly, one_line, side_by_side, skeleton_overlay
from posec3d.skeletons import skeleton
from posec3d.table import Clip
from posec3d.video import open_video

log = logging.getLogger(__name__)

STRIP_FRAMES = 5
STRIP_HEIGHT = 240  # pixels
# Videos have no index that could be trusted, so frames before the clip are decoded too: about 10 s for this many.
FAR_FRAMES = 3000
NAME_LENGTH = 200  # characters; a class may be called anything
ROWS = 40  # of a table, the largest; the JSON has all


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture of one clip for the report."""

    clip_id: str
    label_name: str | None
    note: str
    """Frames, fps, people, and where the background is from."""
    strip: np.ndarray
    """(H, W, 3) uint8: frames side by side, time left to right."""


def sample(clip: Clip) -> Sample:
    """Draw a strip of frames of a clip with its skeletons, on its video if that can be read, else on black."""
    chosen = evenly(clip.num_frames, STRIP_FRAMES)
    frames, reason = video_frames(clip, chosen)
    scale = STRIP_HEIGHT / clip.height
    width = max(1, round(clip.width * scale))
    tiles: list[np.ndarray] = []
    for t in chosen:
        background = frames.get(t)
        if background is None:
            background = np.full((STRIP_HEIGHT, width, 3), 24, np.uint8)
        tile = cv2.resize(background, (width, STRIP_HEIGHT), interpolation=cv2.INTER_AREA)
        tiles.append(skeleton_overlay(tile, clip.keypoints[:, t] * scale, clip.scores[:, t], skeleton(clip.skeleton)))
    people = {0: "nobody found", 1: "1 person"}.get(clip.num_persons, f"{clip.num_persons} people")
    length = f"{clip.num_frames} frames" + (f" at {clip.fps:.4g} fps" if clip.fps else "")
    note = f"{length}, {people}"
    if reason:
        note += f"; skeletons alone{' in some frames' if frames else ''}: {reason}"
    return Sample(clip.clip_id, clip.label_name, note, side_by_side(tiles))


def video_frames(clip: Clip, chosen: Sequence[int]) -> tuple[dict[int, np.ndarray], str]:
    """Frames `chosen` (counted from the clip's first) of the clip's video, and why some are missing, if they are."""
    if not clip.video:
        return {}, "the table names no video"
    if clip.start_frame > FAR_FRAMES:
        return {}, f"the clip begins {clip.start_frame} frames into its video"
    wanted = {clip.start_frame + t: t for t in chosen}
    frames: dict[int, np.ndarray] = {}
    try:
        with open_video(clip.video) as video:
            for number, (_, frame) in enumerate(video):
                if number in wanted:
                    frames[wanted[number]] = frame
                if len(frames) == len(wanted):
                    return frames, ""
    except Exception as error:  # every store has its own errors, and a report must not need its videos
        log.info("clip %s is drawn without its video: %s", clip.clip_id, error)
        return frames, "its video cannot be read from here"
    return frames, "its video has fewer frames now"


def jpeg_uri(image: np.ndarray) -> str:
    """An (H, W, 3) uint8 image as a data: URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def stats_html(statistics: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    """The report as one HTML document.

    Args:
        statistics: as `pipelines.stats.statistics` returns them.
        samples: pictures to show at the end.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("posec3d"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "percent": percent,
        "size": size,
        "short": lambda name: one_line(name, NAME_LENGTH),
        "jpeg": jpeg_uri,
    }
    template = environment.get_template("stats.html.j2")
    return template.render(s=statistics, samples=samples, rows=ROWS)


def percent(share: float | None) -> str:
    """A share in 0..1 for people; None is a hyphen."""
    if share is None:
        return "-"
    return f"{share:.1%}" if 0.0005 <= share or share == 0 else "< 0.1%"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
