"""Pictures of poses, volumes and scores."""

import numpy as np
import pytest
from PIL import Image

from posec3d import draw
from posec3d.heatmaps import joint_volumes
from posec3d.skeletons import COCO17


def pose(x: float = 40.0, y: float = 40.0) -> np.ndarray:
    """One person (1, 17, 2): left joints in a column at x + 20, right ones at x, the nose between."""
    points = np.array([[x + 20 * (v % 2), y + 8 * (v // 2)] for v in range(17)], float)
    points[0, 0] = x + 10
    return points[None]


def test_overlay_leaves_its_input_alone():
    frame = np.full((160, 160, 3), 90, np.uint8)
    picture = draw.skeleton_overlay(frame, pose(), np.ones((1, 17)), COCO17)
    assert (frame == 90).all() and not (picture == 90).all()


def test_joints_under_the_threshold_are_not_drawn():
    frame = np.full((160, 160, 3), 90, np.uint8)
    assert (draw.skeleton_overlay(frame, pose(), np.full((1, 17), 0.19), COCO17) == frame).all()


def test_a_missing_joint_takes_its_limbs_with_it():
    scores = np.zeros((1, 17))
    scores[0, [5, 9]] = 1  # shoulder and wrist, the elbow between them is missing
    picture = draw.skeleton_overlay(np.full((160, 160, 3), 90, np.uint8), pose(), scores, COCO17)
    (x5, y5), (_, y9) = pose()[0, 5], pose()[0, 9]
    assert (picture[int((y5 + y9) / 2), int(x5)] == 90).all()


def test_left_and_right_joints_differ_in_brightness():
    picture = draw.skeleton_overlay(np.full((320, 320, 3), 90, np.uint8), pose(), np.ones((1, 17)), COCO17)
    (x5, y5), (x6, y6) = pose()[0, 5], pose()[0, 6]
    assert picture[int(y5), int(x5)].min() > 200 and picture[int(y6), int(x6)].max() < 60


def test_tags_of_people_in_one_place_make_room_for_each_other():
    both = np.concatenate([pose(60, 80), pose(62, 80)])
    frame = np.full((320, 320, 3), 90, np.uint8)
    tagged = draw.name_tags(frame, both, np.ones((2, 17)), ["#0 wave 90%", "#1 kick 80%"], [0, 1]).astype(int)
    boxes = []
    for colour in draw.PEOPLE[:2]:
        y, x = np.nonzero(np.abs(tagged - colour).max(-1) < 3)
        boxes.append((x.min(), x.max(), y.min(), y.max()))
    (_, _, top_a, bottom_a), (_, _, top_b, bottom_b) = boxes
    assert bottom_a < top_b or bottom_b < top_a
    nobody = draw.name_tags(frame, both, np.zeros((2, 17)), ["#0", "#1"], [0, 1])
    assert (nobody == 90).all()


def test_a_strip_takes_hostile_names_many_people_and_an_empty_timeline(tmp_path):
    names = ["$5^", "a\nb<script>", "x" * 300]
    bars = [(m, 60.0 * m, 60.0 * m + 300, names[m % 3], 0.5) for m in range(30)]
    draw.timeline_strip(tmp_path / "many.png", bars, (0, 3600))
    draw.timeline_strip(tmp_path / "none.png", [], (0, 1))
    many, none = (Image.open(tmp_path / f"{name}.png").size for name in ("many", "none"))
    assert many[0] < 2200 and many[1] < 2000 and none[1] < many[1]  # 20 people at most are shown


def test_times_are_written_as_a_clock_shows_them():
    assert [draw.clock(s) for s in (0, 7.5, 67, 3607)] == ["0 s", "7.5 s", "1:07", "1:00:07"]


def test_lines_grow_with_the_frame():
    share = []
    for scale in (2, 4):
        frame = np.full((240 * scale, 240 * scale, 3), 90, np.uint8)
        drawn = draw.skeleton_overlay(frame, pose() * scale, np.ones((1, 17)), COCO17)
        share.append((drawn != frame).any(-1).mean())
    assert share[1] == pytest.approx(share[0], rel=0.25)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e9, 1e9])
def test_points_that_are_nowhere_do_no_harm(value: float):
    points = pose()
    points[0, 7] = value
    picture = draw.skeleton_overlay(np.full((160, 160, 3), 90, np.uint8), points, np.ones((1, 17)), COCO17)
    assert picture.shape == (160, 160, 3)


def test_nobody_gives_the_frame_back():
    frame = np.full((20, 20, 3), 90, np.uint8)
    assert (draw.skeleton_overlay(frame, np.zeros((0, 17, 2)), np.zeros((0, 17)), COCO17) == frame).all()


def test_caption_changes_only_the_band():
    frame = np.full((180, 240, 3), 200, np.uint8)
    picture = draw.caption(frame, "wave 97 %")
    assert (picture[:150] == 200).all() and picture[165:].min() < 90 and picture[165:].max() > 240


def test_a_caption_too_long_for_the_frame_ends_inside_it():
    picture = draw.caption(np.zeros((180, 100, 3), np.uint8), "a very long label " * 20)
    assert (picture[:, -3:] == 0).all() and picture.max() > 200


def test_one_line_flattens_and_cuts():
    assert draw.one_line("shake\n\thands\x00 now", 11) == "shake hand…"


def test_a_single_full_joint_is_bright():
    volume = joint_volumes(np.full((1, 1, 1, 2), 8.0), np.ones((1, 1, 1)), (16, 16))
    (picture,) = draw.volume_picture(volume, scale=4)
    assert picture.shape == (64, 64, 3) and picture[32:36, 32:36].max() > 230


def test_an_empty_volume_is_black():
    assert np.max(draw.volume_picture(np.zeros((17, 2, 8, 8)))) == 0


def test_joint_colours_are_distinct():
    colours = draw.joint_colours(17)
    distance = np.abs(colours[:, None] - colours).max(-1) + np.eye(17)
    assert distance.min() > 0.09


def test_a_strip_runs_from_the_first_frame_to_the_last():
    volume = np.zeros((1, 5, 4, 4))
    volume[0, 0], volume[0, 4] = 1, 1
    strip = draw.volume_strip(volume, frames=3)
    assert strip.shape == (16, 3 * 16 + 2 * 4, 3)
    assert [strip[8, x].max() for x in (8, 28, 48)] == [255, 0, 255]


def test_a_strip_of_a_short_volume_has_fewer_frames():
    assert draw.volume_strip(np.zeros((1, 2, 4, 4)), frames=8).shape == (16, 2 * 16 + 4, 3)


def test_png_comes_back_as_it_was(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    draw.write_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as read:
        assert (np.asarray(read) == image).all()


def test_gif_has_every_frame_and_the_right_length(tmp_path):
    frames = [np.full((8, 8, 3), 20 * i, np.uint8) for i in range(10)]
    draw.write_gif(tmp_path / "a.gif", frames, fps=30)
    with Image.open(tmp_path / "a.gif") as gif:
        length_ms = 0
        for i in range(gif.n_frames):
            gif.seek(i)
            length_ms += gif.info["duration"]
            assert abs(int(gif.convert("RGB").getpixel((4, 4))[0]) - 20 * i) <= 2
        assert (gif.n_frames, length_ms) == (10, 330)  # 10 frames at 30 a second, in hundredths


def test_a_file_that_failed_half_way_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        draw.write_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.complex64))
    assert list(tmp_path.iterdir()) == []


def test_a_gif_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0 frames"):
        draw.write_gif(tmp_path / "a.gif", [], fps=10)


@pytest.mark.parametrize("classes", [1, 2, 31, 400])
def test_confusion_matrix_of_any_size_is_a_png(tmp_path, classes: int):
    names = [f"$class_{i}$\n<script>" for i in range(classes)]
    draw.confusion_matrix(tmp_path / "cm.png", np.eye(classes, dtype=int), names)
    with Image.open(tmp_path / "cm.png") as image:
        assert 300 < image.width < 3000 and 300 < image.height < 3000


def test_confusion_matrix_with_too_few_names_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"wanted \(2, 2\)"):
        draw.confusion_matrix(tmp_path / "cm.png", np.eye(3, dtype=int), ["a", "b"])


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"epoch": 1, "train_loss": 2.0}],
        [
            {"epoch": "1", "train_loss": "2.0", "val_top1": ""},
            {"epoch": "2", "val_top1": ".5", "val_loss": "nan"},
        ],
    ],
)
def test_learning_curves_take_what_there_is(tmp_path, rows: list):
    draw.learning_curves(tmp_path / "lc.png", rows)
    with Image.open(tmp_path / "lc.png") as image:
        assert image.width > 1000
