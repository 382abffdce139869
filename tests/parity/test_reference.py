"""Reference checkpoints: with the same weights the models say what the published networks say, as no other would."""

from functools import cache

import published
import pytest
import torch
from published import CLASSES, c3d, msg3d, rgb_slowonly, rgbpose, slowonly, stgcn, x3d

from posec3d.models import GRAPH, RGB, RGBPOSE, create
from posec3d.models.convert import load_reference, to_reference

TOLERANCE = 1e-5  # of the largest logit

# name -> (keys and shapes, logits, number of keys as published)
PUBLISHED = {
    "pose-slowonly": (published.slowonly_shapes(), slowonly, 260),
    "pose-slowonly-346": (published.slowonly_shapes((3, 4, 6)), slowonly, 260),
    "pose-slowonly-light": (published.slowonly_shapes(width=16), slowonly, 260),
    "rgb-slowonly": (published.rgb_slowonly_shapes(), rgb_slowonly, 320),
    "rgb-slowonly-light": (published.rgb_slowonly_shapes((2, 2, 2, 2), 16), rgb_slowonly, 176),
    "rgbpose-slowfast": (published.rgbpose_shapes(), rgbpose, 594),
    "rgbpose-slowfast-light": (published.rgbpose_shapes((2, 2, 2, 2), 16, 16), rgbpose, 450),
    "c3d-light": (published.c3d_shapes(), c3d, 38),
    "x3d-shallow": (published.x3d_shapes(), x3d, 213),
    "stgcn++": (published.stgcn_shapes(), stgcn, 692),
    "msg3d": (published.msg3d_shapes(), msg3d, 820),
}
MISTAKES = [
    *(
        (name, mistake)
        for name in ("pose-slowonly", "pose-slowonly-346", "pose-slowonly-light")
        for mistake in (
            {"TEMPORAL_STRIDES": (1, 1, 1)},
            {"TEMPORAL_STRIDES": (1, 2, 1)},
            {"STEM_POOL": None},
            {"STEM_POOL": "avg"},
            {"EPS": 1e-3},
            {"STRIDE_IN": "conv1"},
            {"LAST_RELU": False},
        )
    ),
    # Of these the light ones alone: there are no other lines of code in the large ones.
    ("rgb-slowonly-light", {"TEMPORAL_STRIDES": (1, 1, 1, 2)}),
    ("rgb-slowonly-light", {"STEM": (2, 1)}),
    ("rgb-slowonly-light", {"STEM": (1, 2)}),
    ("rgb-slowonly-light", {"STEM_POOL": "avg"}),
    ("rgb-slowonly-light", {"STRIDES": (2, 2, 2, 2)}),
    ("rgb-slowonly-light", {"STRIDES": (2, 2, 2, 1)}),
    ("rgb-slowonly-light", {"STRIDE_IN": "conv1"}),
    ("rgb-slowonly-light", {"EPS": 1e-3}),
    ("rgbpose-slowfast-light", {"POSE_TEMPORAL_STRIDES": (1, 1, 2)}),
    ("rgbpose-slowfast-light", {"FIRST_FRAME": 1}),
    ("rgbpose-slowfast-light", {"OUTPUT_PADDING": 0}),
    ("rgbpose-slowfast-light", {"FLIPPED": True}),
    ("rgbpose-slowfast-light", {"LATERALS_FIRST": True}),
    ("rgbpose-slowfast-light", {"SOURCE": "joined"}),
    ("rgbpose-slowfast-light", {"TO_POSE_NORM": False}),
    ("rgbpose-slowfast-light", {"TO_POSE_RELU": False}),
    ("rgbpose-slowfast-light", {"TO_RGB_RELU": True}),
    ("rgbpose-slowfast-light", {"DIRECTIONS": ("rgb",)}),
    ("rgbpose-slowfast-light", {"DIRECTIONS": ("pose",)}),
    ("rgbpose-slowfast-light", {"STEM_POOL": "avg"}),
    ("rgbpose-slowfast-light", {"STRIDE_IN": "conv1"}),
    ("rgbpose-slowfast-light", {"EPS": 1e-3}),
    ("c3d-light", {"POOL": "max"}),
    ("c3d-light", {"POOL_FRAMES": 2}),
    ("c3d-light", {"LAST_POOL": False}),
    ("c3d-light", {"EPS": 1e-3}),
    ("x3d-shallow", {"STEM_RELU": True}),
    ("x3d-shallow", {"INNER_ACTIVATION": "relu"}),
    ("x3d-shallow", {"INNER_ACTIVATION": "swish"}),
    ("x3d-shallow", {"STRIDE_IN": "conv1"}),
    ("x3d-shallow", {"EPS": 1e-3}),
    ("stgcn++", {"DILATIONS": (4, 3, 2, 1)}),
    ("stgcn++", {"DILATIONS": (1, 1, 1, 1)}),
    ("stgcn++", {"SOURCE": "columns"}),
    ("stgcn++", {"FIRST_RESIDUAL": True}),
    ("stgcn++", {"GCN_RESIDUAL": False}),
    ("stgcn++", {"TRANSFORM_RELU": False}),
    ("stgcn++", {"STRIDE_IN": "first"}),
    ("stgcn++", {"DATA_BN": "CV"}),
    ("stgcn++", {"PERSONS": "max"}),
    ("stgcn++", {"EPS": 1e-3}),
    ("msg3d", {"DILATIONS": (4, 3, 2, 1)}),
    ("msg3d", {"SOURCE": "columns"}),
    ("msg3d", {"OUT_RELU": True}),
    ("msg3d", {"SGCN_LAST_RELU": True}),
    ("msg3d", {"RESIDUAL": False}),
    ("msg3d", {"WINDOW_ORDER": "joints"}),
    ("msg3d", {"LEARNT_GRAPH": False}),
    ("msg3d", {"DATA_BN": "CV"}),
    ("msg3d", {"PERSONS": "max"}),
    ("msg3d", {"EPS": 1e-3}),
]


def look(name):
    """What the networks look at: a small volume, frames, both, or two people."""
    generator = torch.Generator().manual_seed(1)
    if name in GRAPH:
        return torch.rand(2, 2, 12, 17, 3, generator=generator) * 2 - 1
    if name in (*RGB, *RGBPOSE):
        frames = torch.randn(2, 3, 3, 64, 64, generator=generator)
        return frames if name in RGB else (frames, torch.rand(2, 17, 12, 16, 16, generator=generator) ** 6)
    return torch.rand(2, 17, 6, 32, 32, generator=generator) ** 6  # heatmaps are dark


@cache
def random_weights(name):
    return published.random_weights(PUBLISHED[name][0])


@pytest.fixture(scope="module")
def logits():
    """Name -> the model's logits, float32, and the published network's, float64, one of each head; computed once."""
    kept = {}

    def of(name):
        if name not in kept:
            model = create(name, CLASSES).eval()
            load_reference(random_weights(name), model)
            with torch.no_grad():
                kept[name] = heads(model(look(name))), exact(name)
        return kept[name]

    return of


def heads(logits):
    return logits if isinstance(logits, tuple) else (logits,)


def exact(name, **mistake):
    x = look(name)
    x = tuple(part.double() for part in x) if isinstance(x, tuple) else x.double()
    return heads(PUBLISHED[name][1]({k: v.double() for k, v in random_weights(name).items()}, x, **mistake))


def apart(ours, theirs):
    """The largest difference of logits, in shares of the head's largest logit."""
    assert len(ours) == len(theirs)
    return max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_are_those_of_the_published_network(name, logits):
    ours, theirs = logits(name)
    assert all(head.std() > 0.1 * head.abs().max() for head in theirs)  # they depend on what is looked at
    assert apart(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize(("name", "mistake"), MISTAKES, ids=lambda value: str(value).replace(" ", ""))
def test_a_mistake_would_be_seen(name, mistake, logits):
    ours, _ = logits(name)
    assert apart(ours, exact(name, **mistake)) > 10 * TOLERANCE


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_weight_moves_the_logits(name):
    """So that one in a wrong place would be seen."""
    _, forward, _ = PUBLISHED[name]
    weights = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in random_weights(name).items()}
    sum(head.square().sum() for head in heads(forward(weights, look(name)))).backward()
    unused = {key for key, tensor in weights.items() if tensor.is_floating_point() and tensor.grad is None}
    assert unused == ({"backbone.A"} if name == "msg3d" else set())
    assert all(tensor.grad.any() for tensor in weights.values() if tensor.grad is not None)


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_and_shapes_are_the_published_ones(name):
    shapes, _, count = PUBLISHED[name]
    given = to_reference(create(name, CLASSES))
    assert {key: tuple(tensor.shape) for key, tensor in given.items()} == shapes
    assert len(given) == count


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_comes_back_bit_by_bit(name):
    weights = random_weights(name)
    model = create(name, CLASSES)
    load_reference(weights, model)
    back = to_reference(model)
    assert back.keys() == weights.keys()
    for key, tensor in weights.items():
        assert back[key].equal(tensor) and back[key].dtype == tensor.dtype, key
