"""Report: statistics of a keypoint table -> one self-contained HTML file.

The file asks the network for nothing: styles are inline, pictures are data: URIs, there is no script, and a content
security policy says so. jinja2 escapes every name; a label called `<script>` is shown as just that.
"""

import base64
import io
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import jinja2
import numpy as np
from PIL import Image

from posec3d.clips import subject_crop
from posec3d.comparison import COMPARED
from posec3d.draw import evenly, one_line, skeleton_overlay, volume_picture
from posec3d.frames import clip_frames
from posec3d.heatmaps import joint_volumes
from posec3d.leaks import KINDS, NEAR
from posec3d.skeletons import skeleton
from posec3d.statistics import MEASURES, SAMPLE_CLASSES
from posec3d.table import Clip

log = logging.getLogger(__name__)

FILM_FRAMES = 10
FILM_HEIGHT = 144  # pixels
FILM_SECONDS = 3  # of one round
HEATMAP = 48  # pixels of a drawn volume
NAME_LENGTH = 200  # characters; a class may be called anything
ROWS = 40  # of a table, the largest; the CSV has all
SPLITS = 8  # that have a column
GRID = 30  # joints that have a column


@dataclass(frozen=True, eq=False)
class Sample:
    """A film of one clip for the report: its people, and beside them the volume that a network sees."""

    clip_id: str
    label_name: str | None
    rank: str
    """Which clip of its class: worst, median, best, or only."""
    quality: float
    note: str
    """Frames, fps, people, and where the background is from."""
    strip: np.ndarray
    """(H, frames * W, 3) uint8: the frames side by side, time left to right."""
    frames: int


def sample(clip: Clip, rank: str = "only", quality: float = 0.0) -> Sample:
    """Draw a clip's skeletons, on its video if that can be read, else on black, and the volume of their joints."""
    chosen = evenly(clip.num_frames, FILM_FRAMES)
    frames, reason = video_frames(clip, chosen)
    scale = min(FILM_HEIGHT / clip.height, 2 * FILM_HEIGHT / clip.width)
    height, width = max(1, round(clip.height * scale)), max(1, round(clip.width * scale))
    frame = (clip.height, clip.width)
    xy, (h, w) = subject_crop(clip.keypoints, clip.scores, frame)
    xy = (xy[:, chosen] + 0.5) * (HEATMAP / max(h, w)) - 0.5
    volume = joint_volumes(xy.astype(np.float32), clip.scores[:, chosen].astype(np.float32), (HEATMAP, HEATMAP))
    tiles: list[np.ndarray] = []
    for t, heat in zip(chosen, volume_picture(volume, scale=FILM_HEIGHT // HEATMAP), strict=True):
        background = frames.get(t)
        if background is None:
            background = np.full((height, width, 3), 24, np.uint8)
        tile = cv2.resize(background, (width, height), interpolation=cv2.INTER_AREA)
        tile = skeleton_overlay(tile, clip.keypoints[:, t] * scale, clip.scores[:, t], skeleton(clip.skeleton))
        room = FILM_HEIGHT - height
        tile = cv2.copyMakeBorder(tile, room // 2, room - room // 2, 0, 4, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        tiles += [tile, heat]
    people = {0: "nobody found", 1: "1 person"}.get(clip.num_persons, f"{clip.num_persons} people")
    length = f"{clip.num_frames} frames" + (f" at {clip.fps:.4g} fps" if clip.fps else "")
    note = f"{length}, {people}"
    if reason:
        note += f"; skeletons alone{' in some frames' if frames else ''}: {reason}"
    strip = np.concatenate(tiles, axis=1)
    return Sample(clip.clip_id, clip.label_name, rank, quality, note, strip, len(chosen))


def video_frames(clip: Clip, chosen: Sequence[int]) -> tuple[dict[int, np.ndarray], str]:
    """Frames `chosen` (counted from the clip's first) of the clip's video, and why some are missing, if they are."""
    if not clip.video:
        return {}, "the table names no video"
    frames: dict[int, np.ndarray] = {}
    try:
        for t, frame in enumerate(clip_frames(clip)):
            if t in chosen:
                frames[t] = frame
            if len(frames) == len(chosen):
                return frames, ""
    except Exception as error:  # every store has its own errors, and a report must not need its videos
        log.info("clip %s is drawn without its video: %s", clip.clip_id, error)
        return frames, "its video cannot be read from here"
    return frames, "its video has fewer frames now"


def webp_uri(image: np.ndarray) -> str:
    """An (H, W, 3) uint8 image as a data: URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=60, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def stats_html(
    statistics: Mapping[str, Any],
    samples: Sequence[Sample],
    *,
    verdicts: Sequence[Mapping[str, Any]] = (),
    comparison: Mapping[str, Any] | None = None,
) -> str:
    """The report as one HTML document, which links to the CSV and JSON files of its charts beside it.

    Args:
        statistics: as `pipelines.stats.statistics` returns them.
        samples: films to show at the end.
        verdicts: as `posec3d.limits.judge` returns them.
        comparison: as `posec3d.comparison.summarise` returns it.
    """
    page = template(
        "stats.html.j2",
        count=lambda number: f"{number:,}",
        percent=percent,
        size=size,
        short=lambda name: one_line(name, NAME_LENGTH),
        webp=webp_uri,
        score=lambda value: "-" if value is None else f"{value:.3f}",
        value=number,
    )
    splits = sorted(sorted(statistics["splits"], key=lambda row: -row["clips"])[:SPLITS], key=lambda row: row["split"])
    classes = sorted(statistics["classes"], key=lambda row: -row["clips"])[:ROWS]
    return page.render(
        s=statistics,
        samples=samples,
        verdicts=verdicts,
        comparison=comparison,
        rows=ROWS,
        seconds=FILM_SECONDS,
        splits=splits,
        classes=classes,
        members={(row["label"], row["name"], row["split"]): row["clips"] for row in statistics["class_splits"]},
        grids=[
            _grid(statistics["split_joints"], "split", [(row["split"],) for row in splits], ("split",)),
            _grid(
                statistics["class_joints"],
                "class",
                [(row["label"], row["name"] or "") for row in classes],
                ("label", "name"),
            ),
        ],
        kinds=KINDS,
        meanings={**MEASURES, **COMPARED},
        near=NEAR,
        sampled=SAMPLE_CLASSES,
    )


def _grid(
    rows: Sequence[Mapping[str, Any]], what: str, names: Sequence[tuple[Any, ...]], key: Sequence[str]
) -> dict[str, Any]:
    """Rows of joints as a grid: what by joints, of the skeleton that most rows are of."""
    kinds = Counter(row["skeleton"] for row in rows)
    chosen = kinds.most_common(1)[0][0] if kinds else None
    joints = skeleton(chosen).joints if chosen else ()
    if not 0 < len(joints) <= GRID:
        return {"what": what, "joints": (), "lines": ()}
    cells = {(*(row[k] for k in key), row["joint"]): row for row in rows if row["skeleton"] == chosen}
    lines = [(name[-1], [cells[*name, joint] for joint in joints]) for name in names if (*name, joints[0]) in cells]
    # Skeletons that always have a score for a joint are told apart by how sure they are.
    by = "missing" if any(row["missing"] for row in rows) else "mean_score"
    return {"what": what, "joints": joints, "lines": lines, "by": by, "others": sorted(kinds.keys() - {chosen})}


def template(name: str, **filters: Callable[..., Any]) -> jinja2.Template:
    """A report's page, which escapes every value and refuses those it is not given."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("posec3d"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)


def number(value: float | None) -> str:
    """A number with four digits, or all of a whole one; None is a hyphen."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"


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
