"""RGB and pose through the jobs: two runs alone, merged into one network, and fused with others by one command."""

import dataclasses

import numpy as np
import pytest

from jobs import _job, evaluate, train
from posec3d import actors, load
from posec3d.config import PRESETS
from posec3d.frames import cut_frames, to_row, write_frames
from posec3d.table import Clip, read_table, write_table
from posec3d.video import write_video

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def small(preset):
    config = PRESETS[preset][1]
    clip = dataclasses.replace(config.clip, length=8, size=14, test_size=16)
    if clip.rgb_length:
        clip = dataclasses.replace(clip, rgb_length=2)
    return dataclasses.replace(config, clip=clip, epochs=1, repeat=1, batch=8)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Twelve clips; half of them with stored frames, the others straight from the video."""
    folder, uri = tmp_path_factory.mktemp("videos"), str(tmp_path_factory.mktemp("table"))
    clips = []
    for number in range(12):
        truth = actors.make_clip(actors.ACTIONS[number % 2], actor=number, num_frames=10)
        write_video(folder / f"{number}.mp4", truth.frames, truth.fps)
        clips.append(
            Clip(f"c{number}", 10, 240, 320, truth.keypoints, np.ones(truth.keypoints.shape[:3], np.float32),
                 video=str(folder / f"{number}.mp4"), fps=truth.fps, label=number % 2,
                 label_name=actors.ACTIONS[number % 2], splits=("train",) if number < 8 else ("test",))
        )  # fmt: skip
    write_table(clips, uri)
    write_frames([to_row(clip.clip_id, cut_frames(clip)) for clip in clips[:6]], uri, "x")
    return uri


@pytest.fixture(scope="module")
def runs(table, ray_local, tmp_path_factory):
    """Runs by preset: RGB alone, pose alone, and both from these two."""
    out = tmp_path_factory.mktemp("runs")
    done = {}
    for preset in ("rgb-light", "pose-pathway-light", "rgbpose-light"):
        init = tuple(done.values()) if preset == "rgbpose-light" else ()
        train.run(train.Train(table=table, out=str(out / preset), config=small(preset), init=init))
        done[preset] = str(out / preset)
    return done


def test_both_pathways_begin_as_the_two_runs(runs, table):
    job = train.Train(
        table=table, out="/unused", config=small("rgbpose-light"), init=(runs["rgb-light"], runs["pose-pathway-light"])
    )
    weights = train.prepare(job).init
    for half, run in (("rgb", "rgb-light"), ("pose", "pose-pathway-light")):
        given = load(runs[run]).model.state_dict()
        np.testing.assert_array_equal(weights[f"{half}_path.conv1.conv.weight"], given["conv1.conv.weight"])
        np.testing.assert_array_equal(weights[f"fc_{half}.weight"], given["fc_cls.weight"])


def test_two_runs_in_the_wrong_order_or_for_one_pathway_are_refused(runs, table):
    both = (runs["pose-pathway-light"], runs["rgb-light"])
    for config, message in (
        (small("rgbpose-light"), "the rgb-slowonly-light looks at|do not fit"),
        (small("rgb-light"), "got 2 runs; rgbpose-slowfast and rgbpose-slowfast-light take two"),
    ):
        with pytest.raises(_job.UsageError, match=message):
            train.prepare(train.Train(table=table, out="/unused", config=config, init=both))


def test_three_runs_are_fused_by_one_command_and_evaluation_is_the_recognizers(runs, table, tmp_path):
    job = evaluate.Evaluate(runs=tuple(runs.values()), table=table, clips=2, flip=True, out=str(tmp_path))
    summary = evaluate.run(job)
    assert summary["clips"] == 4 and len(summary["runs"]) == 3
    scores = np.array([line.split(",")[3:] for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]], float)
    models = [load(run) for run in runs.values()]
    for line, clip in zip(scores, sorted(read_table(table, split="test"), key=lambda c: c.clip_id), strict=True):
        alone = [model.predict(clip, clips=2, flipped=True).scores for model in models]
        np.testing.assert_allclose(line, np.mean(alone, 0), atol=1e-4)


def test_what_one_of_fused_runs_cannot_see_is_not_tested(runs, table, tmp_path):
    clips = [
        dataclasses.replace(c, video="" if c.clip_id == "c11" else c.video) for c in read_table(table, split="test")
    ]
    write_table(clips, str(tmp_path / "table"))
    both = (runs["pose-pathway-light"], runs["rgb-light"])
    assert evaluate.run(evaluate.Evaluate(runs=both, table=str(tmp_path / "table"), out=str(tmp_path)))["clips"] == 3


def test_what_does_not_fit_together_is_refused(table):
    config = small("rgbpose-light")
    for change, message in (
        ({"clip": dataclasses.replace(config.clip, rgb_length=0)}, r"wants clip\.rgb_length > 0"),
        ({"model": PRESETS["demo"][1].model}, r"pose-slowonly-light wants clip\.rgb_length 0, got 2"),
    ):
        with pytest.raises(_job.UsageError, match=message):
            train.prepare(train.Train(table=table, out="/unused", config=dataclasses.replace(config, **change)))
    with pytest.raises(_job.UsageError, match="draws volumes, and rgbpose-slowfast-light takes none, or not only"):
        train.prepare(train.Train(table=table, out="/unused", config=config, render="worker"))
