"""Inside a worker: threads that share a network, clips that run alone, counts of what was begun."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import fsspec
import numpy as np
import pytest

from pipelines.cluster import Attempts
from pipelines.worker import Gate, Options, Together, cut_into_pieces, extract_row
from posec3d.pose import Crop
from posec3d.video import write_video


class Means:
    """A slow network: the mean of a crop, as if that were a place."""

    name, skeleton, crop = "means", "coco17", Crop(4, 4)

    def __init__(self):
        self.batches = []

    def estimate(self, crops):
        self.batches.append(len(crops))
        time.sleep(0.05)
        if (crops == 13).all((1, 2, 3)).any():
            raise RuntimeError("thirteen")
        return crops.mean((1, 2, 3))[:, None, None].repeat(3, 2)


def crops(*values):
    return np.stack([np.full((4, 4, 3), v, np.uint8) for v in values])


def test_threads_share_batches_and_get_their_own_answers():
    network = Means()
    together = Together(network)
    asked = [crops(*range(i, i + 1 + i % 3)) for i in range(20, 60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(together.estimate, asked))
    for question, answer in zip(asked, answers, strict=True):
        np.testing.assert_array_equal(answer[:, 0, 0], question.mean((1, 2, 3)))
    assert sum(network.batches) == sum(map(len, asked))


def test_what_waits_while_the_network_is_busy_goes_through_it_in_one_batch():
    """Deterministic: the network is let go only when all others wait."""
    begun, go = threading.Event(), threading.Event()

    class Held(Means):
        def estimate(self, crops):
            begun.set()
            assert go.wait(30)
            return super().estimate(crops)

    network = Held()
    together = Together(network)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together.estimate, crops(1))
        assert begun.wait(30)
        others = [pool.submit(together.estimate, crops(i, i)) for i in range(2, 9)]
        while len(together._waiting) < len(others):
            time.sleep(0.001)
        go.set()
        assert [f.result()[0, 0, 0] for f in (first, *others)] == list(range(1, 9))
    assert network.batches == [1, 14]


def test_a_network_that_fails_fails_for_those_in_the_batch_and_works_again():
    together = Together(Means())
    with pytest.raises(RuntimeError, match="thirteen"):
        together.estimate(crops(13))
    assert together.estimate(crops(7))[0, 0, 0] == 7


def test_who_is_alone_has_nobody_beside_and_all_get_through():
    gate, inside, seen = Gate(), [], []

    def work(alone):
        with gate.alone() if alone else gate.shared():
            inside.append(alone)
            seen.append((alone, len(inside)))
            time.sleep(0.01)
            inside.remove(alone)

    threads = [threading.Thread(target=work, args=(i % 4 == 0,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(seen) == 24
    assert {count for alone, count in seen if alone} == {1}
    assert max(count for alone, count in seen if not alone) > 1


def test_what_was_begun_and_did_not_end_is_counted():
    attempts = Attempts()
    for name in ("a", "b", "a"):
        attempts.begin(name)
    assert [attempts.deaths(name) for name in "abc"] == [2, 1, 0]
    attempts.end("a")
    assert [attempts.deaths(name) for name in "abc"] == [0, 1, 0]


def test_pieces_that_are_done_or_failed_too_often_are_not_given_out(tmp_path):
    write_video(tmp_path / "a.mp4", [np.full((32, 32, 3), t, np.uint8) for t in range(40)], 10)
    row = {"clip_id": "a", "video": str(tmp_path / "a.mp4"), "attempts": 0}
    known = [("a-1of4", 2**31 - 1), ("a-2of4", 3), ("a-3of4", 2)]
    row["pieces"] = [{"clip_id": name, "attempts": n} for name, n in known]
    rest = cut_into_pieces(row, Options(segment_seconds=1.0))
    assert [(r["clip_id"], r["attempts"], r["start_frame"], r["num_frames"]) for r in rest] == [
        ("a-3of4", 2, 20, 10),
        ("a-4of4", 0, 30, 10),
    ]
    assert {r["share"] for r in rest} == {0.5}  # of what was missing


def test_the_decoder_asked_for_is_the_one_that_opens_the_video(tmp_path, tools, without_nvdec):
    write_video(tmp_path / "a.mp4", [np.zeros((32, 32, 3), np.uint8)], 10)
    row = {"clip_id": "a", "video": str(tmp_path / "a.mp4"), "attempts": 0}
    result = extract_row(row, *tools, Options(decoder="nvdec"))
    assert result["stage"] == "decode" and "NVDEC does not decode here" in result["error"]


def test_a_video_that_cannot_be_cut_is_a_failure_and_never_one_long_clip(tmp_path, tools):
    (tmp_path / "a.mp4").write_text("no video")
    row = {"clip_id": "a", "video": str(tmp_path / "a.mp4"), "attempts": 1, "pieces": []}
    (cut,) = cut_into_pieces(row, Options(segment_seconds=1.0))
    write_video(tmp_path / "a.mp4", [np.zeros((32, 32, 3), np.uint8)] * 9, 10)  # readable again, a moment later
    result = extract_row(cut, *tools, Options(segment_seconds=1.0))
    assert (result["stage"], result["attempts"]) == ("decode", 2) and "a.mp4" in result["error"]


def test_an_error_without_words_is_told_by_its_name(tmp_path, tools, monkeypatch):
    def timeout(*_):
        raise TimeoutError

    monkeypatch.setattr("pipelines.worker.segments", timeout)
    row = {"clip_id": "a", "video": "s3://bucket/a.mp4", "attempts": 0, "pieces": []}
    (cut,) = cut_into_pieces(row, Options(segment_seconds=1.0))
    assert extract_row(cut, *tools, Options(segment_seconds=1.0))["error"] == "TimeoutError"


def test_a_store_without_credentials_is_a_failure_of_reading_with_advice(s3, tools, tmp_path, monkeypatch, caplog):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    result = extract_row({"clip_id": "a", "video": f"{s3}/a.mp4", "attempts": 0}, *tools, Options())
    assert result["stage"] == "decode" and not caplog.messages
    assert result["error"].startswith(
        "s3://bucket/a.mp4: cannot be opened (PermissionError: Unable to locate credentials"
    )
    assert "On S3 credentials are looked for in AWS_ACCESS_KEY_ID" in result["error"]


def test_a_connection_that_breaks_off_is_a_failure_of_reading(tools, monkeypatch, caplog):
    def broken(*_, **__):
        raise aiohttp.ClientPayloadError("not all was sent")

    monkeypatch.setattr("pipelines.worker.extract_poses", broken)
    result = extract_row({"clip_id": "a", "video": "s3://bucket/a.mp4", "attempts": 0}, *tools, Options())
    assert result["stage"] == "decode" and result["error"] == "ClientPayloadError: not all was sent"
    assert not caplog.messages
