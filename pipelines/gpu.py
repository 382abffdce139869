"""What an actor computes on, and what becomes of its process when the GPU is lost."""

import logging
import os
from typing import Literal

import ray

log = logging.getLogger(__name__)


def device(gpus: float) -> Literal["cuda", "cpu"]:
    """What an actor with so many GPUs, or a share of one, computes on; of the GPU's memory it may take that share."""
    if not gpus:
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        log.warning("this actor was given GPU %s, but torch sees no CUDA: the CPU works", ray.get_gpu_ids())
        return "cpu"
    torch.cuda.set_per_process_memory_fraction(0.9 * gpus)  # each process's context takes some beside it
    return "cuda"


def end_if_lost(error: Exception) -> None:
    """End the process if its GPU is of no more use: each later call would fail too; Ray starts a new one."""
    if "CUDA error" in str(error):
        log.critical("the GPU of this process is of no more use: %s", error)
        os._exit(1)
