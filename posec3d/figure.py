"""Before the data's path starts: body, room and drawing of the *synthetic* people which actors.py moves.

A figure is a mesh of quads. Every vertex belongs to one rigid bone; those between two bones stretch.
Axes of a body and, at rest, of every bone: x to the person's left, y up, z to the front.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

BONES = (
    "pelvis", "spine", "chest", "head",
    "arm_0", "forearm_0", "thigh_0", "shin_0", "foot_0",  # 0 is the person's left
    "arm_1", "forearm_1", "thigh_1", "shin_1", "foot_1",
)  # fmt: skip
OVERSAMPLING = 2  # the cheapest anti-aliasing that leaves no seams between quads
SKIN = ((244, 208, 177), (229, 184, 148), (205, 152, 112), (172, 120, 84), (140, 94, 64), (108, 74, 54))
HAIR = ((28, 22, 20), (62, 40, 26), (130, 130, 132), (104, 70, 40), (176, 132, 74), (120, 52, 30))

# Lengths as fractions of the body height H, close to the usual anthropometric ratios.
HIP_Y, SPINE_Y, CHEST_Y, SHOULDER_Y, HEAD_Y = 0.530, 0.625, 0.710, 0.815, 0.868
UPPER_ARM, FOREARM, THIGH, SHIN, ANKLE_Y = 0.176, 0.150, 0.245, 0.243, 0.042
EYE, EAR, NOSE = (0.018, 0.066, 0.060), (0.046, 0.060, 0.004), (0.0, 0.046, 0.074)  # in the head's axes

# Rings of each tube from low to high: y, half width, half depth, offset to the front in H/1000, and material.
TORSO = {
    "pelvis": ((-50, 20, 30, 0, "trousers"), (-30, 78, 56, 0, "trousers"), (12, 86, 60, 0, "trousers"),
               (28, 87, 61, 0, "shirt"), (55, 80, 57, 0, "stripe")),
    "spine": ((5, 75, 55, 0, "shirt"), (45, 78, 57, 0, "stripe")),
    "chest": ((0, 85, 61, 0, "shirt"), (40, 93, 64, 0, "stripe"), (75, 98, 61, 0, "shirt"),
              (98, 98, 51, 0, "shirt"), (116, 74, 40, 0, "shirt"), (128, 36, 34, 2, "skin"),
              (143, 29, 31, 4, "skin"), (175, 27, 30, 10, "skin")),
}  # fmt: skip
HEAD = (
    (-6, 10, 12, 36, "skin"), (0, 22, 26, 28, "skin"), (14, 33, 40, 18, "skin"), (34, 39, 49, 10, "skin"),
    (56, 42, 53, 6, "skin"), (80, 43, 55, 4, "skin"), (102, 39, 50, 2, "skin"), (120, 27, 36, 0, "skin"),
)  # fmt: skip
NOSE_TUBE = ((36, 7, 6, 61, "nose"), (42, 10, 13, 61, "skin"), (68, 4, 5, 57, "skin"))
EAR_TUBE = ((44, 4, 4, -2, "skin"), (56, 4, 9, -2, "skin"), (68, 4, 9, -2, "skin"), (76, 4, 4, -2, "skin"))
HAIR_CAP = ((78, 46, 48, -12, "hair"), (96, 46, 56, -1, "hair"), (112, 38, 47, 0, "hair"),
            (128, 24, 30, 0, "hair"), (137, 6, 8, -2, "hair"))  # fmt: skip
SHORT_HAIR = ((20, 30, 22, -30, "hair"), (50, 43, 40, -16, "hair"))
LONG_HAIR = ((-45, 26, 12, -42, "hair"), (-30, 44, 22, -38, "hair"), (52, 47, 36, -26, "hair"))
LIMBS = {
    "arm": ((-190, 12, 12, 0, "sleeve"), (-176, 22, 22, 0, "sleeve"), (-115, 25, 25, 0, "sleeve"),
            (-90, 29, 29, 0, "shirt"), (-40, 31, 31, 0, "shirt"), (0, 30, 30, 0, "shirt"),
            (12, 23, 23, 0, "shirt"), (20, 10, 10, 0, "shirt")),
    "forearm": ((-244, 4, 9, 0, "skin"), (-230, 8, 17, 0, "skin"), (-195, 11, 22, 0, "skin"),
                (-170, 12, 19, 0, "skin"), (-151, 14, 16, 0, "skin"), (-138, 16, 17, 0, "sleeve"),
                (-85, 21, 21, 0, "sleeve"), (-35, 25, 25, 0, "sleeve"), (0, 23, 23, 0, "sleeve"),
                (14, 12, 12, 0, "sleeve")),
    "thigh": ((-267, 16, 17, 0, "leg"), (-245, 33, 35, 2, "leg"), (-190, 37, 40, 4, "leg"),
              (-165, 41, 43, 4, "trousers"), (-100, 48, 51, 3, "trousers"), (-40, 53, 56, 0, "trousers"),
              (10, 48, 51, 0, "trousers"), (30, 25, 26, 0, "trousers")),
    "shin": ((-253, 20, 20, -4, "leg"), (-228, 24, 24, -4, "leg"), (-170, 27, 27, -6, "leg"),
             (-85, 35, 35, -10, "leg"), (-30, 33, 33, -4, "leg"), (0, 32, 32, 0, "leg"),
             (20, 18, 18, 0, "leg")),
    "foot": ((-42, 2, 2, 36, "sole"), (-42, 26, 72, 36, "sole"), (-30, 29, 76, 37, "shoes"),
             (-18, 26, 62, 24, "shoes"), (-4, 23, 36, 2, "shoes"), (14, 22, 27, -4, "shoes")),
}  # fmt: skip
THUMB = ((-212, 6, 7, 27, "skin"), (-195, 6, 7, 25, "skin"), (-170, 6, 7, 14, "skin"))


@dataclass(frozen=True)
class Figure:
    """One person's body and clothes: P vertices, Q quads."""

    height_m: float
    shoulder_x: float
    """Half the distance of the shoulder joints, in H; likewise `hip_x`."""
    hip_x: float
    vertices: np.ndarray
    """(P, 3) float32 metres, in the axes of the vertex's bone."""
    bone: np.ndarray
    """(P,) index into BONES."""
    quads: np.ndarray
    """(Q, 4) vertices, counter-clockwise seen from outside."""
    colours: np.ndarray
    """(Q, 3) float32 RGB, 0..255."""
    lift: np.ndarray
    """(Q,) metres by which a quad is sorted nearer than it is, so that a face stays on its head."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera above world point (0, 0, distance), looking along -z and `pitch` radians down."""

    height_m: float
    distance_m: float
    pitch: float
    focal_px: float
    centre_px: tuple[float, float]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points (..., 3) in metres -> pixels (..., 2) and depths (...) in metres."""
        y, z = points[..., 1] - self.height_m, self.distance_m - points[..., 2]
        c, s = np.cos(self.pitch), np.sin(self.pitch)
        depth = z * c - y * s
        scale = self.focal_px / depth
        x, y = points[..., 0] * scale, (y * c + z * s) * scale
        return np.stack([self.centre_px[0] + x, self.centre_px[1] - y], -1), depth


def build_figure(rng: np.random.Generator) -> Figure:
    """Draw a random build, skin, hair and clothes."""
    height = rng.uniform(1.52, 1.94)
    broad, girth, hips = rng.uniform(0.94, 1.08), rng.uniform(0.88, 1.2), rng.uniform(0.92, 1.12)
    tone = rng.integers(len(SKIN))
    skin = np.array(SKIN[tone]) * rng.uniform(0.94, 1.04)
    hair = np.array(HAIR[rng.integers(len(HAIR) - tone // 2 - tone // 4)]) * rng.uniform(0.8, 1.2)
    shirt, trousers, stripe = _cloth(rng, 0.75), _cloth(rng, 0.5), _cloth(rng, 0.75)
    shoes = np.full(3, rng.choice([30.0, 70.0, 215.0]))
    striped, long_sleeves, shorts, long_hair = rng.random(4) < (0.35, 0.45, 0.25, 0.4)
    colour = {
        "skin": skin, "nose": skin * 0.93, "hair": hair, "brow": hair * 0.8,
        "lips": skin * 0.55 + (75, 20, 25), "white": np.full(3, 236), "iris": np.array((48, 36, 30)),
        "shoes": shoes, "sole": shoes * 0.7,
        "shirt": shirt, "stripe": stripe if striped else shirt, "sleeve": shirt if long_sleeves else skin,
        "trousers": trousers, "leg": skin if shorts else trousers,
    }  # fmt: skip
    vertices: list[np.ndarray] = []
    bone: list[int] = []
    quads: list[tuple[int, ...]] = []
    colours: list[np.ndarray] = []
    lift: list[float] = []

    def tube(
        sides: int, rings: Sequence[tuple], wide: float = 1, deep: float = 1, x: float = 0, near: float = 0
    ) -> None:
        angle = 2 * np.pi * np.arange(sides) / sides
        for r, (name, y, half_x, half_z, z, material) in enumerate(rings):
            first = len(vertices)
            across, ahead = x + half_x * wide * np.sin(angle), z + half_z * deep * np.cos(angle)
            vertices.extend(np.stack([across, np.full(sides, y), ahead], 1) * (height / 1000))
            bone.extend([BONES.index(name)] * sides)
            for j in range(sides if r + 1 < len(rings) else 0):
                a, b = first + j, first + (j + 1) % sides
                quads.append((a, b, b + sides, a + sides))
                colours.append(colour[material])
                lift.append(near)

    def on(name: str, rings: Sequence[tuple]) -> list[tuple]:
        return [(name, *ring) for ring in rings]

    def spot(x: float, y: float, half_x: float, half_y: float, material: str, near: float) -> None:
        tube(4, on("head", [(y + s * half_y, half_x, 0, 58, material) for s in (-1, 1)]), x=x, near=near)

    pelvis, spine, chest = (on(name, rings) for name, rings in TORSO.items())
    width = {"pelvis": hips, "spine": broad, "chest": broad}
    trunk = [(name, y, x * width[name], *rest) for name, y, x, *rest in pelvis + spine + chest]
    tube(16, trunk, wide=girth**0.7, deep=girth)
    tube(14, on("head", HEAD))
    tube(14, on("head", (LONG_HAIR if long_hair else SHORT_HAIR) + HAIR_CAP), near=0.01)
    tube(6, on("head", NOSE_TUBE), near=0.03)
    spot(0, 21, 14.5, 3.2, "lips", 0.04)
    for n, side in enumerate((1, -1)):
        tube(6, on("head", EAR_TUBE), x=43 * side, near=0.0 if long_hair else 0.02)
        spot(18 * side, 66, 8.5, 4.2, "white", 0.04)
        spot(18 * side, 66, 4.8, 4.2, "iris", 0.05)
        spot(18 * side, 76.5, 10.5, 1.9, "brow", 0.04)
        tube(6, on(f"forearm_{n}", THUMB))
        for limb, rings in LIMBS.items():
            thick = 1 + {"arm": 0.5, "forearm": 0.4, "foot": 0.0}.get(limb, 0.6) * (girth - 1.05)
            tube(10, on(f"{limb}_{n}", rings), wide=thick, deep=thick)
    return Figure(
        height, 0.106 * broad, 0.056 * hips, np.array(vertices, np.float32), np.array(bone), np.array(quads),
        np.array(colours, np.float32), np.array(lift, np.float32),
    )  # fmt: skip


def _cloth(rng: np.random.Generator, value: float) -> np.ndarray:
    """A random fabric colour (3,) of roughly the given brightness 0..1."""
    value = 255 * float(np.clip(value + rng.uniform(-0.35, 0.2), 0.15, 0.95))
    hsv = np.array([[[rng.integers(180), rng.integers(30, 200), value]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float64)


def turned(yaw_pitch_roll: np.ndarray) -> np.ndarray:
    """Angles (T, 3) -> rotations (T, 3, 3): roll about z first, then pitch about x, then yaw about y."""
    (cy, cp, cr), (sy, sp, sr) = np.cos(yaw_pitch_roll).T, np.sin(yaw_pitch_roll).T
    x = np.stack([cy * cr + sy * sp * sr, sy * sp * cr - cy * sr, sy * cp], -1)
    y = np.stack([cp * sr, cp * cr, -sp], -1)
    z = np.stack([cy * sp * sr - sy * cr, sy * sr + cy * sp * cr, cy * cp], -1)
    return np.stack([x, y, z], -2)


def reach(
    start: np.ndarray, target: np.ndarray, pole: np.ndarray, upper: float, lower: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Stretch two bones from `start` towards `target` (T, 3), their joint towards `pole` (T, 3).

    Returns:
        The joint and the end (T, 3); both bones' axes (T, 3, 3): y against the bone, x along the hinge.
    """
    line = target - start
    length = np.linalg.norm(line, axis=-1, keepdims=True) + 1e-9
    line = line / length
    length = np.clip(length, abs(upper - lower) + 1e-3, 0.999 * (upper + lower))
    cosine = (upper**2 + length**2 - lower**2) / (2 * upper * length)
    across = pole - (pole * line).sum(-1, keepdims=True) * line
    across /= np.linalg.norm(across, axis=-1, keepdims=True) + 1e-9
    joint, end = start + upper * (cosine * line + np.sqrt(1 - cosine**2) * across), start + length * line
    hinge, y1, y2 = np.cross(across, line), (start - joint) / upper, (joint - end) / lower
    axes = [np.stack([hinge, y, np.cross(hinge, y)], -1) for y in (y1, y2)]
    return joint, end, axes[0], axes[1]


def draw_frames(
    figures: Sequence[Figure],
    rotations: np.ndarray,
    origins: np.ndarray,
    camera: Camera,
    background: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw figures in every pose, far quads first.

    Args:
        figures: M bodies.
        rotations: (M, T, B, 3, 3) bones' axes in the world, in columns.
        origins: (M, T, B, 3) bones' origins in the world, metres.
        camera: for the returned frames' pixels.
        background: (2H, 2W, 3) uint8 RGB, oversampled.
        rng: light and sensor noise.

    Returns:
        (T, H, W, 3) uint8 RGB, and (T, H, W) uint8: 1 + index of the figure seen at the pixel, 0 for the room.
    """
    light = np.array([rng.uniform(-0.9, 0.9), rng.uniform(0.5, 1.0), rng.uniform(0.4, 1.0)])
    light /= np.linalg.norm(light)
    ambient = rng.uniform(0.5, 0.7)
    first = np.cumsum([0, *(len(figure.vertices) for figure in figures)])
    points = np.concatenate(
        [
            np.einsum("tpij,pj->tpi", turns[:, figure.bone], figure.vertices) + starts[:, figure.bone]
            for figure, turns, starts in zip(figures, rotations, origins, strict=True)
        ],
        1,
    )
    quads = np.concatenate([figure.quads + n for figure, n in zip(figures, first, strict=False)])
    person = np.repeat(np.arange(len(figures)) + 1, [len(figure.quads) for figure in figures])
    pixels, depth = camera.project(points)
    corners = points[:, quads]
    normal = np.cross(corners[:, :, 2] - corners[:, :, 0], corners[:, :, 3] - corners[:, :, 1])
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
    shade = ambient + (1.12 - ambient) * np.maximum(normal @ light, 0) + 0.06 * normal[..., 1]
    colours = np.clip(np.concatenate([figure.colours for figure in figures]) * shade[..., None], 0, 255)
    colours = np.dstack([colours, np.broadcast_to(person, shade.shape)])
    order = np.argsort(np.concatenate([figure.lift for figure in figures]) - depth[:, quads].mean(-1), axis=1)
    polygons = _fixed_point(pixels[:, quads])
    d1, d2 = polygons[:, :, 2] - polygons[:, :, 0], polygons[:, :, 3] - polygons[:, :, 1]
    facing = d1[..., 0] * d2[..., 1] < d1[..., 1] * d2[..., 0]  # the image's y points down

    height, width = background.shape[0] // OVERSAMPLING, background.shape[1] // OVERSAMPLING
    grain = rng.normal(0, rng.uniform(0.5, 3.0), (5, height, width, 3)).astype(np.int16)
    shadows = np.concatenate([_shadows(*both, light, camera) for both in zip(figures, origins, strict=True)], 1)
    whole = np.dstack([background, np.zeros_like(background[..., 0])])  # the fourth channel says whose pixel it is
    shaded = (whole * 0.72).astype(np.uint8)
    frames = np.empty((len(points), height, width, 3), np.uint8)
    owners = np.empty((len(points), height, width), np.uint8)
    for t in range(len(points)):
        canvas, mask = whole.copy(), np.zeros(background.shape[:2], np.uint8)
        for polygon in shadows[t]:
            cv2.fillConvexPoly(mask, polygon, 255, cv2.LINE_8, 4)
        cv2.copyTo(shaded, mask, canvas)
        drawn = order[t][facing[t][order[t]]]
        for polygon, colour in zip(polygons[t][drawn], colours[t][drawn].tolist(), strict=True):
            cv2.fillConvexPoly(canvas, polygon, colour, cv2.LINE_8, 4)
        owners[t] = canvas[::OVERSAMPLING, ::OVERSAMPLING, 3]
        small = cv2.resize(cv2.blur(canvas, (3, 3)), (width, height), interpolation=cv2.INTER_AREA)
        frames[t] = cv2.add(small[..., :3], grain[t % len(grain)], dtype=cv2.CV_8U)
    return frames, owners


def _fixed_point(pixels: np.ndarray) -> np.ndarray:
    """Pixels of the frame -> sixteenths of pixels of the oversampled canvas; centres are whole numbers."""
    return np.round(((pixels + 0.5) * OVERSAMPLING - 0.5) * 16).astype(np.int32)


def _shadows(figure: Figure, origins: np.ndarray, light: np.ndarray, camera: Camera) -> np.ndarray:
    """Ellipses on the floor under the feet and the hips, (T, 3, 16, 2) in fixed point."""
    centre = origins[:, [BONES.index(name) for name in ("foot_0", "foot_1", "pelvis")]]
    # Only a quarter of the way the light would throw them: a soft room light, and the frame is small.
    centre = (centre - 0.25 * centre[..., 1:2] * light / light[1]) * (1, 0, 1)
    angle = 2 * np.pi * np.arange(16) / 16
    ring = np.stack([np.sin(angle), np.zeros(16), np.cos(angle)], 1)
    radius = np.array([0.07, 0.07, 0.15])[:, None, None] * figure.height_m
    return _fixed_point(camera.project(centre[:, :, None] + ring * radius)[0])


def draw_background(rng: np.random.Generator, size: tuple[int, int], camera: Camera) -> np.ndarray:
    """A wall and a floor that agree with the camera: plain, textured, or with simple shapes.

    Args:
        rng: what to draw.
        size: (H, W) of the frames.
        camera: for the frames' pixels.

    Returns:
        (2H, 2W, 3) uint8 RGB, oversampled.
    """
    height, width = size[0] * OVERSAMPLING, size[1] * OVERSAMPLING
    wall_z = -rng.uniform(1.2, 3.0)
    edge = camera.project(np.array([0.0, 0.0, wall_z]))[0][1] * OVERSAMPLING
    horizon = int(np.clip(edge, 0.3 * height, 0.97 * height))
    wall = _cloth(rng, 0.7) * 0.35 + rng.uniform(60, 150)
    floor = _cloth(rng, 0.5) * 0.35 + rng.uniform(30, 110)
    image = np.where(np.arange(height)[:, None, None] < horizon, wall, floor)
    image = image * np.linspace(rng.uniform(0.75, 1.1), rng.uniform(0.75, 1.1), height)[:, None, None]
    image = image * np.linspace(rng.uniform(0.8, 1.1), rng.uniform(0.8, 1.1), width)[None, :, None]
    kind = rng.choice(["plain", "texture", "shapes", "plain"])
    if kind == "texture":
        for cells, strength in ((12, rng.uniform(5, 20)), (60, rng.uniform(3, 14))):
            noise = rng.normal(0, strength, (cells, cells)).astype(np.float32)
            image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)[:, :, None]
    image = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(rng.integers(4, 9) if kind == "shapes" else 0):
        centre = int(rng.integers(width)), int(rng.integers(horizon))
        radii = int(rng.integers(width // 40, width // 6)), int(rng.integers(height // 30, height // 5))
        colour = (_cloth(rng, 0.6) * 0.5 + wall * 0.5).tolist()
        if rng.random() < 0.5:
            cv2.ellipse(image, centre, radii, 0, 0, 360, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(image, centre, (centre[0] + 2 * radii[0], centre[1] - 2 * radii[1]), colour, -1)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 3.0))
