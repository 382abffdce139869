"""C3D-light: heatmap volume -> class scores (paper, section 3.3: C3D half as wide, without its last stage)."""

from torch import Tensor, nn

from posec3d.models.layers import ConvBN, initialise


class C3D(nn.Module):
    """Six 3x3x3 convolutions, averaged over 2x2 pixels between the stages; all frames are kept.

    Args:
        num_classes: classes C of the output.
        in_channels: V joints or L limbs of the volume.
        base_width: channels of the first stage, doubled by each of the three others.
        dropout: before the classifier.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 17, base_width: int = 32, dropout: float = 0.5) -> None:
        super().__init__()
        w = base_width
        kernel = (3, 3, 3)
        self.pool = nn.AvgPool3d((1, 2, 2))
        self.conv1a = ConvBN(in_channels, w, kernel)
        self.conv2a = ConvBN(w, 2 * w, kernel)
        self.conv3a = ConvBN(2 * w, 4 * w, kernel)
        self.conv3b = ConvBN(4 * w, 4 * w, kernel)
        self.conv4a = ConvBN(4 * w, 8 * w, kernel)
        self.conv4b = ConvBN(8 * w, 8 * w, kernel)
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(8 * w, num_classes)
        initialise(self)

    def forward(self, volume: Tensor) -> Tensor:
        """Class scores of heatmap volumes.

        Args:
            volume: (N, V, T, H, W).

        Returns:
            logits (N, num_classes).
        """
        x = self.pool(self.conv1a(volume))
        x = self.pool(self.conv2a(x))
        x = self.pool(self.conv3b(self.conv3a(x)))
        x = self.conv4b(self.conv4a(x))
        return self.fc_cls(self.dropout(x.mean((2, 3, 4))))
