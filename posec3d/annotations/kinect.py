"""Annotations -> table: three sets recorded by Kinect cameras, NTU RGB+D, SBU interactions and UTD-MHAD, in 3D."""

import re
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from posec3d.annotations.entries import MAX_FRAMES, Annotations, Entry, Options, by_number, make_clip, project
from posec3d.annotations.matlab import read_mat
from posec3d.annotations.source import File, Source
from posec3d.table import Clip

# Shahroudy et al., CVPR 2016, and Liu et al., TPAMI 2019. The second list begins with the first.
_NTU_SUBJECTS = {
    *(1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38),
    *(45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82),
    *(83, 84, 85, 86, 89, 91, 92, 93, 94, 95, 97, 98, 100, 103),
}
_NTU_CAMERAS = {2, 3}
_NTU60_SETUPS = 17
_NTU_PERSONS = 2
_NTU_FILE = re.compile(r"([^/]*)\.skeleton$", re.IGNORECASE)
_NTU_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
_NTU_JOINTS, _NTU_VALUES, _NTU_BODY_VALUES = 25, 12, 10

SBU_ACTIONS = (
    "01 approaching", "02 departing", "03 kicking", "04 pushing", "05 shaking hands", "06 hugging",
    "07 exchanging objects", "08 punching",
)  # fmt: skip
_SBU_FOLDS = (
    "s01s02 s03s04 s05s02 s06s04", "s02s03 s02s07 s03s05 s05s03", "s01s03 s01s07 s07s01 s07s03",
    "s02s01 s02s06 s03s02 s03s06", "s04s02 s04s03 s04s06 s06s02 s06s03",
)  # fmt: skip
_SBU_FILE = re.compile(r"(s\d\ds\d\d)/(\d\d)/(\w+)/skeleton_pos\.txt$")

UTD_ACTIONS = (
    "swipe left", "swipe right", "wave", "clap", "throw", "arm cross", "basketball shoot", "draw x",
    "draw circle clockwise", "draw circle counter-clockwise", "draw triangle", "bowling", "boxing", "baseball swing",
    "tennis swing", "arm curl", "tennis serve", "push", "knock", "catch", "pick up and throw", "jog", "walk",
    "sit to stand", "stand to sit", "lunge", "squat",
)  # fmt: skip
_UTD_FILE = re.compile(r"(a\d+)_(s\d+)_(t\d+)_skeleton\.mat$")


def ntu(source: Source, options: Options) -> Annotations:
    """NTU RGB+D and NTU RGB+D 120: `.skeleton` files of the Kinect 2, 25 joints, up to six bodies a frame.

    Keypoints are those in the 1920x1080 colour frames, `keypoints_3d` those of the camera, in metres. A joint's score
    is 1 if it was tracked, 0.5 if inferred, else 0. Bodies are people by their bodyID, the one that moves most first,
    two unless --max-persons says otherwise. Splits: xsub_* and xset_*, and xview_* for the setups of NTU-60.
    """
    return Annotations(_by_file(source, _NTU_FILE, _ntu, options))


def _ntu(file: File, found: re.Match[str], options: Options) -> Clip:
    name = _NTU_NAME.fullmatch(found[1])
    if name is None:
        raise ValueError(f"the name is {found.group()}, wanted SsssCcccPpppRrrrAaaa.skeleton")
    setup, camera, subject, _, action = map(int, name.groups())
    parts = {"xsub": subject in _NTU_SUBJECTS, "xset": setup % 2 == 0}
    if setup <= _NTU60_SETUPS:
        parts["xview"] = camera in _NTU_CAMERAS
    bodies, frames = _ntu_bodies(file.read().decode("ascii").split())
    if not bodies:
        raise ValueError(f"nobody in any of its {frames} frames; the authors list such files as missing skeletons")
    # As the authors choose the main person: by the spread of all coordinates.
    spread = [float(np.nan_to_num(values[..., :3].reshape(-1, 3).var(0).sum())) for _, values in bodies]
    order = sorted(range(len(bodies)), key=lambda i: -spread[i])[: options.max_persons or _NTU_PERSONS]
    joints = np.zeros((len(order), frames, _NTU_JOINTS, _NTU_VALUES))
    for person, i in zip(joints, order, strict=True):
        times, values = bodies[i]
        person[times] = values
    return make_clip(
        name.group(),
        joints[..., 5:7],
        np.where(np.isfinite(joints[..., 5:7]).all(-1), joints[..., 11] / 2, 0),
        size=(1080, 1920),
        skeleton="ntu25",
        source="ntu",
        options=options,
        label=by_number(action - 1, options, f"A{action:03d}"),
        splits=[f"{part}_{'train' if train else 'val'}" for part, train in sorted(parts.items())],
        xyz=joints[..., :3],
    )


def _ntu_bodies(words: list[str]) -> tuple[list[tuple[list[int], np.ndarray]], int]:
    """Of each body the frames it is in and its joints (frames, 25, 12), and the number of frames."""
    found: dict[str, tuple[list[int], list[list[str]]]] = {}
    at = 1
    try:
        frames = int(words[0])
        if frames > MAX_FRAMES:
            raise ValueError(f"{frames} frames, wanted at most {MAX_FRAMES}")
        for frame in range(frames):
            count, at = int(words[at]), at + 1
            for _ in range(count):
                body, joints = words[at], int(words[at + _NTU_BODY_VALUES])
                at += _NTU_BODY_VALUES + 1
                values = words[at : at + joints * _NTU_VALUES]
                if joints != _NTU_JOINTS or len(values) != joints * _NTU_VALUES:
                    raise ValueError(
                        f"frame {frame}: {joints} joints of {len(values)} values, wanted 25 of 12 each; it is cut off "
                        "or damaged"
                    )
                at += len(values)
                times, rows = found.setdefault(body, ([], []))
                times.append(frame)
                rows.append(values)
    except IndexError as error:
        raise ValueError(f"it ends in frame {frame if words else 0} of {words[0] if words else 'none'}") from error
    shape = (-1, _NTU_JOINTS, _NTU_VALUES)
    return [(times, np.array(rows, np.float64).reshape(shape)) for times, rows in found.values()], frames


def sbu(source: Source, options: Options) -> Annotations:
    """SBU Kinect Interaction: sXXsYY/AA/NNN/skeleton_pos.txt, two people of 15 joints.

    The coordinates in the files are normalised; the set's documentation says how to make millimetres of them. They are
    projected with a camera of 640x480 pixels; feet lie below its frame and stay there. Label = folder - 1. Splits:
    fold1 .. fold5, the clips that are tested; `!fold1` is what fold 1 trains on.
    """
    return Annotations(_by_file(source, _SBU_FILE, _sbu, options))


def _sbu(file: File, found: re.Match[str], options: Options) -> Clip:
    pair, action, _ = found.groups()
    rows = [line.strip().rstrip(",").split(",") for line in file.read().decode("ascii").splitlines() if line.strip()]
    lengths = {len(row) for row in rows}
    if lengths != {91}:
        raise ValueError(f"lines of {sorted(lengths)} values, wanted 91: frame, then x y z of 2 x 15 joints")
    x, y, z = np.moveaxis(np.array(rows, np.float64)[:, 1:].reshape(-1, 2, 15, 3).swapaxes(0, 1), -1, 0)
    xyz = np.stack([1280 - 2560 * x, 960 - 1920 * y, z * 10000 / 7.8125], -1) / 1000
    xy, score = project(xyz, 575.0, (320.0, 240.0))
    number = int(action) - 1
    if number not in range(len(SBU_ACTIONS)):
        raise ValueError(f"action {action}, wanted 01 to {len(SBU_ACTIONS):02d}")
    return make_clip(
        _name(found),
        xy,
        score,
        size=(480, 640),
        skeleton="sbu15",
        source="sbu",
        options=options,
        label=by_number(number, options, SBU_ACTIONS[number]),
        splits=[f"fold{i}" for i, pairs in enumerate(_SBU_FOLDS, 1) if pair in pairs.split()],
        xyz=xyz,
    )


def utd_mhad(source: Source, options: Options) -> Annotations:
    """UTD-MHAD skeletons: aA_sS_tT_skeleton.mat with d_skel (20, 3, T), metres, of the Kinect 1.

    The projection is that of its 320x240 depth images. Label = A - 1. Splits: train (odd subjects), test, and
    subjectS.
    """
    return Annotations(_by_file(source, _UTD_FILE, _utd_mhad, options))


def _utd_mhad(file: File, found: re.Match[str], options: Options) -> Clip:
    action, subject, _ = (int(part[1:]) for part in found.groups())
    joints = read_mat(file, "d_skel")["d_skel"]
    if joints.ndim != 3 or joints.shape[:2] != (20, 3):
        raise ValueError(f"d_skel has shape {joints.shape}, wanted (20, 3, T)")
    if not 1 <= action <= len(UTD_ACTIONS):
        raise ValueError(f"action {action}, wanted 1 to {len(UTD_ACTIONS)}")
    xyz = joints.transpose(2, 0, 1)[None]
    xy, score = project(xyz, 285.0, (160.0, 120.0))
    return make_clip(
        _name(found),
        xy,
        score,
        size=(240, 320),
        skeleton="utd20",
        source="utd-mhad",
        options=options,
        label=by_number(action - 1, options, f"{action:02d} {UTD_ACTIONS[action - 1]}"),
        splits=["train" if subject % 2 else "test", f"subject{subject}"],
        xyz=xyz,
    )


def _by_file(
    source: Source, names: re.Pattern[str], read: Callable[[File, re.Match[str], Options], Clip], options: Options
) -> Iterator[Entry]:
    """An entry of each file that has such a name."""
    files = [(file, found) for file in source.files if (found := names.search(file.name))]
    for i, (file, found) in enumerate(files, 1):
        yield Entry(_name(found), file.uri, partial(read, file, found, options), i / len(files))


def _name(found: re.Match[str]) -> str:
    """A clip's, by what its file's name says."""
    return "_".join(found.groups())
