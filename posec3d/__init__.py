"""Skeleton-based action recognition (PoseC3D): video -> poses -> keypoint table -> heatmap volumes -> named actions.

Shapes by letter, everywhere: N clips, M people, T frames, V joints, C channels, H W pixels.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posec3d.recognizer import Recognizer, Result, load
    from posec3d.table import Clip, read_table, write_table

__version__ = "0.1.0"
__all__ = ["Clip", "Recognizer", "Result", "load", "read_table", "write_table"]


def __getattr__(name: str) -> Any:
    # On first use: posec3d.models and posec3d.heatmaps run where Parquet and video libraries are not installed.
    if name in __all__:
        return getattr(
            import_module("posec3d.recognizer" if name in ("Recognizer", "Result", "load") else "posec3d.table"), name
        )
    raise AttributeError(f"module 'posec3d' has no attribute {name!r}")
