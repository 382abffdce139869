"""Recognizer: a checkpoint and a video or clip -> the named action."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch

from posec3d import checkpoint as checkpoints
from posec3d import streams, training
from posec3d.checkpoint import Checkpoint
from posec3d.clips import RGB_SCALE, flip, pad_persons
from posec3d.feed import testing_sample
from posec3d.models import RGB
from posec3d.skeletons import skeleton
from posec3d.table import Clip, with_skeleton
from posec3d.timeline import Action, How, Timeline, likeliest, timelines

if TYPE_CHECKING:
    from posec3d.frames import Frames
    from posec3d.pose import Detector, PoseEstimator

PIECE_S = 60.0
"""Of a long video so much is taken at a time, where it is looked at in windows."""


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What a recognizer says of one clip."""

    clip: Clip
    labels: tuple[str, ...]
    scores: np.ndarray
    """(classes,) probabilities, averaged over the views."""
    draw_volume: Callable[[], np.ndarray | None]
    """Draws `volume`."""

    @cached_property
    def volume(self) -> np.ndarray | None:
        """(V, T, H, W) of the first view, as the network saw it; None of one that sees coordinates, or RGB alone."""
        return self.draw_volume()

    def __repr__(self) -> str:
        """What a notebook shows: the clip and the likeliest labels."""
        likely = ", ".join(f"{name} {probability:.0%}" for name, probability in self.top(3))
        return f"Result({self.clip.clip_id}, people={self.clip.num_persons}, {likely})"

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The k likeliest labels, (name, probability), best first."""
        return likeliest(self.labels, self.scores, k)

    def overlay(self, path: str | Path) -> None:
        """Write the video with skeletons, the tracks' numbers and the label on it; needs the source video.

        Raises:
            ValueError: the clip has no video (imported poses).
        """
        from posec3d.overlay import write_overlay

        clip, best = self.clip, int(self.scores.argmax())
        start, end = clip.start_frame, clip.start_frame + clip.num_frames
        said = Action(start, end, None, self.labels[best], float(self.scores[best]), self.scores)
        # What a model says of an empty volume means nothing.
        write_overlay(path, [clip], [said] if clip.num_persons else [])

    def volume_gif(self, path: str | Path) -> None:
        """Write the heatmap volume as an animation, one colour a joint.

        Raises:
            ValueError: the model sees no volumes.
        """
        from posec3d import draw

        if self.volume is None:
            raise ValueError("this model looks at no volume: there is none to show; use overlay")
        draw.write_gif(path, draw.volume_picture(self.volume), fps=12)


class Predictor(ABC):
    """Names actions in clips and videos: a model, or several that are fused."""

    labels: tuple[str, ...]
    """Names of the classes."""

    @property
    @abstractmethod
    def parts(self) -> "Sequence[Recognizer]":
        """The models that are asked."""

    @abstractmethod
    def probabilities(self, chosen: Sequence[Clip], *, clips: int = 10, flipped: bool = False) -> np.ndarray:
        """Class probabilities of clips that are looked at together.

        Args:
            chosen: N clips, of any skeletons and numbers of people.
            clips: test clips sampled from each.
            flipped: look at each mirrored too.

        Returns:
            (N, classes).

        Raises:
            VideoError, ValueError: as of `predict`; of several models that one of them cannot see it.
        """

    def volume(self, clip: Clip, *, clips: int = 10) -> np.ndarray | None:
        """The volume (V, T, H, W) of a clip's first view, as the first model sees it; None if it sees none."""
        return self.parts[0].volume(clip, clips=clips)

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
        scores = self.probabilities([clip], clips=clips, flipped=flipped)[0]
        return Result(clip, self.labels, scores, partial(self.volume, clip, clips=clips))

    def timeline(
        self,
        source: str | Path | Clip | Iterable[Clip],
        *,
        window: float | None = None,
        stride: float | None = None,
        per_person: bool = False,
        clips: int | None = None,
        flipped: bool = False,
    ) -> Timeline:
        """Say what happens in a video, from when to when, and who does it.

        A video is taken in pieces of a minute, of which only the poses are kept: some 220 bytes a person and frame.

        Args:
            source: a path or URI of a video, a clip, or the clips of a video's pieces in order.
            window: seconds that the model looks at; None looks at all of it at once.
            stride: seconds from one window's start to the next one's; None is a quarter of a window.
            per_person: look at each person alone, so that different people do different things.
            clips: test clips sampled from each window; None takes 10 of a whole video, 1 of windows, which overlap.
            flipped: look at each mirrored too.

        Raises:
            VideoError: a video that cannot be read.
            ValueError: window or stride out of range, or a window and an unknown frame rate; as of `predict`.
        """
        how = How(window_s=window, stride_s=stride, per_person=per_person)
        views = clips or (10 if window is None else 1)
        if isinstance(source, str | Path):
            uri = str(source)
            pieces: Iterable[Clip] = [self._poses(uri)] if window is None else self._pieces(uri)
        else:
            pieces = [source] if isinstance(source, Clip) else list(source)

        def probabilities(chosen: Sequence[Clip]) -> np.ndarray:
            return self.probabilities(chosen, clips=views, flipped=flipped)

        return timelines([pieces], probabilities, self.labels, how)[0]

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

    def _pieces(self, uri: str) -> list[Clip]:
        from posec3d.pose import extract_poses
        from posec3d.video import segments

        return [extract_poses(uri, *self.networks, piece=piece).clip for piece in segments(uri, PIECE_S)]


class Recognizer(Predictor):
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
        self.model = checkpoint.model().to(device)

    @property
    def parts(self) -> "Sequence[Recognizer]":
        """Itself."""
        return (self,)

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
                views.append(training.predict(self.model, batch, self.config, self.skeleton, self.device))
        return np.mean(views, axis=0)

    def probabilities(self, chosen: Sequence[Clip], *, clips: int = 10, flipped: bool = False) -> np.ndarray:
        """As of `Predictor`: clips of any numbers of people, padded."""
        samples = [self.samples(clip, clips=clips) for clip in chosen]
        if "xy" in samples[0]:
            most = max(sample["score"].shape[2] for sample in samples)
            for sample in samples:
                sample["xy"], sample["score"] = pad_persons(sample["xy"], sample["score"], most)
        return self.scores({name: np.concatenate([s[name] for s in samples]) for name in samples[0]}, flipped=flipped)

    def _mirrored(self, view: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "people" in view:
            return {"people": streams.flipped(view["people"], self.skeleton)}
        if "volume" in view:
            return {"volume": view["volume"][:, list(self.skeleton.mirror), ..., ::-1].copy()}
        xy, score = flip(view["xy"], view["score"], self.config.clip.test_size, self.skeleton.mirror)
        mirrored = {"xy": xy, "score": score}
        if "rgb" in view:  # a heatmap pixel's centre stays on that of the pixel it lies on
            mirrored["rgb"] = np.zeros_like(view["rgb"])
            mirrored["rgb"][..., : 1 - RGB_SCALE, :] = view["rgb"][..., -RGB_SCALE::-1, :]
        return mirrored

    def volume(self, clip: Clip, *, clips: int = 10) -> np.ndarray | None:
        """The volume (V, T, H, W) of a clip's first view; None if it isn't drawn: of coordinates, RGB, stored maps."""
        if self.config.clip.space != "volume" or self.config.model.name in RGB or self.config.clip.maps == "stored":
            return None
        config = self.config.clip
        sample = testing_sample(with_skeleton(clip, self.skeleton.name), config, config.persons, clips)
        xy, score = (torch.as_tensor(sample[name][:1]) for name in ("xy", "score"))
        return training.draw(xy, score, config.test_size, self.config.heatmap, self.skeleton)[0].numpy()

    def samples(self, clip: Clip, frames: "Frames | None" = None, *, clips: int = 10) -> dict[str, np.ndarray]:
        """What `scores` takes, of one clip.

        Args:
            clip: of any skeleton.
            frames: its pictures, for a model that sees RGB; None takes frames from its video.
            clips: test clips sampled from it, the K views.

        Raises:
            VideoError, ValueError: as of `predict`.
        """
        config = self.config.clip

        def rgb(place: np.ndarray, side: int, *, num_clips: int) -> np.ndarray:
            from posec3d.frames import rgb_clips

            how = place, side, config.rgb_length
            return rgb_clips(clip, frames, *how, padding=config.padding, num_clips=num_clips)

        sample = testing_sample(with_skeleton(clip, self.skeleton.name), config, config.persons, clips, rgb)
        return {name: array[None] for name, array in sample.items()}


class Fusion(Predictor):
    """Several models of the same classes: the weighted mean of their probabilities counts.

    Args:
        recognizers: at least one.
        weights: of each, >= 0, not all 0; None weighs all alike.

    Raises:
        ValueError: the runs know different classes, or there is not one weight a run, a negative one, or all are 0.
    """

    def __init__(self, recognizers: Sequence[Recognizer], weights: Sequence[float] | None = None) -> None:
        self.labels = recognizers[0].labels
        given = [1.0] * len(recognizers) if weights is None else list(weights)
        if len(given) != len(recognizers) or min(given) < 0 or not sum(given):
            raise ValueError(f"wanted a weight >= 0 for each of {len(recognizers)} runs, one of them > 0, got {given}")
        for number, other in enumerate(recognizers[1:], 2):
            if other.labels != self.labels:
                raise ValueError(
                    f"run {number} knows other classes than the first one, so they cannot be fused: "
                    f"{len(other.labels)} ({', '.join(other.labels[:3])}, ...) and {len(self.labels)} "
                    f"({', '.join(self.labels[:3])}, ...)"
                )
        self.weights = np.array(given) / sum(given)
        self._parts = tuple(recognizers)

    @property
    def parts(self) -> Sequence[Recognizer]:
        """All of them."""
        return self._parts

    def probabilities(self, chosen: Sequence[Clip], *, clips: int = 10, flipped: bool = False) -> np.ndarray:
        """As of `Predictor`; what one of the models cannot see is an error."""
        said = [one.probabilities(chosen, clips=clips, flipped=flipped) for one in self.parts]
        return np.tensordot(self.weights, said, 1)


@overload
def load(run_or_checkpoint: str | Path, device: torch.device | str = "cpu") -> Recognizer: ...


@overload
def load(
    run_or_checkpoint: Sequence[str | Path],
    device: torch.device | str = "cpu",
    *,
    weights: Sequence[float] | None = None,
) -> Predictor: ...


def load(
    run_or_checkpoint: str | Path | Sequence[str | Path],
    device: torch.device | str = "cpu",
    *,
    weights: Sequence[float] | None = None,
) -> Predictor:
    """Load the best model of a training run, or a checkpoint file; several are fused.

    Args:
        run_or_checkpoint: folder (any fsspec URI) of a jobs.train run, or a .safetensors file; or a list of them.
        device: where it runs.
        weights: of several, whose probabilities are averaged; None weighs all alike.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: none given, not a checkpoint, or several that know different classes.
    """
    runs = [run_or_checkpoint] if isinstance(run_or_checkpoint, str | Path) else run_or_checkpoint
    if not runs:
        raise ValueError("no run to load: give the folder of a jobs.train run, a .safetensors file, or a list of them")
    loaded = [Recognizer(checkpoints.load(str(run)), device) for run in runs]
    return loaded[0] if len(loaded) == 1 and weights is None else Fusion(loaded, weights)
