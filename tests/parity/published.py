"""The published networks again, plain: key -> shape of their checkpoints, and logits as a function of the weights.

Written from what is published of PYSKL's and MMAction2's networks (layers, strides, key names and shapes), with nothing
of posec3d: no classes, a weight is what its key says. Keyword arguments in capitals are mistakes one could make.
"""

import math

import torch
import torch.nn.functional as F

CLASSES = 7
# The COCO skeleton: (joint, next one toward the nose).
INWARD = [
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 5), (12, 6), (9, 7), (7, 5),
    (10, 8), (8, 6), (5, 0), (6, 0), (1, 0), (3, 1), (2, 0), (4, 2),
]  # fmt: skip


# Keys and shapes.


def norm(key, width):
    return {f"{key}.{k}": (width,) for k in ("weight", "bias", "running_mean", "running_var")} | {
        f"{key}.num_batches_tracked": ()
    }


def conv(key, *shape, bias=False):
    return {f"{key}.weight": shape} | ({f"{key}.bias": shape[:1]} if bias else {})


def conv_norm(key, *shape):
    return conv(f"{key}.conv", *shape) | norm(f"{key}.bn", shape[0])


def head(width, key="fc_cls"):
    return conv(f"cls_head.{key}", CLASSES, width, bias=True)


def pathway_shapes(at, looks_at, blocks, width, inflated, joining):
    shapes = conv_norm(f"{at}.conv1", width, looks_at, 1, 7, 7)
    given = width
    for stage, count in enumerate(blocks):
        inner, frames = width * 2**stage, 3 if inflated[stage] else 1
        given += joining[stage]
        for block in range(count):
            key = f"{at}.layer{stage + 1}.{block}"
            shapes |= conv_norm(f"{key}.conv1", inner, given, frames, 1, 1)
            shapes |= conv_norm(f"{key}.conv2", inner, inner, 1, 3, 3)
            shapes |= conv_norm(f"{key}.conv3", 4 * inner, inner, 1, 1, 1)
            if block == 0:
                shapes |= conv_norm(f"{key}.downsample", 4 * inner, given, 1, 1, 1)
            given = 4 * inner
    return shapes


def slowonly_shapes(blocks=(4, 6, 3), width=32):
    return pathway_shapes("backbone", 17, blocks, width, (0, 1, 1), (0, 0, 0)) | head(16 * width)


def rgb_slowonly_shapes(blocks=(3, 4, 6, 3), width=64):
    return pathway_shapes("backbone", 3, blocks, width, (0, 0, 1, 1), (0, 0, 0, 0)) | head(32 * width)


def rgbpose_shapes(rgb_blocks=(3, 4, 6, 3), rgb_width=64, pose_width=32):
    rgb, pose = rgb_width, pose_width
    shapes = pathway_shapes("backbone.rgb_path", 3, rgb_blocks, rgb, (0, 0, 1, 1), (0, 0, 4 * pose, 8 * pose))
    shapes |= pathway_shapes("backbone.pose_path", 17, (4, 6, 3), pose, (0, 1, 1), (0, 8 * rgb // 16, 16 * rgb // 16))
    for stage in (1, 2):
        of_pose, of_rgb = 2 * 2**stage * pose, 4 * 2**stage * rgb
        shapes |= conv(f"backbone.rgb_path.layer{stage + 1}_lateral.conv", of_pose, of_pose, 7, 1, 1)
        key = f"backbone.pose_path.layer{stage}_lateral"  # transposed: the input's channels come first
        shapes |= conv(f"{key}.conv", of_rgb, of_rgb // 16, 7, 1, 1) | norm(f"{key}.bn", of_rgb // 16)
    return shapes | head(32 * rgb, "fc_rgb") | head(16 * pose, "fc_pose")


def c3d_shapes():
    shapes, given = {}, 17
    for name, width in [("1a", 32), ("2a", 64), ("3a", 128), ("3b", 128), ("4a", 256), ("4b", 256)]:
        shapes |= conv_norm(f"backbone.conv{name}", width, given, 3, 3, 3)
        given = width
    return shapes | head(256)


def x3d_shapes():
    shapes = conv("backbone.conv1_s.conv", 24, 17, 1, 3, 3) | conv_norm("backbone.conv1_t", 24, 1, 5, 1, 1)
    given = 24
    for stage, (count, inner, width) in enumerate([(2, 54, 24), (5, 108, 48), (3, 216, 96)], 1):
        for block in range(count):
            key = f"backbone.layer{stage}.{block}"
            shapes |= conv_norm(f"{key}.conv1", inner, given, 1, 1, 1)
            shapes |= conv_norm(f"{key}.conv2", inner, 1, 3, 3, 3)
            shapes |= conv_norm(f"{key}.conv3", width, inner, 1, 1, 1)
            if block == 0:
                shapes |= conv_norm(f"{key}.downsample", width, given, 1, 1, 1)
            given = width
    return shapes | conv_norm("backbone.conv5", 216, 96, 1, 1, 1) | head(216)


def stgcn_shapes():
    shapes, given = norm("backbone.data_bn", 51), 3
    for block, width in enumerate([64] * 4 + [128] * 3 + [256] * 3):
        key, mid = f"backbone.gcn.{block}", width // 6
        shapes |= {f"{key}.gcn.A": (3, 17, 17)}
        shapes |= conv(f"{key}.gcn.conv", 3 * width, given, 1, 1, bias=True) | norm(f"{key}.gcn.bn", width)
        if given != width:
            shapes |= conv(f"{key}.gcn.down.0", width, given, 1, 1, bias=True) | norm(f"{key}.gcn.down.1", width)
        for branch in range(5):
            inner, at = mid if branch else width - 5 * mid, f"{key}.tcn.branches.{branch}"
            shapes |= conv(f"{at}.0", inner, width, 1, 1, bias=True) | norm(f"{at}.1", inner)
            if branch < 4:
                shapes |= conv(f"{at}.3.conv", inner, inner, 3, 1, bias=True)
        shapes |= conv(f"{key}.tcn.branches.5", mid, width, 1, 1, bias=True)
        shapes |= norm(f"{key}.tcn.transform.0", width)
        shapes |= conv(f"{key}.tcn.transform.2", width, width, 1, 1, bias=True) | norm(f"{key}.tcn.bn", width)
        if block in (4, 7):
            shapes |= conv(f"{key}.residual.conv", width, given, 1, 1, bias=True) | norm(f"{key}.residual.bn", width)
        given = width
    return shapes | head(256)


def ms_tcn_shapes(key, given, width):
    mid, shapes = width // 6, {}
    for branch in range(6):
        at = f"{key}.branches.{branch}"
        shapes |= conv(f"{at}.0", mid, given, 1, 1, bias=True) | norm(f"{at}.1", mid)
        if branch < 4:
            shapes |= conv(f"{at}.3.conv", mid, mid, 3, 1, bias=True) | norm(f"{at}.3.bn", mid)
        if branch == 4:
            shapes |= norm(f"{at}.4", mid)
    if given != width:
        shapes |= conv(f"{key}.residual.conv", width, given, 1, 1, bias=True) | norm(f"{key}.residual.bn", width)
    return shapes


def msg3d_shapes(persons=2):
    shapes = {"backbone.A": (17, 17)} | norm("backbone.data_bn", persons * 51)
    for stage, (given, mid, width) in enumerate([(3, 96, 96), (96, 96, 192), (192, 192, 384)], 1):
        for at, graph, scales in [
            (f"gcn3d{stage}.gcn3d.0.gcn3d.1", 51, 6),
            (f"gcn3d{stage}.gcn3d.1.gcn3d.1", 85, 6),
            (f"sgcn{stage}.0", 17, 13),
        ]:
            key = f"backbone.{at}"
            shapes |= {f"{key}.A": (scales, graph, graph), f"{key}.PA": (scales, graph, graph)}
            shapes |= conv(f"{key}.mlp.layers.0", mid, scales * given, 1, 1, bias=True)
            shapes |= norm(f"{key}.mlp.layers.1", mid)
        for i, window in enumerate((3, 5)):
            key = f"backbone.gcn3d{stage}.gcn3d.{i}"
            shapes |= conv(f"{key}.out_conv", width, mid, 1, window, 1, bias=True) | norm(f"{key}.out_bn", width)
        shapes |= ms_tcn_shapes(f"backbone.sgcn{stage}.1", mid, width)
        shapes |= ms_tcn_shapes(f"backbone.sgcn{stage}.2", width, width)
        shapes |= ms_tcn_shapes(f"backbone.tcn{stage}", width, width)
    return shapes | head(384)


def random_weights(shapes, seed=0):
    """Weights of which each matters: none is zero or one, no BatchNorm is the identity."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shape in shapes.items():
        draw = torch.randn(shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(1000 + len(weights))
        elif key.endswith("running_var") or (key.endswith("weight") and len(shape) == 1):
            weights[key] = 0.5 + torch.rand(shape, generator=generator)
        elif key.endswith(("bias", "running_mean")):
            weights[key] = 0.2 * draw
        elif key.endswith("PA"):
            weights[key] = 0.02 * draw
        elif key.endswith(".gcn.A"):
            weights[key] = spatial_graphs() + 0.05 * draw
        elif key == "backbone.A":
            weights[key] = neighbours().float()
        elif key.endswith(".A"):
            weights[key] = hop_graphs(shape[0], shape[1] // 17).float()
        else:
            weights[key] = draw * math.sqrt(2 / math.prod(shape[1:]))
    return weights


def spatial_graphs():
    """A joint itself, the one inward of it, those outward; [source, target], columns of sum one."""
    inward = torch.zeros(17, 17)
    for joint, centre in INWARD:
        inward[centre, joint] = 1
    return torch.stack([torch.eye(17), inward, inward.T / inward.T.sum(0).clamp(min=1)])


def neighbours():
    near = torch.zeros(17, 17, dtype=torch.float64)
    for a, b in INWARD:
        near[a, b] = near[b, a] = 1
    return near


def hop_graphs(scales, frames):
    """Exactly k bones apart, or itself; columns of sum one. In a window all frames of a joint are next to it."""
    near = (neighbours() + torch.eye(17)).repeat(frames, frames)
    steps = torch.where(near > 0, 1.0, math.inf).fill_diagonal_(0)
    for over in range(len(steps)):  # Floyd and Warshall
        steps = torch.minimum(steps, steps[:, over, None] + steps[None, over])
    graphs = torch.stack([((steps == k) | (steps == 0)).double() for k in range(scales)])
    return graphs / graphs.sum(1, keepdim=True)


# Logits.


def batch_norm(w, key, x, eps):
    shape = (1, -1) + (1,) * (x.dim() - 2)
    mean, var, scale, shift = (w[f"{key}.{k}"].view(shape) for k in ("running_mean", "running_var", "weight", "bias"))
    return (x - mean) / torch.sqrt(var + eps) * scale + shift


def classify(w, features, key="fc_cls"):
    return features @ w[f"cls_head.{key}.weight"].T + w[f"cls_head.{key}.bias"]


def same(kernel):
    return [k // 2 for k in kernel]


def same_conv_norm(w, key, x, stride, eps):
    kernel = w[f"{key}.conv.weight"]
    return batch_norm(w, f"{key}.bn", F.conv3d(x, kernel, None, stride, same(kernel.shape[2:])), eps)


def slow_stem(w, at, x, stride, pool, eps):
    """`stride` of the convolution and of the pool."""
    x = same_conv_norm(w, f"{at}.conv1", x, (1, stride[0], stride[0]), eps).relu()
    kind = {"max": F.max_pool3d, "avg": F.avg_pool3d}.get(pool)
    return kind(x, (1, 3, 3), (1, stride[1], stride[1]), (0, 1, 1)) if kind else x


def slow_stage(w, key, x, stride, eps, stride_in="conv2", last_relu=True):
    one, block = (1, 1, 1), 0
    while f"{key}.{block}.conv1.conv.weight" in w:
        at, s = f"{key}.{block}", one if block else stride
        y = same_conv_norm(w, f"{at}.conv1", x, s if stride_in == "conv1" else one, eps).relu()
        y = same_conv_norm(w, f"{at}.conv2", y, s if stride_in == "conv2" else one, eps).relu()
        y = same_conv_norm(w, f"{at}.conv3", y, one, eps)
        y = y + (x if block else same_conv_norm(w, f"{at}.downsample", x, s, eps))
        x = y.relu() if last_relu else y
        block += 1
    return x


def slowonly(
    w,
    x,
    stem=(1, 1),
    strides=(2, 2, 2),
    *,
    TEMPORAL_STRIDES=(1, 1, 2),
    STEM_POOL="max",
    EPS=1e-5,
    STRIDE_IN="conv2",
    LAST_RELU=True,
):
    x = slow_stem(w, "backbone", x, stem, STEM_POOL, EPS)
    for i, (t, s) in enumerate(zip(TEMPORAL_STRIDES, strides, strict=True), 1):
        x = slow_stage(w, f"backbone.layer{i}", x, (t, s, s), EPS, STRIDE_IN, LAST_RELU)
    return classify(w, x.mean((2, 3, 4)))


def rgb_slowonly(w, x, *, STEM=(2, 2), STRIDES=(1, 2, 2, 2), TEMPORAL_STRIDES=(1, 1, 1, 1), **mistake):
    return slowonly(w, x, STEM, STRIDES, TEMPORAL_STRIDES=TEMPORAL_STRIDES, **mistake)


def rgbpose(
    w,
    inputs,
    *,
    EPS=1e-5,
    STEM_POOL="max",
    STRIDE_IN="conv2",
    POSE_TEMPORAL_STRIDES=(1, 1, 1),
    FIRST_FRAME=0,
    OUTPUT_PADDING=3,
    FLIPPED=False,
    LATERALS_FIRST=False,
    SOURCE="own",
    TO_POSE_NORM=True,
    TO_POSE_RELU=True,
    TO_RGB_RELU=False,
    DIRECTIONS=("rgb", "pose"),
):
    def stage(key, x, t, s):
        return slow_stage(w, f"backbone.{key}", x, (t, s, s), EPS, STRIDE_IN)

    def to_rgb(key, x):
        y = F.conv3d(x, w[f"{key}.conv.weight"], None, 1, (3, 0, 0))[:, :, FIRST_FRAME::4]
        return y.relu() if TO_RGB_RELU else y

    def to_pose(key, x):
        """Each frame adds its kernel to the seven frames around four times its number."""
        kernel = w[f"{key}.conv.weight"]
        kernel = kernel.flip(2) if FLIPPED else kernel
        frames = x.shape[2]
        y = x.new_zeros(len(x), kernel.shape[1], 4 * frames + 6, *x.shape[3:])
        for i in range(frames):
            y[:, :, 4 * i : 4 * i + 7] += torch.einsum("nchw,cdt->ndthw", x[:, :, i], kernel[..., 0, 0])
        y = y[:, :, 3 : 4 * frames + OUTPUT_PADDING]
        y = F.pad(y, (0, 0, 0, 0, 0, 4 * frames - y.shape[2]))
        y = batch_norm(w, f"{key}.bn", y, EPS) if TO_POSE_NORM else y
        return y.relu() if TO_POSE_RELU else y

    def joined(own, given, direction):
        given = given if direction in DIRECTIONS else torch.zeros_like(given)
        return torch.cat((given, own) if LATERALS_FIRST else (own, given), 1)

    rgb = slow_stem(w, "backbone.rgb_path", inputs[0], (2, 2), STEM_POOL, EPS)
    pose = slow_stem(w, "backbone.pose_path", inputs[1], (1, 1), STEM_POOL, EPS)
    rgb = stage("rgb_path.layer2", stage("rgb_path.layer1", rgb, 1, 1), 1, 2)
    pose = stage("pose_path.layer1", pose, POSE_TEMPORAL_STRIDES[0], 2)
    for i in (1, 2):
        joined_rgb = joined(rgb, to_rgb(f"backbone.rgb_path.layer{i + 1}_lateral", pose), "rgb")
        source = rgb if SOURCE == "own" else joined_rgb[:, -rgb.shape[1] :]
        joined_pose = joined(pose, to_pose(f"backbone.pose_path.layer{i}_lateral", source), "pose")
        rgb = stage(f"rgb_path.layer{i + 2}", joined_rgb, 1, 2)
        pose = stage(f"pose_path.layer{i + 1}", joined_pose, POSE_TEMPORAL_STRIDES[i], 2)
    return classify(w, rgb.mean((2, 3, 4)), "fc_rgb"), classify(w, pose.mean((2, 3, 4)), "fc_pose")


def c3d(w, x, *, POOL="avg", POOL_FRAMES=1, EPS=1e-5, LAST_POOL=True):
    def layer(name, x):
        key = f"backbone.conv{name}"
        return batch_norm(w, f"{key}.bn", F.conv3d(x, w[f"{key}.conv.weight"], padding=1), EPS).relu()

    pool = {"avg": F.avg_pool3d, "max": F.max_pool3d}[POOL]
    x = pool(layer("1a", x), (1, 2, 2))
    x = pool(layer("2a", x), (POOL_FRAMES, 2, 2))
    x = layer("3b", layer("3a", x))
    x = pool(x, (POOL_FRAMES, 2, 2)) if LAST_POOL else x
    return classify(w, layer("4b", layer("4a", x)).mean((2, 3, 4)))


def x3d(w, x, *, EPS=1e-5, STEM_RELU=False, INNER_ACTIVATION=None, STRIDE_IN="conv2"):
    def layer(key, x, stride=1):
        kernel = w[f"{key}.conv.weight"]
        groups = x.shape[1] // kernel.shape[1]
        y = F.conv3d(x, kernel, None, (1, stride, stride), same(kernel.shape[2:]), groups=groups)
        return batch_norm(w, f"{key}.bn", y, EPS)

    x = F.conv3d(x, w["backbone.conv1_s.conv.weight"], None, (1, 2, 2), (0, 1, 1))
    x = layer("backbone.conv1_t", x.relu() if STEM_RELU else x).relu()
    for stage, count in enumerate((2, 5, 3), 1):
        for block in range(count):
            key, stride = f"backbone.layer{stage}.{block}", 2 if block == 0 else 1
            y = layer(f"{key}.conv1", x, stride if STRIDE_IN == "conv1" else 1).relu()
            y = layer(f"{key}.conv2", y, stride if STRIDE_IN == "conv2" else 1)
            y = layer(f"{key}.conv3", {None: y, "relu": F.relu(y), "swish": F.silu(y)}[INNER_ACTIVATION])
            x = (y + (layer(f"{key}.downsample", x, stride) if block == 0 else x)).relu()
    return classify(w, layer("backbone.conv5", x).relu().mean((2, 3, 4)))


def conv2d(w, key, x, stride=1, dilation=1):
    kernel = w[f"{key}.weight"]
    padding = kernel.shape[2] // 2 * dilation
    return F.conv2d(x, kernel, w[f"{key}.bias"], (stride, 1), (padding, 0), (dilation, 1))


def normed_people(w, people, order, eps, whole):
    """(N, M, T, V, C) -> (N * M, C, T, V), each joint's coordinates normalised (`whole`: each person's)."""
    n, m, t, v, c = people.shape
    x = people.permute(0, 1, 4, 3, 2) if order == "CV" else people.permute(0, 1, 3, 4, 2)
    x = batch_norm(w, "backbone.data_bn", x.reshape(n, -1, t) if whole else x.reshape(n * m, -1, t), eps)
    x = x.reshape(n * m, c, v, t).transpose(2, 3) if order == "CV" else x.reshape(n * m, v, c, t).permute(0, 2, 3, 1)
    return x


def classify_people(w, x, n, persons):
    features = x.mean((2, 3)).reshape(n, -1, x.shape[1])
    return classify(w, features.mean(1) if persons == "mean" else features.amax(1))


def stgcn(
    w,
    people,
    *,
    EPS=1e-5,
    DILATIONS=(1, 2, 3, 4),
    SOURCE="rows",
    FIRST_RESIDUAL=False,
    STRIDE_IN="last",
    DATA_BN="VC",
    PERSONS="mean",
    GCN_RESIDUAL=True,
    TRANSFORM_RELU=True,
):
    x = normed_people(w, people, DATA_BN, EPS, whole=False)
    for block in range(10):
        key, stride = f"backbone.gcn.{block}", 2 if block in (4, 7) else 1
        # Over the graph: three convolutions, each with a graph of its own.
        y = 0
        for part, kernel, bias in zip(
            w[f"{key}.gcn.A"], *(w[f"{key}.gcn.conv.{k}"].chunk(3) for k in ("weight", "bias")), strict=True
        ):
            sent = F.conv2d(x, kernel, bias)
            y = y + (sent @ part if SOURCE == "rows" else sent @ part.T)
        y = batch_norm(w, f"{key}.gcn.bn", y, EPS)
        if GCN_RESIDUAL:
            projected = f"{key}.gcn.down.0.weight" in w
            y = y + (batch_norm(w, f"{key}.gcn.down.1", conv2d(w, f"{key}.gcn.down.0", x), EPS) if projected else x)
        y = y.relu()
        # Over time.
        branches = []
        first, last = (1, stride) if STRIDE_IN == "last" else (stride, 1)
        for branch in range(5):
            at = f"{key}.tcn.branches.{branch}"
            z = batch_norm(w, f"{at}.1", conv2d(w, f"{at}.0", y, first), EPS).relu()
            if branch < 4:
                branches.append(conv2d(w, f"{at}.3.conv", z, last, DILATIONS[branch]))
            else:
                branches.append(F.max_pool2d(z, (3, 1), (last, 1), (1, 0)))
        branches.append(conv2d(w, f"{key}.tcn.branches.5", y, stride))
        z = batch_norm(w, f"{key}.tcn.transform.0", torch.cat(branches, 1), EPS)
        z = conv2d(w, f"{key}.tcn.transform.2", z.relu() if TRANSFORM_RELU else z)
        z = batch_norm(w, f"{key}.tcn.bn", z, EPS)
        if block in (4, 7):
            z = z + batch_norm(w, f"{key}.residual.bn", conv2d(w, f"{key}.residual.conv", x, stride), EPS)
        elif block:
            z = z + x
        elif FIRST_RESIDUAL:
            z = z + y
        x = z.relu()
    return classify_people(w, x, len(people), PERSONS)


def msg3d(
    w,
    people,
    *,
    EPS=1e-5,
    DILATIONS=(1, 2, 3, 4),
    SOURCE="rows",
    OUT_RELU=False,
    SGCN_LAST_RELU=False,
    RESIDUAL=True,
    DATA_BN="VC",
    PERSONS="mean",
    WINDOW_ORDER="frames",
    LEARNT_GRAPH=True,
):
    def multi_scale(key, x):
        graphs = w[f"{key}.A"] + w[f"{key}.PA"] if LEARNT_GRAPH else w[f"{key}.A"]
        scales = [x @ (graph if SOURCE == "rows" else graph.T) for graph in graphs]
        y = conv2d(w, f"{key}.mlp.layers.0", torch.cat(scales, 1))
        return batch_norm(w, f"{key}.mlp.layers.1", y, EPS).relu()

    def over_time(key, x, stride=1, relu=True):
        branches = []
        for branch in range(6):
            at = f"{key}.branches.{branch}"
            y = batch_norm(w, f"{at}.1", conv2d(w, f"{at}.0", x, stride if branch == 5 else 1), EPS)
            if branch < 4:
                y = conv2d(w, f"{at}.3.conv", y.relu(), stride, DILATIONS[branch])
                y = batch_norm(w, f"{at}.3.bn", y, EPS)
            elif branch == 4:
                y = batch_norm(w, f"{at}.4", F.max_pool2d(y.relu(), (3, 1), (stride, 1), (1, 0)), EPS)
            branches.append(y)
        y = torch.cat(branches, 1)
        if f"{key}.residual.conv.weight" in w:
            y = y + batch_norm(w, f"{key}.residual.bn", conv2d(w, f"{key}.residual.conv", x, stride), EPS)
        elif RESIDUAL:
            y = y + x
        return y.relu() if relu else y

    def windowed(key, x, window, stride):
        padded = F.pad(x, (0, 0, window // 2, window // 2))
        frames = torch.stack(
            [padded[:, :, i : i + x.shape[2] : stride] for i in range(window)], 3
        )  # (N, C, T', window, V)
        nodes = frames if WINDOW_ORDER == "frames" else frames.transpose(3, 4)
        y = multi_scale(f"{key}.gcn3d.1", nodes.flatten(3)).unflatten(3, nodes.shape[3:])
        y = y if WINDOW_ORDER == "frames" else y.transpose(3, 4)
        # The window's frames become one: a sum over channels and frames.
        y = torch.einsum("nctwv,dcw->ndtv", y, w[f"{key}.out_conv.weight"][:, :, 0, :, 0])
        y = batch_norm(w, f"{key}.out_bn", y + w[f"{key}.out_conv.bias"].view(1, -1, 1, 1), EPS)
        return y.relu() if OUT_RELU else y

    x = normed_people(w, people, DATA_BN, EPS, whole=True)
    for stage in (1, 2, 3):
        stride = 1 if stage == 1 else 2
        y = multi_scale(f"backbone.sgcn{stage}.0", x)
        y = over_time(f"backbone.sgcn{stage}.1", y, stride)
        y = over_time(f"backbone.sgcn{stage}.2", y, relu=SGCN_LAST_RELU)
        for i, window in enumerate((3, 5)):
            y = y + windowed(f"backbone.gcn3d{stage}.gcn3d.{i}", x, window, stride)
        x = over_time(f"backbone.tcn{stage}", y.relu())
    return classify_people(w, x, len(people), PERSONS)
