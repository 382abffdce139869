"""Names of detectors and pose networks -> networks (on a driver) -> detectors and estimators (on a worker)."""

from posec3d import movenet, openmmlab, rtdetr
from posec3d.pose import Detector, PoseEstimator, WholeFrame
from posec3d.weights import Network

# Of both, the first is the default.
POSES = (*movenet.POSE, *openmmlab.NAMES)
HEATMAPS = (*movenet.POSE, *openmmlab.HEATMAPS)
"""Pose networks whose own heatmaps can be kept."""
DETECTORS = (*movenet.DETECTOR, *rtdetr.NAMES, WholeFrame.name)


def network(name: str, weights: str | None = None) -> Network:
    """Find, fetch and check a network's weights; on a driver, which sends the result to its workers.

    Args:
        name: one of `POSES` or `DETECTORS`.
        weights: a file, folder or URI for those that take one (MMPose, RT-DETR); None is the published one.

    Raises:
        ValueError: no such name.
        posec3d.weights.WeightsError: the weights are not to be had; the message says what to do.
    """
    if name in openmmlab.NAMES:
        return openmmlab.network(name, weights)
    if name in rtdetr.NAMES:
        return rtdetr.network(name, weights)
    if weights is not None:
        raise ValueError(f"{name} takes no other weights; got {weights}")
    if name == WholeFrame.name:
        return Network(name, "", {})
    return movenet.network(name)


def detector(network: Network, device: str = "cpu", *, threads: int = 1) -> Detector:
    """Put a detector on a device, with so many CPU threads."""
    if network.name == WholeFrame.name:
        return WholeFrame()
    if network.name in rtdetr.NAMES:
        return rtdetr.RTDetr(network, device)
    return movenet.MoveNetBoxes(network, device, threads=threads)


def estimator(network: Network, device: str = "cpu", *, threads: int = 1) -> PoseEstimator:
    """Put a pose network on a device, with so many CPU threads."""
    if network.name in openmmlab.NAMES:
        return openmmlab.MMPoseEstimator(network, device)
    return movenet.MoveNetPose(network, device, threads=threads)
