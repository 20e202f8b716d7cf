#!/usr/bin/env bash
# The quick part of the tests as on a 64-bit ARM machine, emulated: scripts/test_arm64.sh [FOLDER] [pytest arguments]
#
# Needs Debian or Ubuntu with:  sudo apt install mmdebstrap proot qemu-user-static
# Neither root nor the kernel's binfmt is needed: packages are only unpacked, and proot puts qemu before every program.
# Wheels are fetched by this machine's pip for the other architecture, so only the tests themselves are emulated; count
# on about twenty times their usual time, a minute for `import torch` alone. Not for CI.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${1:-arm64}")
shift || true
root="$folder/root" site="$folder/site"
suite=bookworm version=3.11  # Debian 12, as Raspberry Pi OS of 2023 to 2025, and its Python

if [ ! -x "$root/usr/bin/python$version" ]; then
    mkdir -p "$folder"
    mmdebstrap --variant=extract --architectures=arm64 --include="python$version,libgomp1,libstdc++6,coreutils,ca-certificates,git" \
        "$suite" "$root"
fi

if [ ! -d "$site/pytest" ]; then
    python3 -m venv "$folder/pip"
    pip() { "$folder/pip/bin/python" -m pip install --quiet --target "$site" --upgrade "$@"; }
    wheels=(--only-binary=:all: --python-version "$version" --implementation cp)
    for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do
        wheels+=(--platform "${tag}_aarch64")
    done
    # What a Raspberry Pi would get; sources that are pure Python have no wheel, and need none of another machine.
    python3 -c 'from wasi.torch_for import torch_for; print(*torch_for("Linux", "aarch64", False, None)[0], sep="\n")' \
        > "$folder/constraints.txt"
    pure='^(fvcore|hydra-core|omegaconf|wandb|matplotlib|scipy|scikit-learn)'
    grep -vE "$pure" requirements.txt > "$folder/wheels.txt"
    pip "${wheels[@]}" -c "$folder/constraints.txt" -r "$folder/wheels.txt" pytest pyyaml scikit-learn scipy matplotlib
    "$folder/pip/bin/python" -m pip install --quiet --target "$folder/pure" --upgrade --no-deps \
        "hydra-core>=1.3.2,<1.4" "omegaconf>=2.3,<2.4" "antlr4-python3-runtime==4.9.*" fvcore iopath yacs termcolor \
        tabulate portalocker packaging
fi

tests=("$@")
if [ ${#tests[@]} -eq 0 ]; then
    tests=(tests/linalg tests/layers tests/methods/test_contract.py tests/training/test_step.py tests/training/test_lean.py
        tests/test_allocator.py tests/measure/test_rss.py tests/measure/test_telemetry.py tests/data/test_decode.py)
fi
export PROOT_NO_SECCOMP=1 PYTHONPATH="$site:$folder/pure" PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
exec proot -q qemu-aarch64-static -r "$root" -b /proc -b /dev -b /tmp -b "$PWD" -b "$folder" -w "$PWD" \
    "/usr/bin/python$version" -m pytest -p no:cacheprovider "${tests[@]}"
