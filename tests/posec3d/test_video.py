"""Video -> frames: what real files do, and what broken ones say."""

import gc
import logging
import wave
from fractions import Fraction
from pathlib import Path

import av
import cv2
import fsspec
import numpy as np
import pytest

from posec3d.video import VideoError, open_video, write_video

LEVELS = [12 * i for i in range(20)]
"""Grey level of each frame of `grey`: they tell frames apart after lossy coding."""


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "grey.mp4"
    write_video(path, (np.full((48, 64, 3), level, np.uint8) for level in LEVELS), fps=10)
    return path


def corners():
    """(48, 64, 3): red top left, green top right, black below."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32], image[:24, 32:] = (255, 0, 0), (0, 255, 0)
    return image


def encode(path, frames, *, pts=None, pix_fmt="yuv420p", codec="libx264", prepare=lambda stream: None):
    """Write frames with chosen timestamps in tenths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        prepare(stream)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image)
            frame.time_base, frame.pts = Fraction(1, 10), pts[number] if pts else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def noise(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (64, 80, 3), np.uint8) for _ in range(count)]


def cut(source: Path, target: Path, share: float) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def test_frames_come_in_order_with_their_times(grey):
    with open_video(grey) as video:
        times, frames = zip(*video, strict=True)
    assert [round(float(frame.mean())) for frame in frames] == pytest.approx(LEVELS, abs=2)
    assert times == pytest.approx([0.1 * i for i in range(20)])


def test_info_is_known_before_the_first_frame_is_asked_for(grey):
    with open_video(grey) as video:
        assert (video.info.height, video.info.width, video.info.fps) == (48, 64, 10.0)


def test_a_second_pass_is_refused_not_empty(grey):
    with open_video(grey) as video:
        assert len(list(video)) == 20
        with pytest.raises(RuntimeError, match="open it again"):
            list(video)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_applied_as_opencv_applies_it(tmp_path, degrees):
    path = tmp_path / "turned.mp4"
    encode(path, [corners()] * 3, prepare=lambda stream: stream.set_display_rotation(degrees))
    with open_video(path) as video:
        info, frame = video.info, next(iter(video))[1]
    reference = cv2.VideoCapture(str(path)).read()[1][..., ::-1]
    assert frame.shape == (info.height, info.width, 3) == reference.shape
    assert np.abs(frame.astype(int) - reference).max() <= 2


def test_a_mirrored_display_matrix_is_applied(tmp_path):
    encode(tmp_path / "m.mp4", [corners()], prepare=lambda stream: stream.set_display_rotation(0, hflip=True))
    with open_video(tmp_path / "m.mp4") as video:
        frame = next(iter(video))[1]
    assert frame[12, 16].argmax() == 1 and frame[12, 48].argmax() == 0  # green left, red right


def test_times_of_a_variable_frame_rate_are_the_containers(tmp_path):
    encode(tmp_path / "vfr.mp4", noise(5), pts=[0, 1, 2, 7, 15])
    with open_video(tmp_path / "vfr.mp4") as video:
        assert [t for t, _ in video] == pytest.approx([0, 0.1, 0.2, 0.7, 1.5])


def test_times_start_at_zero_where_the_stream_starts_late(tmp_path):
    encode(tmp_path / "late.mkv", noise(3), pts=[50, 51, 52])
    with open_video(tmp_path / "late.mkv") as video:
        assert [t for t, _ in video] == pytest.approx([0, 0.1, 0.2], abs=0.002)


def test_times_of_packed_b_frames_ascend(data):
    with open_video(data / "ut_interaction" / "set1" / "8_2_0.avi") as video:
        times = [t for t, _ in video]
    assert len(times) == 123 and (np.diff(times) > 0).all()


def test_odd_sizes_are_read_as_they_are(tmp_path):
    encode(tmp_path / "odd.mp4", [np.full((61, 81, 3), 200, np.uint8)], pix_fmt="yuv444p")
    with open_video(tmp_path / "odd.mp4") as video:
        assert next(iter(video))[1].shape == (61, 81, 3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_truncated_file_gives_the_frames_it_has_and_a_warning(tmp_path, caplog, suffix):
    whole = tmp_path / f"whole{suffix}"
    write_video(whole, noise(40), fps=10)
    part = cut(whole, tmp_path / f"part{suffix}", 0.6)
    with caplog.at_level(logging.WARNING), open_video(part) as video:
        count = len(list(video))
    assert 15 <= count <= 30
    # Matroska says nowhere how many frames there should be, and may be cut between two of them.
    assert suffix == ".mkv" or "truncated" in caplog.text


def test_a_whole_file_gives_no_warning(grey, caplog):
    with caplog.at_level(logging.WARNING), open_video(grey) as video:
        list(video)
    assert not caplog.records


def test_frames_that_went_by_need_no_garbage_collector(grey):
    gc.collect()
    gc.disable()  # a cycle for each frame would keep 4K frames by the hundred
    try:
        with open_video(grey) as video:
            for _ in video:
                pass
        # Only frames are counted: other threads of a test run make garbage of their own.
        assert sum(type(thing) is av.VideoFrame for thing in gc.get_objects()) < 5
    finally:
        gc.enable()


def test_any_fsspec_uri_opens(grey):
    with fsspec.open("memory://videos/grey.mp4", "wb") as file:
        file.write(grey.read_bytes())
    with open_video("memory://videos/grey.mp4") as video:
        assert len(list(video)) == 20


def test_a_colon_in_a_file_name_is_no_protocol(grey, tmp_path):
    path = tmp_path / "cam:1.mp4"
    path.write_bytes(grey.read_bytes())
    with open_video(path) as video:
        assert len(list(video)) == 20


def sound(path):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 8000, "NONE", ""))
        file.writeframes(b"\0\1" * 8000)


BROKEN = {
    "text.mp4": (lambda path, grey: path.write_text("I am no video\n" * 100), "not a video"),
    "zero.mp4": (lambda path, grey: path.write_bytes(b""), "empty"),
    "sound.mp4": (lambda path, grey: sound(path), "no video stream .streams: audio"),
    "head.mp4": (lambda path, grey: cut(grey, path, 0.3), "no video stream|not a video|not one frame"),
    "missing.mp4": (lambda path, grey: None, "no such file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_video_says_so_with_its_name(tmp_path, grey, name):
    make, cause = BROKEN[name]
    make(tmp_path / name, grey)
    with pytest.raises(VideoError, match=f"{name}: .*({cause})"):
        open_video(tmp_path / name)


def test_an_unknown_protocol_is_a_video_error():
    with pytest.raises(VideoError, match=r"nope://a\.mp4: cannot be opened"):
        open_video("nope://a.mp4")


def test_written_odd_sizes_are_padded_to_even_by_the_last_pixel(tmp_path):
    image = np.zeros((47, 63, 3), np.uint8)
    image[:, -8:] = 240
    write_video(tmp_path / "odd.mp4", [image], fps=5)
    with open_video(tmp_path / "odd.mp4") as video:
        frame = next(iter(video))[1]
    assert frame.shape == (48, 64, 3) and (frame[:, 60:] > 220).all()


def test_a_frame_of_another_size_is_refused_and_leaves_no_file(tmp_path):
    frames = [np.zeros((48, 64, 3), np.uint8), np.zeros((48, 62, 3), np.uint8)]
    with pytest.raises(ValueError, match=r"frame 1 is uint8 .48, 62, 3., wanted .* the first is .48, 64, 3."):
        write_video(tmp_path / "a.mp4", frames, fps=10)
    assert not list(tmp_path.iterdir())


def test_no_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no frames to write"):
        write_video(tmp_path / "a.mp4", [], fps=10)


def test_a_frame_rate_that_is_no_whole_number_survives(tmp_path):
    write_video(tmp_path / "a.mp4", noise(4), fps=30000 / 1001)
    with open_video(tmp_path / "a.mp4") as video:
        assert video.info.fps == pytest.approx(30000 / 1001, abs=1e-3)
