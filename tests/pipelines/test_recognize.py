"""Pictures of what was recognised: they show what their row says."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.recognize import _file, write_pictures
from posec3d import actors
from posec3d import checkpoint as checkpoints
from posec3d.config import PRESETS
from posec3d.evidence import evidence
from posec3d.recognizer import Recognizer
from posec3d.table import Clip
from posec3d.timeline import How, timelines

LABELS = ("bow", "kick", "wave")


@pytest.fixture(scope="module")
def recognizer():
    config = PRESETS["demo"][1]
    torch.manual_seed(0)
    model = checkpoints.build_model(config, "coco17", 3)
    torch.nn.init.normal_(model.fc_cls.weight)
    return Recognizer(checkpoints.Checkpoint(config, LABELS, "coco17", model.state_dict()))


@pytest.fixture(scope="module")
def clip():
    truth = actors.make_clip("wave", actor=1, num_frames=12)
    return Clip("c", 12, 240, 320, truth.keypoints, np.ones(truth.keypoints.shape[:3], np.float32))


def test_the_action_that_is_explained_is_the_rows(recognizer, clip, tmp_path):
    """Which all views of all models chose, and one view of the first model may not."""
    first = recognizer.labels.index(evidence(recognizer, clip).label)
    said = np.eye(3)[[(first + 1) % 3]]
    (line,) = timelines([[clip]], lambda _: said, LABELS, How())
    with pytest.raises(ValueError, match="has no video"):  # to draw the overlay on
        write_pictures(recognizer, line, str(tmp_path / "c"), 1)
    evidence(recognizer, clip, line.actions[0].label).picture(tmp_path / "wanted.png")
    shown, wanted = (np.array(Image.open(tmp_path / name)) for name in ("c-why.png", "wanted.png"))
    np.testing.assert_array_equal(shown, wanted)


def test_of_people_alone_no_picture_shows_all_together(recognizer, clip, tmp_path):
    (line,) = timelines([[clip]], lambda _: np.eye(3)[:1], LABELS, How(per_person=True))
    with pytest.raises(ValueError, match="has no video"):
        write_pictures(recognizer, line, str(tmp_path / "c"), 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("clip_id", ["../../etc/x", "/etc/x", "a/../../x", "settings", "summary", "..", ""])
def test_an_id_of_somebody_elses_table_leads_nowhere(clip_id):
    name = _file(clip_id)
    assert name != clip_id and not name.startswith("/") and ".." not in name.split("/")
    assert name != _file(f"./{clip_id}")  # still one name an id


def test_pictures_are_called_as_the_clip_otherwise():
    assert [_file(name) for name in ("wave-3f", "S001/C002", "a..b")] == ["wave-3f", "S001/C002", "a..b"]
