"""Job: videos -> keypoint table, `python -m jobs.extract --videos URI --table URI`."""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from jobs import _job, _ray, _terminal
from pipelines import cluster, extract, frames
from pipelines.plan import DONE, Todo, Video, find_videos, hold_out, number_labels, plan
from posec3d import estimators
from posec3d import table as tables
from posec3d.frames import STAGE, Crop, frames_uri, locate
from posec3d.given import Given
from posec3d.machine import cores
from posec3d.storage import read_whole
from posec3d.stored import heatmaps_uri
from posec3d.video import Decoder
from posec3d.weights import Network

log = logging.getLogger("posec3d")


@dataclass(frozen=True, kw_only=True)
class Extract:
    """Find the people in videos, estimate and track their poses, and append them to a keypoint table.

    The same command again does only what is missing. A video that fails becomes a row of TABLE/_failures and is tried
    again by later runs, --max-attempts times in all.
    """

    videos: str
    """Folder, S3 prefix or single file. Without --labels the folders below it are labels: [split/]label/x.mp4."""
    table: str
    """Table to append to; a folder or S3 prefix."""
    labels: str | None = None
    """CSV with the header video,label[,split]; several splits joined by ';'."""
    test_share: float | None = None
    """Without splits in folders or labels: of each class so many videos, such as 0.2, are the split test, the others
    train. Drawn by name, whoever is in them: where people recur, give splits, or the test flatters."""
    pose: str = estimators.POSES[0]
    """movenet-thunder, movenet-lightning; with `make mmpose` hrnet-w32, hrnet-w48, mobilenetv2, rtmpose-t, rtmpose-m,
    rtmpose-l; or a file of poses (Parquet, COCO keypoint JSON)."""
    pose_weights: str | None = None
    """Checkpoint of an MMPose network: path or URL; default: the model zoo's."""
    detector: str = estimators.DETECTORS[0]
    """movenet-multipose, rtdetr-r18, rtdetr-r50 (these need transformers), whole-frame; or a file of boxes."""
    detector_weights: str | None = None
    """Folder or hub name of an RT-DETR checkpoint."""
    detect_every: int = 1
    """Find people in every n-th frame, and follow their boxes between."""
    max_persons: int = 10
    """Tracks kept of a clip: the most present, largest and surest."""
    fps: float | None = None
    """Take so many frames a second; default: all. Slower videos keep theirs."""
    segment_seconds: float | None = None
    """Cut longer videos into clips of about this length, extracted in parallel."""
    store: Literal["keypoints", "heatmaps"] = "keypoints"
    """heatmaps: also keep the pose network's own maps, in TABLE/_heatmaps."""
    frames: Crop | None = None
    """Also keep JPEG pictures of each clip, in TABLE/_frames, for networks that see RGB: around the people in it, or
    whole frames, short side 256 pixels. Clips that are in the table already get theirs too."""
    frames_per_clip: int = 64
    """Pictures of a clip at most, spread over it."""
    actors: str | None = None
    """Processes that extract in parallel: N, or MIN:MAX to grow with the work; default: one a CPU."""
    cpus_per_actor: int = 1
    """CPUs of each, and videos it works on at a time: what decodes for one GPU."""
    gpus_per_actor: float = 0
    """GPUs of each; a fraction shares one."""
    decoder: Decoder = "ffmpeg"
    """nvdec: the actors' GPUs decode what they can. Not measured on any GPU yet."""
    rows_per_file: int = 512
    """Clips in a file of the table."""
    max_attempts: int = 3
    """Tries of a video that fails, or whose worker dies, before it is given up."""
    retry_failed: bool = False
    """Try what was given up again."""
    max_failed: float | None = None
    """Exit with 3 if more videos, or with --frames more clips, fail: a fraction below 1, or a count. Default: no
    limit."""
    dry_run: bool = False
    """Extract a few videos without storing them, and say how long all would take and how much disk."""

    @property
    def resumes(self) -> bool:
        """Whether the same command again goes on where an interrupted one stopped."""
        return not self.dry_run


def run(job: Extract) -> dict[str, Any]:
    """Extract what is missing; the summary counts this run, and the table as a whole."""
    job = _job.absolute(
        job, "videos", "table", "labels", *(n for n in ("pose", "detector") if is_file(getattr(job, n)))
    )
    options = _options(job)
    actors = None if job.actors is None else _job.span("--actors", job.actors)
    with _job.usage(FileNotFoundError, ValueError):
        videos = find_videos(job.videos, job.labels)
        if job.test_share is not None:
            videos = hold_out(videos, job.test_share)
    notes = f"{job.table}/_extract"
    with _job.lock(notes):
        settings = _same_settings(job, options, notes)
        if job.dry_run:
            todo = plan(videos, job.table, max_attempts=job.max_attempts, retry_failed=job.retry_failed)
            return _dry_run(job, videos, todo, options, notes)
        if job.frames is not None:
            _same_pictures(job)
        if recovered := extract.recover(job.table):
            log.info("%d clips that a killed run had left are in the table now", recovered)
        videos = _numbered(videos, job, notes)
        todo = plan(videos, job.table, max_attempts=job.max_attempts, retry_failed=job.retry_failed)
        if todo.relabelled:
            log.warning(
                "%d clips have other labels or splits now than in the table, which keeps what it has; docs/training.md "
                "(Splits) copies it with others in seconds",
                todo.relabelled,
            )
        done = extract.Progress()
        if todo.missing:  # else neither Ray nor the networks are needed
            networks = _networks(job, videos)
            if read_whole(f"{notes}/settings.json") is None:
                _require_rows_of(job.table, *networks)
            _job.write_json(f"{notes}/settings.json", settings)
            _ray.connect()
            if actors is None:
                most = cluster.default_actors(job.cpus_per_actor, job.gpus_per_actor)
                actors = (most if job.segment_seconds else min(most, len(todo.missing)),) * 2
            _ray.require(actors[0], "actors", cpus=job.cpus_per_actor, gpus=job.gpus_per_actor)
            with _terminal.progress("extract", len(todo.missing), "videos") as advance:
                done = extract.extract(
                    todo.missing,
                    job.table,
                    *networks,
                    options,
                    actors=actors,
                    streams=job.cpus_per_actor,
                    gpus_per_actor=job.gpus_per_actor,
                    rows_per_file=job.rows_per_file,
                    on_progress=lambda p: advance(round(p.videos, 3), _note(p, job.cpus_per_actor)),
                )
        pictures = _store_frames(job) if job.frames is not None else {}
    return _summary(job, todo, done, notes, len(videos), pictures)


def _store_frames(job: Extract) -> dict[str, Any]:
    """Make the pictures that are missing; what of it goes into the summary."""
    places = frames.missing(job.table)
    done = frames.Progress()
    if places.num_rows:
        _ray.connect()
        with _terminal.progress("frames", places.num_rows, "clips") as advance:
            done = frames.store(
                job.table,
                places,
                most=job.frames_per_clip,
                crop=job.frames or "whole",
                max_attempts=job.max_attempts,
                on_progress=lambda p: advance(p.clips + p.failed, f"{p.pictures} pictures, {p.failed} clips failed"),
            )
    _job.tell_failures(
        [f"no frames of {error['video'] or error['clip_id']}: {error['error']}" for error in done.errors],
        tables.failures_uri(job.table),
    )
    return {
        "clips with frames": len(locate(job.table)[1]),
        "clips with new frames": done.clips,
        "clips without frames": done.failed,
        "KB of frames a clip": done.bytes / max(done.clips, 1) / 1e3,
        "frames cut a second and core": done.pictures / max(done.seconds, 1e-9),
        "failures of frames": done.errors,
    }


def is_file(name: str) -> bool:
    """Whether a --pose or --detector names a file, not a network."""
    return name.endswith((".json", ".parquet"))


def _options(job: Extract) -> extract.Options:
    """Check the flags that say how.

    Raises:
        UsageError: a flag, or two together, cannot mean anything.
    """
    for flag, value, known in (
        ("--pose", job.pose, estimators.POSES),
        ("--detector", job.detector, estimators.DETECTORS),
    ):
        if not is_file(value) and value not in known:
            raise _job.UsageError(
                f"{flag} {value}: wanted one of {', '.join(known)}, or a file that ends in .json or .parquet"
            )
    counts = ("detect_every", "max_persons", "cpus_per_actor", "rows_per_file", "max_attempts", "frames_per_clip")
    _job.require_least(job, max_failed=0, **dict.fromkeys(counts, 1))
    for name in ("fps", "segment_seconds"):
        rate = getattr(job, name)
        if rate is not None and not rate > 0:
            raise _job.UsageError(f"--{name.replace('_', '-')} must be > 0, got {rate}")
    if job.test_share is not None and not 0 < job.test_share < 1:
        raise _job.UsageError(f"--test-share must be between 0 and 1, got {job.test_share}")
    _job.require_share(job.gpus_per_actor)
    if job.decoder == "nvdec" and not job.gpus_per_actor:
        raise _job.UsageError(
            "--decoder nvdec wants actors with a GPU, got --gpus-per-actor 0; give them one, or a share, or take ffmpeg"
        )
    if job.decoder == "nvdec" and is_file(job.pose):
        raise _job.UsageError("--decoder nvdec and poses from a file: nothing is decoded there")
    if job.fps and (is_file(job.pose) or is_file(job.detector)):
        raise _job.UsageError("--fps and poses or boxes from a file: their frame numbers are those of the video")
    if job.segment_seconds and is_file(job.pose):
        raise _job.UsageError("--segment-seconds and poses from a file: nothing takes long there")
    if job.store == "heatmaps" and job.pose not in estimators.HEATMAPS:
        raise _job.UsageError(f"--store heatmaps: {job.pose} has none; {', '.join(estimators.HEATMAPS)} do")
    return extract.Options(
        fps=job.fps,
        segment_seconds=job.segment_seconds,
        detect_every=job.detect_every,
        max_persons=job.max_persons,
        keep_heatmaps=job.store == "heatmaps",
        max_attempts=job.max_attempts,
        decoder=job.decoder,
    )


def _networks(job: Extract, videos: Sequence[Video]) -> tuple[Network | Given, Network | Given]:
    """The detector and the pose network, or the files that say what they would.

    Raises:
        UsageError: no such file, not one as posec3d.given describes, or an entry that two videos could mean.
    """

    def one(name: str, weights: str | None) -> Network | Given:
        if not is_file(name):
            with _job.usage(ValueError):
                return estimators.network(name, weights)
        with _job.usage(FileNotFoundError, ValueError):
            given = Given(name)
            lacking = given.check([video.video for video in videos])
        if lacking:
            log.warning("%s has no entry of %d videos, such as %s: they will fail", name, len(lacking), lacking[0])
        return given

    pose = one(job.pose, job.pose_weights)
    return pose if isinstance(pose, Given) else one(job.detector, job.detector_weights), pose


def _same_settings(job: Extract, options: extract.Options, notes: str) -> dict[str, Any]:
    """See that a table's rows are all made in one way; returns which.

    Raises:
        UsageError: the table's rows were made in another.
    """
    networks = {name: getattr(job, name) for name in ("pose", "pose_weights", "detector", "detector_weights")}
    now = {**networks, **asdict(options)}
    del now["max_attempts"], now["decoder"]
    if not tables.data_files(job.table) and not tables.data_files(f"{job.table}/{extract.PENDING}"):
        return now  # nothing was made yet
    before = json.loads(read_whole(f"{notes}/settings.json") or b"{}")
    if other := [f"{name} {before[name]}" for name in before.keys() & now.keys() if before[name] != now[name]]:
        raise _job.UsageError(
            f"{job.table} was extracted with {', '.join(sorted(other))}; take the same, or another --table"
        )
    return now


def _same_pictures(job: Extract) -> None:
    """See that a table's pictures are all made in one way; their folder notes which, and who removes it chooses anew.

    Raises:
        UsageError: those that are there were made in another.
    """
    folder = frames_uri(job.table)
    now = {"frames": job.frames, "frames_per_clip": job.frames_per_clip}
    before = json.loads(read_whole(f"{folder}/settings.json") or b"{}")
    if before not in ({}, now) and tables.data_files(folder):
        raise _job.UsageError(
            f"the pictures in {folder} were made with --frames {before['frames']} --frames-per-clip "
            f"{before['frames_per_clip']}; take the same, or remove the folder to make all of them anew"
        )
    _job.write_json(f"{folder}/settings.json", now)


def _require_rows_of(table: str, *networks: Network | Given) -> None:
    """See that a table without notes of its extraction, as a compacted or imported one, has rows of these networks.

    Raises:
        UsageError: it has others.
    """
    if not tables.data_files(table):
        return
    now = tuple(n.name if isinstance(n, Given) else str(n).removesuffix("@") for n in networks)
    for group in tables.read_row_groups(table, ["detector", "pose_model"]):
        for there in set(zip(*(group[name].to_pylist() for name in ("detector", "pose_model")), strict=True)):
            if there != now:
                raise _job.UsageError(
                    f"{table} has rows of detector {there[0]!r} and pose network {there[1]!r}, this command would add "
                    f"some of {now[0]!r} and {now[1]!r}; take the same, or another --table"
                )
    log.warning("%s does not say how it was extracted; its networks are these, the other flags cannot be told", table)


def _numbered(videos: list[Video], job: Extract, notes: str) -> list[Video]:
    """Number the labels, and note the numbers: a killed run must not leave some labels numbered and others not."""
    known = {int(k): v for k, v in json.loads(read_whole(f"{notes}/labels.json") or b"{}").items()}
    if tables.data_files(job.table):
        known |= tables.summary(job.table)["labels"]
    videos = number_labels(videos, known, given=job.labels is not None)
    known |= {v.label: v.label_name for v in videos if v.label is not None and v.label_name is not None}
    _job.write_json(f"{notes}/labels.json", known)
    return videos


def _note(progress: extract.Progress, streams: int) -> str:
    """What the progress line says beside the number of videos."""
    seconds = progress.elapsed()
    rates = f"{progress.clips / seconds:.1f} clips/s, {progress.frames / seconds:.0f} frames/s, "
    rates += f"{progress.crops / seconds:.0f} crops/s"
    spent = sum(progress.seconds.values()) or 1
    stages = " ".join(f"{stage} {part / spent:.0%}" for stage, part in progress.seconds.items())
    return f"{rates}, {progress.failed} failed, actors {progress.busy(streams):.0%} busy ({stages})"


def _summary(
    job: Extract, todo: Todo, done: extract.Progress, notes: str, count: int, pictures: dict[str, Any]
) -> dict[str, Any]:
    failures = tables.read_failures(job.table)
    failed = [f for f in failures.values() if f["time"] >= done.since and f["stage"] != STAGE]
    where = tables.failures_uri(job.table)
    seconds = done.elapsed()
    summary: dict[str, Any] = {
        "path": notes,
        "table": job.table,
        "videos": count,
        "extracted": done.clips,
        "without people": done.without_people,
        "failed": done.failed,
        "already done": todo.done,
        f"given up after {job.max_attempts} tries": todo.given_up,
        "frames": done.frames,
        "crops": done.crops,
        "clips/s": done.clips / seconds,
        "frames/s": done.frames / seconds,
        "crops/s": done.crops / seconds,
        "actors busy": done.busy(job.cpus_per_actor),
        "seconds by stage": done.seconds,
        "workers": sorted(done.spans),
        "MB of keypoints": tables.size(job.table) / 1e6,
    }
    if job.store == "heatmaps":
        summary["MB of heatmaps"] = tables.size(heatmaps_uri(job.table)) / 1e6
    summary |= pictures
    summary["failures"] = [{k: f[k] for k in ("video", "stage", "error", "attempts")} for f in failed]
    _job.tell_failures([_job.failed(f["video"], f["error"]) for f in failed], where)
    # One with a piece given up before may have been done but for that.
    given_up = {v.video for v in todo.missing if any(job.max_attempts <= tries < DONE for _, tries in v.pieces)}
    lost = len(done.failed_videos | given_up) + todo.given_up
    _job.require_few_failures(job.max_failed, lost, count, "videos failed", where, summary)
    if pictures:
        blind = pictures["clips without frames"]
        seen = blind + pictures["clips with frames"]
        _job.require_few_failures(job.max_failed, blind, seen, "clips for --frames failed", where, summary)
    return summary


def _dry_run(job: Extract, videos: Sequence[Video], todo: Todo, options: extract.Options, notes: str) -> dict[str, Any]:
    """Measure a few videos in this process, and say what all would take."""
    summary: dict[str, Any] = {
        "path": f"{notes}/dry_run",
        "table": job.table,
        "already done": todo.done,
        f"given up after {job.max_attempts} tries": todo.given_up,
        "to do": len(todo.missing),
    }
    if todo.missing:
        sample = extract.measure(todo.missing, *_networks(job, videos), options)
        actors = _job.span("--actors", job.actors)[1] if job.actors else cores()
        hours = len(todo.missing) * sample.seconds / actors / 3600
        summary |= {
            "videos measured": sample.videos,
            "of them failed": sample.failed,
            "seconds a video": sample.seconds,
            "KB a video": sample.bytes / 1e3,
            "time for all": f"{_terminal.clock(3600 * hours)} with {actors} actors like this process",
            "hours": hours,
            "GB on disk": len(todo.missing) * sample.bytes / 1e9,
        }
    return summary


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(Extract), run))
