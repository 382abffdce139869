"""Live streams, served by another process in real time over TCP: the newest frame, and what is said of it."""

import dataclasses
import re
import socket
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import torch

from posec3d import actors, live
from posec3d import checkpoint as checkpoints
from posec3d.clips import ClipConfig
from posec3d.config import PRESETS, ModelConfig
from posec3d.recognizer import Fusion, Recognizer
from posec3d.video import VideoError, open_video, write_video

SERVER = """
import sys, time
from fractions import Fraction
import av
import numpy as np

port, fps, seconds, source = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
frames = np.load(source)
with av.open(f"tcp://127.0.0.1:{port}?listen=1", "w", format="mpegts", options={"flush_packets": "1"}) as out:
    stream = out.add_stream("libx264", rate=fps)
    stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
    stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "10"}
    start = time.monotonic()
    print(start, flush=True)
    for n in range(int(fps * seconds)):
        time.sleep(max(0, start + n / fps - time.monotonic()))
        picture = frames[n % len(frames)].copy()
        for bit in range(10):  # its number, for who wants to know how old it is
            picture[:16, 16 * bit : 16 * bit + 16] = 255 * (n >> bit & 1)
        frame = av.VideoFrame.from_ndarray(picture)
        frame.pts, frame.time_base = n, Fraction(1, fps)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())
"""


@pytest.fixture
def stream(tmp_path):
    """Serves frames for some seconds; gives the URL and a function that says how old a frame is."""
    processes = []

    def serve(frames, fps, seconds):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        np.save(tmp_path / "frames.npy", frames)
        command = [sys.executable, "-c", SERVER, str(port), str(fps), str(seconds), str(tmp_path / "frames.npy")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        processes.append(process)

        def age(frame):
            bits = [int(frame[4:12, 16 * bit + 4 : 16 * bit + 12].mean() > 127) for bit in range(10)]
            number = sum(bit << place for place, bit in enumerate(bits))
            return time.monotonic() - (started() + number / fps)

        def started():
            if not hasattr(process, "started"):
                process.started = float(process.stdout.readline())
            return process.started

        return f"tcp://127.0.0.1:{port}", age

    yield serve
    for process in processes:
        process.kill()
        process.wait()


def connect(make, seconds=60):
    """Try until the server listens."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return make()
        except VideoError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.slow
def test_a_slow_consumer_gets_frames_that_are_new(stream):
    """Who takes 0.4 s for a frame of 25 a second would be 8 s late at the end of 9 s, if frames queued up."""
    url, age = stream(np.full((8, 96, 160, 3), 90, np.uint8), 25, 9)
    newest = connect(lambda: live.Newest(url))
    ages = []
    while (taken := newest.take()) is not None:
        ages.append(age(taken[1]))
        time.sleep(0.4)
    newest.close()
    assert newest.error is None and newest.received > 3 * len(ages)
    assert len(ages) > 5
    later = sorted(ages[len(ages) // 2 :])
    assert later[len(later) // 2] < 1 and later[-1] < 3  # this machine may stall


SOUND = """
import sys, time
from fractions import Fraction
import av
import numpy as np

port, seconds, picture_seconds, sound_seconds = int(sys.argv[1]), *map(float, sys.argv[2:])
options = {"flush_packets": "1", "max_interleave_delta": "100000"}
with av.open(f"tcp://127.0.0.1:{port}?listen=1", "w", format="mpegts", options=options) as out:
    video, audio = out.add_stream("mpeg2video", rate=25), out.add_stream("mp2", rate=32000)
    video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
    start = time.monotonic()
    for n in range(int(25 * seconds)):
        time.sleep(max(0, start + n / 25 - time.monotonic()))
        if n < 25 * picture_seconds:
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts, frame.time_base = n, Fraction(1, 25)
            out.mux(video.encode(frame))
        if n < 25 * sound_seconds:
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 1280), np.int16), "s16", "stereo")
            sound.sample_rate, sound.pts, sound.time_base = 32000, 1280 * n, Fraction(1, 32000)
            out.mux(audio.encode(sound))
"""


@pytest.fixture
def with_sound():
    """Opens a stream that lasts for some seconds, and sends pictures and sound for some of them."""
    processes = []

    def serve(*seconds):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-c", SOUND, str(port), *map(str, seconds)]
        processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        return connect(lambda: live.Newest(f"tcp://127.0.0.1:{port}"))

    yield serve
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_stream_whose_pictures_stop_is_over_though_its_sound_goes_on(with_sound, monkeypatch):
    newest = with_sound(40, 7, 40)
    monkeypatch.setattr(live, "TIMEOUT_S", 2.0)
    last = time.monotonic()
    while newest.take() is not None:
        last = time.monotonic()
    assert 1.5 < time.monotonic() - last < 10
    newest.close()
    assert newest.received and newest.error == "no frame came for 2 s"


@pytest.mark.slow
@pytest.mark.parametrize("sound", [7, 40])
def test_a_stream_whose_pictures_stop_can_be_closed_at_once(with_sound, sound):
    newest = with_sound(40, 7, sound)
    while newest.take() is not None and newest.received < 25:
        pass
    time.sleep(5)
    start = time.monotonic()
    newest.close()
    assert time.monotonic() - start < 3


@pytest.fixture(scope="module")
def recognizer():
    config = PRESETS["demo"][1]
    torch.manual_seed(0)
    model = checkpoints.build_model(config, "coco17", 3)
    return Recognizer(checkpoints.Checkpoint(config, ("bow", "kick", "wave"), "coco17", model.state_dict()))


class Played:
    """A stream that has been: its frames, each with the time at which it came."""

    source, error, received = "played", None, 0

    def __init__(self, times, frames):
        start = time.monotonic()
        self.left = [(start + at, frame) for at, frame in zip(times, frames, strict=True)]

    def take(self):
        self.received += 1
        return self.left.pop(0) if self.left else None

    def close(self):
        self.left = []


def said(recognizer, tools, times, shown=(1,), late=0, window=2.0, every=0.5, per_person=False):
    """What is said of frames that came at these times."""
    recognizer.networks = tools
    frames = np.concatenate([actors.make_clip("wave", actor=a, num_frames=len(times)).frames for a in shown], 2)
    frames[: len(times) - late, :, 320:] = frames[0, 0, 0]  # the second one comes late
    return list(live._moments(recognizer, Played(times, frames), window, every, per_person))


def test_an_answer_waits_for_half_a_window(recognizer, tools):
    """At 10 frames a second four of them are 0.3 s, of a window of 2 s."""
    moments = said(recognizer, tools, np.arange(17) / 10)
    assert [moment.frames for moment in moments] == [11, 16]
    assert moments[0].as_dict()["frames"] == 11


def test_pauses_for_answers_are_not_in_the_rate(recognizer, tools):
    times = np.r_[np.arange(11) / 10, 2 + np.arange(3) / 10]
    assert said(recognizer, tools, times)[-1].fps == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(("late", "seen"), [(6, 1), (14, 2)])
def test_who_is_seen_in_less_than_half_of_the_window_is_not_asked_about(recognizer, tools, late, seen):
    (moment,) = said(recognizer, tools, np.arange(20) / 10, (1, 2), late, window=3.7, per_person=True)
    assert moment.people == 2 and moment.frames == 20
    assert [person for person, _ in moment.actions] == list(range(seen))


def test_looks_too_seldom_for_the_window_are_said_once(recognizer, tools, caplog):
    assert not said(recognizer, tools, np.arange(6.0))
    (message,) = caplog.messages
    assert message.startswith(
        "played: only 3 frames were looked at in 2 s, and an answer takes 4: give a longer window"
    )
    caplog.clear()
    assert said(recognizer, tools, np.arange(8) / 2) and not caplog.messages


@pytest.mark.slow
def test_a_stream_is_named_again_and_again_and_the_answers_do_not_fall_behind(stream, recognizer, tools):
    clip = actors.make_clip("wave", actor=1, num_frames=30)
    recognizer.networks = tools
    url, _ = stream(clip.frames, 60, 6)
    moments = []
    for moment in connect(lambda: live.watch(recognizer, url, window=1, every=0.3)):
        moments.append(moment)
    assert len(moments) >= 3
    for moment in moments:
        ((person, top),) = moment.actions
        assert person is None and moment.people == 1 and sum(p for _, p in top) == pytest.approx(1, abs=1e-4)
    assert moments[-1].skipped > 0 and 1 < moments[-1].fps < 60
    assert np.median([moment.latency_s for moment in moments]) < 2
    assert len(moments) <= moments[-1].seconds / 0.3 + 1


@pytest.mark.slow
def test_a_file_is_played_at_its_own_speed_and_people_keep_their_numbers(recognizer, tools, tmp_path, capsys):
    clips = [actors.make_clip("wave", actor=a, num_frames=40).frames for a in (1, 2)]
    write_video(tmp_path / "two.mp4", np.concatenate(clips, 2), 16)
    recognizer.networks = tools
    start = time.monotonic()
    moments = list(live.watch(recognizer, str(tmp_path / "two.mp4"), window=1, every=0.3, per_person=True))
    assert time.monotonic() - start > 2.3  # 40 frames at 16 a second
    assert {person for moment in moments[-2:] for person, _ in moment.actions} == {0, 1}


def test_a_turned_stream_is_seen_upright(tmp_path):
    """As a telephone films, held upright: the picture lies on its side, and a matrix says so."""
    path = str(tmp_path / "turned.mp4")
    with av.open(path, "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(90)
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:, 32:] = 200
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        out.mux(stream.encode())
    newest = live.Newest(path)
    _, frame = newest.take()
    newest.close()
    with open_video(path) as video:
        np.testing.assert_array_equal(frame, next(iter(video))[1])
    assert frame.shape == (64, 48, 3) and np.ptp(frame.mean((1, 2))) > 150


def test_a_stream_that_changes_its_size_keeps_that_of_its_first_frame(tmp_path):
    path = tmp_path / "changes.ts"
    for width, height in ((64, 48), (128, 96)):  # a transport stream may be joined to another
        with av.open(str(tmp_path / "part.ts"), "w") as out:
            stream = out.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for _ in range(6):
                out.mux(stream.encode(av.VideoFrame(width, height, "yuv420p")))
            out.mux(stream.encode())
        with path.open("ab") as both:
            both.write((tmp_path / "part.ts").read_bytes())
    newest, shapes, sizes = live.Newest(str(path)), set(), set()
    while (taken := newest.take()) is not None:
        shapes.add(taken[1].shape)
    newest.close()
    with av.open(str(path)) as container:
        sizes = {(frame.width, frame.height) for frame in container.decode(video=0)}
    assert sizes == {(64, 48), (128, 96)} and shapes == {(48, 64, 3)}


@pytest.mark.parametrize(
    ("damaged", "received", "error"),
    [({10}, 19, None), (set(range(20)), 0, "Invalid data found when processing input")],
)
def test_a_damaged_packet_does_not_end_a_stream(tmp_path, damaged, received, error):
    path = str(tmp_path / "damaged.mkv")
    with av.open(path, "w") as out:
        stream = out.add_stream("mjpeg", rate=50)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(20):
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9 * number, np.uint8))):
                whole = bytes(packet)
                sent = av.Packet(whole[:2] + bytes(len(whole) - 2) if number in damaged else whole)
                sent.stream, sent.pts, sent.dts = stream, packet.pts, packet.dts
                sent.time_base, sent.is_keyframe = packet.time_base, True
                out.mux(sent)
    newest = live.Newest(path)
    while newest.take() is not None:
        pass
    newest.close()
    assert (newest.received, newest.error) == (received, error)


def test_a_source_that_cannot_be_opened_is_said(tmp_path, capsys):
    with pytest.raises(VideoError, match=r"nothing\.mp4: cannot be opened as a live video \(No such file"):
        live.Newest(str(tmp_path / "nothing.mp4"))
    assert live.main([str(tmp_path), "--source", "x.mp4"]) == 1
    assert "error: no checkpoint at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "clip", "what"),
    [
        ("rgb-slowonly-light", ClipConfig(length=8, rgb_length=2), "RGB frames"),
        ("stgcn++", ClipConfig(length=8, space="body", persons=2), "poses in 3D"),
    ],
)
def test_models_that_a_stream_has_nothing_for_are_refused_at_once(recognizer, name, clip, what):
    """Also the second of two, and before the stream is opened: nobody may appear for hours."""
    config = dataclasses.replace(recognizer.config, model=ModelConfig(name=name), clip=clip)
    model = checkpoints.build_model(config, "coco17", 3)
    other = Recognizer(checkpoints.Checkpoint(config, recognizer.labels, "coco17", model.state_dict()))
    with pytest.raises(ValueError, match=rf"a {re.escape(name)} of these runs looks at {what}"):
        live.watch(Fusion([recognizer, other]), "no such stream")


def test_tracks_keep_the_numbers_they_had_in_the_window_before():
    numbers = [[4, 7], [7, 4], [-1, -1]]  # of three frames, two people each; the last frame is new
    tracks = np.array([[0, 1, 1], [1, 0, -1], [-1, -1, 0]])
    assert live._same(tracks, numbers, 8) == ([4, 7, 8], 9)
    assert numbers == [[4, 7], [7, 4], [8, 4]]
