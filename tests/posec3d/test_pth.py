"""Strangers' checkpoint files: the weights come out whatever lies beside them, and nothing in a file is run."""

import builtins
import collections
import datetime
import io
import os
import pathlib
import pickle
import subprocess

import numpy as np
import pytest
import torch

from posec3d.pth import read_tensors

WEIGHTS = {
    "conv.weight": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).transpose(0, 1),
    "norm.num_batches_tracked": torch.tensor(7),
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "bfloat": torch.tensor([1.5], dtype=torch.bfloat16),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}
# What mmengine's runner leaves beside the weights, with the classes of a training long ago.
METADATA = {
    "epoch": np.int64(210),
    "best": np.float64(0.75),
    "history": np.arange(3.0),
    "objects": np.array([1, "a"], object),
    "dtype": np.dtype("uint8"),
    "time": datetime.datetime(2022, 9, 9),
    "folder": pathlib.PurePosixPath("/tmp"),  # noqa: S108
    "classes": {"person"},
    "counts": collections.defaultdict(list, a=[1]),
    "last": collections.deque([1, 2]),
    "slice": slice(3),
    "raw": b"\x00\xff",
}


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def saved(checkpoint, **options):
    file = io.BytesIO()
    torch.save(checkpoint, file, **options)
    return file.getvalue()


def assert_read(data):
    got = read_tensors(data)
    assert list(got) == list(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        assert got[name].dtype == tensor.dtype and got[name].equal(tensor), name
        assert type(got[name]) is torch.Tensor and not got[name].requires_grad


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w}, lambda w: {"model": w, "epoch": 3}])
def test_weights_are_found_in_either_format_under_either_key_or_none(wrap, zipped):
    assert_read(saved(wrap(collections.OrderedDict(WEIGHTS)), _use_new_zipfile_serialization=zipped))


@pytest.mark.parametrize("zipped", [True, False])
def test_what_lies_beside_the_weights_does_not_keep_them_from_being_read(zipped):
    data = saved({"meta": METADATA, "state_dict": WEIGHTS}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(io.BytesIO(data), weights_only=True)  # or this test would prove nothing
    assert_read(data)


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_what_mmengine_leaves_beside_the_weights_does_not_keep_them_from_being_read(zipped):
    pytest.importorskip("mmengine", reason="mmengine is not installed: make mmpose")
    from mmengine.config import Config, ConfigDict
    from mmengine.logging import HistoryBuffer, MessageHub

    hub = MessageHub.get_instance("test_pth")
    hub.update_scalar("train/loss", 0.5)
    meta = {"cfg": Config({"a": {"b": [1]}}), "dataset": ConfigDict(a={"b": (1,)}), "log": HistoryBuffer([1.0], [1])}
    checkpoint = {"meta": meta, "state_dict": WEIGHTS, "message_hub": hub.state_dict()}
    assert_read(saved(checkpoint, _use_new_zipfile_serialization=zipped))


def test_a_file_is_read_by_its_path(tmp_path):
    (tmp_path / "a.pth").write_bytes(saved(WEIGHTS))
    assert_read(tmp_path / "a.pth")
    assert_read(str(tmp_path / "a.pth"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "args", "named"),
    [
        (os.system, ("touch ran",), "posix.system"),
        (subprocess.Popen, (["touch", "ran"],), r"\w+.Popen"),
        (builtins.eval, ("open('ran', 'w')",), "builtins.eval"),
        (builtins.exec, ("open('ran', 'w')",), "builtins.exec"),
        (builtins.open, ("ran", "w"), "io.open"),
        (builtins.__import__, ("antigravity",), "builtins.__import__"),
        (torch.load, ("other.pth",), "torch.serialization.load"),
        (torch.jit.load, ("other.pt",), "torch.jit._serialization.load"),
        (torch.hub.load, ("owner/repository", "model"), "torch.hub.load"),
        (torch.UntypedStorage.from_file, ("ran", True, 8), r"torch._C.\w+"),
        (builtins.getattr, ({}, "clear"), "builtins.getattr of a dict"),
        (builtins.getattr, (np.ndarray.__new__(np.ndarray, 0), "tofile"), "builtins.getattr of something unknown"),
        (builtins.getattr, (torch._utils._rebuild_tensor, "__globals__"), "builtins.getattr of a function"),
    ],
)
def test_a_file_that_asks_for_a_function_is_refused_by_name_and_runs_nothing(
    function, args, named, zipped, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    checkpoint = {"meta": np.float64(1), "state_dict": WEIGHTS, "more": Call(function, *args)}
    with pytest.raises(ValueError, match=f"asks for {named}, .* nothing in it was run"):
        read_tensors(saved(checkpoint, _use_new_zipfile_serialization=zipped))
    assert list(tmp_path.iterdir()) == []


def test_functions_of_metadata_packages_are_not_called(tmp_path):
    assert_read(saved({"meta": Call(np.memmap, str(tmp_path / "ran"), "u1", "w+", 0, 1), "state_dict": WEIGHTS}))
    assert list(tmp_path.iterdir()) == []


def legacy(program):
    """A file of the old format whose object is made by this pickle program."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    return head + program + pickle.dumps([], 2)


def test_attributes_of_what_a_pickle_finds_cannot_be_set():
    metadata = b"\x80\x02cnumpy\nnothing\n0"
    rebuild, state = b"ctorch._utils\n_rebuild_tensor_v2\n", b"}U\x04evilK\x01sb."  # BUILD with {"evil": 1}
    with pytest.raises(ValueError):
        read_tensors(legacy(metadata + rebuild + state))
    assert not hasattr(torch._utils._rebuild_tensor_v2, "evil")
    with pytest.raises(ValueError):
        read_tensors(legacy(metadata + b"ccollections\nOrderedDict\n" + b"N}U\x04evilK\x01s\x86b."))
    assert not hasattr(collections.OrderedDict, "evil")


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_a_torchscript_archive_is_refused():
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), file)
    with pytest.raises(ValueError, match="TorchScript") as error:
        read_tensors(file.getvalue())
    assert "weights_only` set to `False" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"GIF89a", bytes(500), pickle.dumps(1), saved(WEIGHTS)[:400], legacy(b"x")])
def test_what_is_no_checkpoint_says_so(data):
    with pytest.raises(ValueError, match="not a PyTorch checkpoint that can be read: "):
        read_tensors(data)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ([torch.ones(1)], "holds a list, wanted tensors by name"),
        ({}, "holds a dict"),
        ({"state_dict": np.float64(1)}, "holds something unknown"),
        ({"w": torch.ones(1), "epoch": 3}, "'epoch' is a int, wanted a tensor"),
        ({"state_dict": {"w": np.ones(1)}}, "'w' is something unknown"),
    ],
)
def test_weights_that_are_no_tensors_are_named(checkpoint, message):
    with pytest.raises(ValueError, match=message):
        read_tensors(saved(checkpoint))
