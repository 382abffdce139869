"""Beside the data's path: checkpoint files (.pth) that others made -> tensors, running nothing that is in them.

Such a file is a pickle, and a pickle is a program. The programs understood here build tensors and containers; what a
training left beside them (logs, configs, NumPy numbers) becomes empty stand-ins, and any other program is refused.
"""

import io
import os
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor


def read_tensors(source: bytes | str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the weights in a PyTorch checkpoint, of the zip format or the one before it.

    Args:
        source: the file's content, or a local path.

    Returns:
        Name -> tensor on the CPU: what the checkpoint has under `state_dict` or `model`, else the whole of it.

    Raises:
        ValueError: not a checkpoint, damaged, with something that is no tensor among the weights, or asking for a
            function or class that has no place in one; the message names it.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        checkpoint = _load(data)
    except Exception as error:  # whatever a damaged or hostile file leads to
        raise ValueError(f"not a PyTorch checkpoint that can be read: {_cause(error)}") from error
    weights = checkpoint
    if isinstance(checkpoint, dict):
        weights = next((checkpoint[key] for key in ("state_dict", "model") if key in checkpoint), checkpoint)
    if not isinstance(weights, dict) or not weights:
        raise ValueError(f"the checkpoint holds {_kind(weights)}, wanted tensors by name")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"among the checkpoint's weights {name!r} is {_kind(tensor)}, wanted a tensor")
    return {name: tensor.detach() for name, tensor in weights.items()}


def _load(data: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on formats and protocols; what is not understood is an error anyway
        try:
            # First, and not only because it is the stricter one: it refuses TorchScript archives, which the second
            # call would load as programs, with another error.
            return torch.load(io.BytesIO(data), "cpu", weights_only=True)
        except pickle.UnpicklingError:
            return torch.load(io.BytesIO(data), "cpu", pickle_module=_Pickle, weights_only=False)


class _StandIn:
    """Takes whatever a pickle gives to an object, and keeps nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def _ignore(*args: object) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _ignore


def _member(owner: object, name: str) -> type[_StandIn]:
    """What getattr does here: a method of a stand-in (mmengine's logs name some) is one too."""
    if owner is not _StandIn:
        raise pickle.UnpicklingError(_refusal(f"builtins.getattr of {_kind(owner)}"))
    return _StandIn


_BUILDERS = {
    "builtins.getattr": _member,
    "collections.OrderedDict": OrderedDict,
    "torch.Size": torch.Size,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
}
_METADATA = {
    "_codecs", "addict", "collections", "datetime", "mmaction", "mmcls", "mmcv", "mmdet", "mmengine", "mmpose",
    "mmpretrain", "numpy", "pathlib", "pyskl",
}  # fmt: skip
"""Packages whose functions and classes occur beside the tensors."""
_METADATA_BUILTINS = {
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set",
    "slice", "str", "tuple",
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Finds the few functions and classes that build a checkpoint, and stand-ins for what lies beside the tensors."""

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module
        builder: Any = _BUILDERS.get(f"{module}.{name}")
        if builder is not None:
            # A pickle can set attributes of what it is given. Those of these classes are fixed; instead of a function
            # of this process it gets one of its own.
            return builder if isinstance(builder, type) else lambda *args: builder(*args)
        if module.split(".")[0] in _METADATA or (module == "builtins" and name in _METADATA_BUILTINS):
            return _StandIn
        raise pickle.UnpicklingError(_refusal(f"{module}.{name}"))


class _Pickle:
    """What torch.load uses in place of the module pickle."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: BinaryIO, **options: Any) -> Any:
        return _Unpickler(file, **options).load()


def _refusal(what: str) -> str:
    return f"it asks for {what}, which has no place in a checkpoint; refused, and nothing in it was run"


def _kind(thing: object) -> str:
    return "something unknown" if isinstance(thing, _StandIn) else f"a {type(thing).__name__}"


def _cause(error: Exception) -> str:
    """The first sentence; torch's others advise to read such a file without any check."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
