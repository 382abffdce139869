"""People of single frames -> tracks: which boxes and keypoints are one person through a video.

Where people cross or embrace no frame tells who is who, and for a while one of them is not found at all. So the whole
video is used. People who are alike in neighbouring frames make chains; where somebody is hidden, pieces that may be
either of two are cut out of them; the chains are joined over the gaps by motion, size and colours; the pieces go to
the tracks that pass there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

MAX_GAP_S = 4.0
"""A person who is out of sight for longer comes back as a new track: people embrace for up to 3 s."""
MIN_PRESENCE_S = 0.4
"""Tracks seen for less are dropped: on real clips false boxes lasted up to 1/3 s, people 2/3 s and more."""

# A size is the root of the area of a person's box, some 0.7 m.
_UNKNOWN_FPS = 30.0
_MIN_SIMILARITY = 0.15  # of one person in two frames
_MAX_RIVAL = 0.55  # a link is in doubt if another one has more than this share of its similarity
_BLINK_S = 0.1  # networks miss people for so long without anybody being hidden
_MOTION_S = 0.4  # how somebody moves is seen from so much of a chain,
_MIN_CHAIN_S = 0.12  # and not from less than this
_STILL_S = 0.03  # a speed is halved where the times it comes from spread by this much
_HIDDEN_S, _HIDDEN_SIZES = 0.3, 0.1  # who is hidden moves on for so long, and is behind those who are so near
_STRAY_SIZES, _STRAY_SPEED = 0.15, 0.6  # people come back so far from where they are expected: sizes, and per second
_GROWTH = 0.3  # by how much the log of a size changes over a gap: a standard deviation
_COLOUR = 30.0  # the same of a colour, of 255
_MAX_COLOUR_COST = 6.0  # somebody in front can change a colour altogether
_MAX_COST = 9.0  # of a join, in squared deviations
_NEAR_SIZES, _MIN_NEARNESS = 0.2, 0.1  # a piece goes to the track that has its person so near
_BANDS, _GRID = 4, 16


def link(
    boxes: Sequence[np.ndarray],
    keypoints: Sequence[np.ndarray],
    *,
    fps: float,
    colours: Sequence[np.ndarray] | None = None,
    max_persons: int = 10,
) -> np.ndarray:
    """Link the people of T frames into tracks.

    Args:
        boxes: for each frame (n, 4 or more), x1 y1 x2 y2 in pixels.
        keypoints: for each frame (n, V, 3), x and y in pixels and a score.
        fps: frames per second; 0 when unknown, which is taken for 30.
        colours: for each frame what `colours` says. Without them people who meet and turn back are often exchanged.
        max_persons: at most so many tracks are kept.

    Returns:
        (M, T) int64: the person's index in that frame's boxes, -1 where absent. Ordered by presence times size times
        mean keypoint score, so that person 0 is the main subject.
    """
    people = _people(boxes, keypoints, fps or _UNKNOWN_FPS, colours)
    chains, pieces = _cut(people, *_chains(people))
    tracks, rest = _fill(people, _join(people, chains), pieces)
    tracks = _join(people, tracks + rest)
    # In a very short clip nobody is seen for long: a third of it is enough there.
    shortest = min(MIN_PRESENCE_S * people.fps, len(boxes) / 3)
    tracks = [track for track in tracks if len(track) >= shortest]
    weight = people.size * people.keypoints[..., 2].mean(1)
    tracks.sort(key=lambda track: -weight[track].sum())
    table = np.full((min(len(tracks), max_persons), len(boxes)), -1, np.int64)
    for row, track in zip(table, tracks, strict=False):
        row[people.frame[track]] = track - people.first[people.frame[track]]
    return table


def colours(frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Mean colours of people's clothes: of four bands of their boxes, head to feet, without the outer quarters.

    Args:
        frame: (H, W, 3) uint8 RGB.
        boxes: (n, 4 or more), x1 y1 x2 y2 in pixels.

    Returns:
        (n, 4, 3) float32 RGB, 0..255.
    """
    part = (np.arange(_GRID) + 0.5) / _GRID
    low, size = boxes[:, :2], boxes[:, 2:4] - boxes[:, :2]
    x = low[:, :1] + size[:, :1] * (0.25 + 0.5 * part)
    y = low[:, 1:] + size[:, 1:] * part
    x, y = (np.clip(np.round(a), 0, n - 1).astype(np.int64) for a, n in ((x, frame.shape[1]), (y, frame.shape[0])))
    pixels = frame[y[:, :, None], x[:, None, :]].astype(np.float32)
    return pixels.reshape(len(boxes), _BANDS, _GRID * _GRID // _BANDS, 3).mean(2)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4 or more) and (m, 4 or more) -> (n, m) in 0..1."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    common = np.clip(high - low, 0, None).prod(-1)
    area_a, area_b = (np.clip(x[:, 2:4] - x[:, :2], 0, None).prod(-1) for x in (a, b))
    return common / np.maximum(area_a[:, None] + area_b[None] - common, 1e-9)


def nearness(a: np.ndarray, b: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
    """How well people's keypoints lie on other people's.

    Args:
        a: (..., V, 3), x y score.
        b: (..., V, 3).
        radius: (...) distance, in pixels, at which a joint counts 1/e.

    Returns:
        (...) in 0..1; joints that either is unsure of count less.
    """
    squared = ((a[..., :2] - b[..., :2]) ** 2).sum(-1)
    weight = np.minimum(a[..., 2], b[..., 2]) + 1e-6
    return (np.exp(-squared / np.asarray(radius)[..., None] ** 2) * weight).sum(-1) / weight.sum(-1)


@dataclass(frozen=True, eq=False)
class _People:
    """All N people seen in T frames, in the order of the frames. A chain or a track is (n,) indices of them."""

    fps: float
    first: np.ndarray
    """(T + 1,) each frame's first one."""
    frame: np.ndarray
    """(N,)"""
    boxes: np.ndarray
    """(N, 4)"""
    keypoints: np.ndarray
    """(N, V, 3)"""
    colours: np.ndarray
    """(N, bands, 3); all the same if not known."""
    centre: np.ndarray
    """(N, 2) mean joint with a score: a box changes with every limb, and where somebody is in front."""
    size: np.ndarray
    """(N,) pixels, at least 1."""


def _people(
    boxes: Sequence[np.ndarray], keypoints: Sequence[np.ndarray], fps: float, colours: Sequence[np.ndarray] | None
) -> _People:
    first = np.cumsum([0, *(len(b) for b in boxes)])
    frame = np.repeat(np.arange(len(boxes)), np.diff(first))
    corners = np.concatenate([np.zeros((0, 4)), *(b[:, :4] for b in boxes)])
    joints = np.concatenate(keypoints) if len(keypoints) else np.zeros((0, 1, 3))
    paint = np.concatenate(colours) if colours else np.zeros((len(frame), 1, 3))
    size = np.sqrt(np.clip(corners[:, 2:] - corners[:, :2], 1, None).prod(-1))
    found = joints[..., 2:] > 0  # what is not lies anywhere, often at (0, 0)
    count = found.sum(1)
    middle = (corners[:, :2] + corners[:, 2:]) / 2
    centre = np.where(count, (joints[..., :2] * found).sum(1) / np.maximum(count, 1), middle)
    return _People(fps, first, frame, corners, joints, paint, centre, size)


def _chains(people: _People) -> tuple[list[np.ndarray], np.ndarray]:
    """Chain the people who are most alike in neighbouring frames; (N,) bool: the link to the one before is in doubt."""
    chains: list[list[int]] = []
    of = np.zeros(len(people.frame), np.int64)
    doubt = np.zeros(len(people.frame), bool)
    old = np.zeros(0, np.int64)  # last sights
    for t in range(len(people.first) - 1):
        new = np.arange(*people.first[t : t + 2])
        ago = t - people.frame[old]
        old, ago = old[ago <= 1 + _BLINK_S * people.fps], ago[ago <= 1 + _BLINK_S * people.fps]
        before = np.full(len(new), -1)
        if len(old) and len(new):
            # Somebody who walks moves 2 to 4 sizes in a second.
            radius = np.minimum(0.1 + 4 * ago / people.fps, 0.5) * people.size[old]
            near = nearness(people.keypoints[old][:, None], people.keypoints[new][None], radius[:, None])
            similarity = (iou(people.boxes[old], people.boxes[new]) + near) / 2
            a, b = linear_sum_assignment(-similarity)
            best = similarity[a, b]
            similarity[a, b] = 0
            doubt[new[b]] = np.maximum(similarity.max(1)[a], similarity.max(0)[b]) > _MAX_RIVAL * best
            before[b] = np.where(best >= _MIN_SIMILARITY, old[a], -1)
        for i, last in zip(new, before, strict=True):
            of[i] = of[last] if last >= 0 else len(chains)
            if last < 0:
                chains.append([])
            chains[of[i]].append(i)
        old = np.r_[np.setdiff1d(old, before), new]
    return [np.array(chain) for chain in chains], doubt


def _cut(people: _People, chains: list[np.ndarray], doubt: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Cut chains where they are in doubt; gives those of one person, and the pieces that may be either of two.

    Who vanishes beside somebody is hidden there: until the two have parted, what is seen may be either. So it is, back
    in time, with who appears.
    """
    start, end = np.zeros((2, len(people.frame)), np.int64)
    for chain in chains:
        start[chain], end[chain] = people.frame[chain[0]], people.frame[chain[-1]]
    either = np.zeros(len(people.frame), bool)
    hidden = int(_HIDDEN_S * people.fps) + 1
    for chain in chains:
        for edge in (-1, 0):
            t = people.frame[chain[edge]]
            low, high = np.clip((t + 1, t + 1 + hidden) if edge else (t - hidden, t), 0, len(people.first) - 1)
            others = np.arange(people.first[low], people.first[high])
            others = others[(start[others] <= t) & (t <= end[others])]
            if len(others):
                place, speed, size = _motion(people, chain, edge)
                there = place + speed * ((people.frame[others] - t) / people.fps)[:, None]
                distance = np.linalg.norm(there - people.centre[others], axis=1)
                either[others] |= distance < _HIDDEN_SIZES * np.sqrt(people.size[others] * np.exp(size))
    sure: list[np.ndarray] = []
    pieces: list[np.ndarray] = []
    for chain in chains:
        for part in np.split(chain, np.flatnonzero(np.diff(either[chain]) | doubt[chain[1:]]) + 1):
            short = len(part) < max(2, _MIN_CHAIN_S * people.fps)
            (pieces if short or either[part[0]] else sure).append(part)
    return sure, pieces


def _motion(people: _People, chain: np.ndarray, edge: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Place in pixels, speed in pixels a second, log of the size; at the start (edge 0) or the end (-1) of a chain."""
    t = people.frame[chain] - people.frame[chain[edge]]
    part = np.abs(t) < max(_MOTION_S * people.fps, 2)
    x, y = t[part] / people.fps, people.centre[chain[part]]
    speed = (x - x.mean()) @ (y - y.mean(0)) / (((x - x.mean()) ** 2).sum() + _STILL_S**2)
    return y.mean(0) - speed * x.mean(), speed, float(np.log(people.size[chain[part]]).mean())


def _join(people: _People, chains: list[np.ndarray]) -> list[np.ndarray]:
    """Join chains over gaps: of all sets of joins the one that costs least; to end a chain costs `_MAX_COST`."""
    if not chains:
        return []
    chains = sorted(chains, key=lambda chain: people.frame[chain[0]])
    start, end = (np.array([people.frame[chain[edge]] for chain in chains]) for edge in (0, -1))
    in_place, in_speed, in_size = map(np.array, zip(*(_motion(people, chain, 0) for chain in chains), strict=True))
    paint = np.array([people.colours[chain].mean(0) for chain in chains])
    # A chain may end in a column of its own. In a sparse matrix 0 is no entry, hence the 1.
    rows, columns = [np.arange(len(chains))], [np.arange(len(chains)) + len(chains)]
    costs = [np.full(len(chains), 1 + _MAX_COST)]
    for i, chain in enumerate(chains):
        later = np.arange(*np.searchsorted(start, (end[i] + 1, end[i] + 2 + int(MAX_GAP_S * people.fps))))
        # Two who are both seen for a moment only can be the same within a moment only: false people are many.
        seen = np.maximum(end[later] - start[later], end[i] - start[i])
        later = later[start[later] - end[i] <= 1 + _MOTION_S * people.fps + 4 * seen]
        if len(later):
            place, speed, size = _motion(people, chain, -1)
            gap = ((start[later] - end[i]) / people.fps)[:, None]
            moved = gap * np.exp(-(gap**2))  # who is hidden for more than a second has stopped or turned
            onward = place + speed * moved - in_place[later]
            back = in_place[later] - in_speed[later] * moved - place
            stray = (_STRAY_SIZES + _STRAY_SPEED * np.minimum(gap[:, 0], 1)) * np.exp((size + in_size[later]) / 2)
            unlike = ((paint[i] - paint[later]) ** 2).sum(2).mean(1) / _COLOUR**2
            cost = ((onward**2).sum(1) + (back**2).sum(1)) / 2 / stray**2
            cost += ((size - in_size[later]) / _GROWTH) ** 2 + np.minimum(unlike, _MAX_COLOUR_COST)
            later, cost = later[cost < _MAX_COST], cost[cost < _MAX_COST]
            rows.append(np.full(len(later), i))
            columns.append(later)
            costs.append(1 + cost)
    where = np.concatenate(rows), np.concatenate(columns)
    matrix = coo_array((np.concatenate(costs), where), shape=(len(chains), 2 * len(chains))).tocsr()
    _, follows = min_weight_full_bipartite_matching(matrix)
    joined: dict[int, list[np.ndarray]] = {}  # by the chain that comes next
    tracks = []
    for i, chain in enumerate(chains):
        track = [*joined.pop(i, []), chain]
        if follows[i] < len(chains):
            joined[int(follows[i])] = track
        else:
            tracks.append(np.concatenate(track))
    return tracks


def _fill(
    people: _People, tracks: list[np.ndarray], pieces: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Give pieces to the tracks that pass there, the best fit first; also gives the people that no track takes."""
    margin = int(_MOTION_S * people.fps) + 1
    start, end = (np.array([people.frame[track[edge]] for track in tracks], np.int64) for edge in (0, -1))
    wishes = []
    for piece in pieces:
        t = people.frame[piece]
        there = np.flatnonzero((start - margin <= t[-1]) & (t[0] <= end + margin))
        if len(there):
            wishes.append((np.stack([_fit(people, tracks[k], piece) for k in there]), there, piece))
    left = np.zeros(len(people.frame), bool)
    left[np.concatenate([np.zeros(0, np.int64), *pieces])] = True
    tracks = list(tracks)
    for fit, there, piece in sorted(wishes, key=lambda wish: -wish[0].mean(1).max()):
        for row, k in zip(fit, there, strict=True):
            row[np.isin(people.frame[piece], people.frame[tracks[k]])] = -1
        best = fit.sum(1).argmax()
        taken = piece[fit[best] >= _MIN_NEARNESS]
        tracks[there[best]] = np.sort(np.r_[tracks[there[best]], taken])
        left[taken] = False
    return tracks, list(np.flatnonzero(left)[:, None])


def _fit(people: _People, track: np.ndarray, piece: np.ndarray) -> np.ndarray:
    """(n,) nearness of a piece's people to where the track should have its person then."""
    t, seen = people.frame[piece], people.frame[track]
    after = np.clip(np.searchsorted(seen, t), 0, len(seen) - 1)
    before = np.maximum(after - 1, 0)
    share = np.clip((t - seen[before]) / np.maximum(seen[after] - seen[before], 1), 0, 1)[:, None, None]
    old, new = people.keypoints[track[before]], people.keypoints[track[after]]
    old, new = np.where(old[..., 2:] > 0, old, new), np.where(new[..., 2:] > 0, new, old)  # a joint one of them lacks
    there = old * (1 - share) + new * share
    for edge, outside in ((0, np.minimum(t - seen[0], 0)), (-1, np.maximum(t - seen[-1], 0))):
        if outside.any():
            there[..., :2] += (_motion(people, track, edge)[1] * outside[:, None] / people.fps)[:, None]
    return nearness(people.keypoints[piece], there, _NEAR_SIZES * people.size[piece])
