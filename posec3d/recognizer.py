"""Recognizer: a checkpoint and a video or clip -> the named action."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch

from posec3d import checkpoint as checkpoints
from posec3d import streams, training
from posec3d.checkpoint import Checkpoint
from posec3d.clips import RGB_SCALE, flip, pad_persons, testing_clips, testing_place
from posec3d.skeletons import skeleton
from posec3d.table import Clip, with_skeleton

if TYPE_CHECKING:
    from posec3d.pose import Detector, PoseEstimator


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What a recognizer says of one clip."""

    clip: Clip
    labels: tuple[str, ...]
    scores: np.ndarray
    """(classes,) probabilities, averaged over the views."""
    volume: np.ndarray | None
    """(V, T, H, W) of the first view, as the network saw it; None of a graph network, which sees coordinates."""

    def __repr__(self) -> str:
        """What a notebook shows: the clip and the likeliest labels."""
        likely = ", ".join(f"{name} {probability:.0%}" for name, probability in self.top(3))
        return f"Result({self.clip.clip_id}, people={self.clip.num_persons}, {likely})"

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The k likeliest labels, (name, probability), best first."""
        return [(self.labels[i], float(self.scores[i])) for i in np.argsort(-self.scores)[:k]]

    def overlay(self, path: str | Path) -> None:
        """Write the video with skeletons and the label on it; needs the source video.

        Raises:
            ValueError: the clip has no video (imported poses).
        """
        from posec3d import draw
        from posec3d.video import open_video, write_video

        if not self.clip.video:
            raise ValueError(f"clip {self.clip.clip_id} has no video to draw on; use volume_gif")
        name, probability = self.top(1)[0]
        label = f"{name} {probability:.0%}" if self.clip.num_persons else "nobody found"
        body = skeleton(self.clip.skeleton)
        first, last = self.clip.start_frame, self.clip.start_frame + self.clip.num_frames
        with open_video(self.clip.video, fps=self.clip.fps or None) as video:
            frames = (
                draw.caption(
                    draw.skeleton_overlay(frame, self.clip.keypoints[:, t], self.clip.scores[:, t], body),
                    label,
                )
                for t, (_, frame) in enumerate(itertools.islice(video, first, last))
            )
            write_video(str(path), frames, self.clip.fps or 25)

    def volume_gif(self, path: str | Path) -> None:
        """Write the heatmap volume as an animation, one colour a joint.

        Raises:
            ValueError: the model sees no volumes.
        """
        from posec3d import draw

        if self.volume is None:
            raise ValueError("this model looks at coordinates: there is no volume to show; use overlay")
        draw.write_gif(path, draw.volume_picture(self.volume), fps=12)


class Recognizer:
    """A trained model that names actions.

    Args:
        checkpoint: from posec3d.checkpoint.load.
        device: where volumes are drawn and the model runs.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device | str = "cpu") -> None:
        self.config = checkpoint.config
        self.labels = checkpoint.labels
        self.skeleton = skeleton(checkpoint.skeleton)
        self.device = device
        self._model = checkpoint.model().to(device)

    def scores(self, samples: Mapping[str, np.ndarray], *, flipped: bool = False) -> np.ndarray:
        """Class probabilities of test clips, averaged over their views, one view of all clips at a time.

        Args:
            samples: from `posec3d.feed.testing_samples`: N clips, K views of each.
            flipped: add the mirrored views.

        Returns:
            (N, classes).
        """
        inputs = {name: samples[name] for name in training.INPUTS if name in samples}
        views = []
        for k in range(next(iter(inputs.values())).shape[1]):
            view = {name: array[:, k] for name, array in inputs.items()}
            for batch in (view, self._mirrored(view)) if flipped else (view,):
                views.append(training.predict(self._model, batch, self.config, self.skeleton, self.device))
        return np.mean(views, axis=0)

    def _mirrored(self, view: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "people" in view:
            return {"people": streams.flipped(view["people"], self.skeleton)}
        xy, score = flip(view["xy"], view["score"], self.config.clip.test_size, self.skeleton.mirror)
        mirrored = {"xy": xy, "score": score}
        if "rgb" in view:  # a heatmap pixel's centre stays on that of the pixel it lies on
            mirrored["rgb"] = np.zeros_like(view["rgb"])
            mirrored["rgb"][..., : 1 - RGB_SCALE, :] = view["rgb"][..., -RGB_SCALE::-1, :]
        return mirrored

    @overload
    def predict(self, source: str | Path | Clip, *, clips: int = 10, flipped: bool = False) -> Result: ...

    @overload
    def predict(
        self, source: list[str] | list[Path] | list[Clip], *, clips: int = 10, flipped: bool = False
    ) -> list[Result]: ...

    def predict(
        self, source: str | Path | Clip | list[str] | list[Path] | list[Clip], *, clips: int = 10, flipped: bool = False
    ) -> Result | list[Result]:
        """Name the action in a video (path or URI), a clip, or each of a list of them.

        A clip with another skeleton than the model's is given its joints, as `posec3d.skeletons.convert` does.

        Args:
            source: what to look at.
            clips: test clips sampled from it.
            flipped: look at each mirrored too.

        Returns:
            A result, or a list of them for a list.

        Raises:
            VideoError: a video that cannot be read.
            ValueError: a 3D model, and a clip without keypoints_3d; one that sees RGB, and a clip without a video.
        """
        if isinstance(source, str | Path):
            return self._predict(self._poses(str(source)), clips, flipped)
        if isinstance(source, Clip):
            return self._predict(source, clips, flipped)
        return [self.predict(one, clips=clips, flipped=flipped) for one in source]

    def _predict(self, clip: Clip, clips: int, flipped: bool) -> Result:
        config, seen, volume = self.config.clip, with_skeleton(clip, self.skeleton.name), None
        if config.space != "volume":
            persons = config.persons or max(clip.num_persons, 1)
            samples = {"people": streams.testing_people(seen, config, persons, clips)}
        else:
            xy, score = testing_clips(seen.keypoints, seen.scores, (clip.height, clip.width), config, clips)
            if config.persons is not None:
                xy, score = pad_persons(xy, score, config.persons)
            samples = {"xy": xy, "score": score}
            if config.rgb_length:
                from posec3d.frames import rgb_clips

                place = testing_place(seen.keypoints, seen.scores, (clip.height, clip.width), config, clips)
                side = RGB_SCALE * config.test_size
                samples["rgb"] = rgb_clips(clip, None, RGB_SCALE * place, side, config.rgb_length, num_clips=clips)
            first, known = torch.as_tensor(xy[:1]), torch.as_tensor(score[:1])
            volume = training.draw(first, known, config.test_size, self.config.heatmap, self.skeleton)[0].numpy()
        scores = self.scores({name: array[None] for name, array in samples.items()}, flipped=flipped)[0]
        return Result(clip, self.labels, scores, volume)

    @cached_property
    def networks(self) -> "tuple[Detector, PoseEstimator]":
        """Find the poses in a video: the default networks, made on first use, fetching the weights if need be."""
        from posec3d import estimators

        threads = torch.get_num_threads()
        detector, pose = (estimators.network(name) for name in (estimators.DETECTORS[0], estimators.POSES[0]))
        return estimators.detector(detector, threads=threads), estimators.estimator(pose, threads=threads)

    def _poses(self, uri: str) -> Clip:
        from posec3d.pose import extract_poses

        return extract_poses(uri, *self.networks).clip


def load(run_or_checkpoint: str | Path, device: torch.device | str = "cpu") -> Recognizer:
    """Load the best model of a training run, or a checkpoint file.

    Args:
        run_or_checkpoint: folder (any fsspec URI) of a jobs.train run, or a .safetensors file.
        device: where it runs.
    """
    return Recognizer(checkpoints.load(str(run_or_checkpoint)), device)
