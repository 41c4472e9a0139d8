"""Networks of other architectures: read safely, built by spandrel, folded by proof, saved so that they come back."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import aethernet
from aethernet.checkpoint import save_pth, save_safetensors
from aethernet.errors import (
    CheckpointError,
    FusionError,
    NonFiniteWeightsError,
    SpecMismatchError,
    UnknownNetworkError,
    UnsafeCheckpointError,
    UsageError,
)
from aethernet.networks.activations import LargerOf, respelled
from aethernet.networks.config import FoldState
from aethernet.networks.fusion import fuse
from aethernet.networks.receptive_field import receptive_radius
from aethernet.networks.sizes import recorded_size
from aethernet.quantization.post_training import quantize
from aethernet.quantization.structure import units_of
from aethernet.runtimes.onnxruntime import OnnxRuntime
from tests.support.foreign import around, compact, span, spandrel
from tests.support.pictures import natural_picture


def run(network: nn.Module, picture: Tensor) -> Tensor:
    with torch.inference_mode():
        result: Tensor = network(picture)
    return result


@pytest.mark.parametrize("make", [compact, span])
def test_a_checkpoint_gives_the_picture_spandrel_gives(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path / "net.pth")
    picture = natural_picture(21, 34)

    found = aethernet.load(path)

    wanted = spandrel.ModelLoader().load_from_file(path)(picture)
    assert torch.equal(run(found.model, picture).clamp(0, 1), wanted)
    assert (found.config.scale, found.config.in_channels, found.config.out_channels) == (2, 3, 3)


def test_a_pickle_is_refused_although_spandrel_would_know_the_names(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    (tmp_path / "net.pth").write_bytes(pickle.dumps({"body.0.weight": Evil(), "body.1.weight": Evil()}))

    with pytest.raises(UnsafeCheckpointError):
        aethernet.load(tmp_path / "net.pth")
    assert not (tmp_path / "executed").exists()


def test_tensors_that_do_not_fit_the_architecture_are_refused_in_words(tmp_path: Path) -> None:
    content = torch.load(compact(tmp_path / "net.pth"))["params"]
    torch.save({**content, "body.2.weight": torch.zeros(8, 9, 3, 3)}, tmp_path / "misshapen.pth")
    torch.save({**content, "body.2.bias": torch.full((8,), float("nan"))}, tmp_path / "nan.pth")
    torch.save({**content, "body.99999999.weight": torch.zeros(1)}, tmp_path / "huge.pth")

    with pytest.raises(CheckpointError, match=r"cannot build it.*size mismatch"):
        aethernet.load(tmp_path / "misshapen.pth")
    with pytest.raises(NonFiniteWeightsError):
        aethernet.load(tmp_path / "nan.pth")
    with pytest.raises(UnknownNetworkError):
        aethernet.load(tmp_path / "huge.pth")


def test_without_spandrel_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compact(tmp_path / "net.pth")
    monkeypatch.setattr("aethernet.checkpoint.third_party.find_spec", lambda _: None)
    monkeypatch.setattr("aethernet.checkpoint.loading.find_spec", lambda _: None)

    with pytest.raises(UnknownNetworkError) as caught:
        aethernet.load(path)

    assert "aethernet-sr[spandrel]" in caught.value.hint


def test_expectations_and_records_are_held_against_the_network(tmp_path: Path) -> None:
    path = compact(tmp_path / "net.pth")

    assert aethernet.load(path, expect={"architecture": "Compact", "scale": 2}).config.scale == 2
    with pytest.raises(SpecMismatchError, match="scale: expected 4, found 2"):
        aethernet.load(path, expect={"scale": 4})
    with pytest.raises(UsageError, match="AetherNet's generation 3"):
        aethernet.load(path, residual_scale=0.2)


def test_a_file_says_what_it_holds_and_must_not_lie(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    network = aethernet.load(compact(tmp_path / "net.pth")).model
    saved = save_safetensors(network, tmp_path / "net.safetensors")
    config = {**network.config.to_json(), "scale": 4}

    again = aethernet.load(saved)
    save_file(load_file(saved), saved, metadata={"aethernet": json.dumps({"network": config})})

    assert again.config == network.config
    assert set(load_file(saved)) == set(network.network.state_dict())  # type: ignore[union-attr, operator]
    with pytest.raises(SpecMismatchError, match="disagree on scale"):
        aethernet.load(saved)


def test_what_re_parameterises_itself_is_folded_and_the_rest_goes_unchanged(tmp_path: Path) -> None:
    branched, plain = aethernet.load(span(tmp_path / "span.pth")), aethernet.load(compact(tmp_path / "compact.pth"))
    picture = natural_picture(20, 30)

    folded = branched.folded

    assert (branched.form, plain.form) == (FoldState.TRAINING, FoldState.FUSED)
    assert (branched.nothing_to_fuse, plain.nothing_to_fuse) == (False, True)
    assert sum(1 for one in folded.modules() if isinstance(one, nn.Conv2d)) == 22
    largest = float((run(folded, picture) - run(branched.model, picture)).abs().max())
    assert largest <= 1e-5 * float(run(branched.model, picture).abs().max())


def test_a_module_that_only_looks_foldable_is_found_out() -> None:
    class Liar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.eval_conv = nn.Conv2d(3, 3, 1)

        def update_params(self) -> None:
            self.eval_conv.weight.data.mul_(2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.eval_conv(x)
            return result

    with pytest.raises(FusionError, match="folding changed the network"):
        fuse(around(nn.Sequential(Liar())))


def test_a_network_with_a_deploy_switch_is_folded_by_it() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
            self.deploy = False

        def switch_to_deploy(self) -> None:
            self.wide.weight.data += nn.functional.pad(self.narrow.weight.data, [1] * 4)
            self.wide.bias.data += self.narrow.bias.data  # type: ignore[union-attr]
            self.deploy = True
            del self.narrow

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.wide(x) if self.deploy else self.wide(x) + self.narrow(x)
            return result

    network, picture = around(nn.Sequential(Branches())), natural_picture(9, 12)

    folded = fuse(network)

    assert torch.allclose(run(folded, picture), run(network, picture), atol=1e-6)
    assert set(folded.left_out) == {"0.narrow.weight", "0.narrow.bias"}


def test_activations_are_spelled_for_runtimes_without_a_bit_of_difference(tmp_path: Path) -> None:
    loaded = aethernet.load(compact(tmp_path / "net.pth"))
    picture = natural_picture(19, 23)

    folded = loaded.folded

    assert not any(isinstance(one, nn.PReLU) for one in folded.modules())
    assert torch.equal(run(folded, picture), run(loaded.model, picture))


def test_an_activation_whose_sign_cannot_change_stays_as_it_is() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.steep, self.flat = nn.PReLU(3, init=1.5), nn.PReLU(3, init=0.5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.steep(self.first(x))
            result: Tensor = self.last(y) + self.flat(y)  # the sum sees the sign
            return result

    network = around(Residual())
    made = respelled(network)

    assert isinstance(made.network.steep, nn.PReLU)
    assert isinstance(made.network.flat, LargerOf)
    assert torch.equal(run(made, natural_picture(8, 8)), run(network, natural_picture(8, 8)))


@pytest.mark.parametrize("save", [save_safetensors, save_pth])
@pytest.mark.parametrize("make", [compact, span])
def test_the_int8_network_comes_back_from_a_file(
    make: Callable[[Path], Path], save: Callable[..., Path], tmp_path: Path
) -> None:
    folded = aethernet.load(make(tmp_path / "net.pth")).folded
    made = quantize(folded, pictures=[natural_picture(32, 32).numpy()]).model
    picture = natural_picture(20, 24)

    suffix = ".pth" if save is save_pth else ".safetensors"
    again = aethernet.load(save(made, tmp_path / f"int8{suffix}"))

    assert again.int8
    rounding = float((run(made, picture) - run(folded, picture)).abs().max())
    assert float((run(again.model, picture) - run(made, picture)).abs().max()) <= 0.01 * rounding


def test_int8_is_refused_in_words_where_convolutions_are_the_lesser_part() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))
            self.mix = nn.Sequential(nn.Linear(3, 64), nn.Linear(64, 3))

        def forward(self, x: Tensor) -> Tensor:
            y = self.mix(self.middle(self.first(x)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            result: Tensor = self.last(y)
            return result

    from aethernet.errors import QuantizationError

    with pytest.raises(QuantizationError, match=r"int8 is for convolutional networks: .* 2% are in"):
        units_of(around(Mixer()))


def test_reach_is_measured_and_unknown_where_it_is_the_whole_picture() -> None:
    class Pooled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.mean(dim=(2, 3), keepdim=True)

    class Strided(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.interpolate(x[:, :, ::2, ::2], scale_factor=2.0)

    three = nn.Sequential(*(nn.Conv2d(3, 3, side, padding=side // 2) for side in (3, 5, 1)))

    assert receptive_radius(around(three)) == 3
    assert receptive_radius(around(Pooled())) is None
    assert receptive_radius(around(Strided())) is None


def test_a_network_that_works_in_place_leaves_the_picture_alone() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.conv(x.mul_(255))
            return result

    picture = natural_picture(5, 6)
    before = picture.clone()

    run(around(InPlace()), picture)

    assert torch.equal(picture, before)


def test_onnx_files_say_what_sizes_they_take_and_runners_pad(tmp_path: Path) -> None:
    from aethernet.networks.sizes import SizeRequirements

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(12, 12, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.pixel_shuffle(self.conv(nn.functional.pixel_unshuffle(x, 2)), 2)

    network = around(Halves(), size=SizeRequirements(multiple=2))
    picture = natural_picture(17, 31).numpy()

    description = aethernet.export_onnx(network, tmp_path / "net.onnx")

    assert recorded_size(description.metadata)[0] == SizeRequirements(multiple=2)
    with OnnxRuntime(tmp_path / "net.onnx") as runtime:
        found = runtime.infer(picture)
    wanted = run(network, nn.functional.pad(torch.from_numpy(picture), (0, 1, 0, 1), mode="reflect"))
    assert found.shape == picture.shape
    assert np.abs(found - wanted[:, :, :17, :31].numpy()).max() <= 1e-5
