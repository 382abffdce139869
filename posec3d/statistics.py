"""Statistics: counts of a keypoint table -> one dictionary of numbers, for the report and for people's own plots.

A value that is a list holds a table: a list of flat dictionaries, which `charts` finds and the report's CSV files hold.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from posec3d.counts import CLIP, SUMS, Counts, Part
from posec3d.leaks import KINDS, leaks
from posec3d.skeletons import skeleton

QUALITY = 0.3  # clips under it are of low quality, unless another value is given
BINS = 20  # of a histogram of shares
LONG = 10_000  # rows of a table that grows with the data: folders, frame rates and sizes, suspected clips
WORST = 100  # clips of the lowest quality that are named
SAMPLE_CLASSES = 6  # whose best, median and worst clips are shown


def summarise(counts: Counts, failures: Mapping[str, Any] | None = None, quality: float = QUALITY) -> dict[str, Any]:
    """Counts as numbers that people read.

    Args:
        counts: of all parts of a table.
        failures: as `pipelines.stats.failed` returns them; None if there are none.
        quality: clips under it are of low quality.

    Returns:
        A dictionary that JSON can hold. Its scalars are explained in the report; `measures` has those that a
        threshold file may limit, by name; its lists are the charts' numbers; `samples` are clips to look at.
    """
    clips = pa.concat_tables(counts.clips or [CLIP.empty_table()]).unify_dictionaries().combine_chunks()
    clips = clips.sort_by("clip_id")  # the same, however the table is cut and its parts come in
    failures = failures or {"clips": 0, "succeeded_later": 0, "groups": []}
    frames, fps = (clips[name].to_numpy().astype(np.float64) for name in ("frames", "fps"))
    seconds = np.where(fps > 0, frames / np.where(fps > 0, fps, 1), 0)
    low = pc.less(clips["quality"], quality)
    clips = clips.append_column("seconds", pa.array(seconds)).append_column("low", low)
    sides = leaks(clips)
    classes, class_splits, splits = _classes(clips, counts)
    histogram = sum(counts.scores.values(), np.zeros(256, np.int64))
    everyone = sum((s.sum(0) for part, s in counts.joints.items() if not part.kind), np.zeros(len(SUMS), np.int64))
    totals, number = counts.totals, len(clips)
    found: dict[str, Any] = {
        "clips": number,
        "frames": int(frames.sum()),
        "hours": round(float(seconds.sum()) / 3600, 6),
        "no_fps": int((fps <= 0).sum()),
        "unlabelled": clips["label"].null_count,
        "no_split": int(pc.sum(pc.equal(clips["splits"].cast(pa.string()), "[]")).as_py() or 0),
        **{name: totals[name] for name in ("files", "row_groups", "bytes", "keypoints")},
        "bytes_per_keypoint": round(totals["bytes"] / max(totals["keypoints"], 1), 3),
        "absent": _share(
            totals["person_frames"] - sum(k * n for k, n in counts.tracks.items()), totals["person_frames"]
        ),
        "low_quality": quality,
        "classes": classes,
        "class_splits": class_splits,
        "splits": splits,
        "sources": _sources(clips),
        "balance": _balance([row["clips"] for row in classes]),
        "lengths": _lengths(_counted(clips["frames"])),
        "length_histogram": _spread(_counted(clips["frames"])),
        "track_lengths": _lengths(counts.tracks),
        "track_histogram": _spread(counts.tracks),
        # A phone's clips have a rate each, and all of them are shown as 29.97.
        "fps": _grouped(pa.table({"fps": fps.round(2)}), ["fps"])[:LONG],
        "resolutions": _grouped(clips, ["width", "height"])[:LONG],
        "models": _grouped(clips, ["pose_model", "detector"]),
        "persons_per_clip": [{"persons": k, "clips": n} for k, n in sorted(_counted(clips["persons"]).items())],
        "persons_per_frame": [{"persons": k, "frames": n} for k, n in sorted(counts.people.items())],
        **{name: _joints(counts, kind) for name, kind in JOINT_TABLES.items()},
        "scores": _score_histogram(histogram),
        "quality": _shares(clips["quality"]),
        "worst": _worst(clips),
        "boxes": _shares(clips["box"]),
        "crops": _shares(clips["crop"]),
        "crop": _crop(clips),
        "leaks": sides["pairs"],
        "leak_examples": sides["examples"],
        "protocols": sides["protocols"],
        "switches": _switches(clips),
        "columns": _columns(counts.columns),
        "failures": failures["groups"],
        "failed": failures["clips"],
        "succeeded_later": failures["succeeded_later"],
        "samples": _samples(clips),
    }
    suspected = pc.greater(pc.add(clips["exchanges"], clips["jumps"]), 0)
    found["measures"] = {
        "clips": number,
        "hours": found["hours"],
        "classes": len(classes),
        "smallest_class": min((row["clips"] for row in classes), default=0),
        "imbalance": found["balance"]["imbalance"],
        "unlabelled": _share(found["unlabelled"], number),
        "no_split": _share(found["no_split"], number),
        "nobody": _share(clips["quality"].null_count, number),
        "low_quality": _share(pc.sum(low).as_py() or 0, number),
        "mean_score": _joint_row(everyone)["mean_score"],
        "missing": _joint_row(everyone)["missing"],
        "outside": _joint_row(everyone)["outside"],
        "suspected_switches": _share(pc.sum(suspected).as_py() or 0, number),
        "pose_models": len(found["models"]),
        "repeated_ids": number - pc.count_distinct(clips["clip_id"]).as_py(),
        "failed": _share(failures["clips"], number + failures["clips"]),
        **{f"leaked_{kind}": sides["clips"][kind] for kind in KINDS},
    }
    return found


MEASURES = {
    "clips": "rows of the table",
    "hours": "hours of video with a known fps",
    "classes": "classes that have a clip",
    "smallest_class": "clips of the smallest class",
    "imbalance": "clips of the largest class over those of the smallest",
    "unlabelled": "share of clips without a label",
    "no_split": "share of clips in no split",
    "nobody": "share of clips in which nobody was found",
    "low_quality": "share of clips of low quality",
    "mean_score": "mean score of joints that have one",
    "missing": "share of joints without a score where their person is there",
    "outside": "share of joints with a score that lie outside the frame",
    "suspected_switches": "share of clips with a suspected identity switch",
    "pose_models": "pairs of pose model and detector",
    "repeated_ids": "rows whose clip_id another row has",
    "failed": "share of clips that failed",
    **{f"leaked_{kind}": f"clips with something on both sides of a split: {said}" for kind, said in KINDS.items()},
}
"""What a threshold file may limit."""

JOINT_TABLES = {"joints": "", "split_joints": "split", "class_joints": "class"}


def _share(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 0.0


def _counted(column: pa.ChunkedArray) -> dict[int, int]:
    values, counts = np.unique(column.to_numpy(), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _grouped(clips: pa.Table, keys: list[str]) -> list[dict[str, Any]]:
    """Rows of `keys` with their clips, the most frequent first."""
    rows = clips.group_by(keys).aggregate([([], "count_all")]).to_pylist()
    rows = [{**{key: _plain(row[key]) for key in keys}, "clips": row["count_all"]} for row in rows]
    return sorted(rows, key=lambda row: (-row["clips"], *(str(row[key]) for key in keys)))


def _plain(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else value


AMOUNTS = [([], "count_all"), ("frames", "sum"), ("seconds", "sum"), ("quality", "mean"), ("low", "sum")]


def _amounts(row: Mapping[str, Any]) -> dict[str, Any]:
    quality = row["quality_mean"]
    return {
        "clips": row["count_all"],
        "frames": row["frames_sum"],
        "hours": round(row["seconds_sum"] / 3600, 6),
        "quality": None if quality is None else round(quality, 4),
        "low_quality": _share(row["low_sum"] or 0, row["count_all"]),
    }


def _classes(
    clips: pa.Table, counts: Counts
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Classes, clips of each class in each split, and splits."""
    key = ["label", "label_name"]
    sums: dict[Part, np.ndarray] = {}  # of all skeletons
    for whose, values in counts.joints.items():
        of = whose._replace(skeleton="")
        sums[of] = sums.get(of, 0) + values.sum(0)
    classes = []
    for row in clips.group_by(key).aggregate(AMOUNTS).to_pylist():
        if row["label"] is not None:
            joints = _joint_row(sums[Part("", "class", row["label_name"] or "", row["label"])])
            classes.append({"label": row["label"], "name": row["label_name"], **_amounts(row), **joints})
    classes.sort(key=lambda row: (row["label"], row["name"] or ""))
    members: dict[tuple[Any, ...], int] = {}
    parts: dict[str, dict[str, Any]] = {}
    # A mean is put together again from sums.
    amounts = [*AMOUNTS, ("quality", "sum"), ("quality", "count")]
    for row in clips.group_by([*key, "splits"]).aggregate(amounts).to_pylist():
        for split in json.loads(row["splits"]):
            if row["label"] is not None:
                name = (row["label"], row["label_name"], split)
                members[name] = members.get(name, 0) + row["count_all"]
            part = parts.setdefault(split, {})
            for field, value in row.items():
                if field not in (*key, "splits", "quality_mean"):
                    part[field] = part.get(field, 0) + (value or 0)
    splits = []
    for split, part in sorted(parts.items()):
        mean = part["quality_sum"] / part["quality_count"] if part["quality_count"] else None
        splits.append(
            {"split": split, **_amounts({**part, "quality_mean": mean}), **_joint_row(sums[Part("", "split", split)])}
        )
    ordered = sorted(members.items(), key=lambda item: (item[0][0], item[0][1] or "", item[0][2]))
    class_splits = [{"label": a, "name": b, "split": c, "clips": n} for (a, b, c), n in ordered]
    return classes, class_splits, splits


def _sources(clips: pa.Table) -> list[dict[str, Any]]:
    rows = clips.group_by(["folder"]).aggregate(AMOUNTS).sort_by([("count_all", "descending")]).slice(0, LONG)
    return [{"folder": row["folder"], **_amounts(row)} for row in rows.to_pylist()]


def _balance(sizes: Sequence[int]) -> dict[str, Any]:
    """Largest over smallest class, and how many classes of equal size would be as hard to guess (by entropy)."""
    shares = np.array(sizes, np.float64) / max(sum(sizes), 1)
    return {
        "imbalance": round(max(sizes) / min(sizes), 3) if sizes else 1.0,
        "effective_classes": round(float(np.exp(-(shares * np.log(shares)).sum())), 2) if sizes else 0.0,
        "largest_share": round(float(shares.max()), 4) if sizes else 0.0,
    }


def _joint_row(sums: np.ndarray) -> dict[str, Any]:
    """Sums of `SUMS` as the numbers shown of joints."""
    present, scored, score, outside = sums.tolist()
    return {
        "mean_score": round(score / 255 / scored, 4) if scored else None,
        "missing": round(1 - scored / present, 4) if present else None,
        "outside": round(outside / scored, 4) if scored else None,
    }


def _joints(counts: Counts, kind: str) -> list[dict[str, Any]]:
    """A row for each joint of each skeleton, class or split."""
    rows = []
    for part, sums in counts.joints.items():
        if part.kind == kind:
            of = {"split": part.name} if kind == "split" else {"label": part.label, "name": part.name} if kind else {}
            for joint, values in zip(skeleton(part.skeleton).joints, sums, strict=True):
                rows.append({**of, "skeleton": part.skeleton, "joint": joint, **_joint_row(values)})
    return sorted(rows, key=lambda row: tuple(row.get(name, "") for name in ("split", "label", "name", "skeleton")))


def _score_histogram(values: np.ndarray) -> list[dict[str, Any]]:
    """Scored points by score; 0, a missing joint, is apart."""
    bins = np.minimum(np.arange(256) * BINS // 255, BINS - 1)
    points = np.bincount(bins[1:], values[1:], BINS).astype(int).tolist()
    return [{"from": i / BINS, "to": (i + 1) / BINS, "points": n} for i, n in enumerate(points)]


def _shares(column: pa.ChunkedArray) -> list[dict[str, Any]]:
    """Clips by a share in 0..1; what is above 1 is in a bin of its own."""
    values = column.drop_null().to_numpy()
    edges = [*(i / BINS for i in range(BINS)), 1 + 1e-6, np.inf]
    found = np.histogram(values, edges)[0].tolist() if len(values) else [0] * (BINS + 1)
    rows = [{"from": i / BINS, "to": (i + 1) / BINS, "clips": n} for i, n in enumerate(found[:BINS])]
    return [*rows, {"from": 1.0, "to": None, "clips": found[-1]}] if found[-1] else rows


def _crop(clips: pa.Table) -> dict[str, Any]:
    """Medians: box and crop over the frame, and how much larger people are drawn than with all of it in the square."""
    rows = clips.select(["box", "crop", "height", "width"]).filter(pc.greater(clips["crop"], 0))
    box, crop, height, width = (rows[name].to_numpy().astype(np.float64) for name in rows.column_names)
    if not len(rows):
        return {"box": None, "crop": None, "larger": None}
    larger = np.sqrt(np.maximum(height, width) ** 2 / (crop * height * width))
    return {
        "box": round(float(np.median(box)), 4),
        "crop": round(float(np.median(crop)), 4),
        "larger": round(float(np.median(larger)), 2),
    }


WHERE = ("clip_id", "label_name", "file", "row_group")


def _worst(clips: pa.Table) -> list[dict[str, Any]]:
    order = pc.sort_indices(clips["quality"])[:WORST]
    rows = clips.select(["clip_id", "label_name", "quality", "frames"]).take(order).to_pylist()
    return [{**row, "quality": round(row["quality"], 4)} for row in rows if row["quality"] is not None]


def _switches(clips: pa.Table) -> list[dict[str, Any]]:
    """Clips with suspected identity switches, most first."""
    rows = clips.filter(pc.greater(pc.add(clips["exchanges"], clips["jumps"]), 0))
    rows = rows.select(["clip_id", "label_name", "exchanges", "jumps", "frames"])
    return rows.sort_by([(name, "descending") for name in ("exchanges", "jumps")]).slice(0, LONG).to_pylist()


def _columns(columns: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    rows = [{"column": name, "bytes": int(size[0]), "uncompressed": int(size[1])} for name, size in columns.items()]
    return sorted(rows, key=lambda row: (-row["bytes"], row["column"]))


def _lengths(frames: Mapping[int, int]) -> dict[str, Any]:
    """Quantiles (nearest rank) and the mean; empty of nothing."""
    if not frames:
        return {}
    total = sum(frames.values())
    return {
        "min": min(frames),
        **{f"p{p}": _quantile(frames, p / 100) for p in (5, 25, 50, 75, 95)},
        "max": max(frames),
        "mean": round(sum(k * n for k, n in frames.items()) / total, 2),
    }


def _quantile(frames: Mapping[int, int], share: float) -> int:
    return int(np.quantile(list(frames), share, weights=list(frames.values()), method="inverted_cdf"))


def _spread(frames: Mapping[int, int]) -> list[dict[str, Any]]:
    """A histogram of lengths whose last bin takes the tail beyond the 99th percentile."""
    if not frames:
        return []
    lengths = np.array(sorted(frames))
    first, last, largest = int(lengths[0]), _quantile(frames, 0.99), int(lengths[-1])
    step = next(s * 10**e for e in range(12) for s in (1, 2, 5) if s * 10**e * 20 >= last - first + 1)
    edges = list(range(first // step * step, last + 1, step))
    counts = np.histogram(lengths, [*edges, largest + 1], weights=[frames[length] for length in lengths.tolist()])[0]
    tops = [*(edge - 1 for edge in edges[1:]), max(largest, edges[-1] + step - 1)]
    return [{"from": a, "to": b, "count": int(n)} for a, b, n in zip(edges, tops, counts, strict=True)]


def _samples(clips: pa.Table) -> list[dict[str, Any]]:
    """The worst, median and best clip by quality of `SAMPLE_CLASSES` classes, from the worst class to the best.

    Of more classes some are taken, evenly spaced in that order. Clips without people and without a label are a class
    only where there is no other.
    """
    seen = clips.filter(pc.is_valid(clips["quality"]))
    known = seen.filter(pc.is_valid(seen["label"]))
    seen = known if len(known) else seen if len(seen) else clips
    if not len(seen):
        return []
    groups = seen.group_by(["label", "label_name"]).aggregate([("quality", "mean")]).to_pylist()
    groups.sort(key=lambda row: (row["quality_mean"] or 0, row["label"] or 0, row["label_name"] or ""))
    chosen = np.linspace(0, len(groups) - 1, min(SAMPLE_CLASSES, len(groups))).round().astype(int).tolist()
    samples = []
    for group in (groups[i] for i in chosen):
        rows = seen
        for name in ("label", "label_name"):
            same = pc.is_null(rows[name]) if group[name] is None else pc.equal(rows[name], group[name])
            rows = rows.filter(same)
        rows = rows.sort_by([("quality", "ascending"), ("clip_id", "ascending")])
        last = len(rows) - 1
        places = {0: "worst", last // 2: "median", last: "best"} if last > 1 else {0: "worst", last: "best"}
        for place, rank in places.items() if last else [(0, "only")]:
            row = rows.slice(place, 1).select([*WHERE, "quality"]).to_pylist()[0]
            samples.append({"rank": rank, **row, "quality": _plain(row["quality"]) if row["quality"] else 0.0})
    return samples


def charts(statistics: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The charts' numbers: every list of `summarise`'s result, and the measures, by name."""
    measures = [{"measure": name, "value": value} for name, value in statistics["measures"].items()]
    lists = {name: value for name, value in statistics.items() if isinstance(value, list) and name != "samples"}
    return {"measures": measures, **lists}


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table as CSV. Names that a spreadsheet would run as a formula get a quote in front."""
    if not rows:
        return ""
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(rows[0])
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return sink.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
