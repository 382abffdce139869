"""From folders and label files to table rows: found, numbered, extracted, failed, resumed."""

import json
from dataclasses import asdict

import av
import numpy as np
import pytest

from jobs import extract as job
from pipelines import cluster, extract, worker, writer
from pipelines.plan import find_videos
from posec3d import actors
from posec3d import table as tables
from posec3d.given import Given
from posec3d.video import write_video


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A good video, one without people, and three that are none."""
    root = tmp_path_factory.mktemp("videos")
    clip = actors.make_clip("wave", actor=3, num_frames=10)
    write_video(root / "good.mp4", clip.frames, clip.fps)
    write_video(root / "empty_room.mp4", np.full((6, 120, 160, 3), 90, np.uint8), 10)
    (root / "text.mp4").write_text("this is no video\n" * 20)
    (root / "zero.mp4").touch()
    with av.open(str(root / "audio.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return root


def test_one_bad_video_is_a_row_that_says_why(mixed, tools):
    rows = {
        v.video.rsplit("/", 1)[-1]: worker.extract_row(asdict(v), *tools, worker.Options())
        for v in find_videos(str(mixed))
    }
    assert {name: row["stage"] for name, row in rows.items()} == {
        "good.mp4": None,
        "empty_room.mp4": None,
        "text.mp4": "decode",
        "zero.mp4": "decode",
        "audio.mp4": "decode",
    }
    assert rows["empty_room.mp4"]["num_persons"] == 0
    assert rows["good.mp4"]["num_persons"] == 1
    assert "empty" in rows["zero.mp4"]["error"]
    assert "no video stream" in rows["audio.mp4"]["error"]
    assert "text.mp4" in rows["text.mp4"]["error"]


@pytest.mark.ray
def test_the_job_extracts_a_mixed_folder_once(mixed, movenet, ray_local, tmp_path):
    table = str(tmp_path / "table")
    summary = job.run(job.Extract(videos=str(mixed), table=table, actors="2"))
    assert (summary["extracted"], summary["without people"], summary["failed"]) == (2, 1, 3)
    rows = {c.video.rsplit("/", 1)[-1]: c for c in tables.read_table(table)}
    assert {name: clip.num_persons for name, clip in rows.items()} == {"good.mp4": 1, "empty_room.mp4": 0}
    truth = actors.make_clip("wave", actor=3, num_frames=10)
    distance = np.linalg.norm(rows["good.mp4"].keypoints - truth.keypoints, axis=-1)
    assert (distance < 0.1 * truth.height_px[..., None]).mean() > 0.85
    failures = tables.read_failures(table)
    assert sorted(f["video"].rsplit("/", 1)[-1] for f in failures.values()) == ["audio.mp4", "text.mp4", "zero.mp4"]

    for run in (2, 3):  # what is in the table is not done again, what failed is tried three times
        again = job.run(job.Extract(videos=str(mixed), table=table, actors="2"))
        assert (again["extracted"], again["already done"], again["failed"]) == (0, 2, 3)
        assert {f["attempts"] for f in again["failures"]} == {run}
    again = job.run(job.Extract(videos=str(mixed), table=table, actors="2"))
    assert (again["failed"], again["given up after 3 tries"]) == (0, 3)
    assert len(list(tables.read_table(table))) == 2


@pytest.mark.ray
@pytest.mark.slow
def test_labels_keep_their_numbers_when_only_some_videos_were_written(mixed, movenet, ray_local, tmp_path):
    videos = tmp_path / "videos"
    for name in ("bow", "kick", "wave"):
        (videos / name).mkdir(parents=True)
        (videos / name / "x.mp4").write_bytes((mixed / "good.mp4").read_bytes())
    table = str(tmp_path / "table")
    summary = job.run(job.Extract(videos=str(videos), table=table, actors="1"))
    assert summary["extracted"] == 3
    assert tables.summary(table)["labels"] == {0: "bow", 1: "kick", 2: "wave"}
    (next((tmp_path / "table").glob("*.parquet"))).unlink()  # as if killed before this file was written
    job.run(job.Extract(videos=str(videos), table=table, actors="1"))
    assert tables.summary(table)["labels"] == {0: "bow", 1: "kick", 2: "wave"}


def test_poses_of_a_file_are_measured_once_however_long_the_video_is(tmp_path):
    write_video(tmp_path / "long.mp4", np.zeros((60, 32, 32, 3), np.uint8), 2)
    images = [{"id": t, "file_name": f"long/{t}.jpg"} for t in range(60)]
    points = np.random.default_rng(0).integers(0, 32, (60, 17, 3))
    points[..., 2] = 2
    people = [
        {"image_id": t, "category_id": 1, "bbox": [0, 0, 32, 32], "keypoints": points[t].ravel().tolist()}
        for t in range(60)
    ]
    file = tmp_path / "given.json"
    file.write_text(json.dumps({"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}))
    given, options, (video,) = Given(str(file)), worker.Options(), find_videos(str(tmp_path / "long.mp4"))
    measured = extract.measure([video], given, given, options)
    row = worker.extract_row(asdict(video), given, given, options)
    extract.write(worker.to_arrow([{**row, "began": 0.0, "ended": 0.0}]), str(tmp_path / "table"), "x")
    assert measured.failed == 0 and measured.bytes == pytest.approx(tables.size(str(tmp_path / "table")), rel=0.05)


def test_a_write_that_failed_half_way_doubles_nothing_when_it_is_tried_again(mixed, tools, tmp_path):
    options = worker.Options()
    rows = [worker.extract_row(asdict(v), *tools, options) for v in find_videos(str(mixed))]
    results = worker.to_arrow([{**row, "began": 0.0, "ended": 0.0} for row in rows])
    kept = writer.Writer(str(tmp_path), 100, extract.write, extract.PENDING)
    kept.add(results)
    (tmp_path / "_failures").write_text("in the way")  # of the folder
    with pytest.raises(OSError):
        kept.close()
    (tmp_path / "_failures").unlink()
    kept.close()
    kept.close()
    assert len(list(tables.read_table(str(tmp_path)))) == 2
    assert len(tables.read_failures(str(tmp_path))) == 3


def test_a_file_is_written_when_it_is_full_and_the_next_begins_with_none(tmp_path):
    sizes = []
    kept = writer.Writer(str(tmp_path), 5, lambda results, folder, name: sizes.append(results.num_rows), "pending")
    for count in (1, 1, 3, 4, 2, 1):
        kept.add(writer.pa.table({"clip_id": ["c"] * count}))
    kept.close()
    assert sizes == [5, 6, 1]


def test_a_large_result_is_written_though_it_is_one_row(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(writer, "COMMIT_BYTES", 1000)
    kept = writer.Writer(str(tmp_path), 5, lambda results, folder, name: sizes.append(results.num_rows), "pending")
    for length in (10, 990, 400, 400):
        kept.add(writer.pa.table({"clip_id": ["c" * length]}))
    kept.close()
    assert sizes == [2, 2]


@pytest.mark.parametrize(
    ("gpus", "share", "actors"), [(1, 0.2, 5), (1, 0.1, 10), (2, 0.6, 2), (2, 1, 2), (3, 0.5, 6), (1, 0.3, 3)]
)
def test_a_gpu_holds_as_many_actors_as_its_shares_make(monkeypatch, gpus, share, actors):
    """As Ray places them: shares of two GPUs make no actor. In floats 1 // 0.2 is 4."""
    node = {"Alive": True, "Resources": {"CPU": 20.0, "GPU": float(gpus)}}
    monkeypatch.setattr("ray.nodes", lambda: [node, {"Alive": False, "Resources": {"GPU": 9.0}}])
    monkeypatch.setattr("pipelines.cluster.cores", lambda: 20)
    assert cluster.default_actors(1, share) == actors


def test_what_a_killed_driver_had_saved_comes_into_the_table_once(mixed, tools, tmp_path):
    rows = [worker.extract_row(asdict(v), *tools, worker.Options()) for v in find_videos(str(mixed))]
    kept = writer.Writer(str(tmp_path), 100, extract.write, extract.PENDING)
    for row in rows:
        kept.add(worker.to_arrow([{**row, "began": 0.0, "ended": 0.0}]))
        kept.save()
    pending = tmp_path / "_extract/pending"
    assert len(list(pending.iterdir())) == 5 and not tables.data_files(str(tmp_path))
    copies = {path: path.read_bytes() for path in pending.iterdir()}
    assert extract.recover(str(tmp_path)) == 5
    for path, content in copies.items():  # as if killed after the write, before the files were removed
        path.write_bytes(content)
    assert extract.recover(str(tmp_path)) == 3  # failures may be told twice, clips not
    assert len(list(tables.read_table(str(tmp_path)))) == 2
    assert not list(pending.iterdir())
    assert extract.recover(str(tmp_path)) == 0


def test_the_signature_of_a_video_is_not_in_its_failure(tmp_path):
    video = "https://h/a.mp4?X-Amz-Signature=5ec2e7"
    row = worker.failure({"clip_id": "a", "video": video}, "decode", f"{video}: no such file", 1)
    results = worker.to_arrow([{**row, "began": 0.0, "ended": 0.0}])
    assert writer.write_failures(results, str(tmp_path), "x").num_rows == 0
    failure = tables.read_failures(str(tmp_path))["a"]
    assert (failure["video"], failure["error"]) == ("https://h/a.mp4", "https://h/a.mp4: no such file")
