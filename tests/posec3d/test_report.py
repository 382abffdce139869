"""The statistics report: what it says, and that names in it stay text."""

import html.parser
import re

import numpy as np
import pytest

from posec3d.comparison import Differences
from posec3d.comparison import summarise as differences_of
from posec3d.counts import Counts, count_row_group
from posec3d.limits import Limits, judge
from posec3d.report import Sample, number, percent, sample, size, stats_html
from posec3d.statistics import summarise
from posec3d.table import Clip, rows_to_arrow, to_row
from posec3d.video import write_video

HOSTILE = "<script>alert('x')</script>\n\"><img src=x onerror=alert(1)>\u202e"


def clip(name: str, label: int | None = 0, label_name: str | None = "wave", **more) -> Clip:
    given = {"num_frames": 6, "height": 48, "width": 64, "fps": 25.0, "splits": ("train",)} | more
    shape = (1, given["num_frames"], 17)
    keypoints = np.full((*shape, 2), 20, np.float32) + np.arange(17)[:, None]
    return Clip(
        clip_id=name,
        label=label,
        label_name=label_name,
        keypoints=keypoints,
        scores=np.ones(shape, np.float32),
        **given,
    )


def statistics(clips: list[Clip], failures: list[dict] = ()) -> dict:
    counts = Counts()
    if clips:
        counts = count_row_group(rows_to_arrow([to_row(c) for c in clips]))
    failed = {"clips": sum(f["clips"] for f in failures), "succeeded_later": 0, "groups": list(failures)}
    return {"table": HOSTILE, "created": "2026-01-01", **summarise(counts, failed)}


class Reader(html.parser.HTMLParser):
    """Collects tags, their attributes and the text of a document."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def hostile() -> Reader:
    names = {"label_name": HOSTILE, "video": f"{HOSTILE}/x.mp4", "pose_model": HOSTILE, "detector": HOSTILE}
    clips = [clip(f"{HOSTILE}{i}", splits=(HOSTILE, "b")[i : i + 1], **names) for i in range(2)]
    example = {"clip_id": HOSTILE, "video": HOSTILE, "error": HOSTILE}
    failure = {"stage": HOSTILE, "cause": HOSTILE, "clips": 1, "examples": [example]}
    differences = Differences()
    differences.add_clip(clips[0], clips[1])
    found = statistics(clips, [failure])
    page = stats_html(
        found,
        [sample(clips[0], "best", 1.0)],
        verdicts=judge(Limits(at_most={"leaked_identical": 0}), found["measures"]),
        comparison=differences_of(differences, 1, 1, 1, 1, HOSTILE),
    )
    return Reader(page)


def test_hostile_names_make_no_elements(hostile: Reader):
    assert {"script", "iframe", "object", "link"}.isdisjoint(tag for tag, _ in hostile.tags)
    assert sum(tag == "img" for tag, _ in hostile.tags) == 1  # the sample


def test_hostile_names_make_no_attributes(hostile: Reader):
    assert not [name for _, attributes in hostile.tags for name in attributes if name.startswith("on")]


def test_hostile_names_are_shown_as_they_are(hostile: Reader):
    assert hostile.text.count("<script>alert('x')</script>") >= 12


def test_text_direction_marks_in_names_are_taken_out(hostile: Reader):
    visible = hostile.text.split("counted")[1]
    assert "\u202e" not in visible


def test_the_document_asks_the_network_for_nothing(hostile: Reader):
    addresses = [a[k] for _, a in hostile.tags for k in ("src", "href", "action", "data") if k in a]
    beside = re.compile(r"charts/[a-z_]+\.(csv|json)")
    assert addresses and all(a.startswith(("data:image/", "#")) or beside.fullmatch(a) for a in addresses)


def test_a_policy_forbids_what_the_document_does_not_need(hostile: Reader):
    (policy,) = [a["content"] for tag, a in hostile.tags if tag == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_every_table_has_a_caption_and_every_picture_a_text(hostile: Reader):
    tags = [tag for tag, _ in hostile.tags]
    assert tags.count("table") == tags.count("caption") >= 7
    assert all(a.get("alt") for tag, a in hostile.tags if tag == "img")


def test_a_thousand_classes_show_the_largest_and_say_how_many_more():
    clips = [clip(f"c{i}", i, f"class {i:04}") for i in range(1000)] + [clip("c", 7, "class 0007")]
    text = stats_html(statistics(clips), [])
    assert re.findall(r"class \d{4}", text)[0] == "class 0007"
    assert len(set(re.findall(r"class \d{4}", text))) == 40
    assert "960 more classes in classes.csv" in text


def test_a_name_of_ten_thousand_letters_is_cut():
    assert len(stats_html(statistics([clip("c", label_name="x" * 10_000)]), [])) < 45_000


def test_an_empty_table_has_a_report():
    assert "The table has no rows." in stats_html(statistics([]), [])


def test_a_table_without_labels_has_a_report():
    assert "No clip has a label." in stats_html(statistics([clip("a", None, None)]), [])


def test_a_sample_without_a_video_is_drawn_on_black_and_says_so():
    made = sample(clip("a"))
    # Six frames, each 144 x 192 for 48 x 64, a gap of 4, and a volume of 144 x 144.
    assert made.strip.shape == (144, 6 * (192 + 4 + 144), 3) and (made.strip[0, 0] == 24).all()
    assert made.note == "6 frames at 25 fps, 1 person; skeletons alone: the table names no video"


def test_a_sample_shows_the_volume_beside_its_frame():
    made = sample(clip("a"))
    volume = made.strip[:, 196:340]
    # Joints lie on the diagonal of their crop, which a quarter of padding surrounds.
    assert volume[66:78, 66:78].max() > 100 and volume[:10].max() < 50 and volume[100:, :40].max() < 50


def test_a_wide_frame_is_drawn_in_the_same_height():
    assert sample(clip("a", height=20, width=200)).strip.shape == (144, 6 * (288 + 4 + 144), 3)


def test_a_sample_of_a_video_that_is_gone_is_drawn_on_black(tmp_path):
    assert sample(clip("a", video=str(tmp_path / "no.mp4"))).note.endswith("its video cannot be read from here")


def test_a_sample_shows_the_frames_of_its_segment(tmp_path):
    write_video(tmp_path / "v.mp4", [np.full((48, 64, 3), 10 * i, np.uint8) for i in range(20)], fps=25)
    made = sample(clip("a", video=str(tmp_path / "v.mp4"), start_frame=10))
    # Frames 10 to 15: the corners are background.
    corners = [int(made.strip[-3, 340 * i + 188, 0]) for i in range(6)]
    assert corners == pytest.approx([100, 110, 120, 130, 140, 150], abs=4)
    assert "skeletons alone" not in made.note


def test_a_sample_of_a_table_of_a_lower_rate_shows_the_frames_its_poses_are_of(tmp_path):
    """Of 20 frames at 20 a second every second one; the clip's are the fourth of these and those after it."""
    write_video(tmp_path / "v.mp4", [np.full((48, 64, 3), 10 * i, np.uint8) for i in range(20)], fps=20)
    made = sample(clip("a", video=str(tmp_path / "v.mp4"), fps=10.0, start_frame=3))
    corners = [int(made.strip[-3, 340 * i + 188, 0]) for i in range(6)]
    assert corners == pytest.approx([60, 80, 100, 120, 140, 160], abs=4)


def test_a_video_shorter_than_its_clip_is_said(tmp_path):
    write_video(tmp_path / "v.mp4", [np.zeros((48, 64, 3), np.uint8)] * 3, fps=25)
    note = sample(clip("a", video=str(tmp_path / "v.mp4"))).note
    assert note.endswith("skeletons alone in some frames: its video has fewer frames now")


def test_a_sample_of_nobody_has_its_frames():
    empty = Clip("a", 6, 48, 64, np.zeros((0, 6, 17, 2), np.float32), np.zeros((0, 6, 17), np.float32))
    assert isinstance(sample(empty), Sample) and "nobody found" in sample(empty).note


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.21964, "0.2196"), (3, "3"), (12345, "12,345"), (12345.6, "12,346")]
)
def test_number(value: float | None, text: str):
    assert number(value) == text


@pytest.mark.parametrize(("share", "text"), [(None, "-"), (0, "0.0%"), (0.0001, "< 0.1%"), (0.5, "50.0%")])
def test_percent(share: float | None, text: str):
    assert percent(share) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (2_735_077, "2.74 MB")])
def test_size(count: int, text: str):
    assert size(count) == text
