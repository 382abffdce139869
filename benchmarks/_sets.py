"""Runs of each data set's table, and those that recipes were chosen by, the most informative first."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks._run import Run

FAST = {"precision": "bfloat16"}
"""Two to three times as fast on a CPU with AVX512-BF16; on others it is slow, and comes to about the same."""

FULL = {"batch": 32, "optim.lr": 0.05}
"""The published recipe, 240 passes, with a batch for small sets and its learning rate."""

BODIES = {"clip.offset": 0.7, "clip.share": 0.75}
AUGMENT = {**BODIES, "clip.rotate": 15.0, "clip.scale": 0.2, "clip.noise": 0.3, "clip.drop": 0.05}
"""Adopted after the suite recipe, by a few clips of one held-out subject."""
# UTD-MHAD: swipes to the left and to the right are classes, so nothing is flipped. 240 passes over the clips.
UTD_CNN = {"epochs": 24, "repeat": 10, "clip.length": 16, "clip.flip": 0.0, **AUGMENT}
# As published: 80 passes, and a person by itself.
UTD_GCN = {"epochs": 16, "repeat": 5, "batch": 16, "clip.persons": 1}
# The published recipe sees where in the frame people stand, and moves nothing; UTD-MHAD's four of training each stand
# in a place of their own. This is about what the 3D-CNN sees, whose 32 pixels are 2 units here: people relative to
# their crop, and moved as much; but without its random crop, and x and y are scaled apart.
CENTRED = {"clip.space": "subject"}
PEER = "ST-GCN++, subject-centred, augmented"
"""On sets after UTD-MHAD, where the published recipe falls far behind it."""
LONGER_PEER = f"{PEER}, 160 passes"
AUGMENT_GCN = {**CENTRED, **AUGMENT, **{f"clip.{name}": AUGMENT[f"clip.{name}"] / 16 for name in ("offset", "noise")}}
KINDS = ("joint", "limb")
RATES = (0.1, 0.03, 0.01)
"""Of the graph networks; published is 0.1 for a batch of 128, which is 0.0125 for one of 16."""
SUBJECTS = "subject1,subject3,subject5"
"""Of UTD-MHAD's training subjects."""
HELD_OUT = "subject7"
"""The fourth, which choices are made on."""


def _peers(name: str, title: str, preset: str, minutes: float, chosen: float, *, gpu: bool = False) -> list[Run]:
    """A graph network on UTD-MHAD: the best of three learning rates on a held-out subject, then three seeds.

    Two cores take more than an hour for MS-G3D (gpu).
    """
    rates = [
        Run(
            name=f"utd-mhad/choose-{name}-lr{rate}",
            row=f"{title}, learning rate {rate}",
            data="utd-mhad",
            train=SUBJECTS,
            test=HELD_OUT,
            preset=preset,
            fields={**UTD_GCN, "epochs": 4, "optim.lr": rate},
            flags={} if gpu else FAST,
            clips=(1,),
            choice=True,
            gpu=gpu,
            minutes=chosen,
            asks="which learning rate, on a held-out training subject",
        )
        for rate in RATES
    ]
    return rates + [
        Run(
            name=f"utd-mhad/{prefix}{name}-s{seed}",
            row=f"{title}{said}",
            data="utd-mhad",
            train="train",
            test="test",
            seed=seed,
            fields=fields,
            flags={} if gpu else FAST,
            best_of=tuple(run.name for run in rates),
            gpu=gpu,
            minutes=minutes * longer,
            asks=f"the published peer, on the same clips{said}",
        )
        for seed in range(3)
        for prefix, said, fields, longer in (
            ("", "", UTD_GCN, 1),
            ("augmented-", ", subject-centred, augmented", {**UTD_GCN, **AUGMENT_GCN}, 1),
            ("long-", ", subject-centred, augmented, 160 passes", {**UTD_GCN, **AUGMENT_GCN, "repeat": 10}, 2),
        )
    ]


def utd_mhad() -> list[Run]:
    def cnn(kind: str, seed: int) -> Run:
        return Run(
            name=f"utd-mhad/{kind}-s{seed}",
            row=f"3D-CNN, {kind}s",
            data="utd-mhad",
            train="train",
            test="test",
            preset="ut-interaction",
            fields={**UTD_CNN, "heatmap.kind": kind},
            flags=FAST,
            seed=seed,
            minutes=50,
            asks="heatmaps and a light 3D-CNN",
        )

    def both(seed: int, full: str = "") -> Run:
        return Run(
            name=f"utd-mhad/{full}both-s{seed}",
            row="3D-CNN, joints and limbs" + (", full size" if full else ""),
            data="utd-mhad",
            test="test",
            seed=seed,
            models=tuple(f"utd-mhad/{full}{kind}-s{seed}" for kind in KINDS),
            gpu=bool(full),
            minutes=2,
            asks="late fusion of joints and limbs",
        )

    def full(kind: str, seed: int) -> Run:
        return Run(
            name=f"utd-mhad/full-{kind}-s{seed}",
            row=f"3D-CNN, {kind}s, full size",
            data="utd-mhad",
            train="train",
            test="test",
            preset=f"ntu60-{kind}",
            fields={**FULL, "clip.flip": 0.0},
            seed=seed,
            gpu=True,
            minutes=4,
            asks="the published network and recipe; learning rate by batch",
        )

    stgcn = _peers("stgcn++", "ST-GCN++", "ntu60-stgcn++", 55, 10)
    msg3d = _peers("msg3d", "MS-G3D", "ntu60-msg3d", 3, 1, gpu=True)
    return [
        *(cnn("joint", 0), cnn("limb", 0), both(0)),
        *stgcn[:6],
        *(
            run
            for seed in (1, 2)
            for run in (cnn("joint", seed), cnn("limb", seed), both(seed), *stgcn[3 + 3 * seed : 6 + 3 * seed])
        ),
        *(run for seed in range(3) for run in (full("joint", seed), full("limb", seed), both(seed, "full-"))),
        *msg3d,
    ]


def pretrained(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe where much is known already: half the passes, and a third of the learning rate."""
    return {**fields, "repeat": fields["repeat"] // 2, "optim.lr": 1e-3}


def _folds(
    suite: str,
    parts: Sequence[tuple[str, str, str]],
    fields: Mapping[str, Any],
    minutes: float,
    *,
    persons: int = 1,
    start: tuple[str, str] = ("", ""),
    longer: int = 0,
    flip: bool = False,
) -> list[Run]:
    """Joints, limbs, both and ST-GCN++ in every fold, seed by seed.

    Args:
        suite: their name, and the data's.
        parts: a fold, its training and test split.
        fields: the 3D-CNNs' recipe.
        minutes: of one training.
        persons: whom the graph network is given.
        start: runs of another set to start from as well, {} for the kind, and the set's title.
        longer: with so many repeats an epoch as well.
        flip: test joints, and both, on mirrored clips as well, as is published.
    """

    def of(seed: int, name: str, row: str, fused: Sequence[str] = (), **recipe: Any) -> list[Run]:
        runs = []
        for fold, train, test in parts:
            end = f"{fold and '-' + fold}-s{seed}"
            runs.append(
                Run(
                    name=f"{suite}/{name}{end}",
                    row=row,
                    data=suite,
                    train=None if fused else train,
                    test=test,
                    seed=seed,
                    fold=fold,
                    models=tuple(f"{suite}/{kind}{end}" for kind in fused),
                    **recipe,
                )
            )
        return runs

    light: dict[str, Any] = {
        "preset": "ut-interaction",
        "flags": FAST,
        "minutes": minutes,
        "asks": "heatmaps and a light 3D-CNN",
    }
    alike: dict[str, Any] = {
        "epochs": fields["epochs"],
        "repeat": fields["repeat"],
        "batch": 16,
        "clip.persons": persons,
        "clip.flip": 0.5,  # as the 3D-CNNs' preset does
        **AUGMENT_GCN,
    }
    recipes = [("", "", fields)]
    if longer:
        recipes += [("long-", f", {fields['epochs'] * longer} passes", {**fields, "repeat": longer})]
    runs: list[Run] = []
    for seed in range(3):
        asks = "late fusion of joints and limbs"
        for prefix, said, recipe in recipes:
            long = light["minutes"] * recipe["repeat"] / fields["repeat"]
            for kind in KINDS:
                learnt = {**light, "fields": {**recipe, "heatmap.kind": kind}, "minutes": long}
                runs += of(seed, f"{prefix}{kind}", f"3D-CNN, {kind}s{said}", **learnt)
            pair = [f"{prefix}{kind}" for kind in KINDS]
            runs += of(seed, f"{prefix}both", f"3D-CNN, joints and limbs{said}", pair, minutes=1, asks=asks)
            if flip:
                seen: dict[str, Any] = {"flip": True, "minutes": 2, "asks": "the published test, mirrored clips too"}
                runs += of(seed, f"flip-{prefix}joint", f"3D-CNN, joints{said}, mirrored too", pair[:1], **seen)
                runs += of(seed, f"flip-{prefix}both", f"3D-CNN, joints and limbs{said}, mirrored too", pair, **seen)
        other, title = start
        if other:
            more = pretrained(fields)
            for kind in KINDS:
                runs += of(
                    seed,
                    f"pretrained-{kind}",
                    f"3D-CNN, {kind}s, pretrained on {title}",
                    fields={**more, "heatmap.kind": kind},
                    init=(other.format(kind),),
                    **{**light, "minutes": minutes / 2, "asks": f"what is learnt of {title} carries over"},
                )
            fused = [f"pretrained-{kind}" for kind in KINDS]
            both = f"3D-CNN, joints and limbs, pretrained on {title}"
            runs += of(seed, "pretrained-both", both, fused, minutes=1, asks=asks)
        asks = "the peer; its learning rate is that of UTD-MHAD"
        best = tuple(f"utd-mhad/choose-stgcn++-lr{rate}" for rate in RATES)
        peer: dict[str, Any] = {"fields": alike, "flags": FAST, "best_of": best, "minutes": 2.3 * persons * minutes}
        runs += of(seed, "stgcn++", PEER, **peer, asks=asks)
        everyone = {**FULL, "clip.persons": persons}  # of those who act
        full: dict[str, Any] = {
            "fields": everyone,
            "gpu": True,
            "minutes": minutes / 10,
            "asks": "the published recipe",
        }
        for kind in KINDS:
            runs += of(seed, f"full-{kind}", f"3D-CNN, {kind}s, full size", preset=f"ntu60-{kind}", **full)
        asks = "late fusion of joints and limbs"
        fused = [f"full-{kind}" for kind in KINDS]
        runs += of(seed, "full-both", "3D-CNN, joints and limbs, full size", fused, gpu=True, minutes=0.2, asks=asks)
    return runs


def _others(names: Sequence[str], one: str) -> str:
    return ",".join(name for name in names if name != one)


def sbu() -> list[Run]:
    folds = [f"fold{i}" for i in range(1, 6)]
    # Half of the clips have less than 24 frames.
    fields = {"epochs": 24, "repeat": 5, "clip.length": 16, **AUGMENT}
    return _folds("sbu", [(fold, _others(folds, fold), fold) for fold in folds], fields, 13, persons=2)


def penn_action() -> list[Run]:
    fields = {"epochs": 20, "repeat": 3, "clip.length": 16, **AUGMENT}
    return _folds("penn-action", [("", "train", "test")], fields, 36)


def jhmdb14() -> list[Run]:
    fields = {"epochs": 16, "repeat": 6, "clip.length": 16, **AUGMENT}
    return _folds(
        "jhmdb14",
        [(f"split{i}", f"split{i}_train", f"split{i}_test") for i in (1, 2, 3)],
        fields,
        28,
        start=("penn-action/{}-s0", "Penn Action"),
        longer=8,
        flip=True,
    )


UT_CNN = {"epochs": 16, "repeat": 10, "clip.length": 16, "clip.persons": 2, **AUGMENT}


def ut_interaction() -> list[Run]:
    parts = []
    for number, first in ((1, 1), (2, 11)):
        sequences = [f"set{number}_seq{i:02d}" for i in range(first, first + 10)]
        parts += [(one.replace("_", "-"), _others(sequences, one), one) for one in sequences]
    return _folds("ut-interaction", parts, UT_CNN, 6, persons=2, start=("sbu/{}-fold1-s0", "SBU"))


LARGER = {"clip.size": 48, "clip.test_size": 54, "clip.offset": 1.05, "clip.noise": 0.45}
FROM_SBU = "from a model of SBU, half the passes, learning rate 0.001"
UT_IDEAS: dict[str, tuple[str, dict[str, Any], str]] = {
    "as-it-is": ("as it is", {}, ""),
    "still": ("joints neither moved nor lost", {"clip.offset": 0.0, "clip.noise": 0.0, "clip.drop": 0.0}, ""),
    "frames32": ("32 frames", {"clip.length": 32}, ""),
    "size48": ("48 x 48 pixels", LARGER, ""),
    "sbu": (FROM_SBU, pretrained(UT_CNN), "sbu/joint-fold1-s0"),
    "sbu-limb": (f"limbs, {FROM_SBU}", {**pretrained(UT_CNN), "heatmap.kind": "limb"}, "sbu/limb-fold1-s0"),
    "sbu-size48": (f"48 x 48 pixels, {FROM_SBU}", {**pretrained(UT_CNN), **LARGER}, "sbu/joint-fold1-s0"),
    "sbu-frames32": (f"32 frames, {FROM_SBU}", {**pretrained(UT_CNN), "clip.length": 32}, "sbu/joint-fold1-s0"),
}
"""What is said of it, what it changes, and the run it starts from."""


def ut_ideas() -> list[Run]:
    """Ideas for UT-Interaction's recipe: what is chosen for one set is chosen on the clips of the other."""
    return [
        Run(
            name=f"ut-ideas/{name}-{train}",
            row=f"{title}; trained on {train}, tested on {test}",
            data="ut-interaction",
            train=train,
            test=test,
            preset="ut-interaction",
            fields={**UT_CNN, **fields},
            flags=FAST,
            init=(init,) if init else (),
            choice=True,
            minutes=7,
            asks="an idea for the recipe, on the other set",
        )
        for name, (title, fields, init) in UT_IDEAS.items()
        for train, test in (("set1", "set2"), ("set2", "set1"))
    ]


MOVED = "joints moved for a whole clip, stretches of three quarters and more"
IDEAS: dict[str, tuple[str, dict[str, Any]]] = {
    "as-it-is": ("as it is", {}),
    "bodies": (MOVED, BODIES),
    "augment": (f"{MOVED}, rotation 15, scaling 0.2, noise 0.3, a twentieth of the joints lost", AUGMENT),
    "mixup": ("mixup 0.2", {"optim.mixup": 0.2}),
    "frames32": ("32 frames, half the passes", {"clip.length": 32, "epochs": 12}),
    "sigma0.6": ("sigma 0.6, as published", {"heatmap.sigma": 0.6}),
    "size48": ("48 x 48 pixels, half the passes", {"clip.size": 48, "clip.test_size": 54, "epochs": 12}),
    "dropout0.2": ("dropout 0.2", {"model.dropout": 0.2}),
    "lr0.001": ("learning rate 0.001", {"optim.lr": 0.001}),
    "sgd": ("SGD 0.1", {"optim.name": "sgd", "optim.lr": 0.1, "optim.weight_decay": 3e-4}),
}


def recipe() -> list[Run]:
    """Ideas for the 3D-CNN's recipe on UTD-MHAD, by a held-out training subject, about alike in cost: 120 passes."""
    base = {
        "epochs": 24, "repeat": 5, "clip.length": 16, "clip.flip": 0.0, "clip.rotate": 10.0, "clip.scale": 0.1,
        "heatmap.kind": "joint",
    }  # fmt: skip
    return [
        Run(
            name=f"recipe/{name}",
            row=title,
            data="utd-mhad",
            train=SUBJECTS,
            test=HELD_OUT,
            preset="ut-interaction",
            fields={**base, **fields},
            flags=FAST,
            clips=(1, 10),
            choice=True,
            minutes=20,
            asks="an idea for the recipe, on a held-out training subject",
        )
        for name, (title, fields) in IDEAS.items()
    ]
