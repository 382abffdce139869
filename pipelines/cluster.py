"""How work is spread over a cluster: how many actors, what each computes on, and whose work has died."""

import logging
import os
from collections import Counter
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from posec3d.machine import cores

log = logging.getLogger(__name__)

WAVE = 100_000
"""Rows of one Ray Data execution, which keeps some 8 KB of each on the driver until it ends."""


def default_actors(cpus_per_actor: int = 1, gpus_per_actor: float = 0) -> int:
    """As many as have their CPUs and GPUs in the cluster, less a CPU for the tasks that feed them, or on this machine.

    Where Ray is local it counts more CPUs than the machine has, so that no core idles.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(resources.get(kind, 0) for resources in alive) for kind in ("CPU", "GPU"))
    here = cores()
    cpus = here if len(alive) == 1 and cpus > here else cpus - 1
    most = cpus // cpus_per_actor
    if gpus_per_actor:  # of each GPU: shares of two make no actor; and 1 // 0.2 is 4
        most = min(most, gpus * int(1 / gpus_per_actor + 1e-9))
    return max(1, int(most))


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


class Attempts:
    """Counts the times work on a clip was begun and not ended: a worker that dies leaves its clips counted.

    Ray runs a dead actor's task again without end; this tells a clip that ends its workers from one whose worker was
    lost. It lives on the driver's node, as one small actor.
    """

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()

    def begin(self, clip_id: str) -> None:
        """Count a beginning."""
        self.begun[clip_id] += 1

    def deaths(self, clip_id: str) -> int:
        """How many beginnings have not ended, of a clip nobody works on: its worker died each time."""
        return self.begun[clip_id]

    def end(self, clip_id: str) -> None:
        """Forget a clip that ended, well or not."""
        self.begun.pop(clip_id, None)


def attempts_here() -> Any:
    """A new `Attempts` as an actor on this node, the driver's."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Attempts).options(num_cpus=0, scheduling_strategy=here).remote()
