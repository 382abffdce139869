"""Counts: keypoint table -> statistics, a row group at a time, to add up on any number of machines."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from posec3d.skeletons import skeleton

COLUMNS = [
    *("clip_id", "num_frames", "fps", "height", "width", "label", "label_name", "splits", "skeleton"),
    *("num_persons", "scores", "pose_model", "detector"),
]
SAMPLES = 12  # clips the report shows at most
FEW = 6  # with fewer classes than this, some get more than one sample
SCORE_BINS = 20


@dataclass
class Counts:
    """What one or many row groups add up to. Keys that hold several values are JSON lists."""

    totals: Counter[str] = field(default_factory=Counter)
    by: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Counters of clips by what is in their name: "lengths" -> {"48": 7}."""
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    """By skeleton: int64 (V, 256), histogram of each joint's stored score where its person is present."""
    samples: dict[str, list[list[Any]]] = field(default_factory=dict)
    """By class: the first `FEW` in a fixed random order: (order, clip_id, label_name, file, row_group)."""
    succeeded: list[str] = field(default_factory=list)
    """Clips that have a failure row and a row in the table."""

    def add(self, other: "Counts") -> None:
        """Add another part of the same table."""
        self.totals.update(other.totals)
        for name, counter in other.by.items():
            self.by[name].update(counter)
        for name, scores in other.scores.items():
            self.scores[name] = self.scores.get(name, 0) + scores
        for name, rows in other.samples.items():
            self.samples[name] = sorted(self.samples.get(name, []) + rows)[:FEW]
        self.succeeded += other.succeeded

    def to_json(self) -> str:
        """As text, the form in which counts leave a task."""
        scores = {name: array.tolist() for name, array in self.scores.items()}
        return json.dumps({**self.__dict__, "scores": scores})

    @classmethod
    def from_json(cls, text: str) -> "Counts":
        """The inverse of `to_json`."""
        given = json.loads(text)
        return cls(
            totals=Counter(given["totals"]),
            by=defaultdict(Counter, {name: Counter(counts) for name, counts in given["by"].items()}),
            scores={name: np.array(scores, np.int64) for name, scores in given["scores"].items()},
            samples=given["samples"],
            succeeded=given["succeeded"],
        )


def count_row_group(group: pa.Table, failed: set[str], where: tuple[str, int] = ("", 0)) -> Counts:
    """Count one row group.

    Args:
        group: with `COLUMNS`.
        failed: clip_ids that have a failure row.
        where: its file and number, so that a sampled clip is found again.
    """
    counts = Counts()
    for row in group.drop_columns(["scores"]).to_pylist():
        _count_clip(counts, row)
        order = hashlib.blake2b(row["clip_id"].encode(), digest_size=6).hexdigest()
        # Clips without people come last: there is nothing to see in them.
        sample = [f"{row['num_persons'] == 0:d}{order}", row["clip_id"], row["label_name"], *where]
        counts.samples.setdefault(_key(row["label"], row["label_name"]), []).append(sample)
        if row["clip_id"] in failed:
            counts.succeeded.append(row["clip_id"])
    counts.samples = {name: sorted(rows)[:FEW] for name, rows in counts.samples.items()}
    for name in counts.by["skeletons"]:
        joints = len(skeleton(name).joints)
        lists = group.filter(pc.equal(group["skeleton"], name))["scores"].combine_chunks()
        scores = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, joints)
        present = scores[scores.any(1)]
        counts.totals.update(keypoints=scores.size, person_frames=len(scores), present_person_frames=len(present))
        values = present + 256 * np.arange(joints)
        counts.scores[name] = np.bincount(values.ravel(), minlength=256 * joints).reshape(joints, 256)
    return counts


def _count_clip(counts: Counts, row: Mapping[str, Any]) -> None:
    frames, fps, splits = row["num_frames"], row["fps"], row["splits"] or []
    counts.totals.update(clips=1, frames=frames, seconds=frames / fps if fps > 0 else 0, no_fps=fps <= 0)
    label = _key(row["label"], row["label_name"])
    counts.by["classes"][label] += 1
    counts.by["class_frames"][label] += frames
    for split in splits or [None]:
        counts.by["class_splits"][_key(row["label"], row["label_name"], split)] += 1
    counts.by["lengths"][str(frames)] += 1
    counts.by["fps"][f"{fps:.2f}"] += 1
    counts.by["resolutions"][_key(row["width"], row["height"])] += 1
    counts.by["persons"][str(row["num_persons"])] += 1
    counts.by["skeletons"][row["skeleton"]] += 1
    counts.by["models"][_key(row["pose_model"], row["detector"])] += 1


def _key(*values: Any) -> str:
    return json.dumps(values)


def summarise(counts: Counts, storage: Mapping[str, int]) -> dict[str, Any]:
    """Counts as the readable part of the statistics.

    Returns:
        clips, frames; hours, of the clips whose fps is known; no_fps, unlabelled and no_split: clips without;
        files, row_groups, bytes; keypoints, M * T * V of all clips; bytes_per_keypoint;
        splits: name -> clips; classes: label, name, clips, frames, splits;
        lengths: quantiles and histogram in frames; fps, resolutions, models, persons_per_clip: clips of each;
        absent: share of a track's stored frames in which no joint has a score;
        joints: skeleton, joint, mean_score of its scored points, missing: share of the frames in which its
        person is present and it has no score; scores: histogram of all scored points, missing;
        samples: clips to look at, and where they are.
    """
    totals, by = counts.totals, counts.by
    classes = []
    for key, clips in by["classes"].items():
        label, name = json.loads(key)
        classes.append({"label": label, "name": name, "clips": clips, "frames": by["class_frames"][key], "splits": {}})
    find = {(c["label"], c["name"]): c for c in classes if c["label"] is not None}
    splits: Counter[str | None] = Counter()
    for key, clips in by["class_splits"].items():
        label, name, split = json.loads(key)
        splits[split] += clips
        if split is not None and label is not None:
            find[label, name]["splits"][split] = clips
    return {
        "clips": totals["clips"],
        "frames": totals["frames"],
        "hours": round(totals["seconds"] / 3600, 6),
        "no_fps": totals["no_fps"],
        **storage,
        "keypoints": totals["keypoints"],
        "bytes_per_keypoint": round(storage["bytes"] / max(totals["keypoints"], 1), 3),
        "unlabelled": sum(c["clips"] for c in classes if c["label"] is None),
        "no_split": splits.pop(None, 0),
        "splits": dict(sorted(splits.items(), key=str)),
        "classes": [find[key] for key in sorted(find, key=lambda key: (key[0], key[1] or ""))],
        "lengths": _lengths({int(length): clips for length, clips in by["lengths"].items()}),
        "fps": [{"fps": float(key), "clips": clips} for key, clips in by["fps"].most_common()],
        "resolutions": [
            dict(zip(("width", "height"), json.loads(key), strict=True), clips=clips)
            for key, clips in by["resolutions"].most_common()
        ],
        "models": [
            dict(zip(("pose_model", "detector"), json.loads(key), strict=True), clips=clips)
            for key, clips in by["models"].most_common()
        ],
        "persons_per_clip": [
            {"persons": int(key), "clips": by["persons"][key]} for key in sorted(by["persons"], key=int)
        ],
        "absent": round(1 - totals["present_person_frames"] / max(totals["person_frames"], 1), 4),
        "joints": [joint for name in sorted(counts.scores) for joint in _joints(name, counts.scores[name])],
        "scores": _scores(counts.scores.values()),
        "samples": _samples(counts.samples),
    }


def _joints(name: str, scores: np.ndarray) -> list[dict[str, Any]]:
    value = np.arange(256) / 255
    rows = []
    for joint, histogram in zip(skeleton(name).joints, scores, strict=True):
        total, scored = int(histogram.sum()), int(histogram[1:].sum())
        mean = round(float(histogram @ value) / scored, 4) if scored else None
        missing = round(1 - scored / total, 4) if total else None
        rows.append({"skeleton": name, "joint": joint, "mean_score": mean, "missing": missing})
    return rows


def _scores(scores: Iterable[np.ndarray]) -> dict[str, Any]:
    values = sum((s.sum(0) for s in scores), np.zeros(256, np.int64))
    bins = np.minimum(np.arange(256) * SCORE_BINS // 255, SCORE_BINS - 1)
    points = np.bincount(bins[1:], values[1:], SCORE_BINS).astype(int).tolist()
    histogram = [{"from": i / SCORE_BINS, "to": (i + 1) / SCORE_BINS, "points": n} for i, n in enumerate(points)]
    return {"histogram": histogram, "missing": round(float(values[0]) / max(int(values.sum()), 1), 4)}


def _lengths(clips: Mapping[int, int]) -> dict[str, Any]:
    """Quantiles (nearest rank) and a histogram whose last bin takes the tail beyond the 99th percentile."""
    if not clips:
        return {"histogram": []}
    lengths = np.array(sorted(clips))
    reached = np.cumsum([clips[length] for length in lengths])

    def quantile(share: float) -> int:
        return int(lengths[np.searchsorted(reached, share * reached[-1])])

    first, last, largest = int(lengths[0]), quantile(0.99), int(lengths[-1])
    step = next(s * 10**e for e in range(12) for s in (1, 2, 5) if s * 10**e * 20 >= last - first + 1)
    edges = list(range(first // step * step, last + 1, step))
    counts = np.histogram(lengths, [*edges, largest + 1], weights=[clips[length] for length in lengths])[0]
    tops = [*(edge - 1 for edge in edges[1:]), max(largest, edges[-1] + step - 1)]
    return {
        "min": first,
        **{f"p{p}": quantile(p / 100) for p in (5, 25, 50, 75, 95)},
        "max": largest,
        "mean": round(float(sum(k * n for k, n in clips.items())) / int(reached[-1]), 2),
        "histogram": [
            {"from": low, "to": high, "clips": int(n)} for low, high, n in zip(edges, tops, counts, strict=True)
        ],
    }


def _samples(samples: Mapping[str, Sequence[Sequence[Any]]]) -> list[dict[str, Any]]:
    """One clip a class, of evenly spaced classes where they are many; more a class where they are few."""
    keys = sorted(samples, key=lambda key: [(value is None, value) for value in json.loads(key)])
    if len(keys) > SAMPLES:
        keys = [keys[i * len(keys) // SAMPLES] for i in range(SAMPLES)]
    each = max(1, -(-FEW // max(len(keys), 1)))
    chosen = [row for key in keys for row in samples[key][:each]][:SAMPLES]
    names = ("clip_id", "label_name", "file", "row_group")
    return [dict(zip(names, row[1:], strict=True)) for row in chosen]
