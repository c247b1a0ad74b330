"""The ament_python package `efm_bringup`: every room of the suite, one installation."""

from pathlib import Path
from runpy import run_path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PACKAGE = "efm_bringup"
EXECUTABLES = run_path(str(ROOT / PACKAGE / "executables.py"))["EXECUTABLES"]


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """Files below `folder` as data_files entries under share/efm_bringup, folders kept."""
    files = sorted(p for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix != ".pyc")
    return [
        (f"share/{PACKAGE}/{p.parent.relative_to(ROOT)}", [str(p.relative_to(ROOT))])
        for p in files
    ]


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Self-improving embodied foundation models on ROS 2",
    license="Apache-2.0",
    maintainer="efm maintainers",
    maintainer_email="maintainers@example.org",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["efm_*"]),
        *find_packages("sim", include=["efm_sim", "efm_sim.*"]),
    ],
    package_dir={"efm_sim": "sim/efm_sim"},
    package_data={"efm_model": ["weights/**/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *shared("launch"),
        *shared("config"),
        *shared("rviz"),
    ],
    install_requires=[
        "setuptools",
        "matplotlib>=3.7",
        "mcap>=1.2",
        "numpy>=1.23",
        "onnx>=1.16",
        "opencv-python>=4.8,<5",
        "pybullet>=3.2.6",
        "pydantic>=2.6,<3",
        "pyyaml>=6",
        "rosbags>=0.10",
        "safetensors>=0.4.3",
        "tensorboard>=2.15",
        "torch>=2.2",
        "transformers>=4.49",
    ],
    extras_require={
        "cpu": ["onnxruntime>=1.18"],
        "gpu": ["onnxruntime-gpu>=1.18"],
        "lora": ["peft>=0.18"],
        "remote": ["fsspec>=2023.6"],
        "test": [
            "hypothesis>=6", "mypy>=1.10", "peft>=0.18", "pytest>=8,<9",
            "pytest-rerunfailures>=14", "ruff>=0.6", "types-PyYAML",
        ],
    },
    entry_points={
        "console_scripts": [f"{name} = {target}" for name, target in EXECUTABLES.items()]
    },
    zip_safe=False,
)
