"""Ray for a job: the cluster it runs in or one of its own, and whether that can do what is asked of it."""

import atexit
import contextlib
import json
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.data
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs import _terminal
from jobs._job import UsageError
from posec3d.machine import cores
from posec3d.storage import exists, is_local, remove, write_whole

ROOT = Path(__file__).resolve().parent.parent
log = logging.getLogger("posec3d")


def connect(*, dashboard: bool = False) -> None:
    """Connect to the cluster this runs in (RAY_ADDRESS, set inside a submitted job), else start a private local Ray.

    Jobs call it once everything that can be checked without Ray has been. A local Ray never attaches to, or is found
    by, another cluster of the machine: own temporary directory, own token. It ends with this process.

    Args:
        dashboard: a local Ray has one, on a free port of this machine alone; what ends a training run from outside
            needs it, since Ray Train asks it which runs are over and gives their resources back.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # off: a long video is one call, and may take hours
    if ray.is_initialized():
        return
    debug = _terminal.debug
    told: dict[str, Any] = {"log_to_driver": debug, "logging_level": logging.INFO if debug else logging.WARNING}
    # Workers import posec3d, pipelines and jobs from this checkout; a submitted job brings it as its working directory.
    if os.environ.get("RAY_ADDRESS"):
        submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        environment: dict[str, Any] = {} if submitted else {"working_dir": str(ROOT)}
        with _starting():
            ray.init(runtime_env=environment, **told)
    else:
        count = cores()
        # Ray's sockets lie in there, and the path of a socket has some hundred bytes; macOS's own folder is too deep.
        folder = tempfile.mkdtemp(prefix="posec3d-ray-", dir="/tmp" if len(tempfile.gettempdir()) > 19 else None)  # noqa: S108
        _terminal.scratch.append(folder)
        atexit.register(_end, folder)
        # Inherited by workers. With a runtime_env those that Ray starts at once, one a core, would be of no use.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        variables = {}
        if dashboard:
            # Who asks the dashboard looks for Rays of this machine, and gives up if there are several, unless told.
            with socket.socket() as free:
                free.bind(("", 0))
                os.environ["RAY_GCS_SERVER_PORT"] = str(free.getsockname()[1])
            variables = {"RAY_ADDRESS": f"{ray.util.get_node_ip_address()}:{os.environ['RAY_GCS_SERVER_PORT']}"}
        with _starting():
            ray.init(
                address="local",
                # Training workers and the tasks that feed them each hold a CPU; one worker a core must leave some.
                num_cpus=count + 2,
                include_dashboard=dashboard,
                object_store_memory=min(2**30, 2**28 * count),
                runtime_env={"env_vars": variables} if variables else None,
                _temp_dir=folder,
                **told,
            )
        os.environ.pop("RAY_GCS_SERVER_PORT", None)
    _terminal.listen()  # again: Ray has put a handler of its own at SIGTERM, which aborts the process
    # Said of every small table: an actor has nothing to do, which costs nothing.
    warnings.filterwarnings("default" if debug else "ignore", "The minimum number of concurrent actors")
    for name in () if debug else ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is raised


class NoRay(Exception):
    """Ray did not start, or does not answer."""


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Keep what Ray's core prints while it starts off the terminal, unless it is wanted.

    Raises:
        NoRay: it does not start; which exceptions tell of that is Ray's secret.
    """
    terminal = os.dup(2)
    try:
        with tempfile.TemporaryFile() as kept:
            if not _terminal.debug:
                os.dup2(kept.fileno(), 2)
            yield
    except Exception as error:
        if address := os.environ.get("RAY_ADDRESS"):
            raise NoRay(
                f"RAY_ADDRESS is {address}, and Ray cannot be used there: {error}. See that the cluster runs, and that "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN are set as on its machines; without RAY_ADDRESS a job starts a "
                "Ray of its own"
            ) from error
        raise NoRay(
            f"Ray did not start on this machine: {error} The machine may be too busy, or without memory or space in "
            "the folder of temporary files: try again, with --debug for what Ray says"
        ) from error
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def _end(folder: str) -> None:
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def require(workers: int, what: str, *, cpus: int = 1, gpus: float = 0) -> None:
    """See that Ray can run `workers` of so many CPUs and GPUs each, and the tasks that feed them.

    A cluster may grow: there it is said, and waited for.

    Raises:
        UsageError: this machine's own Ray, or a cluster started by hand, would wait for ever.
    """
    needs = {"CPU": workers * cpus + 1, "GPU": workers * gpus}
    have = ray.cluster_resources()
    for kind, needed in needs.items():
        if needed > have.get(kind, 0):
            message = (
                f"{workers} {what} and the tasks that feed them need {needed:g} {kind}s, Ray has {have.get(kind, 0):g}"
            )
            if not os.environ.get("RAY_ADDRESS"):
                raise UsageError(message)
            if by_hand(_internal_kv_get("__autoscaling_status")):
                raise UsageError(f"{message}; this cluster was started by hand: start machines that have them first")
            log.warning("%s: waiting for the cluster to grow", message)


def require_shared(out: str) -> None:
    """See that machines that may train have the folder that this process writes to.

    Else a worker writes checkpoints to its own disk, and that they are not here is seen when all epochs are done.
    Machines that join later are not asked.

    Args:
        out: the folder, a local path or any URI; only of local ones there is more than one.

    Raises:
        UsageError: a machine does not see it.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if not is_local(out) or len(alive) < 2:
        return
    token = f"{out}/_state/shared-{secrets.token_hex(8)}"
    write_whole(token, b"")
    try:
        asked = {
            node["NodeManagerAddress"]: ray.remote(num_cpus=0, max_retries=0)(exists)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(token)
            for node in alive
            if node["Resources"].get("CPU")
        }
        for address, answer in asked.items():
            with contextlib.suppress(ray.exceptions.RayError):  # it is gone, and trains nothing
                if not ray.get(answer):
                    raise UsageError(
                        f"{out} is a folder of this machine, and {address}, which may train, does not have it: give a "
                        "folder on a disk that all machines share, or an object store (s3://bucket/folder)"
                    )
    finally:
        remove(token)


def room(workers: tuple[int, int], runs: int = 1) -> tuple[int, int]:
    """As many workers as leave a CPU to the tasks that feed them, of (least, most), for each of several runs.

    Ray gives elastic workers all the CPUs there are, and training would then wait for ever for what nobody renders.
    """
    least, most = workers
    if os.environ.get("RAY_ADDRESS") and not by_hand(_internal_kv_get("__autoscaling_status")):
        return workers  # it may grow
    fit = max(least, int(ray.cluster_resources().get("CPU", 0) - 1) // runs)
    if fit < most:
        log.info("at most %d training workers: a CPU is left to the tasks that feed them", fit)
    return least, min(most, fit)


def by_hand(status: bytes | None) -> bool:
    """Whether nothing adds machines to a cluster: all of them were started by `ray start`.

    Ray's autoscaler tells of machines by the name of their pool, and where it has no pools by a number each.

    Args:
        status: what it last said, as `ray status` shows it; None or no word of any machine is no answer.
    """
    said = json.loads(status or "{}").get("autoscaler_report") or {}
    names = said.get("active_nodes", {}).keys()
    return bool(names) and all(re.fullmatch("node_[0-9a-f]{56}", name) for name in names)
