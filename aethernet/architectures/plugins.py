"""The plugins, and which of them a checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from aethernet.errors import CheckpointError, UnknownNetworkError
from aethernet.install import requirement

if TYPE_CHECKING:
    from aethernet.checkpoint.loading import LoadedNetwork

__all__ = ["Architecture", "load_content"]


class Architecture(Protocol):
    """A family of networks.

    The networks it builds are PyTorch modules, [N, C, H, W] in [0, 1] -> [N, C', s*H, s*W], with a ``config`` that has
    the fields ``scale``, ``in_channels``, ``out_channels`` and ``size`` and turns into JSON. One that has something to
    fold is an :class:`aethernet.fusion.FoldableNetwork`.
    """

    def detect(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> bool:
        """Whether a file's content is a network of this family; nothing is raised about what it is not."""

    def load(
        self,
        content: Mapping[str, Any],
        metadata: Mapping[str, str],
        *,
        file_format: str,
        expect: Mapping[str, Any] | None,
        residual_scale: float | None,
    ) -> LoadedNetwork:
        """Build the network with its weights, strictly.

        Raises:
            CheckpointError: One subclass per kind of trouble.
        """


class _AetherNet:
    """Generations 1 to 3, every form."""

    def detect(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> bool:
        del metadata
        from aethernet.checkpoint.layout import unwrap

        try:
            entries, _ = unwrap(content)
        except CheckpointError:
            return False
        return any(name.startswith(("layers.0.0.conv.", "stages.0.0.conv.")) for name in entries)

    def load(
        self,
        content: Mapping[str, Any],
        metadata: Mapping[str, str],
        *,
        file_format: str,
        expect: Mapping[str, Any] | None,
        residual_scale: float | None,
    ) -> LoadedNetwork:
        from aethernet.checkpoint.loading import assemble

        return assemble(content, metadata, file_format=file_format, expect=expect, residual_scale=residual_scale)


class _Spandrel:
    """Every architecture that spandrel recognises and that takes a picture and gives one."""

    def detect(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> bool:
        from aethernet.architectures.foreign import architecture_of

        return architecture_of(content, metadata) is not None

    def load(
        self,
        content: Mapping[str, Any],
        metadata: Mapping[str, str],
        *,
        file_format: str,
        expect: Mapping[str, Any] | None,
        residual_scale: float | None,
    ) -> LoadedNetwork:
        from aethernet.architectures.foreign import assemble_foreign

        return assemble_foreign(
            content, metadata, file_format=file_format, expect=expect, residual_scale=residual_scale
        )


PLUGINS: tuple[Architecture, ...] = (_AetherNet(), _Spandrel())
"""In the order they are asked."""


def load_content(
    content: Mapping[str, Any],
    metadata: Mapping[str, str],
    *,
    file_format: str,
    expect: Mapping[str, Any] | None,
    residual_scale: float | None,
) -> LoadedNetwork:
    """The network that a file's content describes, by the first plugin that recognises it.

    Raises:
        UnknownNetworkError: None does.
        CheckpointError: As the plugin's own ``load``.
    """
    # What nobody recognises is held against AetherNet, which says best what is wrong.
    plugin = next((one for one in PLUGINS if one.detect(content, metadata)), PLUGINS[0])
    try:
        return plugin.load(content, metadata, file_format=file_format, expect=expect, residual_scale=residual_scale)
    except UnknownNetworkError as error:
        from importlib.util import find_spec

        if find_spec("spandrel") is not None:
            raise
        raise UnknownNetworkError(
            str(error), hint=f"networks of other architectures need spandrel: pip install '{requirement('spandrel')}'"
        ) from error
