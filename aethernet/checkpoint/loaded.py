"""A network read from a file, and everything that is known about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aethernet.networks.activations import rewritten
from aethernet.networks.config import FoldState, NetworkConfig
from aethernet.networks.fusion import fuse
from aethernet.networks.third_party import ThirdPartyNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from aethernet.networks.descriptor import Descriptor
    from aethernet.networks.network import Network
    from aethernet.quantization.finetuned import FinetunedInt8
    from aethernet.quantization.records import QuantizationRecords

__all__ = ["LoadedNetwork"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedNetwork:
    """A network read from a file."""

    model: Network = field(repr=False)
    """In evaluation mode, float32, [N, C, H, W] in [0, 1] -> [N, C', s*H, s*W]."""
    config: NetworkConfig | Descriptor
    form: FoldState
    """How far the file's weights were folded; ``model`` has the same form."""
    quantization: QuantizationRecords | None
    """Records of quantisation-aware training, kept aside for int8; the model computes without them."""
    notes: tuple[str, ...]
    """What had to be assumed or was set aside: show these."""
    format: str
    """``safetensors`` or ``pytorch``."""
    stored_dtype: str
    """Type the weights had in the file, such as ``float16``."""
    int8: bool = False
    """Whether ``model`` is an int8 network (:mod:`aethernet.quantization`), which cannot be fused or exported again."""
    finetuned: FinetunedInt8 | None = None
    """The int8 network that fine-tuning put beside the float one, which ``model`` is."""
    set_aside: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Tensors the file holds and the model leaves out, by name."""

    @property
    def folded(self) -> Network:
        """The network as it is exported: everything folded that can be, activations spelled for runtimes."""
        network = self.model if self.form is FoldState.FUSED or self.int8 else fuse(self.model)
        return rewritten(network) if isinstance(network, ThirdPartyNetwork) and not self.int8 else network

    @property
    def released(self) -> Network:
        """The network as PyTorch files hold it: folded; another library's as it is, for that library to load."""
        return self.folded if isinstance(self.config, NetworkConfig) else self.model

    @property
    def nothing_to_fuse(self) -> bool:
        """Whether the network is deployed as it was trained: another library's, without branches to fold."""
        return self.form is FoldState.FUSED and not isinstance(self.config, NetworkConfig)
