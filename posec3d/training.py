"""Training: batches of coordinate clips -> a model. Loops over any iterable; knows neither Ray nor files."""

import contextlib
import itertools
import math
import queue
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

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


class Diverged(RuntimeError):
    """The loss is not finite, or a gradient is absurd: the same run again would fail there again."""


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
    rgb = (normalised(batch["rgb"], device),) if config.model.name in RGB + RGBPOSE else ()
    return rgb if config.model.name in RGB else (*rgb, _volume(batch, size, config, skeleton, device, dtype))


def normalised(rgb: Any, device: torch.device | str = "cpu") -> Tensor:
    """RGB frames (N, R, H, W, 3), 0 .. 255, as (N, 3, R, H, W), in the memory layout they have: channels last."""
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


def loss_scaler(dtype: torch.dtype, device: torch.device | str = "cpu") -> torch.amp.GradScaler:
    """What scales the loss in float16, whose small gradients would become zero; in other precisions it does nothing."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=dtype == torch.float16)


def weigh_classes(labels: np.ndarray, num_classes: int, exponent: float) -> np.ndarray:
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


AHEAD = 2
"""Batches made ahead of the step that is computed."""


def prefetch(batches: Iterable[Batch], device: torch.device | str = "cpu") -> Iterator[dict[str, Any]]:
    """Have the next batches made while the present one is used.

    A thread of its own takes from `batches`; for CUDA it leaves them in pinned memory, from where they are copied
    without anybody waiting.

    Args:
        batches: by name, arrays of numbers, which become tensors on the device, and others, which stay what they are.
        device: where to.
    """
    pinned = torch.device(device).type == "cuda"
    ready: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue(AHEAD)
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
    scaler: torch.amp.GradScaler | None = None,
    averaged: nn.Module | None = None,
    accumulate: int = 1,
    val_every: int = 1,
    portion: float = 1.0,
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
        class_weights: (classes,) of each class's samples in the loss, see `weigh_classes`; None weighs all alike.
        device: where volumes are drawn and the model runs.
        dtype: what convolutions compute in, see `posec3d.speed.resolve`; validation is in float32.
        compiled: through torch.compile, where that works.
        scaler: of the loss, whose state a run that goes on takes up too; None is a new one of `loss_scaler`.
        averaged: a copy of the model that becomes the moving average of its weights, by config.optim.ema, and is what
            is validated; None keeps no average.
        accumulate: parts of a batch that go through the model one after another, for one step of all their gradients.
        val_every: epochs from one validation to the next; the last epoch is always validated.
        portion: samples of this worker's batches over the mean of all workers', whose gradients are averaged.
        wrap: makes the module that is trained from the model, e.g. DistributedDataParallel.
        gather: collects a small value from all workers.

    Yields:
        epoch (1-based), lr, train_loss, train_top1, seconds, samples_per_s, first_batch_s (until the feed runs), stall
        (share of the time after that spent waiting for batches), memory_gb (peak, of the device) and, with validation,
        val_loss, val_top1, val_top5, val_mean_class.

    Raises:
        Diverged: the loss is not finite, or, in bfloat16 on a CPU, a gradient is absurd (`speed.LARGEST_GRADIENT`).
        RuntimeError: the feed ended early.
    """
    trained = wrap(model)
    run = speed.Compiled(trained) if compiled else trained
    doubtful = dtype == torch.bfloat16 and torch.device(device).type == "cpu"
    scaler = scaler or loss_scaler(dtype, device)
    weight = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32, device=device)

    def criterion(logits: tuple[Tensor, ...], label: Tensor) -> Tensor:
        heads, joint = config.optim.heads if len(logits) == 2 else None, config.optim.joint_loss
        options = {"weight": weight, "label_smoothing": config.optim.label_smoothing}
        loss = rgbpose.loss(logits, label, weights=heads, joint=joint, **options)
        # torch divides by the weights of these very clips: alone, or among few, each would count as any other.
        return loss if weight is None else loss * weight[label].mean()

    def backward(batch: Batch) -> tuple[Tensor, Tensor]:
        """Add a batch's gradients, and give the sum of its losses and how many were right."""
        loss_sum, right = torch.zeros((), device=device), torch.zeros((), device=device)
        parts = _parts(batch, accumulate)
        for number, part in enumerate(parts, 1):
            label = torch.as_tensor(part["label"], device=device).long()
            seen = inputs(part, config.clip.size, config, skeleton, device, dtype)
            seen, others, share = _mixed(seen, label, config.optim.mixup)
            # Workers exchange the sum of the parts' gradients, once.
            alone = number < len(parts) and isinstance(trained, DistributedDataParallel)
            with trained.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                with speed.autocast(dtype, device):
                    logits = _heads(run, seen)
                loss = share * criterion(logits, label)
                if share < 1:
                    loss = loss + (1 - share) * criterion(logits, others)
                scaler.scale(loss * (portion * len(label) / len(batch["label"]))).backward()
            loss_sum += loss.detach() * len(label)
            right += (fused(logits, config).detach().argmax(1) == label).sum()
        return loss_sum, right

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
            optimizer.zero_grad(set_to_none=True)
            loss, hits = backward(batch)
            loss_sum, right = loss_sum + loss, right + hits
            if config.optim.clip_norm is not None or doubtful:
                scaler.unscale_(optimizer)
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm or math.inf)
                if doubtful and not norm < speed.LARGEST_GRADIENT:
                    if not loss_sum.isfinite():  # from which no gradient could come
                        raise _diverged(epoch, f"the loss is {float(loss_sum)}", config)
                    raise Diverged(
                        f"a gradient of norm {float(norm):.0e}: this CPU's bfloat16 convolutions are wrong for clips "
                        f"of {config.clip.length} frames of {config.clip.size} pixels; take --precision float32"
                    )
            scaler.step(optimizer)
            scaler.update()
            if averaged is not None:
                past = epoch * steps + step
                _average(averaged, model, min(config.optim.ema, (1 + past) / (10 + past)))
            samples, done = samples + len(batch["label"]), done + 1
        if done < steps:
            raise RuntimeError(f"epoch {epoch + 1}: the feed ended after {done} of {steps} steps")
        loss_of_all, right_of_all, samples_of_all = np.array(gather([float(loss_sum), float(right), samples])).sum(0)
        seconds = time.perf_counter() - start
        if not math.isfinite(loss_of_all):
            raise _diverged(epoch, f"the loss is {loss_of_all}", config)
        if not all(p.isfinite().all() for p in model.parameters()):  # by the last step, which no loss has seen
            raise _diverged(epoch, "not all weights are finite numbers", config)
        result = {
            "epoch": epoch + 1,
            "lr": rate,
            "train_loss": loss_of_all / samples_of_all,
            "train_top1": right_of_all / samples_of_all,
            "seconds": seconds,
            "samples_per_s": samples_of_all / seconds,
            "stall": waiting.later / max(seconds - waiting.first, 1e-9),
            "first_batch_s": waiting.first,
            "memory_gb": _peak_memory(device) / 1e9,
        }
        if validate is not None and ((epoch + 1) % val_every == 0 or epoch + 1 == config.epochs):
            result |= _validate(averaged or model, config, skeleton, validate(), device, gather)
        yield {k: float(v) for k, v in result.items()}


def _diverged(epoch: int, what: str, config: TrainConfig) -> Diverged:
    return Diverged(f"epoch {epoch + 1}: {what}; lower optim.lr (now {config.optim.lr}) or raise warmup")


def _parts(batch: Batch, count: int) -> list[Batch]:
    """A batch as so many of about the same size."""
    if count == 1:
        return [batch]
    cuts = np.array_split(np.arange(len(batch["label"])), count)
    return [{name: values[cut[0] : cut[-1] + 1] for name, values in batch.items()} for cut in cuts if len(cut)]


def _mixed(seen: tuple[Tensor, ...], label: Tensor, mixup: float) -> tuple[tuple[Tensor, ...], Tensor, float]:
    """Blend each sample with another one: what is seen, the others' labels, and the share that is a sample's own."""
    if not mixup:
        return seen, label, 1.0
    order = torch.randperm(len(label), device=label.device)
    share = float(torch.distributions.Beta(mixup, mixup).sample())
    return tuple(torch.lerp(x[order], x, share) for x in seen), label[order], share


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move all that a state_dict holds towards the model's; a decay that rises from 0 forgets the random start."""
    pairs = list(zip(averaged.state_dict().values(), model.state_dict().values(), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([old for old, _ in floats], [new for _, new in floats], 1 - decay)
    for old, new in pairs:
        if not old.is_floating_point():  # a count of batches
            old.copy_(new)


def _peak_memory(device: torch.device | str) -> int:
    """Bytes of the device's memory taken at most; on a CPU of this process's."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _heads(model: Callable[[Any], Any], seen: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A model's logits, of each of its heads."""
    logits = model(seen if len(seen) > 1 else seen[0])
    return tuple(head.float() for head in (logits if isinstance(logits, tuple) else (logits,)))


def fused(logits: tuple[Tensor, ...], config: TrainConfig) -> Tensor:
    """Probabilities (N, classes) of all heads together."""
    if len(logits) == 1:
        return logits[0].softmax(1)
    if config.optim.joint_loss:
        return rgbpose.fuse(logits, config.optim.heads, joint=True)
    return rgbpose.fuse(logits, config.model.fusion)


def _validate(
    model: nn.Module,
    config: TrainConfig,
    skeleton: Skeleton,
    batches: Iterable[Batch],
    device: torch.device | str,
    gather: Callable[[Any], list[Any]],
) -> dict[str, float]:
    scores, labels = [], []
    for batch in batches:
        scores.append(predict(model, batch, config, skeleton, device))
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
) -> np.ndarray:
    """Class probabilities (N, classes) of test clips, in float32; heatmap pixels are those of config.clip.test_size."""
    model.eval()
    logits = _heads(model, inputs(batch, config.clip.test_size, config, skeleton, device))
    return fused(logits, config).cpu().numpy()
