"""Video -> frames: what real files do, whole and in pieces, and what broken ones say."""

import gc
import itertools
import logging
import os
import struct
import wave
from fractions import Fraction
from pathlib import Path

import av
import cv2
import fsspec
import numpy as np
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from posec3d.video import Segment, VideoError, open_video, segments, start_of, write_video

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


CONSTANT, VARIABLE = list(range(100)), np.cumsum([0, *np.random.default_rng(0).integers(1, 9, 99)]).tolist()
"""When frames are shown, in 25ths of a second."""

PYRAMID = {"bf": "3", "g": "50"}
OPEN = {"bf": "3", "g": "20", "x264-params": "open-gop=1:scenecut=0"}
REFRESH = {"g": "20", "x264-params": "intra-refresh=1"}
HEVC = {"x265-params": "keyint=20:open-gop=1:bframes=3:log-level=none:pools=1"}

NUMBERED = {
    "b-frames.mp4": {"options": PYRAMID},
    "variable.mp4": {"ticks": VARIABLE, "options": PYRAMID},
    "open-gop.mp4": {"options": OPEN},
    "hevc-open-gop.mp4": {"codec": "libx265", "options": HEVC},
    "no-second-keyframe.mp4": {"options": REFRESH},
    "fragments.mp4": {"options": PYRAMID, "container": {"movflags": "frag_keyframe"}},
    "b-frames.mkv": {"options": PYRAMID},
    "starts-late.mkv": {"ticks": [t + 190 for t in CONSTANT], "options": PYRAMID},
    "variable.mkv": {"ticks": VARIABLE, "options": PYRAMID},
    "variable.webm": {"ticks": VARIABLE, "codec": "libvpx-vp9", "options": {"g": "30", "cpu-used": "8"}},
    "no-index.webm": {"codec": "libvpx", "options": {"g": "30", "cpu-used": "8"}, "container": {"live": "1"}},
    "b-frames.ts": {"options": PYRAMID},
    "open-gop.ts": {"options": OPEN},
    "no-second-keyframe.ts": {"options": REFRESH},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "p-frames.avi": {"codec": "mpeg4", "options": {"g": "30"}},
    "b-frames.avi": {"options": {"g": "50", "bf": "2"}},
    "divx-b-frames.avi": {"codec": "mpeg4", "options": {"g": "50", "bf": "2"}},
    "b-frames.flv": {"options": PYRAMID},
    "interlaced.mp4": {"options": {"bf": "2", "g": "30", "x264-params": "interlaced=1"}},
    "bare.h264": {"options": PYRAMID},
}


def number_each(path, ticks=CONSTANT, codec="libx264", options=None, container=None, pix_fmt="yuv420p", size=1, turn=0):
    """Write frames that carry their number as 4 x 4 bright or dark blocks, shown at `ticks` / 25 seconds."""
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64 * size, 48 * size, pix_fmt
        stream.codec_context.thread_count = 1
        if turn:
            stream.set_display_rotation(turn)
        for number, tick in enumerate(ticks):
            blocks = 40 + 160 * (number >> np.arange(16) & 1).astype(np.uint8).reshape(4, 4, 1)
            frame = av.VideoFrame.from_ndarray(blocks.repeat(12 * size, 0).repeat(16 * size, 1).repeat(3, 2))
            frame.time_base, frame.pts = Fraction(1, 25), tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def read(path, **choice):
    """(time_s, number) of each frame of a file by `number_each`."""
    with open_video(path, **choice) as video:
        return [(time, read_number(frame)) for time, frame in video]


def read_number(frame):
    height, width = frame.shape[0] // 4, frame.shape[1] // 4
    bright = frame[height // 2 :: height, width // 2 :: width, 0] > 120
    return int((bright.ravel() << np.arange(16)).sum())


def read_in_pieces(path, seconds, **fps):
    """Read the same, piece by piece; each piece must have the frames that it promised."""
    pieces = segments(path, seconds, **fps)
    found = [read(path, start_s=piece.start_s, end_s=piece.end_s, **fps) for piece in pieces]
    counts = [len(frames) for frames in found]
    assert len(pieces) > 1 and [piece.num_frames for piece in pieces] == counts
    assert [piece.start_frame for piece in pieces] == [sum(counts[:i]) for i in range(len(pieces))]
    return list(itertools.chain(*found))


def nearest(ticks, fps, start_s, end_s):
    """Resample in fractions: (k / fps, number of the nearest frame, the earlier one of two), k / fps in the range."""
    times = [Fraction(tick - ticks[0], 25) for tick in ticks]
    grid = [Fraction(k, fps) for k in range(int(times[-1] * fps) + 1)]
    return [
        (float(at), min(range(len(times)), key=lambda n: (abs(times[n] - at), n)))
        for at in grid
        if start_s <= at < end_s
    ]


def repack(source, target, change, **options):
    """Copy packets, each after `change(number, packet)`; None leaves it out."""
    with av.open(str(source)) as old, av.open(str(target), "w", **options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(p for p in old.demux(video=0) if p.size):
            if (changed := change(number, packet)) is not None:
                changed.stream = stream
                new.mux(changed)
    return target


def damage(source, target, which):
    """Copy an MP4 with the content of some packets, by their order in the file, gone."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as file:
        places = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
    for position, size in (places[i] for i in which):
        data[position : position + size] = bytes(size)
    target.write_bytes(data)
    return target


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Write a file of `NUMBERED` once."""
    folder = tmp_path_factory.mktemp("numbered")

    def make(name):
        path = folder / name
        return path if path.exists() else number_each(path, **NUMBERED[name])

    return make


def ticks_of(name):
    return NUMBERED[name].get("ticks", CONSTANT)


@pytest.mark.parametrize("name", NUMBERED)
def test_pieces_together_are_the_frames_that_were_written_at_their_times(numbered, name):
    ticks = ticks_of(name)
    times, numbers = zip(*read_in_pieces(numbered(name), 1.3), strict=True)
    assert numbers == tuple(range(100))
    assert times == pytest.approx([(tick - ticks[0]) / 25 for tick in ticks], abs=1e-3)


@pytest.mark.parametrize("fps", [10, 7])
@pytest.mark.parametrize("name", ["b-frames.mp4", "variable.mkv", "b-frames.ts", "b-frames.avi"])
def test_resampled_pieces_are_the_frames_nearest_to_the_grid(numbered, name, fps):
    times, numbers = zip(*read_in_pieces(numbered(name), 1.3, fps=fps), strict=True)
    wanted_times, wanted_numbers = zip(*nearest(ticks_of(name), fps, 0, np.inf), strict=True)
    assert numbers == wanted_numbers
    assert times == pytest.approx(wanted_times, abs=1e-9)


@pytest.mark.parametrize("name", ["open-gop.mp4", "variable.mkv", "variable.webm", "open-gop.ts", "b-frames.avi"])
def test_any_range_gives_the_frames_in_it(numbered, name):
    path, ticks, rng = numbered(name), ticks_of(name), np.random.default_rng(1)
    for _ in range(6):
        start, end = sorted(rng.choice(ticks[-1] + 20, 2, replace=False).tolist())  # ticks: also exactly on a frame
        wanted = [number for number, tick in enumerate(ticks) if start <= tick < end]
        assert [number for _, number in read(path, start_s=start / 25, end_s=end / 25)] == wanted, (start, end)
        wanted = [number for _, number in nearest(ticks, 5, Fraction(start, 25), Fraction(end, 25))]
        assert [number for _, number in read(path, start_s=start / 25, end_s=end / 25, fps=5)] == wanted, (start, end)


@pytest.mark.parametrize("name", ["b-frames.mp4", "fragments.mp4", "b-frames.flv", "b-frames.mkv", "b-frames.ts"])
def test_a_start_near_a_keyframe_loses_nothing(numbered, name):
    for start in range(44, 54):  # frame 50 is a keyframe, and is decoded before 47 to 49 are shown
        assert [number for _, number in read(numbered(name), start_s=start / 25, end_s=2.2)] == [*range(start, 55)]


def test_what_is_only_marked_as_a_keyframe_is_no_start(numbered, tmp_path):
    def mark(_, packet):
        packet.is_keyframe = True
        return packet

    path = repack(numbered("p-frames.avi"), tmp_path / "marked.mp4", mark)
    assert [number for _, number in read(path, start_s=1.72, end_s=2)] == list(range(43, 50))


def test_a_range_after_the_end_is_empty(numbered):
    assert read(numbered("b-frames.mp4"), start_s=100) == []


@pytest.mark.parametrize("name", ["jump.mkv", "jump.flv"])
def test_one_damaged_time_does_not_make_a_resampled_video_endless(tmp_path, name):
    """Ten million copies of a frame would fill the million seconds; a pause of nine minutes is filled."""
    path = number_each(tmp_path / name, [*range(45), *range(25_000_045, 25_000_060)])
    assert len(read(path)) == 60
    said = rf"{name}: no frame for 1000000 s after 1\.8 s, .* 600 s at most: .* leave out fps"
    with pytest.raises(VideoError, match=said), open_video(path, fps=10) as video:
        assert sum(1 for _ in itertools.islice(video, 1000)) < 1000
    with pytest.raises(VideoError, match=said):
        segments(path, 60, fps=10)
    assert len(read(number_each(tmp_path / name, [*range(45), *range(13_500, 13_560)]), fps=2)) == 1085


def test_a_video_that_is_not_faster_keeps_its_own_frames(numbered):
    path = numbered("variable.mp4")
    with open_video(path, fps=25) as slow, open_video(path, fps=2) as fast:
        assert slow.info.fps == pytest.approx(25 * 99 / VARIABLE[-1], rel=0.05) and fast.info.fps == 2
    assert read(path, fps=25) == read(path)
    assert segments(path, 3, fps=25) == segments(path, 3)


@pytest.mark.parametrize("name", NUMBERED)
@pytest.mark.parametrize("fps", [None, 7])
def test_reading_starts_at_any_frame(numbered, name, fps):
    path = numbered(name)
    whole = read(path, fps=fps)
    for number in (0, 1, len(whole) // 2, len(whole) - 1):
        assert read(path, start_s=start_of(path, number, fps), fps=fps) == whole[number:]


def test_a_frame_past_the_end_and_a_file_replaced_are_noticed(numbered, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(numbered("b-frames.mp4").read_bytes())
    assert start_of(path, 99) == pytest.approx(99 / 25)
    with pytest.raises(ValueError, match=r"a\.mp4 has 100 frames, no frame 100"):
        start_of(path, 100)
    path.write_bytes(numbered("variable.mp4").read_bytes())
    assert start_of(path, 99) == pytest.approx(VARIABLE[99] / 25)
    with pytest.raises(VideoError, match="no such file"):
        start_of(tmp_path / "b.mp4", 1)


def test_pieces_are_equal_and_a_short_rest_joins_the_one_before(numbered):
    path = numbered("b-frames.mp4")  # 4 s
    assert segments(path, 1) == [Segment(float(i), i + 1.0 if i < 3 else None, 25 * i, 25) for i in range(4)]
    assert segments(path, 1.2) == [Segment(0, 1.2, 0, 30), Segment(1.2, 2.4, 30, 30), Segment(2.4, None, 60, 40)]
    assert segments(path, 1.5) == [Segment(0, 1.5, 0, 38), Segment(1.5, 3.0, 38, 37), Segment(3.0, None, 75, 25)]
    assert segments(path, 60) == segments(path, np.inf) == [Segment(0.0, None, 0, 100)]


def test_no_piece_is_empty(tmp_path):
    path = number_each(tmp_path / "pause.mkv", ticks=[0, 1, 2, 100, 101, 102, 225])
    assert segments(path, 1) == [Segment(0, 4.0, 0, 3), Segment(4.0, 8.0, 3, 3), Segment(8.0, None, 6, 1)]
    path = number_each(tmp_path / "slow.mp4", ticks=[0, 100, 200])  # the last one is shown for 4 s, too
    assert segments(path, 1) == [Segment(0, 4.0, 0, 1), Segment(4.0, 8.0, 1, 1), Segment(8.0, None, 2, 1)]


def test_what_lies_before_a_piece_is_not_decoded(numbered, tmp_path, caplog):
    path = damage(numbered("b-frames.mp4"), tmp_path / "b.mp4", range(10, 50))
    assert [number for _, number in read(path, start_s=2.0, end_s=3.0)] == list(range(50, 75))
    assert not caplog.records


@pytest.mark.parametrize("lost", [[20], [70, 71, 72], [50], [99]], ids=["P", "three", "keyframe", "last"])
def test_frames_after_damage_keep_their_times_and_numbers(numbered, tmp_path, lost, caplog):
    path = damage(numbered("b-frames.mp4"), tmp_path / "damaged.mp4", lost)
    whole = read(path)
    assert "damaged" in caplog.text
    assert [time for time, _ in whole] == pytest.approx([i / 25 for i in range(100)])
    wrong = [i for i, (_, number) in enumerate(whole) if number != i]
    assert wrong and min(wrong) >= min(lost) - 4 and max(wrong) < min(lost) - min(lost) % 50 + 50  # one GOP
    assert read_in_pieces(path, 1) == whole


def test_a_resampled_video_has_its_frames_in_spite_of_damage(numbered, tmp_path):
    path = damage(numbered("b-frames.mp4"), tmp_path / "damaged.mp4", [70, 71, 72])
    assert [time for time, _ in read(path, fps=10)] == pytest.approx([k / 10 for k in range(40)])


def test_packets_lost_on_the_way_shift_nothing(numbered, tmp_path):
    data = bytearray(numbered("b-frames.ts").read_bytes())
    place = len(data) * 3 // 4 // 188 * 188
    data[place : place + 10 * 188] = bytes(10 * 188)
    path = tmp_path / "lossy.ts"
    path.write_bytes(data)
    whole = read(path)
    assert 85 < len(whole) < 100 and whole[-1][0] == pytest.approx(99 / 25)
    assert sum(abs(25 * time - number) < 0.01 for time, number in whole) > 70  # others are predicted from lost ones
    assert read_in_pieces(path, 1.3) == whole


@pytest.mark.parametrize("clocks", [(0, 25000), (25000, 0), (250, 0)], ids=["forth", "back", "overlap"])
def test_times_go_on_where_streams_were_joined(tmp_path, clocks):
    path = tmp_path / "joined.ts"
    with open(path, "wb") as file:
        for clock in clocks:
            part = number_each(tmp_path / "part.ts", ticks=range(clock, clock + 300), options={"g": "25"})
            file.write(part.read_bytes())
    times, numbers = zip(*read_in_pieces(path, 3.1), strict=True)
    assert numbers == (*range(300), *range(300))
    assert times == pytest.approx([i / 25 for i in range(600)], abs=1e-3)


def test_frames_hidden_by_an_edit_list_are_neither_counted_nor_missed(numbered, tmp_path, caplog):
    def earlier(_, packet):
        packet.pts, packet.dts = (int(t - 0.9 / packet.time_base) for t in (packet.pts, packet.dts))
        return packet

    path = repack(numbered("b-frames.mp4"), tmp_path / "cut.mp4", earlier)  # what is before 0 is hidden
    whole = read(path)
    assert [number for _, number in whole] == list(range(23, 100))
    assert [time for time, _ in whole] == pytest.approx([i / 25 for i in range(77)])
    assert read_in_pieces(path, 1) == whole and read(path, start_s=0.04) == whole[1:]
    assert not caplog.records


def boxes(data, start, end):
    """(name, start, end) of the boxes of an MP4 that lie side by side."""
    while start < end:
        stop = start + int.from_bytes(data[start : start + 4], "big")
        yield bytes(data[start + 4 : start + 8]), start, stop
        start = stop


def test_parts_that_an_edit_list_joins_are_all_there_is(numbered, tmp_path):
    source = numbered("b-frames.mp4").read_bytes()
    start, end, around = 0, len(source), []
    for name in (b"moov", b"trak", b"edts"):
        start, end = next(box[1:] for box in boxes(source, start, end) if box[0] == name)
        around.append(start)
        start += 8
    seconds = [(0.8, 0.44), (1.2, 2.48)]  # (duration, where it starts in the media): frames 11 to 30, 62 to 91
    rate = int.from_bytes(source[source.index(b"mdhd") + 16 :][:4], "big")
    # The media starts two frames late, as B-frames are decoded after what they refer to; a movie's clock is in ms.
    parts = [struct.pack(">IiI", round(d * 1000), round((t + 2 / 25) * rate), 1 << 16) for d, t in seconds]
    edits = struct.pack(">4sII", b"elst", 0, len(parts)) + b"".join(parts)
    edits = struct.pack(">I4sI", 12 + len(edits), b"edts", 4 + len(edits)) + edits
    data = bytearray(source[: around[-1]] + edits + source[end:])
    for place in around[:2]:
        data[place : place + 4] = struct.pack(">I", struct.unpack_from(">I", data, place)[0] + len(data) - len(source))
    path = tmp_path / "joined.mp4"
    path.write_bytes(data)
    whole = read(path)
    assert [number for _, number in whole] == [*range(11, 31), *range(62, 92)]
    assert [time for time, _ in whole[:20]] == pytest.approx([i / 25 for i in range(20)])
    assert read_in_pieces(path, 0.5) == whole


def test_frames_of_a_truncated_file_are_those_it_has(numbered, tmp_path):
    whole = repack(numbered("b-frames.mp4"), tmp_path / "w.mp4", lambda _, p: p, options={"movflags": "faststart"})
    path = cut(whole, tmp_path / "part.mp4", 0.75)
    whole = read(path)
    assert 30 < len(whole) < 100
    assert read_in_pieces(path, 1) == whole


def test_an_mp4_with_times_of_decoding_alone_is_read_in_order(numbered, tmp_path):
    def undelayed(_, packet):
        packet.dts = packet.pts = packet.dts + int(Fraction(2, 25) / packet.time_base)
        return packet

    path = repack(numbered("b-frames.mp4"), tmp_path / "bad.mp4", undelayed)
    times, numbers = zip(*read_in_pieces(path, 1), strict=True)
    assert numbers == tuple(range(100))
    assert times == pytest.approx([i / 25 for i in range(100)], abs=1e-3)


def test_two_frames_in_one_packet_are_two_frames(data, tmp_path):
    divx = data / "ut_interaction" / "set1" / "8_2_0.avi"
    path = repack(divx, tmp_path / "packed.mkv", lambda _, packet: packet)
    with open_video(divx) as video:
        frames = [frame for _, frame in video]
    with open_video(path) as video:
        times, same = zip(*video, strict=True)
    np.testing.assert_array_equal(same, frames)
    assert (np.diff(times) > 0).all() and sum(piece.num_frames for piece in segments(path, 1)) == 123


def test_a_packet_that_is_never_shown_is_no_frame(numbered, tmp_path):
    hidden = range(5, 100, 9)

    def hide(number, packet):
        if number not in hidden:
            return packet
        data = bytes(packet)
        copy = av.Packet(bytes([data[0] & ~0x10]) + data[1:])  # VP8: the bit "show this frame"
        copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
        return copy

    path = repack(numbered("no-index.webm"), tmp_path / "hidden.webm", hide)
    assert [number for _, number in read_in_pieces(path, 1)] == sorted({*range(100)} - {*hidden})


def test_a_webm_that_does_not_say_its_rate_has_that_of_its_times(tmp_path):
    """As browsers record: the element DefaultDuration is not there, and FFmpeg guesses nothing of use."""
    moments = [33 * i + 7 * (i % 3) for i in range(120)]  # milliseconds, as a camera in bad light
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream("libvpx", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, moment in enumerate(moments):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 * i, np.uint8))
            frame.time_base, frame.pts = Fraction(1, 1000), moment
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    content = (tmp_path / "a.webm").read_bytes()
    at = content.index(b"\x23\xe3\x83\x84")
    (tmp_path / "a.webm").write_bytes(content[:at] + b"\xec\x86" + bytes(6) + content[at + 8 :])
    with av.open(str(tmp_path / "a.webm")) as container:
        assert container.streams.video[0].average_rate is None
    with open_video(tmp_path / "a.webm") as video:
        assert video.info.fps == pytest.approx(1000 / 33, rel=0.01)
        assert [round(1000 * time) for time, _ in video] == moments
    with open_video(tmp_path / "a.webm", fps=40) as video:  # its beginning does not tell that none of it is as fast
        assert video.info.fps == 40
    with open_video(tmp_path / "a.webm", start_s=2, end_s=3) as video:
        assert [round(1000 * time) for time, _ in video] == [moment for moment in moments if 2000 <= moment < 3000]


def test_decoding_starts_no_threads(grey):
    def threads():
        return len(list(Path("/proc/self/task").iterdir()))

    before, seen = threads(), []
    with open_video(grey) as video:
        chosen = list(video._chosen())  # frames that are held keep what converted them
        video._chosen = lambda: iter(chosen)
        seen += [threads() for _ in video]
    assert len(seen) == 20 and max(seen) == before


def test_a_turned_video_is_upright_from_any_start(tmp_path):
    path = number_each(tmp_path / "turned.mp4", options=PYRAMID, turn=90)
    with open_video(path) as whole, open_video(path, start_s=3, end_s=3.2) as piece:
        assert (piece.info.height, piece.info.width) == (64, 48)
        late = [frame for time, frame in whole if 3 <= round(time, 3) < 3.2]
        np.testing.assert_array_equal([frame for _, frame in piece], late)
    assert [read_number(np.rot90(frame, -1)) for frame in late] == [75, 76, 77, 78, 79]


def test_nvdec_is_refused_where_it_does_not_work_with_what_it_wants(grey, without_nvdec):
    wants = r"NVDEC does not decode here \(.+\): wanted an NVIDIA GPU .* the decoder ffmpeg wants none"
    with pytest.raises(VideoError, match=wants):
        open_video(grey, decoder="nvdec")


def test_a_codec_that_nvdec_does_not_know_is_decoded_by_the_cpu_and_named(tmp_path, caplog):
    path = number_each(tmp_path / "a.mkv", codec="ffv1", ticks=VARIABLE)
    with caplog.at_level(logging.WARNING):
        assert read(path, start_s=1, decoder="nvdec") == read(path, start_s=1)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: NVDEC does not decode ffv1 of yuv420p here; the CPU does"
    ]


def test_what_nvdec_decoded_becomes_the_pixels_that_the_cpu_would_give(tmp_path):
    """NVDEC gives a frame's samples as NV12; the CPU decodes them to yuv420p."""
    planes = [av.VideoFrame.from_ndarray(image).reformat(format="yuv420p") for image in noise(3)]
    found = []
    for order in ("yuv420p", "nv12"):
        with av.open(str(tmp_path / f"{order}.nut"), "w") as file:
            stream = file.add_stream("rawvideo", rate=10)
            stream.width, stream.height, stream.pix_fmt = planes[0].width, planes[0].height, order
            for number, frame in enumerate(planes):
                frame = frame.reformat(format=order)
                frame.time_base, frame.pts = Fraction(1, 10), number
                file.mux(stream.encode(frame))
        with open_video(tmp_path / f"{order}.nut") as video:
            found.append([frame for _, frame in video])
    np.testing.assert_array_equal(*found)


def test_nvdec_gives_the_frames_and_times_of_the_cpu(nvdec, tmp_path, caplog):
    if not nvdec:
        pytest.skip("no NVDEC here")
    for name in ("b-frames.mp4", "variable.mkv", "hevc-open-gop.mp4", "open-gop.ts", "variable.webm", "interlaced.mp4"):
        path = number_each(tmp_path / name, **NUMBERED[name], size=4)
        for piece in segments(path, 1.3):
            place = {"start_s": piece.start_s, "end_s": piece.end_s}
            with open_video(path, **place, decoder="nvdec") as ours, open_video(path, **place) as theirs:
                for (time, frame), (when, wanted) in zip(ours, theirs, strict=True):
                    assert time == when
                    np.testing.assert_array_equal(frame, wanted)
    assert not caplog.records  # the GPU did it
    path = number_each(tmp_path / "turned.mp4", options=PYRAMID, turn=90, size=4)
    with open_video(path, decoder="nvdec") as video:
        assert [read_number(np.rot90(frame, -1)) for _, frame in video] == CONSTANT


def resident():
    """Bytes of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_does_not_grow_with_length(tmp_path):
    path = number_each(tmp_path / "long.mp4", ticks=range(2000), options={**PYRAMID, "preset": "ultrafast"})
    held = []
    with open_video(path, start_s=1, fps=20) as video:
        for count, _ in enumerate(video):
            if count % 100 == 99:
                held.append(resident())
    assert held[-1] - held[2] < 4 * 2**20  # kept frames would be some 17 MB


@pytest.mark.slow
def test_a_4k_piece_needs_the_memory_of_a_few_frames(tmp_path):
    options = {"g": "15", "preset": "ultrafast"}
    path = number_each(tmp_path / "4k.mp4", ticks=range(60), options=options, size=60, turn=90)
    before, most = resident(), 0
    with open_video(path, start_s=0.8) as video:
        for time, frame in video:
            assert frame.shape == (3840, 2880, 3) and read_number(np.rot90(frame, -1)) == round(25 * time)
            most = max(most, resident())
    assert round(25 * time) == 59
    assert most - before < 500 * 2**20  # one is 17 MB decoded and 33 MB as RGB: 40 of them would be 2,000 MB


class CountedFile(AbstractBufferedFile):
    """A file of an object store that counts the bytes it fetches."""

    fetched = 0

    def _fetch_range(self, start, end):
        CountedFile.fetched += end - start
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(end - start)


class CountedFileSystem(AbstractFileSystem):
    protocol = "counted"

    def info(self, path, **_):
        return {"name": path, "size": os.path.getsize(self._strip_protocol(path)), "type": "file"}

    def _open(self, path, mode="rb", block_size=50 * 2**20, **options):
        return CountedFile(self, path, mode, block_size, **options)


def test_an_object_store_is_asked_for_little_of_a_long_mp4(tmp_path):
    fsspec.register_implementation("counted", CountedFileSystem, clobber=True)
    path = number_each(tmp_path / "big.mov", codec="rawvideo", pix_fmt="rgb24", size=8)  # 59 MB
    CountedFile.fetched = 0
    assert [piece.num_frames for piece in segments(f"counted://{path}", 1)] == [25] * 4
    counting, CountedFile.fetched = CountedFile.fetched, 0
    assert [number for _, number in read(f"counted://{path}", start_s=2, end_s=2.2)] == [50, 51, 52, 53, 54]
    assert max(counting, CountedFile.fetched) < 17 * 2**20 < path.stat().st_size


@pytest.mark.parametrize(
    "choice", [{"start_s": -1}, {"start_s": 2, "end_s": 2}, {"end_s": 0}, {"fps": 0}, {"fps": float("nan")}]
)
def test_a_range_or_rate_that_makes_no_sense_is_refused(grey, choice):
    with pytest.raises(ValueError, match=r"grey\.mp4: .*(wanted 0 <= start_s < end_s|fps must be positive), got"):
        open_video(grey, **choice)


def test_a_decoder_nobody_knows_is_refused(grey):
    with pytest.raises(ValueError, match=r"grey\.mp4: decoder must be one of ffmpeg, nvdec, got cuda"):
        open_video(grey, decoder="cuda")


def test_pieces_without_length_are_refused(grey):
    with pytest.raises(ValueError, match=r"grey\.mp4: seconds must be positive, got 0"):
        segments(grey, 0)
