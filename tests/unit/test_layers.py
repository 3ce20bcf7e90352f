"""tiling <- mil_models <- viewers <- wsi_pipeline; arrows never turn, and importing is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ["tiling", "mil_models", "viewers", "wsi_pipeline"]
TORCH = {"torch", "torchvision", "timm", "safetensors", "lightning_fabric", "tensorboard",
         "segmentation_models_pytorch"}  # fmt: skip
GUI = {"napari", "qtpy", "PySide6", "matplotlib", "jinja2", "fastapi", "vispy"}
SLIDES = {"openslide", "tiffslide", "wsidicom", "pydicom", "cucim"}
MODELS_MAY_USE = {
    "errors", "exchange", "geometry", "grid", "nodes", "samples", "store", "tiles", "urls",
}  # fmt: skip


def imports_of(path: Path, *, at_run_time: bool = True) -> set[str]:
    """Return the modules that a file imports, those for type checkers left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if at_run_time and id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", LAYERS)
def test_arrows_point_left_only(package: str) -> None:
    above = set(LAYERS[LAYERS.index(package) + 1 :])
    for path in modules(package):
        tops = {name.partition(".")[0] for name in imports_of(path, at_run_time=False)}
        assert not tops & above, path


@pytest.mark.parametrize(
    ("libraries", "home"),
    [(TORCH, ("mil_models",)), (GUI, ("viewers",)), (SLIDES, ("tiling/readers",))],
)
def test_libraries_stay_in_their_home(libraries: set[str], home: tuple[str, ...]) -> None:
    for package in LAYERS:
        for path in modules(package):
            relative = path.relative_to(ROOT).as_posix()
            if relative.startswith(home) or relative == "wsi_pipeline/doctor.py":
                continue
            tops = {name.partition(".")[0] for name in imports_of(path)}
            assert not tops & libraries, relative


def test_distributed_only_in_wsi_pipeline() -> None:
    for package in LAYERS[:3]:
        for path in modules(package):
            assert not any(n.startswith("distributed") for n in imports_of(path)), path


def test_models_read_no_slides() -> None:
    for path in modules("mil_models"):
        used = {n.split(".")[1] for n in imports_of(path) if n.startswith("tiling.")}
        assert used <= MODELS_MAY_USE, path


@pytest.mark.parametrize(
    ("packages", "absent"),
    [
        ("tiling, viewers", ["zarr", "dask", "torch", "PySide6", "napari", "matplotlib"]),
        ("tiling.store, tiling.heatmap", ["dask", "scipy.stats", "skimage.morphology"]),
        ("mil_models", ["torch", "timm", "zarr"]),
        ("wsi_pipeline", ["torch", "zarr", "distributed"]),
        ("wsi_pipeline.cli", ["torch", "zarr", "distributed", "matplotlib", "cv2"]),
    ],
)
def test_importing_is_cheap(packages: str, absent: list[str]) -> None:
    code = f"import sys, {packages}; print([m for m in {absent!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("package", LAYERS)
def test_public_names_exist_and_are_sorted(package: str) -> None:
    module = __import__(package)
    assert sorted(module.__all__) == list(module.__all__)
    for name in module.__all__:
        for _ in range(2):  # a submodule of the same name must not take its place
            value = getattr(module, name)
            assert not isinstance(value, type(sys)), name


def test_every_package_is_typed() -> None:
    assert all((ROOT / package / "py.typed").exists() for package in LAYERS)
