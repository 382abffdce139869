"""The graph networks: their graphs by hand and by search, published sizes, what they must not depend on."""

from collections import deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from posec3d.models import create
from posec3d.models.graph import neighbourhoods, spatial_partition
from posec3d.skeletons import COCO17

NOSE, LEFT_EYE, LEFT_SHOULDER, LEFT_ELBOW, LEFT_WRIST = 0, 1, 5, 7, 9


def test_the_bones_are_a_tree_over_all_joints():
    assert len(COCO17.bones) == len(COCO17.joints) - 1
    assert {joint for joint, _ in COCO17.bones} | {NOSE} == set(range(17))


def test_the_spatial_partition_by_hand():
    itself, inward, outward = spatial_partition(COCO17).numpy()
    np.testing.assert_array_equal(itself, np.eye(17))
    assert inward[LEFT_ELBOW, LEFT_WRIST] == 1 and inward[LEFT_WRIST, LEFT_ELBOW] == 0
    assert inward[:, NOSE].sum() == 0  # nothing is further inward than the centre
    # The nose is the next one inward of both eyes and both shoulders; columns sum to one.
    assert outward[LEFT_EYE, NOSE] == outward[LEFT_SHOULDER, NOSE] == 0.25
    assert outward[LEFT_ELBOW, LEFT_SHOULDER] == 0.5  # elbow and hip
    np.testing.assert_allclose(inward.sum(0), [0, *[1] * 16])


def steps_between(skeleton, frames):
    """Bones from each node to each other, by a search from every node."""
    joints = len(skeleton.joints)
    near = {j: {j} for j in range(joints)}
    for a, b in skeleton.bones:
        near[a].add(b)
        near[b].add(a)
    nodes = joints * frames
    steps = np.full((nodes, nodes), -1)
    for start in range(nodes):
        steps[start, start] = 0
        waiting = deque([start])
        while waiting:
            node = waiting.popleft()
            for other in (f * joints + j for f in range(frames) for j in near[node % joints]):
                if steps[start, other] < 0:
                    steps[start, other] = steps[start, node] + 1
                    waiting.append(other)
    return steps


@pytest.mark.parametrize(("scales", "frames"), [(13, 1), (6, 3), (6, 5)])
def test_neighbourhoods_are_those_exactly_so_many_bones_away(scales, frames):
    steps = steps_between(COCO17, frames)
    for k, found in enumerate(neighbourhoods(COCO17, scales, frames).numpy()):
        wanted = (steps == k) | np.eye(len(steps), dtype=bool)
        np.testing.assert_allclose(found, wanted / wanted.sum(0), atol=1e-6)


@pytest.mark.parametrize(("name", "parameters", "gmacs"), [("stgcn++", 1_393_016, 1.93), ("msg3d", 2_975_763, 6.81)])
def test_sizes_are_the_published_ones(name, parameters, gmacs):
    with torch.device("meta"):
        model = create(name, 60)
        with FlopCounterMode(display=False) as counter:
            assert model(torch.empty(1, 2, 100, 17, 3)).shape == (1, 60)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=5e-3)


def people(n=2, m=2, t=16):
    return torch.rand(n, m, t, 17, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_st_gcn_does_not_care_who_is_first_and_takes_any_number():
    model = create("stgcn++", 5).eval()
    x = people(m=3)
    torch.testing.assert_close(model(x), model(x.flip(1)), atol=1e-5, rtol=0)
    assert model(people(m=13)).shape == (2, 5)


def test_ms_g3d_is_made_for_a_number_of_people():
    assert create("msg3d", 5, persons=13).eval()(people(m=13)).shape == (2, 5)


@pytest.mark.parametrize("name", ["stgcn++", "msg3d"])
@pytest.mark.parametrize("frames", [16, 17, 30])
def test_both_pathways_over_time_are_equally_long(name, frames):
    assert create(name, 5).eval()(people(t=frames)).shape == (2, 5)


@pytest.mark.parametrize("name", ["stgcn++", "msg3d"])
def test_a_movement_that_comes_later_gives_other_features_only_where_time_ends(name):
    """Convolutions over time, no memory: shifted input, shifted features, away from the borders."""
    model = create(name, 5).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
    kept = {}
    last = model.gcn[-1] if name == "stgcn++" else model.stages[-1]
    last.register_forward_hook(lambda _m, _i, out: kept.update(out=out))
    x = people(t=160)
    model(x)
    one = kept["out"]
    model(torch.roll(x, 4, 2))  # four frames in, one frame out
    torch.testing.assert_close(kept["out"][:, :, 18:28], one[:, :, 17:27], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("name", "small"), [("stgcn++", {}), ("msg3d", {"persons": 1, "base_width": 24})])
def test_sixteen_clips_are_learnt_by_heart(name, small):
    torch.manual_seed(0)
    model = create(name, 4, **small)
    x, label = people(n=16, m=1, t=8), torch.arange(16) % 4
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(25):
        loss = nn.functional.cross_entropy(model(x), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model(x).argmax(1) == label).all()
