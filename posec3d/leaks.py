"""Leaks: what the clips of two splits share, from one row of `posec3d.counts.CLIP` a clip.

Splits that share a tenth of the smaller one's rows or more are taken for parts of different protocols (`xsub_train` and
`xview_train`); all other pairs are two sides of one, between which nothing should be shared.
"""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from posec3d.counts import MISSING, SIGNATURE_UNIT

KINDS = {
    "rows": "rows that are in both",
    "identical": "clips with the same coordinates",
    "video": "clips of the same source video",
    "near": "clips with nearly the same poses",
}
EXAMPLES = 5  # pairs of clips of each kind

PROTOCOL = 0.1  # share of rows from which on two splits belong to different protocols
NEAR = 0.05  # root mean square distance of joints, in the spread of the body: some 1.5 % of its height
# Near poses are looked for among neighbours in random projections: TABLES times, in boxes of SIDES dimensions.
TABLES, SIDES, BOX, NEIGHBOURS = 6, 8, 0.3, 8


def leaks(clips: pa.Table) -> dict[str, Any]:
    """Look for what should not be on both sides of a split.

    Near-identical poses are those whose signatures (the main person at four times of the clip, shifted and scaled to
    one place and size) are at most `NEAR` apart, by the joints that both have. That finds the same video encoded,
    resized, cropped or estimated once more, some 98 of 100 of them (the search is by random projections). It misses
    mirrored clips, other cuts of a video, other cameras, clips whose main person is another, and exact copies
    (these are found as identical); people who stand alike in every joint are found too.

    Args:
        clips: of the columns of `posec3d.counts.CLIP`.

    Returns:
        pairs: a row for each two splits and kind of `KINDS` with something shared: a, b, kind, clips_a, clips_b;
        examples: kind, a, b, clip_a, clip_b; clips: kind -> how many clips have something on another side;
        protocols: a, b, share: splits that share so many rows that nothing was looked for.
    """
    column = clips["splits"].combine_chunks()
    names = [tuple(json.loads(value)) for value in column.dictionary.to_pylist()]
    codes = column.indices.to_numpy(zero_copy_only=False)
    sides = _Sides(names, np.bincount(codes, minlength=len(names)))
    content, video = (clips[name].to_numpy() for name in ("content", "video"))
    found = _Found(sides, clips["clip_id"])
    for a, b in sides.mixed:
        both = np.array([a in name and b in name for name in names], bool)[codes]
        found.add("rows", a, b, (where := np.flatnonzero(both)), where)
    for kind, keys in (("identical", content), ("video", video)):
        for group in _groups(keys, codes):
            found.add_group(kind, group, codes)
    for first, second, (a, b) in _near(clips, content, codes, sides):
        found.add("near", a, b, first, second)
    return found.result()


class _Sides:
    """Which splits are sides of one protocol."""

    def __init__(self, names: list[tuple[str, ...]], clips: np.ndarray) -> None:
        self.names = names
        self.size: Counter[str] = Counter()
        shared: Counter[tuple[str, str]] = Counter()
        for name, number in zip(names, clips.tolist(), strict=True):
            self.size.update(dict.fromkeys(name, number))
            shared.update(dict.fromkeys(itertools.combinations(name, 2), number))
        share = {(a, b): n / min(self.size[a], self.size[b]) for (a, b), n in shared.items() if n}
        self.protocols = {pair: value for pair, value in sorted(share.items()) if value >= PROTOCOL}
        self.mixed = [pair for pair in sorted(share) if pair not in self.protocols]
        """Sides that share some rows."""
        self.found: dict[tuple[int, int], list[tuple[str, str]]] = {}

    def between(self, one: int, other: int) -> list[tuple[str, str]]:
        """Pairs of sides (a, b), a < b, of which a clip of splits `one` and a clip of splits `other` are members."""
        if (one, other) not in self.found:  # asked again and again of the same few
            pairs = {(min(a, b), max(a, b)) for a in self.names[one] for b in self.names[other] if a != b}
            self.found[one, other] = sorted(pairs - self.protocols.keys())
        return self.found[one, other]


class _Found:
    """What was found, by kind and pair of splits."""

    def __init__(self, sides: _Sides, clip_id: pa.ChunkedArray) -> None:
        self.sides = sides
        self.clip_id = clip_id
        self.members: dict[tuple[str, str, str], tuple[list[np.ndarray], list[np.ndarray]]] = defaultdict(
            lambda: ([], [])
        )
        self.examples: dict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)

    def add(self, kind: str, a: str, b: str, of_a: np.ndarray, of_b: np.ndarray) -> None:
        """Rows `of_a` of split a that share something with rows `of_b` of split b."""
        key = (a, b, kind)
        for rows, new in zip(self.members[key], (of_a, of_b), strict=True):
            rows.append(new)
        missing = EXAMPLES - len(self.examples[key])
        self.examples[key] += [(int(i), int(j)) for i, j in zip(of_a[:missing], of_b[:missing], strict=False)]

    def add_group(self, kind: str, rows: np.ndarray, codes: np.ndarray) -> None:
        """Rows that share something with each other."""
        by_code = {code: rows[codes[rows] == code] for code in np.unique(codes[rows]).tolist()}
        pairs = {pair for two in itertools.combinations(by_code, 2) for pair in self.sides.between(*two)}
        for a, b in sorted(pairs):
            of_a, of_b = (
                np.concatenate([r for code, r in by_code.items() if name in self.sides.names[code]]) for name in (a, b)
            )
            self.add(kind, a, b, of_a, of_b)

    def result(self) -> dict[str, Any]:
        """As `leaks` returns it."""
        pairs, clips = [], {}
        for kind in KINDS:
            every = []
            for (a, b, name), members in sorted(self.members.items()):
                if name == kind:
                    of_a, of_b = (np.unique(np.concatenate(rows)) for rows in members)
                    pairs.append({"a": a, "b": b, "kind": kind, "clips_a": len(of_a), "clips_b": len(of_b)})
                    every += [of_a, of_b]
            clips[kind] = len(np.unique(np.concatenate(every))) if every else 0
        examples = [
            {"kind": kind, "a": a, "b": b, "clip_a": self._name(i), "clip_b": self._name(j)}
            for (a, b, kind), two in sorted(self.examples.items())
            for i, j in two
        ]
        protocols = [{"a": a, "b": b, "share": round(v, 4)} for (a, b), v in self.sides.protocols.items()]
        return {"pairs": pairs, "examples": examples, "clips": clips, "protocols": protocols}

    def _name(self, row: int) -> str:
        return self.clip_id[row].as_py()


def _groups(keys: np.ndarray, codes: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of one key each, of keys that several of `codes` have; 0 is no key."""
    order = np.lexsort((codes, keys))
    order = order[np.searchsorted(keys[order], 1) :]
    edges = np.flatnonzero(np.diff(keys[order])) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(order)]])
    if not len(order):
        return
    # Codes are sorted within a key: it has several if its first and last one differ.
    several = codes[order[starts]] != codes[order[ends - 1]]
    for start, end in zip(starts[several], ends[several], strict=True):
        yield order[start:end]


def _near(
    clips: pa.Table, content: np.ndarray, codes: np.ndarray, sides: _Sides
) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[str, str]]]:
    """Rows of near-identical poses, (first, second) of split a and of split b, with the two splits."""
    column = clips["signature"].combine_chunks()
    size = column.type.byte_width
    signatures = np.frombuffer(column.buffers()[1], np.int8, len(column) * size, column.offset * size).reshape(-1, size)
    # Of clips with the same coordinates and splits one is enough; half of the joints must be there.
    order = np.lexsort((codes, content))
    again = (np.diff(content[order], prepend=0) == 0) & (np.diff(codes[order], prepend=-1) == 0)
    rows = order[~again & (content[order] > 0)]
    rows = rows[(signatures[rows] != MISSING).mean(1) >= 0.5]
    if len(rows) < 2:
        return
    points, codes, content = signatures[rows], codes[rows], content[rows]

    def wanted(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        kinds, kind = np.unique(codes[i].astype(np.int64) * len(sides.names) + codes[j], return_inverse=True)
        between = [bool(sides.between(*divmod(key, len(sides.names)))) for key in kinds.tolist()]
        return np.array(between, bool)[kind] & (content[i] != content[j])

    first, second = _neighbours(points, wanted)
    between = np.stack([codes[first], codes[second]])
    for one, other in np.unique(between, axis=1).T.tolist():
        chosen = (between[0] == one) & (between[1] == other)
        i, j = rows[first[chosen]], rows[second[chosen]]
        for a, b in sides.between(one, other):
            if a in sides.names[one] and b in sides.names[other]:
                yield i, j, (a, b)
            if b in sides.names[one] and a in sides.names[other]:
                yield j, i, (a, b)


def _neighbours(
    points: np.ndarray, wanted: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (i, j), each once, of int8 signatures (N, D) that are at most `NEAR` apart and `wanted`."""
    rng = np.random.default_rng(0)
    pairs = [np.zeros((2, 0), np.int64)]
    for _ in range(TABLES):
        axes = rng.normal(size=(points.shape[1], SIDES + 1))
        axes = (axes / np.linalg.norm(axes, axis=0) / SIGNATURE_UNIT).astype(np.float32)
        shift, factors = rng.uniform(0, BOX, SIDES), rng.integers(1, 2**62, SIDES) * 2 + 1
        boxes, values = np.empty(len(points), np.int64), np.empty(len(points), np.float32)
        for part in (slice(at, at + 65536) for at in range(0, len(points), 65536)):
            known = np.where(points[part] == MISSING, 0, points[part]).astype(np.float32)
            places = known @ axes
            values[part] = places[:, -1]
            boxes[part] = (np.floor((places[:, :-1] + shift) / BOX).astype(np.int64) * factors).sum(1)
        order = np.lexsort((values, boxes))
        for gap in range(1, NEIGHBOURS + 1):
            one, other = order[:-gap], order[gap:]
            # Nearly equal poses have nearly equal projections: most candidates end here.
            close = (boxes[one] == boxes[other]) & (np.abs(values[one] - values[other]) < 4 * NEAR)
            one, other = one[close], other[close]
            keep = wanted(one, other)
            one, other = one[keep], other[keep]
            for part in (slice(at, at + 65536) for at in range(0, len(one), 65536)):
                i, j = one[part], other[part]
                i, j = i[near := _distance(points[i], points[j]) <= NEAR], j[near]
                pairs.append(np.stack([np.minimum(i, j), np.maximum(i, j)]))
    first, second = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return first, second


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Root mean square distance (N,) of joints in spreads of the body, by the half or more of them that both have."""
    both = ((one != MISSING) & (other != MISSING))[:, ::2]
    squares = (one.astype(np.float32) - other).reshape(*both.shape, 2)
    total = np.where(both, np.square(squares).sum(-1), 0).sum(1)
    number = both.sum(1)
    distance = np.sqrt(total / np.maximum(number, 1)) / SIGNATURE_UNIT
    return np.where(2 * number >= both.shape[1], distance, np.inf)
