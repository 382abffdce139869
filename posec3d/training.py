"""Training: batches of coordinate clips -> a model. Loops over any iterable; knows neither Ray nor files."""

import contextlib
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from posec3d import metrics, speed
from posec3d.config import HeatmapConfig, OptimConfig, TrainConfig
from posec3d.heatmaps import joint_volumes, limb_volumes
from posec3d.models import RGB, RGBPOSE, rgbpose
from posec3d.skeletons import Skeleton

Batch = Mapping[str, Any]
"""Arrays or tensors by name: `label` (N,), and `xy` (N, M, T, V, 2) in heatmap pixels and `score` (N, M, T, V), or
`volume` (N, C, T, H, W) uint8, 255 = 1, or `people` (N, M, T, V, C); `rgb` (N, R, H, W, 3) uint8."""

INPUTS = ("xy", "score", "volume", "people", "rgb")
"""Names of what a model, or what draws for it, looks at."""

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of R, G, B in ImageNet, as published."""


def draw(
    xy: Tensor,
    score: Tensor,
    size: int,
    heatmap: HeatmapConfig,
    skeleton: Skeleton,
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last_3d,
) -> Tensor:
    """The volume (N, C, T, size, size) of a batch of clips, by default in the layout 3D convolutions like best."""
    joint = heatmap.kind == "joint"
    shape = (len(xy), len(skeleton.joints if joint else skeleton.limbs), xy.shape[2], size, size)
    out = torch.empty(shape, dtype=dtype, device=xy.device, memory_format=memory_format)
    threads = torch.get_num_threads()
    if joint:
        return joint_volumes(xy, score, (size, size), sigma=heatmap.sigma, out=out, threads=threads)
    return limb_volumes(xy, score, skeleton.limbs, (size, size), sigma=heatmap.sigma, out=out, threads=threads)


def inputs(
    batch: Batch,
    size: int,
    config: TrainConfig,
    skeleton: Skeleton,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, ...]:
    """What the config's model takes, on the device: people as they are, RGB frames normalised, a volume, or both.

    Volumes are drawn in `dtype`, what a model computes in.
    """
    if "people" in batch:
        return (torch.as_tensor(batch["people"]).to(device),)
    rgb = (_normalised(batch["rgb"], device),) if config.model.name in RGB + RGBPOSE else ()
    return rgb if config.model.name in RGB else (*rgb, _volume(batch, size, config, skeleton, device, dtype))


def _normalised(rgb: Any, device: torch.device | str) -> Tensor:
    """RGB frames (N, R, H, W, 3) uint8 as (N, 3, R, H, W), in the memory layout they have: channels last."""
    frames = torch.as_tensor(rgb).to(device).float()
    mean, std = (torch.tensor(values, device=device) for values in (_MEAN, _STD))
    return ((frames - mean) / std).permute(0, 4, 1, 2, 3)


def _volume(
    batch: Batch,
    size: int,
    config: TrainConfig,
    skeleton: Skeleton,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The volume of a batch, drawn on the device unless somebody drew it before."""
    if "volume" in batch:
        volume = torch.as_tensor(batch["volume"]).to(device).float() / 255
        return volume.contiguous(memory_format=torch.channels_last_3d)
    xy, score = (torch.as_tensor(batch[name]).to(device) for name in ("xy", "score"))
    return draw(xy, score, size, config.heatmap, skeleton, dtype=dtype)


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The config's optimizer over all parameters."""
    if config.name == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )
    return torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)


def class_weights(labels: np.ndarray, num_classes: int, exponent: float) -> np.ndarray:
    """Weigh classes by how few samples they have.

    Args:
        labels: (N,) of the training clips.
        num_classes: K; a class without clips has weight 1.
        exponent: 0 weighs all alike; 1 makes every class count the same in the sum; between them, between.

    Returns:
        (K,), of mean 1 over the N clips.
    """
    counts = np.bincount(labels, minlength=num_classes)
    weights = np.where(counts > 0, np.maximum(counts, 1.0) ** -exponent, 0)
    weights *= counts.sum() / (weights * counts).sum()
    return np.where(counts > 0, weights, 1)


def learning_rate(config: OptimConfig, step: int, total: int) -> float:
    """Of step 0 .. total - 1: a linear rise over the warm-up's share, then a cosine from the peak to zero, or drops."""
    warm = round(config.warmup * total)
    if step < warm:
        return config.lr * (step + 1) / warm
    if config.drops:
        return config.lr * 0.1 ** sum(step >= share * total for share in config.drops)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))


@dataclass
class Waiting:
    """Iterate over batches and add up the seconds spent waiting for them, those for the first one apart."""

    batches: Iterable[Batch]
    first: float = 0.0
    later: float = 0.0

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        iterator = iter(self.batches)
        start = time.perf_counter()
        for number, batch in enumerate(iterator):
            waited = time.perf_counter() - start
            if number:
                self.later += waited
            else:
                self.first = waited
            yield batch
            start = time.perf_counter()


def prefetch(batches: Iterable[Batch], device: torch.device | str = "cpu", depth: int = 2) -> Iterator[dict[str, Any]]:
    """Have the next batches made while the present one is used.

    A thread of its own takes from `batches`; for CUDA it leaves them in pinned memory, from where they are copied
    without anybody waiting.

    Args:
        batches: by name, arrays of numbers, which become tensors on the device, and others, which stay what they are.
        device: where to.
        depth: batches made ahead.
    """
    pinned = torch.device(device).type == "cuda"
    ready: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue(depth)
    over = threading.Event()

    def put(item: dict[str, Any] | BaseException | None) -> bool:
        """Wait for room; False if nobody takes any more."""
        while not over.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return True
        return False

    def make() -> None:
        try:
            for batch in batches:
                numbers = {k: torch.as_tensor(v) for k, v in batch.items() if np.asarray(v).dtype.kind in "biuf"}
                if pinned:
                    numbers = {name: tensor.pin_memory() for name, tensor in numbers.items()}
                if not put({**batch, **numbers}):
                    return
            put(None)
        except BaseException as error:  # raised where the batches are used
            put(error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in item.items()}
    finally:
        over.set()
        thread.join(timeout=10)  # it may be waiting for a batch that takes longer


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    skeleton: Skeleton,
    train: Callable[[int], Iterable[Batch]],
    validate: Callable[[], Iterable[Batch]] | None,
    *,
    steps: int,
    first_epoch: int = 0,
    class_weights: np.ndarray | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
) -> Iterator[dict[str, float]]:
    """Train epoch by epoch; after each one, `model` and `optimizer` hold its result and its metrics are yielded.

    Args:
        model: logits of volumes or people, on `device`; trained in place.
        optimizer: over the model's parameters.
        config: the recipe.
        skeleton: whose joints the clips hold.
        train: this worker's batches of an epoch, `steps` of them or more.
        validate: this worker's share of the clips to validate with; None skips validation.
        steps: optimizer steps of an epoch.
        first_epoch: epochs already done.
        class_weights: (classes,) of each class's samples in the loss, see `class_weights`; None weighs all alike.
        device: where volumes are drawn and the model runs.
        dtype: what convolutions compute in, see `posec3d.speed.resolve`.
        compiled: through torch.compile, where that works.
        wrap: makes the module that is trained from the model, e.g. DistributedDataParallel.
        gather: collects a small value from all workers.

    Yields:
        epoch (1-based), lr, train_loss, train_top1, seconds, samples_per_s, first_batch_s (until the feed runs), stall
        (share of the time after that spent waiting for batches) and, with validation, val_loss, val_top1, val_top5,
        val_mean_class.

    Raises:
        RuntimeError: the feed ended early, the loss is not finite, or a gradient is none (`speed.LARGEST_GRADIENT`).
    """
    trained = wrap(model)
    run = speed.Compiled(trained) if compiled else trained
    doubtful = dtype == torch.bfloat16 and torch.device(device).type == "cpu"
    # float16 alone needs it: small gradients would become zero.
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=dtype == torch.float16)
    weight = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32, device=device)

    def criterion(logits: tuple[Tensor, ...], label: Tensor) -> Tensor:
        heads, joint = config.optim.heads if len(logits) == 2 else None, config.optim.joint_loss
        options = {"weight": weight, "label_smoothing": config.optim.label_smoothing}
        return rgbpose.loss(logits, label, weights=heads, joint=joint, **options)

    total = steps * config.epochs
    for epoch in range(first_epoch, config.epochs):
        start = time.perf_counter()
        model.train()
        loss_sum = torch.zeros((), device=device)
        right = torch.zeros((), device=device)
        samples = done = 0
        rate = 0.0
        waiting = Waiting(prefetch(itertools.islice(train(epoch), steps), device))
        for step, batch in enumerate(waiting):
            rate = learning_rate(config.optim, epoch * steps + step, total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            label = torch.as_tensor(batch["label"], device=device).long()
            seen, share, others = inputs(batch, config.clip.size, config, skeleton, device, dtype), 1.0, label
            if config.optim.mixup:
                order = torch.randperm(len(label), device=device)
                share = float(torch.distributions.Beta(config.optim.mixup, config.optim.mixup).sample())
                seen, others = tuple(torch.lerp(x[order], x, share) for x in seen), label[order]
            with speed.autocast(dtype, device):
                logits = _heads(run, seen)
            loss = share * criterion(logits, label)
            if share < 1:
                loss = loss + (1 - share) * criterion(logits, others)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            if config.optim.clip_norm is not None or doubtful:
                scaler.unscale_(optimizer)
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm or math.inf)
                if doubtful and not norm < speed.LARGEST_GRADIENT:
                    raise RuntimeError(
                        f"a gradient of norm {float(norm):.0e}: this CPU's bfloat16 convolutions are wrong for clips "
                        f"of {config.clip.length} frames of {config.clip.size} pixels; take --precision float32"
                    )
            scaler.step(optimizer)
            scaler.update()
            loss_sum += loss.detach() * len(label)
            said = rgbpose.fuse(logits, config.model.fusion[: len(logits)])
            right += (said.detach().argmax(1) == label).sum()
            samples, done = samples + len(label), done + 1
        if done < steps:
            raise RuntimeError(f"epoch {epoch + 1}: the feed ended after {done} of {steps} steps")
        parts = np.array(gather([float(loss_sum), float(right), samples])).sum(0)
        seconds = time.perf_counter() - start
        if not math.isfinite(parts[0]):
            raise RuntimeError(
                f"epoch {epoch + 1}: the loss is {parts[0]}; lower optim.lr (now {config.optim.lr}) or raise warmup"
            )
        result = {
            "epoch": epoch + 1,
            "lr": rate,
            "train_loss": parts[0] / parts[2],
            "train_top1": parts[1] / parts[2],
            "seconds": seconds,
            "samples_per_s": parts[2] / seconds,
            "stall": waiting.later / max(seconds - waiting.first, 1e-9),
            "first_batch_s": waiting.first,
        }
        if validate is not None:
            result |= _validate(model, config, skeleton, validate(), device, dtype, gather)
        yield {k: float(v) for k, v in result.items()}


def _heads(model: Callable[[Any], Any], seen: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A model's logits, of each of its heads."""
    logits = model(seen if len(seen) > 1 else seen[0])
    return tuple(head.float() for head in (logits if isinstance(logits, tuple) else (logits,)))


def _validate(
    model: nn.Module,
    config: TrainConfig,
    skeleton: Skeleton,
    batches: Iterable[Batch],
    device: torch.device | str,
    dtype: torch.dtype,
    gather: Callable[[Any], list[Any]],
) -> dict[str, float]:
    scores, labels = [], []
    for batch in batches:
        scores.append(predict(model, batch, config, skeleton, device, dtype))
        labels.append(np.asarray(batch["label"]))
    parts = gather((scores, labels))
    score = np.concatenate([array for part in parts for array in part[0]])
    label = np.concatenate([array for part in parts for array in part[1]])
    found = metrics.evaluate(score, label, [str(i) for i in range(score.shape[1])])
    likelihood = score[np.arange(len(label)), label]
    return {
        "val_loss": float(-np.log(np.maximum(likelihood, 1e-12)).mean()),
        **{f"val_{name}": found[name] for name in ("top1", "top5", "mean_class")},
    }


@torch.inference_mode()
def predict(
    model: nn.Module,
    batch: Batch,
    config: TrainConfig,
    skeleton: Skeleton,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> np.ndarray:
    """Class probabilities (N, classes) of test clips; heatmap pixels are those of config.clip.test_size."""
    model.eval()
    with speed.autocast(dtype, device):
        logits = _heads(model, inputs(batch, config.clip.test_size, config, skeleton, device, dtype))
    return rgbpose.fuse(logits, config.model.fusion[: len(logits)]).cpu().numpy()
