"""Suites of benchmarks.accuracy: which runs are made of the data sets, the most informative first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks._data import ESTIMATORS, GROUPS


@dataclass(frozen=True, kw_only=True)
class Run:
    """One result: a model that is trained and tested, or a test of models that other runs train."""

    name: str
    """Suite/run: its JSON file, and its folder below runs/accuracy."""
    row: str
    """The line of a table that it belongs to, with other seeds and folds."""
    data: str
    """One of `DATA`."""
    test: str
    """Split it is tested on, once, at the end."""
    train: str | None = None
    """Split it learns from; None trains nothing."""
    preset: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the preset, by dotted name."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Of jobs.train beside the config."""
    seed: int = 0
    fold: str = ""
    best_of: tuple[str, ...] = ()
    """Runs on held-out training clips: preset and fields are those of the best, but for `fields`."""
    models: tuple[str, ...] = ()
    """Runs whose models are tested here: several are fused, scores averaged."""
    init: tuple[str, ...] = ()
    """Runs whose weights it starts from, RGB and pose."""
    watch: str | None = None
    """Split it is validated on after each epoch, to see and not to choose by."""
    perturb: tuple[str, float] | None = None
    """What is done to the test clips first: `benchmarks._perturb`."""
    clips: tuple[int, ...] = (10, 1)
    """Test clips a row, for each test."""
    flip: bool = False
    """It is tested on each clip's mirror image too."""
    choice: bool = False
    """It is made to choose a recipe by, on clips that are not tested later: no line of a table."""
    gpu: bool = False
    """Full size, for a GPU."""
    minutes: float = 0
    """Expected, on 2 cores or on a GPU."""
    asks: str = ""
    """What it answers."""

    def declared(self) -> dict[str, Any]:
        """What decides its result, as it is kept beside it: a result of another recipe is none of this run."""
        of = {name: getattr(self, name) for name in ("data", "train", "test", "preset", "fields", "flags", "seed")}
        more = {
            name: getattr(self, name)
            for name in ("best_of", "models", "init", "watch", "perturb", "flip")
            if getattr(self, name)
        }
        return {**of, **more}


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


def _utd_mhad() -> list[Run]:
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


def _sbu() -> list[Run]:
    folds = [f"fold{i}" for i in range(1, 6)]
    # Half of the clips have less than 24 frames.
    fields = {"epochs": 24, "repeat": 5, "clip.length": 16, **AUGMENT}
    return _folds("sbu", [(fold, _others(folds, fold), fold) for fold in folds], fields, 13, persons=2)


def _penn_action() -> list[Run]:
    fields = {"epochs": 20, "repeat": 3, "clip.length": 16, **AUGMENT}
    return _folds("penn-action", [("", "train", "test")], fields, 36)


def _jhmdb14() -> list[Run]:
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


def _ut_interaction() -> list[Run]:
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


def _ut_ideas() -> list[Run]:
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


HEIGHTS = (1.0, 0.68, 0.21)
"""Of a person in each of `GROUPS`, in parts of one's who is alone: what moves joints is in pixels."""


def _persons() -> list[Run]:
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


def _estimators() -> list[Run]:
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


def _heatmaps() -> list[Run]:
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


def _recipe() -> list[Run]:
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


DROPS = (0.0, 0.125, 0.25, 0.5, 1.0)
JITTERS = (0.01, 0.02, 0.05, 0.1)


def _robustness() -> list[Run]:
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


def _occlusion() -> list[Run]:
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


def _variants() -> list[Run]:
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


def _dimensions() -> list[Run]:
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


def _rgb() -> list[Run]:
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


def _losses() -> list[Run]:
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


SUITES: dict[str, list[Run]] = {
    "utd-mhad": _utd_mhad(),
    "recipe": _recipe(),
    "sbu": _sbu(),
    "penn-action": _penn_action(),
    "jhmdb14": _jhmdb14(),
    "ut-ideas": _ut_ideas(),
    "ut-interaction": _ut_interaction(),
    "robustness": _robustness(),
    "occlusion": _occlusion(),
    "variants": _variants(),
    "persons": _persons(),
    "estimators": _estimators(),
    "heatmaps": _heatmaps(),
    "dimensions": _dimensions(),
    "rgb": _rgb(),
    "losses": _losses(),
}
RUNS = {run.name: run for runs in SUITES.values() for run in runs}
