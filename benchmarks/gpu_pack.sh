#!/usr/bin/env bash
# Packs what a bare CUDA machine lacks for benchmarks/gpu.py: the project, a release, two images, a short 1080p video,
# and wheels (ONNX Runtime for CUDA, which takes its libraries from PyTorch's, and small ones). PyTorch itself stays out:
# the machine has it, and its version is checked before anything runs.
#
#   benchmarks/gpu_pack.sh OUT [BUNDLE]        OUT/pack.00 …, each at most 60 MB, and OUT/run.sh
#   there:  bash OUT/run.sh --minutes 6 --json gpu.json
#
# Settings: PYTHON (interpreter with pip and av; .venv/bin/python), TARGET (Python of the machine; 3.12),
# ORT and ORT_CUDA (version of onnxruntime-gpu, CUDA it is built for), PART (bytes of an archive), WHEELS=0 (no wheels).
set -euo pipefail

out=${1:?expected a folder for the archives, such as: benchmarks/gpu_pack.sh pack}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bundle=${2:-$root/out/aether_tiny_2x}
python=${PYTHON:-$root/.venv/bin/python}
target=${TARGET:-3.12}
ort=${ORT:-1.31.1}
ort_cuda=${ORT_CUDA:-13}
part=${PART:-60000000}

[[ -f $bundle/release.json ]] || { echo "expected a release at $bundle, found none; make one: make release" >&2; exit 2; }
[[ $part -le 60000000 ]] || { echo "expected archives of at most 60000000 bytes, found PART=$part" >&2; exit 2; }
if [[ -n $(git -C "$root" status --porcelain -- aethernet benchmarks) ]]; then
    echo "note: what is not committed in aethernet/ and benchmarks/ is not packed" >&2
fi

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$out" "$stage/pack/wheels" "$stage/pack/project"
rm -f "$out"/pack.[0-9][0-9] "$out/SHA256SUMS" "$out/run.sh"

git -C "$root" archive HEAD aethernet benchmarks pyproject.toml LICENSE | tar -x -C "$stage/pack/project"
git -C "$root" rev-parse HEAD >"$stage/pack/project/COMMIT"
mkdir "$stage/pack/bundle"
(cd "$bundle" && tar -c --exclude=engines --exclude=report.html .) | tar -x -C "$stage/pack/bundle"

"$python" - "$stage/pack" "$root" <<'PYTHON'
"""Two images and 48 frames of 1080p that move, cut out of one large image."""
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[2] + "/benchmarks")
import av
from upscaling import image

pack = Path(sys.argv[1])
large = image(2112, 1176)
large.crop((0, 0, 1920, 1080)).save(pack / "image_1080p.png")
large.crop((0, 0, 512, 512)).save(pack / "image_512.png")
with av.open(str(pack / "video_1080p.mkv"), "w") as container:
    stream = container.add_stream("libx264", rate=24, options={"crf": "23", "preset": "veryfast"})
    stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
    for index in range(48):
        frame = large.crop((4 * index, 2 * index, 4 * index + 1920, 2 * index + 1080))
        container.mux(stream.encode(av.VideoFrame.from_image(frame)))
    container.mux(stream.encode(None))
PYTHON

if [[ ${WHEELS:-1} != 0 ]]; then
    # Modules of the same name that the machine has already are preferred there; only ONNX Runtime's is replaced.
    packages=(annotated-doc annotated-types av click flatbuffers fsspec imageio jinja2 lazy-loader markdown-it-py
        markupsafe mdurl ml_dtypes mpmath networkx onnx onnx-ir onnxscript packaging pillow platformdirs polygraphy
        protobuf psutil pydantic pydantic-core pygments rich safetensors scikit-image scipy shellingham spandrel einops
        sympy tifffile typer typing-extensions typing-inspection "onnxruntime-gpu==$ort")
    platforms=()
    for version in 2_28 2_27 2_26 2_24 2_17 2_12 2_5; do platforms+=(--platform "manylinux_${version}_x86_64"); done
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$target" \
        "${platforms[@]}" --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
        --constraint "$root/constraints.txt" --dest "$stage/pack/wheels" "${packages[@]}"
fi

cat >"$stage/pack/prepare.py" <<'PYTHON'
"""Checks the machine, and unpacks the wheels whose modules it lacks; prints what it found."""
import importlib.util
import platform
import re
import sys
import zipfile
from pathlib import Path

here, target, cuda, *given = Path(__file__).resolve().parent, *sys.argv[1:]
rehearsal = "--rehearse" in given
found = ".".join(platform.python_version_tuple()[:2])
if found != target:
    sys.exit(f"expected Python {target}, which the wheels were packed for, found {found}; pack again with TARGET={found}")
if importlib.util.find_spec("torch") is None:
    sys.exit("expected PyTorch 2.10 or newer, built for CUDA, found none in this Python")
import torch

if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < (2, 10) or not (torch.version.cuda or rehearsal):
    sys.exit(f"expected PyTorch 2.10 or newer, built for CUDA, found {torch.__version__} for {torch.version.cuda}")
if not (torch.cuda.is_available() or rehearsal):
    sys.exit(f"expected a card that PyTorch {torch.__version__} for CUDA {torch.version.cuda} can use, found none")
card = "no card" if rehearsal else torch.cuda.get_device_name(0)
print(f"Python {found}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {card}")


def lacking(names: list[str]) -> bool:
    """Whether one of a wheel's packages cannot be imported here; a namespace such as google is not yet its package."""
    modules = {name.removesuffix(".py") for name in names if "/" not in name and name.endswith(".py")}
    for name in names:
        folder, _, last = name.rpartition("/")
        if last == "__init__.py" and (folder.rpartition("/")[0] + "/__init__.py") not in names:
            modules.add(folder.replace("/", "."))
    for module in modules:
        try:
            if importlib.util.find_spec(module) is None:
                return True
        except ModuleNotFoundError:
            return True
    return False


site = here / "site"
site.mkdir(exist_ok=True)
for wheel in sorted((here / "wheels").glob("*.whl")):
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        runtime = wheel.name.startswith("onnxruntime_gpu")
        if runtime and (torch.version.cuda or "").split(".")[0] != cuda:
            brings = f"PyTorch brings {torch.version.cuda}; pack again with ORT=VERSION and ORT_CUDA=MAJOR"
            print(f"left out {wheel.name}: it takes the libraries of CUDA {cuda}, {brings}")
            continue
        if not runtime and not lacking(names):
            continue
        content.extractall(site)
        print(f"unpacked {wheel.name}")
PYTHON

tar -c -C "$stage" pack | split -b "$part" -d -a 2 - "$out/pack."
(cd "$out" && sha256sum pack.[0-9][0-9] >SHA256SUMS)

cat >"$out/run.sh" <<RUN
#!/usr/bin/env bash
# Joins and checks the archives beside it, unpacks them, checks the machine and runs benchmarks/gpu.py with what is given.
set -euo pipefail
here=\$(cd "\$(dirname "\${BASH_SOURCE[0]}")" && pwd)
place=\${PLACE:-\${TMPDIR:-/tmp}/aethernet-gpu}
python=\${PYTHON:-python3}
cd "\$here"
sha256sum --quiet --check SHA256SUMS || { echo "expected the archives named above whole beside run.sh" >&2; exit 2; }
cd - >/dev/null
mkdir -p "\$place"
cat "\$here"/pack.[0-9][0-9] | tar -x -C "\$place"
"\$python" "\$place/pack/prepare.py" $target $ort_cuda "\$@"
export PYTHONPATH="\$place/pack/site\${PYTHONPATH:+:\$PYTHONPATH}"
exec "\$python" "\$place/pack/project/benchmarks/gpu.py" --bundle "\$place/pack/bundle" \\
    --image "\$place/pack/image_1080p.png" --video "\$place/pack/video_1080p.mkv" "\$@"
RUN
ls -l "$out" | awk 'NR > 1 { print $5, $9 }'
echo "there: bash run.sh --minutes 6 --json gpu.json"
