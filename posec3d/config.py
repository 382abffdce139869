"""Configuration: how a model is made and trained, and the presets, as plain frozen values.

A config is written as JSON into the run's folder and into every checkpoint, and validated again when it is read back.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from posec3d.clips import ClipConfig
from posec3d.models.rgbpose import Lateral

FORBID_UNKNOWN: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class HeatmapConfig:
    """How a clip is drawn."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    kind: Literal["joint", "limb"] = "joint"
    """Channels of the volume: the skeleton's joints or its limbs."""
    sigma: float = 0.6
    """Spread of a Gaussian in heatmap pixels."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.sigma > 0:
            raise ValueError(f"heatmap.sigma must be positive, got {self.sigma}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    name: str = "pose-slowonly"
    """A name that posec3d.models.create knows."""
    dropout: float = 0.5
    """Before the classifier."""
    lateral: Lateral = "both"
    """Connections between the pathways of rgbpose-slowfast."""
    rgb_detach: bool = False
    """The loss of its RGB pathway does not train the pose pathway."""
    pose_detach: bool = False
    """The loss of its pose pathway does not train the RGB pathway."""
    rgb_drop_path: float = 0.0
    """Probability in training that the RGB pathway is given no pose features."""
    pose_drop_path: float = 0.0
    """Probability in training that the pose pathway is given no RGB features."""
    fusion: tuple[float, float] = (1.0, 1.0)
    """Weights of its RGB and pose probabilities, which are averaged."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {self.dropout}")
        if min(self.fusion) < 0 or not sum(self.fusion):
            raise ValueError(f"model.fusion must be two weights >= 0, one of them positive, got {self.fusion}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How it learns: warm-up, then a cosine to zero over all steps, or steps down."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD, as published, or AdamW, which learns small sets in fewer steps."""
    lr: float = 0.4
    """Peak learning rate, for the batch of all workers together: twice the batch wants twice of it (SGD)."""
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = False
    """SGD looks ahead along its momentum, as published for graph networks."""
    weight_decay: float = 3e-4
    """L2 penalty (AdamW: decoupled)."""
    clip_norm: float | None = 40.0
    """Largest L2 norm of the gradient; None lets it be."""
    warmup: float = 0.0
    """Share of all steps with a linearly rising learning rate."""
    drops: tuple[float, ...] = ()
    """Shares of all steps after which the learning rate falls to a tenth, in place of the cosine."""
    label_smoothing: float = 0.0
    """Probability mass spread over all classes in the loss."""
    class_weight: float = 0.0
    """Exponent p of the weights n^-p of classes with n clips in the loss: 0 all alike, 1 each class the same in sum."""
    heads: tuple[float, float] = (1.0, 1.0)
    """Weights of the RGB and the pose loss of rgbpose-slowfast."""
    joint_loss: bool = False
    """One loss, of the mean of both scores (by `heads`), in place of two; that mean is tested, too. To compare."""
    mixup: float = 0.0
    """Mix every sample with another, with shares of a Beta distribution of these parameters; 0 mixes none."""
    ema: float = 0.0
    """Validate and save a moving average of the weights, with this decay a step; 0 keeps none."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.lr > 0:
            raise ValueError(f"optim.lr must be positive, got {self.lr}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"optim.warmup must be in [0, 1), got {self.warmup}")
        if not all(0 < share < 1 for share in self.drops):
            raise ValueError(f"optim.drops must be in (0, 1), got {self.drops}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"optim.label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if min(self.heads) < 0 or not sum(self.heads):
            raise ValueError(f"optim.heads must be two weights >= 0, one of them positive, got {self.heads}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"optim.ema must be in [0, 1), for example 0.999, got {self.ema}")
        if self.mixup < 0 or not 0 <= self.class_weight <= 1:
            raise ValueError(
                f"optim.mixup must be >= 0, optim.class_weight in [0, 1], got {self.mixup}, {self.class_weight}"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"optim.clip_norm must be positive, or None, got {self.clip_norm}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All that decides what a training run computes. The defaults are the published NTU-60 joint recipe."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_UNKNOWN

    model: ModelConfig = field(default_factory=ModelConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    heatmap: HeatmapConfig = field(default_factory=HeatmapConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    epochs: int = 24
    """Epochs; after each one the model is validated and saved."""
    repeat: int = 10
    """Samples drawn from each clip in an epoch."""
    balanced: bool = False
    """Draw every class equally often, in as many samples; for sets whose classes differ much in size."""
    batch: int = 256
    """Samples a step, all workers together."""
    seed: int = 0
    """Seeds the weights, the order and the augmentation."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("epochs", "repeat", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        if self.clip.maps == "stored" and self.heatmap.kind != "joint":
            raise ValueError(f"stored maps are of joints: heatmap.kind {self.heatmap.kind} needs clip.maps drawn")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}} as {"optim.lr": 1}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


# Small sets on a CPU: half the width, 32 frames of 32 x 32, a wider Gaussian for the coarser grid, and AdamW, which
# needs a fraction of the steps (measured on UTD-MHAD).
SMALL = TrainConfig(
    model=ModelConfig(name="pose-slowonly-light"),
    clip=ClipConfig(length=32, size=32, test_size=36),
    heatmap=HeatmapConfig(sigma=1.0),
    optim=OptimConfig(name="adamw", lr=3e-3, weight_decay=0.02, warmup=0.1, label_smoothing=0.1),
    batch=16,
)

# Graph networks as PYSKL trains them, for all sets alike.
GRAPH = TrainConfig(
    model=ModelConfig(name="stgcn++", dropout=0),
    clip=ClipConfig(length=100, space="frame", persons=2, flip=0),
    optim=OptimConfig(lr=0.1, nesterov=True, weight_decay=5e-4, clip_norm=None),
    epochs=16,
    repeat=5,
    batch=128,
)

TWO_LIGHT = ClipConfig(rgb_length=4, length=16, size=28, test_size=32)
RGB_LIGHT = dataclasses.replace(
    SMALL, model=ModelConfig(name="rgb-slowonly-light"), clip=TWO_LIGHT, epochs=12, repeat=10, batch=8
)

PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "demo": (
        "Synthetic actors, minutes on 2 cores.",
        dataclasses.replace(SMALL, clip=ClipConfig(length=16, size=32, test_size=36), epochs=10, repeat=6),
    ),
    "ut-interaction": (
        "UT-Interaction, two people, a quarter of an hour on 2 cores.",
        dataclasses.replace(SMALL, epochs=16, repeat=20),
    ),
    "light": (
        "Hundreds of clips, an hour on 2 cores: the recipe of UTD-MHAD in docs/evidence.md, with flips.",
        dataclasses.replace(
            SMALL,
            clip=ClipConfig(
                length=16, size=32, test_size=36, rotate=15, scale=0.2, offset=0.7, share=0.75, noise=0.3, drop=0.05
            ),
            epochs=24,
        ),
    ),
    "ntu60-joint": (
        "NTU RGB+D 60, joints, as published: 24 epochs of 10 repeats, batch 256.",
        TrainConfig(),
    ),
    "ntu60-limb": ("NTU RGB+D 60, limbs, as published.", TrainConfig(heatmap=HeatmapConfig(kind="limb"))),
    "ntu60-stgcn++": ("ST-GCN++ on NTU RGB+D 60 as PYSKL trains it: 16 epochs of 5 repeats, batch 128.", GRAPH),
    "ntu60-msg3d": (
        "MS-G3D on NTU RGB+D 60, trained as ST-GCN++ is.",
        dataclasses.replace(GRAPH, model=ModelConfig(name="msg3d", dropout=0)),
    ),
    "rgb": (
        "RGB frames alone, as PYSKL trains them on NTU RGB+D 60: 18 epochs of 10 repeats, batch 96.",
        TrainConfig(
            model=ModelConfig(name="rgb-slowonly"),
            clip=ClipConfig(rgb_length=8, length=32, test_size=56),
            optim=OptimConfig(lr=0.15, weight_decay=1e-4),
            epochs=18,
            batch=96,
        ),
    ),
    "pose-pathway": (
        "Pose half of rgbpose by itself, as PYSKL trains it: batch 128.",
        TrainConfig(
            model=ModelConfig(name="pose-pathway"),
            clip=ClipConfig(length=32),
            optim=OptimConfig(lr=0.2),
            epochs=18,
            batch=128,
        ),
    ),
    "rgbpose": (
        "RGBPose-SlowFast from a run of each (--init RGB POSE): 20 epochs, batch 48.",
        TrainConfig(
            model=ModelConfig(name="rgbpose-slowfast"),
            clip=ClipConfig(rgb_length=8, length=32),
            heatmap=HeatmapConfig(sigma=0.7),
            optim=OptimConfig(lr=0.0075, weight_decay=1e-4, drops=(0.6, 0.8)),
            epochs=20,
            repeat=1,
            batch=48,
        ),
    ),
    "rgb-light": ("RGB frames alone on 2 cores: 4 frames of 112 pixels.", RGB_LIGHT),
    "pose-pathway-light": (
        "Pose half of rgbpose-light by itself: 16 frames.",
        dataclasses.replace(
            RGB_LIGHT, model=ModelConfig(name="pose-pathway-light"), clip=dataclasses.replace(TWO_LIGHT, rgb_length=0)
        ),
    ),
    "rgbpose-light": (
        "RGBPose-SlowFast on 2 cores, from runs of rgb-light and pose-pathway-light (--init RGB POSE).",
        dataclasses.replace(
            RGB_LIGHT,
            model=ModelConfig(name="rgbpose-slowfast-light"),
            optim=dataclasses.replace(SMALL.optim, lr=3e-4),
            epochs=6,
        ),
    ),
}
