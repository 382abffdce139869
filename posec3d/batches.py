"""How many images a network on a GPU takes at once: as many as pay, and as many as fit."""

import math
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def best_batch(run: Callable[[int], object]) -> int:
    """Find how many images a network on a GPU should take at once: as many as still pay and fit.

    Args:
        run: runs the network once on so many images, and waits for the answer.

    Returns:
        The last power of two from 8 to 1024 that was at least 5 % faster, an image, than its half, and fitted.
    """
    best, best_rate, size = 1, 0.0, 8
    while size <= 1024:
        try:
            run(size)  # the first run of a size chooses its kernels
            seconds = math.inf
            for _ in range(3):  # the quickest: others may use the GPU too
                start = time.perf_counter()
                run(size)
                seconds = min(seconds, time.perf_counter() - start)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            break
        if size / seconds < 1.05 * best_rate:
            break
        best, best_rate, size = size, size / seconds, 2 * size
    return best


def in_batches(run: Callable[[np.ndarray], T], images: np.ndarray, size: int) -> tuple[list[T], int]:
    """Run a network on images in batches of `size`, and of less where memory turns out to be short.

    Returns:
        What `run` gave for each batch, in order, and the size to take the next time.
    """
    answers: list[T] = []
    done = 0
    while done < len(images):
        try:
            answers.append(run(images[done : done + size]))
            done += size
        except RuntimeError as error:
            if size == 1 or not _out_of_memory(error):
                raise
            size //= 2
    return answers, size


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory was short, as torch and the libraries below it say it; frees what torch keeps unused."""
    import torch

    short = isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)
    if short and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return short
