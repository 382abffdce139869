"""Crops -> keypoints: HRNet, MobileNetV2 and RTMPose as MMPose defines, publishes, tests and decodes them.

MMPose (Apache-2.0) is installed by `make mmpose`, from mmpose.txt. It is needed where the networks run: a driver that
lacks it fetches their weights all the same, and sends them to its workers.
"""

import hashlib
import importlib
import importlib.util
import logging
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from filelock import FileLock

from posec3d.batches import best_batch, in_batches
from posec3d.pose import Crop
from posec3d.skeletons import COCO17
from posec3d.storage import cache_folder, read_whole, write_whole
from posec3d.weights import Network, WeightsError

log = logging.getLogger(__name__)

ZOO = "https://download.openmmlab.com/mmpose/v1"
_TOPDOWN, _RTMPOSE = "body_2d_keypoint/topdown_heatmap/coco/td-hm", "body_2d_keypoint/rtmpose/body8/rtmpose"
_SIMCC = "projects/rtmposev1/rtmpose"
NAMES = {  # name: (configuration in MMPose, without .py; published weights in the zoo)
    "hrnet-w32": (
        f"{_TOPDOWN}_hrnet-w32_8xb64-210e_coco-256x192",
        f"{_TOPDOWN}_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth",
    ),
    "hrnet-w48": (
        f"{_TOPDOWN}_hrnet-w48_8xb32-210e_coco-256x192",
        f"{_TOPDOWN}_hrnet-w48_8xb32-210e_coco-256x192-0e67c616_20220913.pth",
    ),
    "mobilenetv2": (
        f"{_TOPDOWN}_mobilenetv2_8xb64-210e_coco-256x192",
        f"{_TOPDOWN}_mobilenetv2_8xb64-210e_coco-256x192-55a04c35_20221016.pth",
    ),
    "rtmpose-t": (
        f"{_RTMPOSE}-t_8xb256-420e_body8-256x192",
        f"{_SIMCC}-t_simcc-body7_pt-body7_420e-256x192-026a1439_20230504.pth",
    ),
    "rtmpose-m": (
        f"{_RTMPOSE}-m_8xb256-420e_body8-256x192",
        f"{_SIMCC}-m_simcc-body7_pt-body7_420e-256x192-e48f03d0_20230504.pth",
    ),
    "rtmpose-l": (
        f"{_RTMPOSE}-l_8xb256-420e_body8-256x192",
        f"{_SIMCC}-l_simcc-body7_pt-body7_420e-256x192-4dba18fc_20230504.pth",
    ),
}
HEATMAPS = ("hrnet-w32", "hrnet-w48", "mobilenetv2")
"""Those that say where a joint is by a map; RTMPose does by one row and one column of numbers."""

RUNTIME_ENV: dict[str, Any] = {
    "pip": {"packages": str(Path(__file__).parents[1] / "mmpose.txt"), "pip_install_options": ["--no-deps"]}
}
"""What Ray calls a runtime environment, for workers that lack MMPose: installs it there, once a node."""

_CPU_BATCH = 8


def network(name: str, weights: str | None = None) -> Network:
    """Fetch and check a network's weights; nothing in their file is run.

    Args:
        name: one of `NAMES`.
        weights: a .pth file, as a path or any fsspec URI; None is the published one, fetched once into the cache. A
            digest in the file's name, as OpenMMLab puts it there, must be right.

    Raises:
        WeightsError: the file is not to be had, damaged, or not of this network (told here where MMPose is installed,
            else by `MMPoseEstimator`); the message says what to do.
    """
    import safetensors.torch

    from posec3d.pth import read_tensors

    source = weights or f"{ZOO}/{NAMES[name][1]}"
    try:
        data = _published(source) if weights is None else _read(source)
        tensors = {key: tensor.clone().contiguous() for key, tensor in read_tensors(data).items()}
        found = Network(name, _sha256(data)[:8], {"model.safetensors": safetensors.torch.save(tensors)})
        if importlib.util.find_spec("mmpose"):
            _build(found)
    except (ValueError, WeightsError) as error:
        raise WeightsError(
            f"weights of {name} from {source}: {error}. By hand: on any machine fetch {ZOO}/{NAMES[name][1]} "
            f"and copy it into {_folder()}"
        ) from error
    return found


class MMPoseEstimator:
    """A network of MMPose: crops -> 17 COCO keypoints; a `posec3d.pose.PoseEstimator`.

    It sees every crop a second time mirrored, as in the published tests.

    Args:
        network: from `network`.
        device: "cpu", or "cuda" for half precision and batches as large as pay.

    Raises:
        WeightsError: MMPose is not installed, or the weights are not of this network.
    """

    skeleton = COCO17.name

    def __init__(self, network: Network, device: str = "cpu") -> None:
        self.name = str(network)
        self._device = device
        self._model = _build(network).to(device)
        width, height = self._model.head.decoder.input_size
        self.crop = Crop(height, width, antialias=False)
        self.map_size: tuple[int, int] | None = None
        if network.name in HEATMAPS:
            width_of_map, height_of_map = self._model.head.decoder.heatmap_size
            self.map_size = height_of_map, width_of_map
            self._model.test_cfg["output_heatmaps"] = True
        # Half precision is for the network, not for telling where its maps are highest.
        decode = self._model.head.decode
        self._model.head.decode = lambda maps: decode(_float32(maps))
        self.batch = _CPU_BATCH
        if device != "cpu":
            self.batch = best_batch(lambda n: self._run(np.zeros((n, height, width, 3), np.uint8)))

    def estimate(self, crops: np.ndarray) -> np.ndarray:
        """Crops (B, 256, 192, 3) uint8 RGB -> (B, 17, 3) float32 x y score, in crop pixels."""
        return _people(self._samples(crops))

    def heatmaps(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Crops (B, 256, 192, 3) -> keypoints as `estimate`, and the network's own heatmaps (B, 17, 64, 48) float32.

        Raises:
            ValueError: the network has none; those in `HEATMAPS` have.
        """
        if self.map_size is None:
            raise ValueError(f"{self.name} has no heatmaps; those that have: {', '.join(HEATMAPS)}")
        samples = self._samples(crops)
        maps = np.empty((len(samples), len(COCO17.joints), *self.map_size), np.float32)
        for i, sample in enumerate(samples):
            maps[i] = sample.pred_fields.heatmaps.cpu()
        return _people(samples), maps

    def _samples(self, crops: np.ndarray) -> list[Any]:
        """Crops of any number -> what MMPose found in each."""
        runs, self.batch = in_batches(self._run, crops, self.batch)
        return [sample for run in runs for sample in run]

    def _run(self, crops: np.ndarray) -> list[Any]:
        import torch
        from mmengine.structures import InstanceData
        from mmpose.structures import PoseDataSample

        # The frame in which MMPose's answers are to be: the crop itself.
        size = np.array([self.crop.width, self.crop.height], np.float32)
        place = {"input_size": size, "input_scale": size, "input_center": size / 2, "flip_indices": COCO17.mirror}
        box = InstanceData(bboxes=np.zeros((1, 4), np.float32), bbox_scores=np.ones(1, np.float32))
        samples = [PoseDataSample(metainfo=place, gt_instances=box) for _ in crops]
        bgr = torch.from_numpy(crops).permute(0, 3, 1, 2).flip(1)
        with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=self._device == "cuda"):
            return self._model.test_step({"inputs": bgr, "data_samples": samples})


def _people(samples: list[Any]) -> np.ndarray:
    """MMPose's answers -> (B, 17, 3) x y score."""
    people = np.empty((len(samples), len(COCO17.joints), 3), np.float32)
    for person, sample in zip(people, samples, strict=True):
        person[:, :2] = sample.pred_instances.keypoints[0]
        person[:, 2] = sample.pred_instances.keypoint_scores[0].clip(0, 1)
    return people


def _float32(maps: Any) -> Any:
    """Of a tensor, or a tuple of tensors."""
    return tuple(map(_float32, maps)) if isinstance(maps, tuple) else maps.float()


def architecture(name: str) -> Any:
    """The network of this name with random weights, on the CPU: a torch module of MMPose.

    Raises:
        WeightsError: MMPose is not installed.
    """
    _import_mmpose()
    import mmpose
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpose.registry import MODELS

    config = Config.fromfile(Path(mmpose.__file__).parent / ".mim" / "configs" / f"{NAMES[name][0]}.py").model
    config.backbone.init_cfg = None  # where a training would start from
    config.backbone.pop("_scope_", None)  # MMPose has a copy of the backbone for which RTMPose names MMDetection
    init_default_scope("mmpose")
    return MODELS.build(config).eval()


def _build(network: Network) -> Any:
    """The network with its weights, on the CPU.

    Raises:
        WeightsError: MMPose is not installed, or the weights are not of this network.
    """
    import safetensors.torch

    model = architecture(network.name)
    try:
        model.load_state_dict(safetensors.torch.load(network.files["model.safetensors"]))
    except RuntimeError as error:
        raise WeightsError(f"they are not of this network: {' '.join(str(error).split())[:300]} ...") from error
    return model


_ABSENT: dict[str, tuple[str, ...]] = {
    "xtcocotools": (),
    "xtcocotools.mask": (),
    "xtcocotools.coco": ("COCO",),
    "xtcocotools.cocoeval": ("COCOeval",),
    "mmcv.ops": ("DeformConv2d", "ModulatedDeformConv2d", "MultiScaleDeformableAttention"),
    "mmdet.utils": ("ConfigType", "reduce_mean"),
}
"""What MMPose imports for its training, its metrics and other networks than these, and what seldom can be installed."""


class _Absent:
    def __init__(self, *args: object, **kwargs: object) -> None:
        raise ImportError("a part of MMPose that posec3d does without: it needs xtcocotools, mmcv.ops or mmdet")


def _import_mmpose() -> None:
    """Import MMPose, with stand-ins in place of those of `_ABSENT` that cannot be imported; they are gone afterwards.

    Raises:
        WeightsError: MMPose is not installed.
    """
    if "mmpose.models" in sys.modules:
        return
    standing_in = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what OpenMMLab should change is nothing to our users
        try:
            for name, members in _ABSENT.items():
                try:
                    importlib.import_module(name)
                except Exception:  # one that is there, but built for another NumPy or torch, raises anything
                    for part in [module for module in sys.modules if module.startswith(f"{name}.")]:
                        del sys.modules[part]
                    sys.modules[name] = ModuleType(name)
                    vars(sys.modules[name]).update(dict.fromkeys(members, _Absent))
                    standing_in.append(name)
            importlib.import_module("mmpose.models")
        except ImportError as error:
            raise WeightsError(f"MMPose cannot be imported ({error}); install it: make mmpose") from error
        finally:
            for name in standing_in:
                del sys.modules[name]
    # RTMPose calls torch by a name of long ago, at every crop.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"mmpose\.")


def _published(url: str) -> bytes:
    """A file of the zoo, fetched if it is not in the cache, or not as it was published."""
    path = _folder() / url.rsplit("/", 1)[-1]
    data = _cached(path)
    if data is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.parent / ".lock"):
                data = _cached(path)  # again: another process may have fetched it while this one waited
                if data is None:
                    if path.exists():
                        log.warning("%s is damaged; fetching it again", path)
                    data = _read(url)
                    write_whole(str(path), data)
        except OSError as error:
            raise WeightsError(f"cannot write {path} ({error}); POSEC3D_CACHE can name another folder") from error
    return data


def _cached(path: Path) -> bytes | None:
    data = path.read_bytes() if path.exists() else None
    return None if data is None or _problem(data, path.name) else data


def _read(uri: str) -> bytes:
    try:
        data = read_whole(uri)
    except Exception as error:  # of classes that depend on where the file is
        raise WeightsError(f"cannot be read ({type(error).__name__}: {error})") from error
    problem = "is not there" if data is None else _problem(data, uri)
    if data is None or problem:
        raise WeightsError(problem)
    return data


def _problem(data: bytes, name: str) -> str:
    """Compare a file's content with the digest in its name; empty if it is right, or there is none."""
    named = re.search(r"-([0-9a-f]{8})(_\d{8})?\.pth$", name)
    got = _sha256(data)[:8]
    return f"has sha256 {got}..., its name says {named[1]}" if named and named[1] != got else ""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _folder() -> Path:
    return cache_folder() / "openmmlab"
