"""Export, inside: a clip's coordinates -> crop -> volume, stream or RGB frames -> network -> scores, as one module.

What `clips`, `heatmaps`, `streams` and `frames` do, once more, in operations without branches that every exporter
knows. Tests, and `export.difference` for each file, hold it to them.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from posec3d.checkpoint import Checkpoint
from posec3d.clips import RGB_SCALE, ClipConfig
from posec3d.heatmaps import FAR
from posec3d.models import RGB
from posec3d.skeletons import skeleton
from posec3d.streams import MIN_SCORE
from posec3d.training import fused, normalised

LEAST_PEAK = 1e-3
"""Lower ones draw nothing, as in `posec3d.heatmaps`."""
MIN_SIDE = 10
"""Pixels of a box that is cropped to, as in `posec3d.clips`."""


class NotExportable(ValueError):
    """A model whose input is more than what is sampled of a clip."""


def module(checkpoint: Checkpoint) -> nn.Module:
    """The checkpoint's network with all that comes before it, in evaluation mode, on the CPU.

    Returns:
        A module of three float32 inputs: keypoints (N, M, T, V, 2), x then y, in pixels of the frame; scores
        (N, M, T, V) in [0, 1], 0 = not detected; frame_size (N, 2), the frame's height and width in pixels. N and M
        are free, >= 1 (nobody is one person of score 0); T is config.clip.length; of a motion stream it is twice that:
        the frames of the clip, then the one that follows each of them in the video. Points that are not finite count
        as not detected. Of a model that sees RGB there are two more: rgb (N, R, H, W, 3) uint8, config.clip.rgb_length
        pictures of any size, and rgb_region (N, 4) float32, x, y, width, height of what they show of the frame, in its
        pixels. It returns class probabilities (N, classes).

    Raises:
        NotExportable: a model of 3D people, or of a pose network's own maps.
    """
    clip = checkpoint.config.clip
    if clip.maps == "stored":
        raise NotExportable(
            "a model of stored heatmaps (clip.maps stored) cannot be exported; train one on coordinates"
        )
    if clip.rgb_length:
        return RGBScores(checkpoint).eval()
    if clip.space == "volume":
        return VolumeScores(checkpoint).eval()
    if clip.space == "frame":
        return GraphScores(checkpoint).eval()
    raise NotExportable(
        f"a {checkpoint.config.model.name} of clip.space {clip.space} cannot be exported: its people are placed by the "
        "whole video, which the file never sees; train it with clip.space frame"
    )


def has_motion(clip: ClipConfig) -> bool:
    """Whether the frame after each sampled one is needed too."""
    return clip.space == "frame" and clip.stream.endswith("motion")


class VolumeScores(nn.Module):
    """Crop, draw, look: the 3D-CNNs."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        config, body = checkpoint.config, skeleton(checkpoint.skeleton)
        pairs = body.limbs if config.heatmap.kind == "limb" else [(joint, joint) for joint in range(len(body.joints))]
        self.clip = config.clip
        self.volume = Volume(pairs, config.clip.test_size, config.heatmap.sigma)
        self.network = checkpoint.model().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, keypoints: Tensor, scores: Tensor, frame_size: Tensor) -> Tensor:
        """See `module`."""
        return self.network(self.draw(keypoints, scores, frame_size)).softmax(1)

    def draw(self, keypoints: Tensor, scores: Tensor, frame_size: Tensor) -> Tensor:
        """What the network sees: (N, C, T, H, W)."""
        xy, scores = _detected(keypoints, scores)
        start, side = clip_box(xy, scores, frame_size, self.clip.padding)
        xy = (xy - start.float()[:, None, None, None]) * (self.clip.test_size / side).float()[:, None, None, None]
        # As in training the crop is around everybody; whoever is too many is left out only then.
        return self.volume(xy[:, : self.clip.persons], scores[:, : self.clip.persons])


class RGBScores(VolumeScores):
    """Crop, draw if need be, warp pictures to the same crop, look: the networks that see RGB."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self.config = checkpoint.config

    def forward(  # type: ignore[override]
        self, keypoints: Tensor, scores: Tensor, frame_size: Tensor, rgb: Tensor, rgb_region: Tensor
    ) -> Tensor:
        """See `module`."""
        frames = normalised(self.warp(keypoints, scores, frame_size, rgb, rgb_region))
        if self.config.model.name in RGB:
            return self.network(frames).softmax(1)
        return fused(self.network((frames, self.draw(keypoints, scores, frame_size))), self.config)

    def warp(self, keypoints: Tensor, scores: Tensor, frame_size: Tensor, rgb: Tensor, rgb_region: Tensor) -> Tensor:
        """What the network sees, before it is normalised: (N, R, H, W, 3)."""
        start, side = clip_box(*_detected(keypoints, scores), frame_size, self.clip.padding)
        return warped(rgb, rgb_region, start, side, RGB_SCALE * self.clip.test_size)


class GraphScores(nn.Module):
    """Normalise, take the stream, cut or pad the people, look: the graph networks."""

    parents: Tensor

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.clip = checkpoint.config.clip
        self.register_buffer("parents", torch.tensor(skeleton(checkpoint.skeleton).parents), persistent=False)
        self.network = checkpoint.model()

    def forward(self, keypoints: Tensor, scores: Tensor, frame_size: Tensor) -> Tensor:
        """See `module`."""
        keypoints, scores = (_people(array, self.clip.persons) for array in (keypoints, scores))
        scores = torch.where(_finite(keypoints), scores, 0)
        half = (frame_size.flip(-1) / 2)[:, None, None, None]
        xy = torch.where((scores > MIN_SCORE)[..., None], (keypoints - half) / half, 0)
        features = torch.cat([xy, scores[..., None]], -1)
        if self.clip.stream.startswith("bone"):
            features = _minus(features, features.index_select(-2, self.parents))
        if has_motion(self.clip):
            now, following = features.split(self.clip.length, 2)
            features = _minus(following, now)
        return self.network(features).softmax(1)


class Volume(nn.Module):
    """Joints or limbs by the rules of `posec3d.heatmaps`: xy (N, M, T, V, 2), score (N, M, T, V) -> (N, C, T, H, W).

    Where a window ends and which limb is short is decided in float64, as there. A channel at a time: beside the volume
    that takes the memory of one channel of all people, and it stays in the cache.

    Args:
        pairs: start and end of each channel's limb; a joint is a limb from itself to itself.
        size: side H = W in pixels.
        sigma: spread in pixels.
    """

    starts: Tensor
    ends: Tensor
    pixels: Tensor

    def __init__(self, pairs: Sequence[tuple[int, int]], size: int, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        self.joints = all(start == end for start, end in pairs)
        for name, ends in zip(("starts", "ends"), zip(*pairs, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(ends), persistent=False)
        self.register_buffer("pixels", torch.arange(size), persistent=False)

    def forward(self, xy: Tensor, score: Tensor) -> Tensor:
        """Draw; all points are finite."""
        start, end = xy.index_select(-2, self.starts), xy.index_select(-2, self.ends)
        first = score.index_select(-1, self.starts)
        peak = torch.minimum(first, score.index_select(-1, self.ends))
        short = (end.double() - start.double()).square().sum(-1) < 1
        peak = torch.where(peak >= LEAST_PEAK, torch.where(short, first, peak), 0)
        end = torch.where(short[..., None], start, end)
        # Both axes at once, (N, M, T, C, 2, pixels): what a joint's Gaussian, or a limb's window, is on each.
        low, high = (edge.double()[..., None] for edge in (torch.minimum(start, end), torch.maximum(start, end)))
        inside = (self.pixels >= (low - 3 * self.sigma).long()) & (self.pixels <= (high + 3 * self.sigma).long())
        offset = self.pixels.float() - start[..., None]
        axes = torch.where(inside, self._gaussian(offset.square()), 0) if self.joints else inside.float()
        across, down = axes[..., 0, :], axes[..., 1, :] * peak[..., None]
        planes = []
        for c in range(len(self.starts)):
            plane = down[..., c, :, None] * across[..., c, None, :]
            if not self.joints:
                plane = plane * self._gaussian(_distance2(offset[..., c, :, :], (end - start)[..., c, :]))
            planes.append(plane.amax(1))
        return torch.stack(planes, 1)

    def _gaussian(self, distance2: Tensor) -> Tensor:
        return torch.exp(distance2 / (-2 * self.sigma**2))


def _distance2(offset: Tensor, limb: Tensor) -> Tensor:
    """Squared distance to a segment, of pixels `offset` (..., 2, pixels) from its start: (..., H, W)."""
    x, y = offset[..., 0, None, :], offset[..., 1, :, None]
    limb_x, limb_y = limb[..., 0, None, None], limb[..., 1, None, None]
    # A short limb has become a point, of squared length 0; all others have 1 or more.
    length2 = (limb_x.square() + limb_y.square()).clamp(min=1)
    along = (x * (limb_x / length2) + y * (limb_y / length2)).clamp(0, 1)
    return (x - along * limb_x).square() + (y - along * limb_y).square()


def clip_box(xy: Tensor, score: Tensor, frame_size: Tensor, padding: float | None) -> tuple[Tensor, Tensor]:
    """The square that `posec3d.clips.clip_box` finds; the whole frame, where people are smaller than `MIN_SIDE`.

    Args:
        xy: (N, M, T, V, 2) pixels, finite.
        score: (N, M, T, V), 0 = not detected.
        frame_size: (N, 2) height, width.
        padding: growth of each half side, relative; None crops nothing.

    Returns:
        Its corner x, y and its sides w, h, each (N, 2) float64, in pixels of the frame.
    """
    frame = frame_size.flip(1).double()
    if padding is None:
        square = frame.amax(1, keepdim=True).expand(-1, 2)
        return ((frame - square) / 2).long().double(), square
    seen = (score > 0)[..., None]
    low = torch.where(seen, xy, math.inf).amin((1, 2, 3)).double()  # (N, 2)
    high = torch.where(seen, xy, -math.inf).amax((1, 2, 3)).double()
    whole = (high - low).amin(1, keepdim=True) < MIN_SIDE  # of no point at all it is minus infinity
    low, high = torch.where(whole, 0, low), torch.where(whole, 0, high)
    half = ((high - low) / 2 * (1 + padding)).amax(1, keepdim=True)
    centre = (low + high) / 2
    first, last = (centre - half).long(), (centre + half).long()  # truncated toward zero, as published
    return first.double(), torch.where(whole, frame, (last - first).double())


def warped(rgb: Tensor, region: Tensor, start: Tensor, side: Tensor, size: int) -> Tensor:
    """Warp pictures to a crop as `posec3d.frames.rgb_clips` does, by bilinear interpolation.

    Four gathers, each no larger than the result: however large the pictures are, they stay uint8.

    Args:
        rgb: (N, R, H, W, 3) uint8.
        region: (N, 4) x, y, width, height of what they show, in pixels of the frame.
        start: (N, 2) x, y of the crop, float64.
        side: (N, 2) its width and height.
        size: side of the result in pixels.

    Returns:
        (N, R, size, size, 3) float32 of whole numbers, 0 .. 255; black where there is no picture.
    """
    count, (height, width) = rgb.shape[1], rgb.shape[2:4]
    columns = _neighbours(start[:, 0], side[:, 0], region[:, 0], region[:, 2], width, size)
    rows = _neighbours(start[:, 1], side[:, 1], region[:, 1], region[:, 3], height, size)
    flat, total = rgb.flatten(2, 3), torch.zeros(())
    for y, down in rows:
        for x, across in columns:
            number = (y[:, :, None] * width + x[:, None]).flatten(1)[:, None, :, None]
            weight = (down[:, :, None] * across[:, None]).flatten(1)[:, None, :, None]
            total = total + weight * flat.gather(2, number.expand(-1, count, -1, 3))
    return total.round().unflatten(2, (size, size))


def _neighbours(
    start: Tensor, side: Tensor, shown: Tensor, extent: Tensor, pixels: int, size: int
) -> list[tuple[Tensor, Tensor]]:
    """Along one axis, the two pixels of a picture that each of the crop lies between: number and weight, (N, size)."""
    step = extent.double() / pixels
    # Pixel centres lie at whole coordinates. The map is found in float64 and applied in float32, as cv2 does.
    scale, offset = side / (step * size), (start - shown + 0.5) / step - 0.5
    at = scale.float()[:, None] * torch.arange(size) + offset.float()[:, None]
    low = at.floor()
    pairs = (low, 1 - (at - low)), (low + 1, at - low)
    inside = [(0 <= number) & (number < pixels) for number, _ in pairs]
    return [
        (torch.where(there, number, 0).long(), torch.where(there, weight, 0))
        for there, (number, weight) in zip(inside, pairs, strict=True)
    ]


def _detected(keypoints: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Points and scores, both 0 where a point is not finite."""
    there = _finite(keypoints)
    return torch.where(there[..., None], keypoints, 0), torch.where(there, scores, 0)


def _finite(xy: Tensor) -> Tensor:
    near = xy.abs() < FAR  # false for what is not a number
    return near[..., 0] & near[..., 1]


def _people(array: Tensor, persons: int | None) -> Tensor:
    """Cut or zero-pad the second axis to `persons`, whatever it was."""
    assert persons is not None  # noqa: S101 - no graph network is made without
    nobody = torch.zeros_like(array[:, :1])
    return torch.cat([array, *[nobody] * (persons - 1)], 1)[:, :persons]


def _minus(a: Tensor, b: Tensor) -> Tensor:
    """A difference of features; its score, the last channel, is the mean of the two."""
    return torch.cat([a[..., :-1] - b[..., :-1], (a[..., -1:] + b[..., -1:]) / 2], -1)
