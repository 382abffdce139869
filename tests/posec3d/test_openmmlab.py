"""MMPose's networks: where their weights come from, and that batches of our crops give what MMPose finds one by one."""

import datetime
import hashlib
import http.server
import importlib.util
import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.torch
import torch

from posec3d import openmmlab
from posec3d.actors import make_clip
from posec3d.openmmlab import HEATMAPS, NAMES, MMPoseEstimator, network
from posec3d.pose import Crop, cut, regions
from posec3d.weights import Network, WeightsError

ROOT = Path(__file__).resolve().parents[2]
# MMPose's own; posec3d silences the first, which pytest undoes, and does not meet the second.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*autocast:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The metainfo config file:UserWarning"),
]


def saved(checkpoint):
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()


WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3).T, "b.bias": torch.ones(2)}
FILE = saved({"meta": {"time": datetime.datetime(2023, 5, 4), "best": np.float64(0.7)}, "state_dict": WEIGHTS})
DIGEST = hashlib.sha256(FILE).hexdigest()[:8]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSEC3D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openmmlab"


@pytest.fixture
def without_mmpose(monkeypatch):
    """As where MMPose is not installed: nothing asks whether these small weights are of the network."""
    monkeypatch.setitem(sys.modules, "mmpose", None)
    monkeypatch.delitem(sys.modules, "mmpose.models", raising=False)


@pytest.fixture
def zoo(tmp_path, monkeypatch, cache, without_mmpose):
    """A web server that has the small weights as those of rtmpose-t; `.asked` lists what it was asked for."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / f"net-{DIGEST}_20230504.pth").write_bytes(FILE)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_request(self, code="", size=""):
            server.asked.append(f"{self.command} {self.path} {int(code)}")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.folder = [], folder
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(openmmlab, "ZOO", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setitem(NAMES, "rtmpose-t", (NAMES["rtmpose-t"][0], f"net-{DIGEST}_20230504.pth"))
        yield server
        server.shutdown()
        thread.join()


def assert_small(found):
    assert found.name == "rtmpose-t" and list(found.files) == ["model.safetensors"]
    tensors = safetensors.torch.load(found.files["model.safetensors"])
    assert sorted(tensors) == sorted(WEIGHTS) and all(tensors[name].equal(WEIGHTS[name]) for name in WEIGHTS)


def test_the_published_file_is_fetched_once_and_arrives_as_safetensors(zoo, cache):
    for _ in range(2):
        found = network("rtmpose-t")
        assert_small(found)
        assert str(found) == f"rtmpose-t@{DIGEST}"
    assert [request for request in zoo.asked if request.startswith("GET")] == [f"GET /net-{DIGEST}_20230504.pth 200"]
    assert sorted(path.name for path in cache.iterdir()) == [".lock", f"net-{DIGEST}_20230504.pth"]


def test_two_that_want_it_at_once_fetch_it_once(zoo):
    threads = [threading.Thread(target=network, args=("rtmpose-t",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(request.startswith("GET") for request in zoo.asked) == 1


def test_a_damaged_file_in_the_cache_is_fetched_again(zoo, cache, caplog):
    network("rtmpose-t")
    (cache / f"net-{DIGEST}_20230504.pth").write_bytes(FILE[:-1])
    assert_small(network("rtmpose-t"))
    assert "is damaged; fetching it again" in caplog.text


def test_a_file_put_into_the_cache_by_hand_needs_no_network(zoo, cache, monkeypatch):
    monkeypatch.setattr(openmmlab, "ZOO", "http://127.0.0.1:1")
    cache.mkdir(parents=True)
    (cache / f"net-{DIGEST}_20230504.pth").write_bytes(FILE)
    assert_small(network("rtmpose-t"))
    assert sorted(path.name for path in cache.iterdir()) == [f"net-{DIGEST}_20230504.pth"]


@pytest.mark.parametrize(
    ("url", "cause"), [("http://127.0.0.1:1", "cannot be read"), (None, "is not there")], ids=["no server", "no file"]
)
def test_a_zoo_that_does_not_answer_or_has_no_such_file_says_how_to_supply_it_by_hand(
    url, cause, zoo, cache, monkeypatch
):
    monkeypatch.setattr(openmmlab, "ZOO", url or f"{openmmlab.ZOO}/nowhere")
    with pytest.raises(WeightsError) as error:
        network("rtmpose-t")
    by_hand = f"fetch {openmmlab.ZOO}/net-{DIGEST}_20230504.pth and copy it into {cache}"
    assert cause in str(error.value) and str(error.value).endswith(by_hand)


def test_a_wrong_file_from_the_zoo_is_refused_and_not_kept(zoo, cache):
    (zoo.folder / f"net-{DIGEST}_20230504.pth").write_bytes(b"a login page")
    wrong = hashlib.sha256(b"a login page").hexdigest()[:8]
    with pytest.raises(WeightsError, match=f"has sha256 {wrong}..., its name says {DIGEST}"):
        network("rtmpose-t")
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_names_the_variable_to_change(zoo, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("POSEC3D_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(WeightsError, match=r"cannot write .*POSEC3D_CACHE"):
        network("rtmpose-t")


@pytest.mark.parametrize(
    "name", [f"net-{DIGEST}_20230504.pth", f"net_20230504-{DIGEST}.pth", "mine.pth", "epoch-20230504.pth.tar"]
)
@pytest.mark.parametrize("where", ["path", "memory"])
def test_a_file_of_ones_own_is_taken_from_a_path_or_uri_and_its_digest_recorded(name, where, tmp_path, without_mmpose):
    uri = str(tmp_path / name) if where == "path" else f"memory://openmmlab/{name}"
    with fsspec.open(uri, "wb") as file:
        file.write(FILE)
    found = network("rtmpose-t", uri)
    assert_small(found)
    assert found.digest == DIGEST


@pytest.mark.parametrize("name", ["net-00000000_20230504.pth", "net_20230504-00000000.pth"])
def test_a_file_whose_name_holds_another_digest_is_refused(name, tmp_path, without_mmpose):
    (tmp_path / name).write_bytes(FILE)
    with pytest.raises(WeightsError, match=f"{name}: has sha256 {DIGEST}..., its name says 00000000"):
        network("rtmpose-t", str(tmp_path / name))


def test_a_file_that_would_run_something_is_refused(tmp_path, without_mmpose):
    class Evil:
        def __reduce__(self):
            return os.system, ("true",)

    (tmp_path / "a.pth").write_bytes(saved({"state_dict": WEIGHTS, "meta": Evil()}))
    with pytest.raises(WeightsError, match=r"a\.pth: .*asks for posix\.system"):
        network("rtmpose-t", str(tmp_path / "a.pth"))


def test_an_estimator_without_mmpose_says_how_to_install_it(without_mmpose):
    with pytest.raises(WeightsError, match="make mmpose"):
        MMPoseEstimator(Network("rtmpose-t", DIGEST, {"model.safetensors": b""}))


def test_what_mmpose_adds_is_pinned_and_replaces_nothing_that_is_pinned():
    listed = Path(openmmlab.RUNTIME_ENV["pip"]["packages"]).read_text()
    lines = [line for line in listed.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in lines)
    constraints = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").splitlines()
    pinned = {line.split("==")[0] for line in constraints} | {"torch", "opencv-python"}
    assert not pinned & {line.split("==")[0] for line in lines}


# ---- From here on with the real MMPose; its networks have random weights.


@pytest.fixture(scope="module")
def mmpose():
    """The functions of mmpose/apis/inference.py (its package imports more than can be installed)."""
    if importlib.util.find_spec("mmpose") is None:
        pytest.skip("MMPose is not installed: make mmpose")
    openmmlab._import_mmpose()
    import mmpose

    path = Path(mmpose.__file__).parent / "apis" / "inference.py"
    spec = importlib.util.spec_from_file_location("mmpose_inference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.configs = path.parents[1] / ".mim" / "configs"
    return module


@pytest.fixture(scope="module")
def anywhere():
    """People in frames of two clips: [(frame (H, W, 3) RGB, box (4,))], some of them cut off by the frame."""
    rng, found = np.random.default_rng(0), []
    for actor, (action, size) in enumerate([("jumping_jack", (240, 320)), ("bow", (300, 260))]):
        clip = make_clip(action, actor=actor, num_frames=9, size=size)
        for frame, joints in zip(clip.frames[::2], clip.keypoints[0, ::2], strict=True):
            box = np.concatenate([joints.min(0), joints.max(0)]) + rng.uniform(-25, 25, 4)
            found.append((frame, box.astype(np.float32)))
    return found


@pytest.fixture(scope="module")
def people(anywhere):
    """The same in boxes of whole pixels, a third of the width too: MMPose scales these exactly, and sees our pixels.

    In others it is 2e-5 pixels off. A few pixels are then one grey level apart, of which a network of random weights
    may make another joint.
    """
    found = [(frame, box.round()) for frame, box in anywhere]
    for _, box in found:
        box[2] -= (box[2] - box[0]) % 3
    return found


@pytest.fixture(scope="module")
def reference(mmpose, people):
    """A function name -> (MMPose's own model, the same weights as OpenMMLab would publish them: name, content)."""

    def make(name):
        torch.manual_seed(0)
        model = mmpose.init_model(str(mmpose.configs / f"{NAMES[name][0]}.py"), None, device="cpu")
        # Random weights say next to nothing: let the layers' outputs have mean 0 and variance 1, and maps clear maxima.
        _, images = crops_of(people[::3], Crop(256, 192))
        images = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 120) / 58
        norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None
        with torch.no_grad():
            model.train()(images, None)
            # Else they would make much of rounding, in half precision above all; those of ReLUs most.
            for norm in norms:
                norm.running_var.clamp_(min=norm.running_var.mean() * (1.0 if name in HEATMAPS else 0.5))
            maps = model.eval()(images, None)
            last = (model.head.cls_x, model.head.cls_y) if isinstance(maps, tuple) else (model.head.final_layer,)
            for layer, values in zip(last, maps if isinstance(maps, tuple) else (maps,), strict=True):
                layer.weight /= 4 * values.std()
        meta = {"time": datetime.datetime.now(), "best": np.float64(0.7), "epoch": np.int64(210)}
        data = saved({"meta": meta, "state_dict": model.state_dict()})
        return model, f"{name}-{hashlib.sha256(data).hexdigest()[:8]}_20230504.pth", data

    return make


def crops_of(people, crop):
    where = np.concatenate([regions(box[None], crop) for _, box in people])
    return where, np.stack([cut(frame, region, crop) for (frame, _), region in zip(people, where, strict=True)])


@pytest.mark.slow
def test_the_crop_of_any_box_is_that_of_mmpose_but_for_the_rounding_of_few_pixels(mmpose, anywhere, people):
    from mmpose.datasets.transforms import GetBBoxCenterScale, TopdownAffine

    def differences(people):
        _, crops = crops_of(people, Crop(256, 192, antialias=False))
        for (frame, box), crop in zip(people, crops, strict=True):
            region = GetBBoxCenterScale()({"img": frame, "bbox": box[None], "bbox_score": np.ones(1)})
            yield np.abs(TopdownAffine((192, 256)).transform(region)["img"].astype(int) - crop)

    found = np.stack([*differences(anywhere)])
    assert found.max() <= 1 and (found > 0).mean() < 1e-4
    assert not np.any([*differences(people)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"),
    [("hrnet-w32", 10), ("hrnet-w48", 3), ("mobilenetv2", 10), ("rtmpose-t", 10), ("rtmpose-m", 10), ("rtmpose-l", 10)],
)
def test_people_of_many_frames_in_a_batch_are_found_where_mmpose_finds_them_one_by_one(
    name, number, mmpose, reference, people, tmp_path
):
    model, file, data = reference(name)
    (tmp_path / file).write_bytes(data)
    estimator = MMPoseEstimator(network(name, str(tmp_path / file)))
    where, crops = crops_of(people[:number], estimator.crop)
    got = estimator.estimate(crops)
    assert got.shape == (number, 17, 3) and got.dtype == np.float32
    got[..., :2] = got[..., :2] * (where[:, 2:] / (192, 256))[:, None] + where[:, None, :2]
    found = [mmpose.inference_topdown(model, frame[..., ::-1], box[None])[0] for frame, box in people[:number]]
    joints = np.concatenate([sample.pred_instances.keypoints for sample in found])
    scores = np.concatenate([sample.pred_instances.keypoint_scores for sample in found])
    assert joints.std(1).min() > 10  # pixels: a person's joints are not all in one place
    assert np.median(joints.std(0)) > 10  # and not all people the same
    distance = np.abs(got[..., :2] - joints)
    assert distance.max() < 0.2
    np.testing.assert_allclose(got[..., 2], scores.clip(0, 1), atol=1e-4)
    assert estimator.estimate(crops[:0]).shape == (0, 17, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv2", "hrnet-w32"])
def test_the_heatmaps_are_those_in_which_mmpose_looks_for_the_joints(name, mmpose, reference, people, tmp_path):
    model, file, data = reference(name)
    (tmp_path / file).write_bytes(data)
    estimator = MMPoseEstimator(network(name, str(tmp_path / file)))
    _, crops = crops_of(people[:2], estimator.crop)
    keypoints, maps = estimator.heatmaps(crops)
    np.testing.assert_array_equal(keypoints, estimator.estimate(crops))
    assert estimator.map_size == (64, 48)
    assert maps.shape == (2, 17, 64, 48) and maps.dtype == np.float32
    model.test_cfg["output_heatmaps"] = True
    for (frame, box), ours in zip(people, maps, strict=False):
        theirs = mmpose.inference_topdown(model, frame[..., ::-1], box[None])[0].pred_fields.heatmaps
        np.testing.assert_allclose(ours, theirs, atol=0.01)
    peaks = maps.reshape(2, 17, -1).argmax(-1)
    coarse = np.stack([peaks % 48, peaks // 48], -1) * 4  # four pixels a cell
    seen = keypoints[..., 2] > 0
    assert seen.sum() > 10
    assert np.abs(coarse - keypoints[..., :2])[seen].max() <= 1.001  # a quarter of a cell towards the next best


@pytest.mark.slow
def test_rtmpose_has_no_heatmaps_and_names_those_that_have(reference, people, tmp_path):
    _, file, data = reference("rtmpose-t")
    (tmp_path / file).write_bytes(data)
    estimator = MMPoseEstimator(network("rtmpose-t", str(tmp_path / file)))
    with pytest.raises(ValueError, match=r"rtmpose-t@.* has no heatmaps; .*hrnet-w32"):
        estimator.heatmaps(crops_of(people, estimator.crop)[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv2", "rtmpose-t"])
def test_what_a_network_says_in_half_precision_is_decoded_in_full(name, reference, people, tmp_path):
    _, file, data = reference(name)
    (tmp_path / file).write_bytes(data)
    estimator = MMPoseEstimator(network(name, str(tmp_path / file)))
    _, crops = crops_of(people, estimator.crop)
    full = estimator.estimate(crops)
    with torch.autocast("cpu", torch.bfloat16):  # what a GPU's float16 is: NumPy has not even a type for it
        half = estimator.estimate(crops)
    assert 0 < np.abs(half[..., 2] - full[..., 2]).mean() < 0.05
    assert np.median(np.abs(half - full)[..., :2]) < 0.5


@pytest.mark.slow
def test_weights_of_another_network_are_refused_by_driver_and_worker(reference, tmp_path, monkeypatch):
    _, file, data = reference("rtmpose-m")
    (tmp_path / file).write_bytes(data)
    with pytest.raises(WeightsError, match=f"{file}: they are not of this network: .* By hand"):
        network("rtmpose-t", str(tmp_path / file))
    with pytest.raises(WeightsError, match="they are not of this network"):
        MMPoseEstimator(
            Network("rtmpose-t", DIGEST, {"model.safetensors": safetensors.torch.save({"a": torch.ones(1)})})
        )


@pytest.mark.slow
def test_the_weights_are_those_that_mmpose_names_for_the_configurations(mmpose):
    import yaml

    published = {}
    for path in mmpose.configs.rglob("*.yml"):
        for model in (yaml.safe_load(path.read_text()) or {}).get("Models", []):
            published[model["Config"]] = model.get("Weights")
    for config, weights in NAMES.values():
        assert published[f"configs/{config}.py"] == f"{openmmlab.ZOO}/{weights}"


@pytest.mark.slow
def test_a_package_that_mmpose_imports_is_used_if_it_works_and_stood_in_for_meanwhile_if_not(mmpose, tmp_path):
    """Here xtcocotools is as it is on NumPy 2: some of it works, some raises what no import should raise."""
    (tmp_path / "xtcocotools").mkdir()
    for name, content in [("__init__", ""), ("coco", "class COCO: pass"), ("cocoeval", "class COCOeval: pass")]:
        (tmp_path / "xtcocotools" / f"{name}.py").write_text(content)
    (tmp_path / "xtcocotools" / "mask.py").write_text("raise ValueError('numpy.dtype size changed')")
    code = (
        "import sys; from posec3d import openmmlab; openmmlab._import_mmpose()\n"
        "from mmpose.datasets.transforms import bottomup_transforms\n"
        "from mmpose.evaluation.metrics import coco_metric\n"
        "print(coco_metric.COCO.__module__, bottomup_transforms.cocomask.__name__)\n"
        "print(*sorted(name for name in openmmlab._ABSENT if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    stays = "xtcocotools xtcocotools.coco xtcocotools.cocoeval"
    assert done.stdout == f"xtcocotools.coco xtcocotools.mask\n{stays}\n", done.stderr
