"""The shapes of the networks, as plain values: the registry reads them without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

#: Side of the grid of image patches at decoder level n (`decoder.ipt_blk<n>`).
PATCH_GRIDS: Mapping[int, int] = MappingProxyType({5: 32, 4: 16, 3: 8, 2: 4})


class PatchOrder(StrEnum):
    """The order in which the decoder receives the channels of image patches.

    Keys and shapes of a checkpoint do not show it: with the wrong one the checkpoint loads, and
    its mattes are silently wrong.
    """

    #: Channel = (column * rows + row) * 3 + color: weights of before BiRefNet's commit 5198d3f
    #: (2024-11-05), which changed the order, and RMBG-2.0, which was derived from them.
    COLUMNS_ROWS_COLORS = "columns-rows-colors"
    #: Channel = (color * rows + row) * columns + column: weights of after that commit.
    COLORS_ROWS_COLUMNS = "colors-rows-columns"

    @classmethod
    def _missing_(cls, value: object) -> "PatchOrder | None":
        """Understand the names that the orders had before: of one model in each order."""
        return _FORMER_NAMES.get(str(value))


_FORMER_NAMES: Mapping[str, PatchOrder] = MappingProxyType(
    {
        "rmbg-2.0": PatchOrder.COLUMNS_ROWS_COLORS,
        "birefnet": PatchOrder.COLORS_ROWS_COLUMNS,
    }
)


@dataclass(frozen=True, slots=True)
class SwinConfig:
    """The shape of the backbone (Liu et al., 2021, https://arxiv.org/abs/2103.14030).

    The defaults are those of Swin-L.
    """

    embed_dim: int = 192
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    num_heads: tuple[int, int, int, int] = (6, 12, 24, 48)
    #: Side of an attention window, in tokens.
    window: int = 12

    @property
    def dims(self) -> tuple[int, int, int, int]:
        """Channels of the four stages, finest first."""
        dim = self.embed_dim
        return dim, 2 * dim, 4 * dim, 8 * dim


@dataclass(frozen=True, slots=True)
class BiRefNetConfig:
    """The shape of a whole network."""

    swin: SwinConfig = field(default_factory=SwinConfig)
    #: Side of the square that pictures are resized to, pixels; a multiple of 32.
    input_size: int = 1024
    #: Channels inside the decoder's blocks.
    inner_channels: int = 64
    #: Channels of each branch of the deformable pyramid.
    aspp_channels: int = 256
    #: Kernel sides of the pyramid's deformable branches, beside a first one of 1.
    aspp_kernels: tuple[int, ...] = (1, 3, 7)
    #: The order in which the network itself runs; a checkpoint in the other is permuted at load.
    patch_order: PatchOrder = PatchOrder.COLORS_ROWS_COLUMNS

    @property
    def lateral_channels(self) -> tuple[int, int, int, int]:
        """Channels of x1..x4, finest first: both scales of the backbone are concatenated."""
        first, second, third, fourth = self.swin.dims
        return 2 * first, 2 * second, 2 * third, 2 * fourth


_SWIN_TINY = SwinConfig(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window=7)
_SWIN_STAND_IN = SwinConfig(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window=4)

#: The known networks, by the registry's names.
PRESETS: Mapping[str, BiRefNetConfig] = MappingProxyType(
    {
        "rmbg-2.0": BiRefNetConfig(),
        "birefnet": BiRefNetConfig(),
        "birefnet-hr": BiRefNetConfig(input_size=2048),
        "birefnet-lite": BiRefNetConfig(swin=_SWIN_TINY),
        "birefnet-matting": BiRefNetConfig(),
        "birefnet-portrait": BiRefNetConfig(),
        "birefnet-hr-matting": BiRefNetConfig(input_size=2048),
        "birefnet-dynamic": BiRefNetConfig(),
        "birefnet-dynamic-matting": BiRefNetConfig(),
        "toonout": BiRefNetConfig(),
        "lucida": BiRefNetConfig(),
        "birefnet-tiny": BiRefNetConfig(swin=_SWIN_STAND_IN, input_size=128, inner_channels=16),
    }
)
