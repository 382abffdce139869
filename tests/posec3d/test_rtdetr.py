"""RT-DETR, built small and with random weights, against transformers' own processing; and what wrong files say."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from posec3d import rtdetr
from posec3d.rtdetr import RTDetr, network
from posec3d.weights import WeightsError

transformers = pytest.importorskip("transformers", reason="needs the extra rtdetr: pip install 'transformers>=5'")

ROOT = Path(__file__).resolve().parents[2]
PERSON = 1
LABELS = ["bicycle", "person", "car"]


def build(kind, *, seed=0, labels=LABELS):
    """A genuine network of 0.2 million random weights, scaled so that what it sees changes what it says."""
    torch.manual_seed(seed)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic", out_indices=[2, 3, 4]
    )
    sizes = {"d_model": 32, "encoder_hidden_dim": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 40}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_layers": 2}
    sizes |= {"encoder_in_channels": [16, 24, 32], "decoder_in_channels": [32, 32, 32]}
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=backbone,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        **sizes,
    )
    model = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
    for name, values in model.named_parameters():
        with torch.no_grad():
            if values.ndim > 1:
                gain = 4 if "score_head" in name else 1
                torch.nn.init.normal_(values, std=gain * (2 / values[0].numel()) ** 0.5)
            elif "class_embed" in name:  # people often over the threshold, others always under it
                values.fill_(-12)[PERSON] = 1
    for module in model.modules():
        if "BatchNorm" in type(module).__name__:
            module.weight.data.fill_(1)
    return model


@pytest.fixture(scope="module", params=["RTDetr", "RTDetrV2"])
def saved(request, tmp_path_factory):
    """(transformers' network, the folder it is saved in, our detector)."""
    model, folder = build(request.param), tmp_path_factory.mktemp("rtdetr")
    model.save_pretrained(folder)
    return model, folder, RTDetr(network("rtdetr-r18", str(folder)))


@pytest.fixture(scope="module")
def saved_v2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rtdetr-v2")
    build("RTDetrV2").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved_v2, tmp_path):
    """A network's folder that a test may spoil."""
    return shutil.copytree(saved_v2, tmp_path / "network")


def picture(height, width, *, seed):
    """Blocks of 8 pixels in multiples of 64 grey levels: scaled by 2 or 1/2 every value is a whole number."""
    coarse = np.random.default_rng(seed).integers(0, 4, (height // 8, width // 8, 3)) * 64
    coarse[[0, 1, -2, -1]] = coarse[:, [0, 1, -2, -1]] = 0  # at the frame's edge the weights are thirds
    return np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def reference(model, frame):
    """Boxes (n, 4) with edges in 0..W and scores (n,) as transformers' processor gives them."""
    processor = transformers.RTDetrImageProcessorPil()
    with torch.inference_mode():
        output = model(**processor(frame, return_tensors="pt"))
    found = processor.post_process_object_detection(output, threshold=0.3, target_sizes=[frame.shape[:2]])[0]
    people = found["labels"] == PERSON
    return found["boxes"][people].numpy(), found["scores"][people].numpy()


def test_where_memory_is_short_less_goes_through_at_a_time(saved, monkeypatch):
    _, _, detector = saved
    frames = np.stack([picture(64, 64, seed=seed) for seed in range(5)])
    wanted, run, sizes = detector.detect(frames), detector._run, []

    def short(some):
        sizes.append(len(some))
        if len(some) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(some)

    monkeypatch.setattr(detector, "_run", short)
    monkeypatch.setattr(detector, "_batch", 4)
    for boxes, alone in zip(detector.detect(frames), wanted, strict=True):
        np.testing.assert_allclose(boxes, alone, atol=1e-3)
    detector.detect(frames[:3])
    assert sizes == [4, 2, 2, 1, 2, 1]


# At these sizes Pillow, which rounds to grey levels between its two passes, and torch, which does not, scale to the
# very same picture; a random network makes many pixels of one grey level. 0.05 pixels is what float32 is good for.
@pytest.mark.parametrize("size", [(640, 640), (320, 1280), (1280, 320)])
def test_people_are_those_of_transformers_own_processing(saved, size):
    model, _, detector = saved
    frames = np.stack([picture(*size, seed=seed) for seed in range(2)])
    found = detector.detect(frames)
    for boxes, frame in zip(found, frames, strict=True):
        wanted, scores = reference(model, frame)
        assert boxes.dtype == np.float32 and boxes.shape == (len(wanted), 5) and len(wanted) >= 3
        assert (np.diff(boxes[:, 4]) <= 0).all()
        distance = np.abs(boxes[:, None, :4] + 0.5 - wanted).max(-1)  # ours count from the first pixel's centre
        assert distance.min(1).max() < 0.05 and distance.min(0).max() < 0.05
        np.testing.assert_allclose(boxes[:, 4], np.sort(scores)[::-1], atol=1e-3)


@pytest.mark.parametrize("size", [(97, 33), (240, 320), (1080, 607)])
def test_the_network_sees_what_pillow_makes_of_a_frame_to_one_grey_level(saved_v2, size):
    frame, seen = noise(*size), []
    detector = RTDetr(network("rtdetr-r18", str(saved_v2)))
    detector._model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    detector.detect(frame[None])
    wanted = np.asarray(Image.fromarray(frame).resize((640, 640), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(seen[0][0].numpy(), wanted, atol=1.01 / 255)


def test_the_class_person_is_found_by_name(tmp_path):
    model = build("RTDetrV2", labels=["person", "someone else", "car"])  # number 1 is over the threshold, not 0
    model.save_pretrained(tmp_path)
    found = RTDetr(network("rtdetr-r18", str(tmp_path))).detect(picture(640, 640, seed=0)[None])
    assert [boxes.shape for boxes in found] == [(0, 5)]


def test_files_of_older_releases_give_the_same(saved, tmp_path):
    """Those on the hub are of 2024 and 2025: fields that are gone, and heads stored under two names."""
    tensors = load_file(saved[1] / "model.safetensors")
    heads = {key: tensor.clone() for key, tensor in tensors.items() if "class_embed" in key or "bbox_embed" in key}
    tensors |= {key.removeprefix("model.decoder."): tensor for key, tensor in heads.items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    fields = {"backbone": None, "use_timm_backbone": False, "use_pretrained_backbone": False, "torch_dtype": "float32"}
    settings = json.loads((saved[1] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | fields))
    frame = picture(640, 640, seed=1)[None]
    found, wanted = RTDetr(network("rtdetr-r18", str(tmp_path))).detect(frame)[0], saved[2].detect(frame)[0]
    assert len(wanted)
    np.testing.assert_array_equal(found, wanted)


def test_a_folder_is_read_at_any_uri_and_nothing_is_downloaded(saved_v2, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    memory = fsspec.filesystem("memory")
    for name in rtdetr.FILES:
        memory.pipe_file(f"/rtdetr/{name}", (saved_v2 / name).read_bytes())
    found, local = network("rtdetr-r50", "memory://rtdetr/"), network("rtdetr-r50", str(saved_v2))
    assert found == local and found.name == "rtdetr-r50" and len(found.digest) == 8
    assert RTDetr(found).name == f"rtdetr-r50@{found.digest}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_half_precision_on_a_gpu_moves_boxes_by_less_than_a_hundredth_of_the_frame(saved):
    files = network("rtdetr-r18", str(saved[1]))
    frames = np.stack([picture(640, 640, seed=seed) for seed in range(20)])
    for half, full in zip(RTDetr(files, "cuda").detect(frames), RTDetr(files).detect(frames), strict=True):
        distance = np.abs(half[:, None, :4] - full[:, :4]).max(-1).min(1)
        assert np.median(distance) < 6.4


def test_without_transformers_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(WeightsError, match=r"rtdetr-r18 needs transformers.*pip install"):
        network("rtdetr-r18")


def test_without_the_hub_the_message_says_which_files_to_bring_from_where(tmp_path):
    code = (
        "from posec3d import rtdetr, weights\n"
        "try: rtdetr.network('rtdetr-r50')\n"
        "except weights.WeightsError as error: print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("PekingU/rtdetr_v2_r50vd: no such folder here, and the Hugging Face hub"), done.stderr
    assert "take config.json and model.safetensors from https://huggingface.co/PekingU/rtdetr_v2_r50vd" in done.stdout


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'rtdetr-r34'; known: rtdetr-r18, rtdetr-r50"):
        network("rtdetr-r34")


@pytest.mark.parametrize("name", rtdetr.FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"{name} is not in this folder. By hand: "):
        network("rtdetr-r18", str(folder))


@pytest.mark.parametrize("text", ["no json", "[]", "{}"])
def test_a_description_of_nothing_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json is not the description of a network"):
        network("rtdetr-r18", str(folder))


def test_another_kind_of_network_is_refused(folder):
    (folder / "config.json").write_text('{"model_type": "detr"}')
    with pytest.raises(WeightsError, match="describes a detr, wanted rt_detr or rt_detr_v2"):
        network("rtdetr-r18", str(folder))


def test_weights_that_are_a_pickle_are_not_loaded(folder):
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="the files do not make a network"):
        network("rtdetr-r18", str(folder))


def test_weights_of_another_size_are_refused(folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"decoder_ffn_dim": 64}))
    with pytest.raises(WeightsError, match="the files do not make a network"):
        network("rtdetr-r18", str(folder))


def test_weights_that_lack_a_tensor_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.enc_score_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 1 tensors .* such as model\.enc_score_head\.weight"):
        network("rtdetr-r18", str(folder))


def test_a_network_that_knows_no_people_is_refused(tmp_path):
    build("RTDetrV2", labels=["helmet", "vest", "boots"]).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"none of its 3 classes \(helmet, vest, boots, \.\.\.\) is called person"):
        network("rtdetr-r18", str(tmp_path))
