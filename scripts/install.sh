#!/usr/bin/env bash
# Make the virtual environment VENV and install the suite into it, everything pinned.
#   scripts/install.sh VENV STAMP
# PYTHON      interpreter to build on (default python3)
# TORCH_ARGS  extra pip arguments for torch on a machine without a GPU, such as the index of CPU
#             builds that PyTorch's installation page names (a smaller download than the default)
set -euo pipefail

venv=$1 stamp=$2 python=${PYTHON:-python3}
cd "$(dirname "$0")/.."

say() { printf 'install: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

command -v "$python" >/dev/null || die "no $python on PATH: install Python 3.10 or newer, or set PYTHON="
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
constraints=requirements/constraints-py$version.txt
[ -f "$constraints" ] || die "no pins for Python $version (there are:$(
    ls requirements | sed -n 's/^constraints-py\(.*\)\.txt$/ \1/p' | tr -d '\n')); set PYTHON=python3.X to one of them"

# System ROS when one is sourced, else real ROS 2 from wheels (Linux x86_64).
ros=${ROS_DISTRO:-wheels}
site=()
if [ "$ros" != wheels ]; then site=(--system-site-packages)
elif [ "$(uname -sm)" != "Linux x86_64" ]; then
    die "the ROS 2 wheels exist for Linux x86_64 only; on $(uname -sm) source a system ROS 2 first"
fi
if [ -f "$venv/ros" ] && [ "$(cat "$venv/ros")" != "$ros" ]; then
    say "ROS changed from $(cat "$venv/ros") to $ros: rebuilding $venv"
    rm -rf "$venv"
fi
if [ ! -x "$venv/bin/pip" ]; then
    "$python" -m venv "${site[@]}" "$venv" ||
        die "python3 -m venv failed: 'sudo apt install python3-venv' mends it on Debian and Ubuntu"
fi
printf '%s\n' "$ros" > "$venv/ros"

pip=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet --constraint "$constraints")
backend=cpu
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then backend=gpu; fi
say "Python $version, ROS $ros, $backend; the first time this downloads 1 to 5 GB"

if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    if [ $backend = cpu ]; then
        # shellcheck disable=SC2086 # several arguments in one variable, on purpose
        "${pip[@]}" ${TORCH_ARGS:-} torch
    else
        "${pip[@]}" torch
    fi
fi
requirements=(--editable ".[$backend,test]")
if [ "$ros" = wheels ]; then requirements+=(--requirement requirements/ros-jazzy.txt); fi
PIP_CONSTRAINT=$constraints "${pip[@]}" "${requirements[@]}" || die "installation failed; the lines above say which package"

"$venv/bin/python" -c 'import cv2' ||
    die "OpenCV does not load: 'sudo apt install libgl1 libglib2.0-0' mends it on Debian and Ubuntu"
"$venv/bin/python" -c 'import rclpy' ||
    die "rclpy does not load under Python $version: use the Python that ROS $ros was built for (PYTHON=)"
touch "$stamp"
say "done"
