"""Makes a small signed release to keep: ``python -m tests.compat.make NAME``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from aethernet.precision import Precision
from aethernet.release.bundle import open_bundle
from aethernet.release.signing import Signer, sign_bundle
from aethernet.release.spec import ReleaseSpec
from tests.support.keys import key_pair
from tests.support.networks import calm_network
from tests.support.releases import make_release, small_pictures, tiny_checkpoint

FOLDER = Path(__file__).parent


def make(name: str) -> Path:
    """A release in every form that needs no GPU, signed by a key that is thrown away."""
    destination = FOLDER / name
    if destination.exists():
        raise SystemExit(f"expected a name that is not taken, found {destination}: what is kept here never changes")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        spec = ReleaseSpec(
            name="kept_2x",
            checkpoint=tiny_checkpoint(folder, calm_network(2)),
            description="A network that enlarges like nearest neighbour, kept to be read for good.",
            license="CC0-1.0",
            images=small_pictures(folder / "low"),
            hr=small_pictures(folder / "high", scale=2),
            precisions=tuple(Precision),
            # Of interest are the files; an untrained network's int8 is not good.
            limits={
                Precision.INT8: {
                    "min_psnr": 20,
                    "max_signed_mean": 0.1,
                    "max_hr_loss": 9,
                    "min_agreement": 0.9,
                    "min_speedup": 0.01,
                }
            },
            engines={"backends": ()},
        )
        bundle = make_release(spec, folder)
        key = key_pair(folder, "kept")
        sign_bundle(open_bundle(bundle), Signer(private_key=key.private))
        shutil.copytree(bundle, destination)
        shutil.copyfile(key.public, FOLDER / f"{name}.pub")
    return destination


if __name__ == "__main__":
    print(make(sys.argv[1]))
