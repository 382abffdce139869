"""Runs of the paper's claims, one experiment each."""

from typing import Any

from benchmarks._data import ESTIMATORS, GROUPS
from benchmarks._run import Run
from benchmarks._sets import AUGMENT, AUGMENT_GCN, CENTRED, FAST, PEER, RATES, UT_CNN, UTD_CNN, UTD_GCN

HEIGHTS = (1.0, 0.68, 0.21)
"""Of a person in each of `GROUPS`, in parts of one's who is alone: what moves joints is in pixels."""


def persons() -> list[Run]:
    """Claim d: groups of people who do the same thing; the graph network is given all of them."""
    runs = []
    for people, height in zip(GROUPS, HEIGHTS, strict=True):
        moves = {name: 48 / 32 * height * AUGMENT[name] for name in ("clip.offset", "clip.noise")}
        # 40 passes. 16 of a clip's 20 frames: ten test clips would be nearly one.
        alike = {**AUGMENT, "epochs": 10, "repeat": 4, "batch": 16, "clip.length": 16, "clip.persons": people}
        side = {"clip.size": 48, "clip.test_size": 54}
        group: dict[str, Any] = {
            "data": f"groups-{people}",
            "train": "train",
            "test": "test",
            "flags": FAST,
            "clips": (1,),
        }
        runs += [
            Run(
                name=f"persons/joint-{people}-s0",
                row="3D-CNN, joints",
                preset="ut-interaction",
                fields={**alike, **moves, **side, "clip.flip": 0.0},
                minutes=25,
                asks=f"claim d: groups of {people}, one volume for all",
                **group,
            ),
            Run(
                name=f"persons/stgcn++-{people}-s0",
                row=PEER,
                fields={**alike, **CENTRED, **{name: pixels / 24 for name, pixels in moves.items()}},  # 48 are 2 units
                best_of=tuple(f"utd-mhad/choose-stgcn++-lr{rate}" for rate in RATES),
                minutes=5 + 4 * people,
                asks=f"claim d: groups of {people}, a graph each",
                **group,
            ),
        ]
    return runs


def estimators() -> list[Run]:
    """Claim c: two pose estimators, each to train on and to test on, in both families; set 1 against set 2."""
    families: dict[str, tuple[str, dict[str, Any]]] = {
        "joint": (
            "3D-CNN, joints",
            {
                "preset": "ut-interaction",
                "fields": {**UT_CNN, "repeat": 20},
                "flags": FAST,
                "minutes": 12,
            },
        ),
        "stgcn++": (
            PEER,
            {
                # Half as many passes as the 3D-CNN, and twice as many as published.
                "fields": {"epochs": 16, "repeat": 10, "batch": 16, "clip.persons": 2, "clip.flip": 0.5, **AUGMENT_GCN},
                "flags": FAST,
                "best_of": tuple(f"utd-mhad/choose-stgcn++-lr{rate}" for rate in RATES),
                "minutes": 30,
            },
        ),
    }
    runs = []
    for kind, (family, recipe) in families.items():
        for learnt in ESTIMATORS:
            model = f"estimators/{kind}-{ESTIMATORS[learnt]}-s0"
            for seen in ESTIMATORS:
                own = seen == learnt
                runs.append(
                    Run(
                        name=model if own else f"{model}-on-{ESTIMATORS[seen]}",
                        row=f"{family}, trained on {ESTIMATORS[learnt]}",
                        data=seen,
                        test="set2",
                        asks="claim c: the same videos, poses of a strong and a weak estimator",
                        **({"train": "set1", **recipe} if own else {"models": (model,), "minutes": 1}),
                    )
                )
    # A model first, then its test on the other's poses.
    return sorted(runs, key=lambda run: bool(run.models))


MAPS = {"drawn": "Gaussians at the coordinates", "stored": "the network's own heatmaps"}


def heatmaps() -> list[Run]:
    """Claim i: volumes of coordinates and of stored heatmaps, of a strong and a weak estimator; set 1 against set 2."""
    # What moves or loses single joints has no equal for stored maps.
    whole = {name: AUGMENT[name] for name in ("clip.share", "clip.rotate", "clip.scale")}
    return [
        Run(
            name=f"heatmaps/{maps}-{estimator}-s0",
            row=said,
            data=data,
            train="set1",
            test="set2",
            preset="ut-interaction",
            fields={"epochs": 16, "repeat": 20, "clip.length": 16, "clip.persons": 2, **whole, "clip.maps": maps},
            flags=FAST,
            minutes=12,
            asks="claim i: stored heatmaps against coordinates",
        )
        for data, estimator in ESTIMATORS.items()
        for maps, said in MAPS.items()
    ]


DROPS = (0.0, 0.125, 0.25, 0.5, 1.0)
JITTERS = (0.01, 0.02, 0.05, 0.1)


def robustness() -> list[Run]:
    """Claim b: what trained models make of worse poses."""
    peer = "utd-mhad/stgcn++-s0"
    models = {
        "3D-CNN, joints": "utd-mhad/joint-s0",
        "3D-CNN, limbs": "utd-mhad/limb-s0",
        "ST-GCN++": peer,
        PEER: "utd-mhad/augmented-stgcn++-s0",
    }
    tests = [
        (kind, amount, row, model)
        for kind, amounts in (("drop", DROPS), ("jitter", JITTERS))
        for amount in amounts
        for row, model in models.items()
    ]
    # Its training clips' scores are all 1; this tells a joint's loss from a score that the network has never seen.
    tests += [("centre", amount, "ST-GCN++, lost joints keep their score", peer) for amount in DROPS]
    return [
        Run(
            name=f"robustness/{model.split('/')[1]}-{kind}{amount:g}",
            row=row,
            data="utd-mhad",
            test="test",
            models=(model,),
            perturb=(kind, amount),
            clips=(1,),
            minutes=1,
            asks="claim b: one limb joint of a frame lost, or all joints moved",
        )
        for kind, amount, row, model in tests
    ]


def occlusion() -> list[Run]:
    """Claim b on real occlusions: models that learnt with Penn Action's flags, given the annotators' guesses too."""
    return [
        Run(
            name=f"occlusion/{model}-guess",
            row=row,
            data="penn-action",
            test="test",
            models=(f"penn-action/{model}",),
            perturb=("guess", 1.0),
            minutes=2,
            asks="claim b: joints marked invisible are shown where the annotator guessed them",
        )
        for model, row in (("joint-s0", "3D-CNN, joints"), ("limb-s0", "3D-CNN, limbs"), ("stgcn++-s0", PEER))
    ]


AS_IT_IS = "uniform sampling, subject-centred crop"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "as-it-is": (AS_IT_IS, {}),
    # People are smaller in the whole frame, by 0.63: so is what moves their joints, in pixels.
    "whole": ("the whole frame", {"clip.padding": None, "clip.offset": 0.44, "clip.noise": 0.19}),
    "stride3": ("every 3rd frame", {"clip.stride": 3}),
    "stride2": ("every 2nd frame", {"clip.stride": 2}),
}


def variants() -> list[Run]:
    """Claims e and f: joints on UTD-MHAD, with other frames or another crop; 60 passes, a quarter of the table's."""
    return [
        Run(
            name=f"variants/{name}-s0",
            row=row,
            data="utd-mhad",
            train="train",
            test="test",
            preset="ut-interaction",
            fields={**UTD_CNN, "epochs": 12, "repeat": 5, "heatmap.kind": "joint", **fields},
            flags=FAST,
            minutes=18,
            asks="claims e and f: uniform sampling, and the subject-centred crop, against others",
        )
        for name, (row, fields) in VARIANTS.items()
    ]


def dimensions() -> list[Run]:
    """Claim j: 2D against 3D skeletons in the same graph network; each 40 passes, half of what is published."""
    return [
        Run(
            name=f"dimensions/stgcn++-{name}-s{seed}",
            row=f"ST-GCN++, {said}",
            data="utd-mhad",
            train="train",
            test="test",
            seed=seed,
            fields={**UTD_GCN, "epochs": 8, "clip.space": space},
            flags=FAST,
            best_of=tuple(f"utd-mhad/choose-stgcn++-lr{rate}" for rate in RATES),
            minutes=25,
            asks="claim j: the same clips and network, joints in 2D and in 3D",
        )
        for seed in range(3)
        for name, said, space in (("3d", "3D", "body"), ("2d", "2D, subject-centred", "subject"))
    ]


LATERALS = {
    "none": "no lateral connections",
    "rgb-to-pose": "RGB to pose",
    "pose-to-rgb": "pose to RGB",
    "both": "in both directions",
}


def _rgbpose(suite: str, name: str, row: str, asks: str, seed: int, **more: Any) -> Run:
    """UT-Interaction's frames and poses, odd sequences of both sets against even ones, which are of the same places."""
    return Run(name=f"{suite}/{name}-s{seed}", row=row, data="ut-interaction", test=EVEN, seed=seed, asks=asks, **more)


ODD, EVEN = (",".join(f"set{1 + i // 11}_seq{i:02d}" for i in range(first, 21, 2)) for first in (1, 2))


def _alone(seed: int) -> tuple[str, str]:
    """The runs that RGBPose-SlowFast starts from."""
    return f"rgb/rgb-s{seed}", f"rgb/pose-s{seed}"


def rgb() -> list[Run]:
    """Claim k: frames, poses, and both, fused late or early."""
    asks = "claim k: RGB, poses, late fusion, lateral connections"
    two = {"clip.persons": 2}  # not who passes by
    runs = []
    for seed in range(3):
        alone: dict[str, Any] = {"asks": asks, "seed": seed, "train": ODD, "fields": two, "minutes": 9}
        runs += [
            _rgbpose("rgb", "rgb", "RGB", preset="rgb-light", **alone),
            _rgbpose("rgb", "pose", "poses", preset="pose-pathway-light", **alone),
            _rgbpose("rgb", "late", "RGB and poses, late fusion", asks, seed, models=_alone(seed), minutes=1),
        ]
        early: dict[str, Any] = {**alone, "preset": "rgbpose-light", "init": _alone(seed)}
        runs += [
            _rgbpose(
                "rgb", lateral, f"RGBPose-SlowFast, {said}", **{**early, "fields": {**two, "model.lateral": lateral}}
            )
            for lateral, said in LATERALS.items()
        ]
    return runs


LOSSES = {"two": ("a loss each", False), "one": ("one loss, of the mean of both scores", True)}


def losses() -> list[Run]:
    """Claim l: how fast two pathways overfit that learn by one loss, and by a loss each; from nothing."""
    return [
        _rgbpose(
            "losses",
            name,
            f"RGBPose-SlowFast, {said}",
            "claim l: one loss against two",
            seed,
            train=ODD,
            preset="rgbpose-light",
            fields={"epochs": 12, "clip.persons": 2, "optim.lr": 3e-3, "optim.joint_loss": joint},
            watch=EVEN,
            minutes=18,
        )
        for seed in range(3)
        for name, (said, joint) in LOSSES.items()
    ]
