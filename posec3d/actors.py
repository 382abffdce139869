"""Before the data's path starts: *synthetic* labelled videos of procedural actors with known keypoints.

For demos, tests and load tests: nothing here is real data. A clip is a figure (figure.py: body, room,
drawing), or a pair of them, moved by an action; all of it follows from the seeds (actor, action, take).
"""

import csv
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posec3d import figure as body
from posec3d.storage import whole_file
from posec3d.video import write_video

SEED = 20220323
OUTWARD = np.array([1.0, -1.0])  # along x; side 0 is the left


@dataclass(frozen=True)
class ActorClip:
    """One synthetic clip. M is 1, or 2 for the actions of a pair; person m is the same one in every frame."""

    frames: np.ndarray
    """(T, H, W, 3) uint8 RGB."""
    keypoints: np.ndarray
    """(M, T, 17, 2) float32 pixels, COCO-17 order; pixel centres are at whole numbers."""
    visible: np.ndarray
    """(M, T, 17) bool: inside the frame. A joint hidden behind a body, own or other, counts as visible."""
    occluded: np.ndarray
    """(M, T, 17) bool: inside the frame, and the other person is drawn there."""
    height_px: np.ndarray
    """(M, T) float32: height of the person, were it upright, at its present distance; the unit of PCK."""
    action: str
    actor: int
    fps: float


@dataclass
class _Motion:
    """Poses of T frames. Body axes: x left, y up, z front; H is the body height."""

    time: np.ndarray  # (T,) seconds
    duration_s: float
    walked: np.ndarray  # (T,) metres forward
    hips: np.ndarray  # (T, 3) hip centre relative to upright standing, in H
    pelvis: np.ndarray  # (T, 3) yaw, pitch (forward), roll in radians
    chest: np.ndarray  # (T, 3) likewise, not relative to the pelvis
    head: np.ndarray  # (T, 3) likewise, relative to the chest
    wrist: np.ndarray  # (T, 2, 3) from its shoulder, in the chest's axes, in arm lengths
    elbow: np.ndarray  # (T, 2, 3) where the elbow points to, in the chest's axes
    ankle: np.ndarray  # (T, 2, 3) from the floor under the upright hip centre, in H
    foot: np.ndarray  # (T, 2) pitch in radians, toes down is positive

    def cycles(self, rng: np.random.Generator, shortest_s: float, longest_s: float) -> np.ndarray:
        """(T,) repetitions so far, from a random start; the clip holds at least a whole one."""
        period_s = min(rng.uniform(shortest_s, longest_s), 0.95 * self.duration_s)
        return self.time / period_s + rng.random()


def _swing(cycles: np.ndarray) -> np.ndarray:
    """0 -> 1 -> 0 in each cycle, smoothly."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * cycles)


def _sides(x: np.ndarray | float, y: np.ndarray | float, z: np.ndarray | float) -> np.ndarray:
    """A left and a right point, (T, 2, 3) or (2, 3), from numbers, (T, 1) or (T, 2); x is outward."""
    return np.stack(np.broadcast_arrays(x * OUTWARD, y, z), -1)


def _standing(rng: np.random.Generator, num_frames: int, fps: float) -> _Motion:
    """Upright with hanging arms, and a little slow sway."""
    time = np.arange(num_frames) / fps
    hips, pelvis, chest, head, still = np.zeros((5, num_frames, 3))
    for angles, size in ((hips, 0.006), (pelvis, 0.03), (chest, 0.04), (head, 0.07)):
        rate, start = rng.uniform(0.15, 0.5, 3), rng.uniform(0, 2 * np.pi, 3)
        angles += size * np.sin(2 * np.pi * rate * time[:, None] + start) + rng.normal(0, size / 2, 3)
    hips[:, 1] = -0.004 - np.abs(hips[:, 1])
    wrist, elbow, ankle = np.zeros((3, num_frames, 2, 3))
    wrist += _sides(rng.uniform(0.12, 0.32), -0.93, rng.uniform(0.02, 0.2))
    elbow += _sides(0.6, 0, -1)
    ankle += _sides(rng.uniform(0.05, 0.085), body.ANKLE_Y, -0.005)
    walked, foot = still[:, 0], still[:, 1:]
    return _Motion(time, num_frames / fps, walked, hips, pelvis, chest, head, wrist, elbow, ankle, foot)


# An action changes the standing motion `m` with the side `n` (0 left, 1 right) as the leading one.


def _wave(m: _Motion, rng: np.random.Generator, n: int) -> None:
    angle = np.sin(2 * np.pi * m.cycles(rng, 0.5, 0.95)) * rng.uniform(0.45, 0.75) + rng.uniform(-0.1, 0.25)
    elbow = np.array([0.46 * OUTWARD[n], rng.uniform(-0.08, 0.16), rng.uniform(0.05, 0.25)])
    forearm = np.stack([OUTWARD[n] * np.sin(angle), np.cos(angle), np.full(len(angle), 0.25)], 1)
    m.wrist[:, n] = elbow + 0.46 * forearm
    m.elbow[:, n] = (OUTWARD[n], -0.7, -0.2)


def _squat(m: _Motion, rng: np.random.Generator, n: int) -> None:
    down = _swing(m.cycles(rng, 1.3, 1.9))[:, None] * rng.uniform(0.8, 1.05)
    m.hips += down * (0, -0.25, -0.09)
    m.pelvis += down * (0, 0.45, 0)
    m.chest += down * (0, rng.uniform(0.35, 0.6), 0)
    m.head -= down * (0, 0.3, 0)
    m.ankle[:, :, 0] *= rng.uniform(1.6, 2.4)
    arms = rng.choice(["forward", "folded", "on the hips"])
    if arms == "forward":
        m.wrist += (_sides(-0.05, 0.15, 0.95) - m.wrist) * down[:, None]
    elif arms == "folded":
        m.wrist[:], m.elbow[:] = _sides(-0.22, -0.15, 0.48), _sides(1, -1, -0.2)
    else:
        m.wrist[:], m.elbow[:] = _sides(0.12, -0.62, 0.25), _sides(1, 0.1, -0.3)


def _jumping_jack(m: _Motion, rng: np.random.Generator, n: int) -> None:
    cycles = m.cycles(rng, 0.85, 1.35)[:, None]
    up = _swing(cycles)
    angle = 0.2 + up * rng.uniform(2.3, 2.75)
    hop = rng.uniform(0.02, 0.05) * np.maximum(np.sin(4 * np.pi * cycles), 0)
    m.hips += (hop - 0.03 * up) * (0, 1, 0)
    m.wrist = 0.97 * _sides(np.sin(angle), -np.cos(angle), 0.08)
    m.elbow = _sides(0.3 * np.cos(angle), 0.3 * np.sin(angle), -1)
    m.ankle = _sides(0.05 + rng.uniform(0.13, 0.2) * up, body.ANKLE_Y + hop, 0)
    m.foot = np.tile(8 * hop, 2)


def _gait(m: _Motion, rng: np.random.Generator) -> float:
    """Walk on the spot; the metres to walk in the clip if no foot is to slip."""
    first = m.cycles(rng, 0.9, 1.35)
    cycles = first[:, None] + (0, 0.5)
    stride = rng.uniform(0.3, 0.42)
    stance, swing = np.clip(cycles % 1 / 0.6, 0, 1), np.clip(cycles % 1 / 0.4 - 1.5, 0, 1)
    ahead = 0.5 - stance + _swing(swing / 2)
    heel = np.maximum(stance - 0.75, 0) * 4 * np.cos(np.pi / 2 * swing)
    lift = np.sin(np.pi * swing)
    m.ankle = _sides(0.05, body.ANKLE_Y + 0.045 * (heel + lift), stride * ahead)
    m.foot = 0.6 * heel - 0.25 * lift * swing
    arm = 0.15 - rng.uniform(0.25, 0.5) * np.cos(2 * np.pi * cycles)  # against the leg of its side
    m.wrist = 0.95 * _sides(0.14, -np.cos(arm), np.sin(arm))
    m.hips[:, 1] -= 0.022 + 0.01 * np.cos(4 * np.pi * first)
    m.pelvis[:, 0] += 0.1 * np.cos(2 * np.pi * first)
    m.chest += np.stack([-0.1 * np.cos(2 * np.pi * first), np.full(len(first), 0.05), 0 * first], 1)
    return float(1.7 * stride / 0.6 * (first[-1] - first[0]))


def _walk(m: _Motion, rng: np.random.Generator, n: int) -> None:
    # Walks on the spot and long walks slip, as on a treadmill: the actor has to stay in view.
    m.walked += min(_gait(m, rng), rng.choice([0.0, 0.8, 1.8])) * (m.time / m.duration_s - 0.5)


def _punch(m: _Motion, rng: np.random.Generator, n: int) -> None:
    cycles = m.cycles(rng, 0.75, 1.2)
    hit = np.zeros((len(cycles), 2))
    hit[:, n] = _swing(cycles) ** 2
    if rng.random() < 0.5:
        hit[:, 1 - n] = _swing(cycles + 0.5) ** 2
    turn = rng.uniform(0.3, 0.6) * (hit[:, 1] - hit[:, 0])
    m.chest += np.stack([turn, np.full(len(turn), 0.1), 0 * turn], 1)
    m.pelvis[:, 0] += 0.4 * turn
    m.hips[:, 1] -= 0.03
    m.ankle[:, :, 0] *= 1.4
    m.ankle[:, (n, 1 - n), 2] += (0.08, -0.08)
    guard, reach = _sides(-0.12, 0.12, 0.48), _sides(-0.3, rng.uniform(-0.05, 0.2), 0.95)
    wrist = guard + (reach - guard) * hit[..., None]
    # The chest turns into the punch; the fist goes straight ahead all the same.
    c, s = np.cos(turn[:, None] * hit), np.sin(turn[:, None] * hit)
    x, y, z = np.moveaxis(wrist, -1, 0)
    m.wrist = np.stack([x * c - z * s, y, x * s + z * c], -1)
    m.elbow[:] = _sides(0.7, -1, -0.2)


def _kick(m: _Motion, rng: np.random.Generator, n: int) -> None:
    lift = _swing(m.cycles(rng, 1.0, 1.6))
    thigh = rng.uniform(1.3, 1.75) * lift  # from hanging, forward
    shin = thigh - 1.5 * np.sin(np.pi * lift)  # the knee bends on the way and stretches at the top
    m.ankle[:, 1 - n, 0] *= 0.6
    m.ankle[:, n, 1] = body.HIP_Y - body.THIGH * np.cos(thigh) - body.SHIN * np.cos(shin)
    ahead, aside = body.THIGH * np.sin(thigh) + body.SHIN * np.sin(shin), rng.uniform(0.1, 0.8)
    m.ankle[:, n, 0] = OUTWARD[n] * (0.055 + np.sin(aside) * np.maximum(ahead, 0))
    m.ankle[:, n, 2] = np.cos(aside) * ahead
    m.foot[:, n] = 0.5 * lift - shin
    m.hips += lift[:, None] * (-0.02 * OUTWARD[n], 0, 0) - (0, 0.008, 0)
    m.pelvis[:, 1] -= 0.15 * lift
    m.chest[:, 1] -= rng.uniform(0.12, 0.3) * lift
    m.wrist += (_sides(rng.uniform(0.3, 0.7), -0.7, 0.15) - m.wrist) * lift[:, None, None]


def _bow(m: _Motion, rng: np.random.Generator, n: int) -> None:
    down = _swing(m.cycles(rng, 1.4, 2.0))[:, None] ** 0.8
    m.chest += down * (0, rng.uniform(0.95, 1.4), 0)
    m.pelvis += down * (0, rng.uniform(0.5, 0.65), 0)
    m.head += down * (0, rng.uniform(0.0, 0.25), 0)
    m.hips += down * (0, 0, -0.06)
    m.ankle[:, :, 0] *= 0.8
    if rng.random() < 0.4:
        m.wrist[:], m.elbow[:] = _sides(-0.2, -0.72, 0.42), _sides(1, 0, -0.5)


_MOVES: dict[str, Callable[[_Motion, np.random.Generator, int], None]] = {
    "bow": _bow,
    "jumping_jack": _jumping_jack,
    "kick": _kick,
    "punch": _punch,
    "squat": _squat,
    "walk": _walk,
    "wave": _wave,
}
ACTIONS: tuple[str, ...] = tuple(sorted(_MOVES))
"""What one person does."""


# An action of a pair changes both standing motions and says where the two are, (2, T, 3): x and z in metres, yaw in
# radians. They keep to the x axis, which `_pair` turns as it likes, and are never nearer than arms and legs allow.


def _change_sides(m: Sequence[_Motion], people: Sequence[body.Figure], rng: np.random.Generator) -> np.ndarray:
    radius, sense = rng.uniform(0.4, 0.55), rng.choice([-1.0, 1.0])
    turns = sense * max(1.1 * np.pi, np.mean([_gait(one, rng) for one in m]) / radius)
    angle = np.array([[0.5], [1.5]]) * np.pi + turns * (m[0].time / m[0].duration_s - 0.5)
    heading = np.pi / 2 * (1 - sense) - angle
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), heading], -1)


def _follow(m: Sequence[_Motion], people: Sequence[body.Figure], rng: np.random.Generator) -> np.ndarray:
    walk_m = float(np.clip(np.mean([_gait(one, rng) for one in m]), 1.0, 2.5))
    ahead = rng.uniform(0.75, 1.1) * np.array([[0.5], [-0.5]])
    x = walk_m * (m[0].time / m[0].duration_s - 0.5) + ahead
    return np.stack(np.broadcast_arrays(x, rng.uniform(-0.12, 0.12, (2, 1)), np.pi / 2), -1)


def _handshake(m: Sequence[_Motion], people: Sequence[body.Figure], rng: np.random.Generator) -> np.ndarray:
    apart, high = rng.uniform(0.64, 0.78), rng.uniform(0.56, 0.62) * np.mean([one.height_m for one in people])
    cycles = m[0].cycles(rng, 1.6, 2.4)
    held = np.minimum(2 * _swing(cycles), 1)[:, None]
    shake = 0.04 * np.sin(2 * np.pi * rng.uniform(2.0, 3.0) * m[0].time)
    for one, person in zip(m, people, strict=True):
        arm = (body.UPPER_ARM + body.FOREARM) * person.height_m
        right = np.array([-person.shoulder_x, body.SHOULDER_Y, 0]) * person.height_m
        wrist = np.stack(np.broadcast_arrays(-0.03, high + shake, apart / 2 - 0.08), -1)  # the rest is hand
        one.wrist[:, 1] += ((wrist - right) / arm - one.wrist[:, 1]) * held
    return np.array([[[-apart / 2, 0, np.pi / 2]], [[apart / 2, 0, -np.pi / 2]]]).repeat(len(shake), 1)


def _pass_by(m: Sequence[_Motion], people: Sequence[body.Figure], rng: np.random.Generator) -> np.ndarray:
    walks_m = np.array([[np.clip(_gait(one, rng), 1.2, 3.0)] for one in m])
    x = walks_m * (m[0].time / m[0].duration_s - rng.uniform(0.4, 0.6)) * [[1], [-1]]
    lane = rng.uniform(0.5, 0.8) * np.array([[0.5], [-0.5]])
    return np.stack(np.broadcast_arrays(x, lane, np.array([[0.5], [-0.5]]) * np.pi), -1)


_PAIR_MOVES: dict[str, Callable[[Sequence[_Motion], Sequence[body.Figure], np.random.Generator], np.ndarray]] = {
    "change_sides": _change_sides,
    "follow": _follow,
    "handshake": _handshake,
    "pass_by": _pass_by,
}
PAIR_ACTIONS: tuple[str, ...] = tuple(sorted(_PAIR_MOVES))
"""What two people do. In `change_sides`, where they walk around each other, and `pass_by` one hides the other."""


def _skeleton(m: _Motion, person: body.Figure, yaw: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bones' axes (T, B, 3, 3) and origins (T, B, 3), COCO keypoints (T, 17, 3), in the world, metres."""
    h, turn, num_frames = person.height_m, body.turned(np.array([[yaw, 0.0, 0.0]]))[0], len(m.time)

    def place(points: np.ndarray) -> np.ndarray:
        return (points * h + m.walked[:, None] * np.array([0.0, 0.0, 1.0])) @ turn.T

    pelvis, chest = turn @ body.turned(m.pelvis), turn @ body.turned(m.chest)
    spine, head = turn @ body.turned((m.pelvis + m.chest) / 2), chest @ body.turned(m.head)
    hip = place(m.hips + np.array([0, body.HIP_Y, 0]))
    spine_at = hip + (body.SPINE_Y - body.HIP_Y) * h * pelvis[:, :, 1]
    chest_at = spine_at + (body.CHEST_Y - body.SPINE_Y) * h * spine[:, :, 1]
    head_at = chest_at + (body.HEAD_Y - body.CHEST_Y) * h * chest[:, :, 1]
    bones = {"pelvis": (pelvis, hip), "spine": (spine, spine_at), "chest": (chest, chest_at)}
    bones["head"] = (head, head_at)
    xyz = np.zeros((num_frames, 17, 3))
    marks = np.concatenate([np.array([body.NOSE]), _sides(*body.EYE), _sides(*body.EAR)])
    xyz[:, :5] = head_at[:, None] + h * np.einsum("tij,vj->tvi", head, marks)
    for n, out in enumerate(OUTWARD):
        shoulder_xyz = np.array([out * person.shoulder_x, body.SHOULDER_Y - body.CHEST_Y, 0])
        shoulder = chest_at + h * chest @ shoulder_xyz
        arm = (body.UPPER_ARM + body.FOREARM) * h
        target = shoulder + arm * np.einsum("tij,tj->ti", chest, m.wrist[:, n])
        pole = np.einsum("tij,tj->ti", chest, m.elbow[:, n])
        elbow, wrist, upper, lower = body.reach(shoulder, target, pole, body.UPPER_ARM * h, body.FOREARM * h)
        socket = hip + h * pelvis @ np.array([out * person.hip_x, -0.005, 0])
        pole = np.broadcast_to(turn @ np.array([0.25 * out, 0, 1.0]), hip.shape)
        knee, ankle, thigh, shin = body.reach(socket, place(m.ankle[:, n]), pole, body.THIGH * h, body.SHIN * h)
        toes = np.stack([np.full(num_frames, 0.2 * out), m.foot[:, n], np.zeros(num_frames)], 1)
        bones[f"arm_{n}"], bones[f"forearm_{n}"] = (upper, shoulder), (lower, elbow)
        bones[f"thigh_{n}"], bones[f"shin_{n}"] = (thigh, socket), (shin, knee)
        bones[f"foot_{n}"] = (turn @ body.turned(toes), ankle)
        xyz[:, 5 + n :: 2] = np.stack([shoulder, elbow, wrist, socket, knee, ankle], 1)
    rotations, origins = (np.stack([bones[name][i] for name in body.BONES], 1) for i in (0, 1))
    return rotations, origins, xyz


def _camera(rng: np.random.Generator, xyz: np.ndarray, height_m: float, size: tuple[int, int]) -> body.Camera:
    """A random camera with all points (M, T, V, 3), and room for hands, hair and feet, inside the frame."""
    high, distance = rng.uniform(0.9, 1.9), rng.uniform(3.2, 5.0)
    pitch = float(np.arctan2(high - 0.5 * height_m, distance) + rng.uniform(-0.03, 0.03))
    points, _ = body.Camera(high, distance, pitch, 1.0, (0.0, 0.0)).project(xyz)
    margin, frame = 0.13 * height_m / distance, np.array(size[::-1])
    low, top = points.min((0, 1, 2)) - margin, points.max((0, 1, 2)) + margin
    wanted = rng.uniform(0.6, 0.8) * size[0] * distance / height_m
    focal = float(min(wanted, *(0.98 * frame / (top - low))))
    x, y = rng.uniform(-focal * low, frame - 1 - focal * top).tolist()
    return body.Camera(high, distance, pitch, focal, (x, y))


def make_clip(
    action: str,
    *,
    actor: int,
    take: int = 0,
    num_frames: int = 32,
    size: tuple[int, int] = (240, 320),
    fps: float = 16.0,
) -> ActorClip:
    """Draw one clip of a synthetic actor, with a partner if the action wants one.

    Args:
        action: one of `ACTIONS` or `PAIR_ACTIONS`.
        actor: >= 0; seeds body and clothes, and the partner's, which are the same in every take.
        take: >= 0; with actor and action it seeds motion, camera, room and light.
        num_frames: T >= 1. The action is done at least once in them, however few they are.
        size: (H, W) pixels.
        fps: frames per second.

    Raises:
        ValueError: unknown action, or no frames.
    """
    if action not in ACTIONS + PAIR_ACTIONS:
        raise ValueError(f"unknown action {action!r}; known: {', '.join(ACTIONS + PAIR_ACTIONS)}")
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}, wanted at least 1")
    people = [body.build_figure(np.random.default_rng([SEED, actor]))]
    if action in PAIR_ACTIONS:
        people.append(body.build_figure(np.random.default_rng([SEED, actor, 1])))
    rng = np.random.default_rng([SEED, actor, take, zlib.crc32(action.encode())])
    motions = [_standing(rng, num_frames, fps) for _ in people]
    if action in PAIR_ACTIONS:
        poses = _pair(action, motions, people, rng)
    else:
        poses = [_single(action, motions[0], people[0], rng)]
    rotations, origins, xyz = (np.stack(arrays) for arrays in zip(*poses, strict=True))
    camera = _camera(rng, xyz, max(person.height_m for person in people), size)
    background = body.draw_background(rng, size, camera)
    frames, owners = body.draw_frames(people, rotations, origins, camera, background, rng)
    keypoints, _ = camera.project(xyz)
    _, hip_depth = camera.project(origins[:, :, 0])
    corner = np.array(size[::-1]) - 1
    visible = np.all((keypoints >= 0) & (keypoints <= corner), axis=-1)
    x, y = np.moveaxis(np.clip(np.round(keypoints), 0, corner).astype(int), -1, 0)
    owner = owners[np.arange(num_frames)[:, None], y, x]
    own = np.arange(len(people))[:, None, None] + 1
    heights = np.array([[person.height_m] for person in people])
    return ActorClip(
        frames=frames,
        keypoints=keypoints.astype(np.float32),
        visible=visible,
        occluded=visible & (owner != 0) & (owner != own),
        height_px=(camera.focal_px * heights / hip_depth).astype(np.float32),
        action=action,
        actor=actor,
        fps=fps,
    )


def _single(
    action: str, motion: _Motion, person: body.Figure, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One person's `_skeleton`."""
    _MOVES[action](motion, rng, int(rng.integers(2)))
    yaw = float(np.clip(rng.normal(0, 0.45), -0.87, 0.87))
    if rng.random() < 0.1:  # in profile or from behind
        yaw = float(rng.choice([-1.0, 1.0]) * rng.choice([1.25, np.pi - 0.3]))
    return _skeleton(motion, person, yaw)


def _pair(
    action: str, motions: Sequence[_Motion], people: Sequence[body.Figure], rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Two people's `_skeleton`s."""
    places = _PAIR_MOVES[action](motions, people, rng)
    turn = rng.choice([0, np.pi]) + rng.uniform(-0.6, 0.6)
    poses = []
    for motion, person, (x, z, yaw) in zip(motions, people, np.moveaxis(places, -1, 1), strict=True):
        rotations, origins, xyz = _skeleton(motion, person, 0.0)
        facing = body.turned(np.stack([yaw + turn, 0 * yaw, 0 * yaw], 1))[:, None]
        at = np.stack([x, 0 * x, z], 1)[:, None] @ body.turned(np.array([[turn, 0, 0]]))[0].T
        poses.append((facing @ rotations, origins @ facing[:, 0].mT + at, xyz @ facing[:, 0].mT + at))
    return poses


def write_videos(
    folder: str | Path,
    *,
    actors: Sequence[int],
    num_frames: int = 32,
    size: tuple[int, int] = (240, 320),
    held_out: Collection[int] = (),
    actions: Sequence[str] = ACTIONS,
) -> Path:
    """Write `<folder>/<action>/a<actor>_t0.mp4` and `<folder>/labels.csv`; a video that exists is kept.

    Args:
        folder: made if missing.
        actors: seeds of people.
        num_frames: T of each clip.
        size: (H, W) pixels.
        held_out: actors whose split is `test`; everybody else's is `train`.
        actions: some of `ACTIONS` and `PAIR_ACTIONS`.

    Returns:
        The CSV of this call's videos: header `video,label,split`, videos relative to the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("video", "label", "split")]
    for action in actions:
        for actor in actors:
            name = f"{action}/a{actor}_t0.mp4"
            rows.append((name, action, "test" if actor in held_out else "train"))
            if not (folder / name).exists():
                clip = make_clip(action, actor=actor, num_frames=num_frames, size=size)
                (folder / action).mkdir(exist_ok=True)
                write_video(folder / name, clip.frames, clip.fps)  # appears only when it is whole
    with whole_file(folder / "labels.csv") as part, part.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "labels.csv"
