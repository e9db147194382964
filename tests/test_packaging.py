"""What a stranger gets: a wheel that holds everything under one name, and imports that cost nothing."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "streamer": "streamer",
    "kernels": "streamer/kernels",
    "models": "streamer/models",
    "models/training": "streamer/models/training",
}
SHIPPED = ("*.py", "*.safetensors", "recipes/*.toml", "py.typed")


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build the wheel from a copy, since a build leaves its own folders behind; return the names in it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored, dirs_exist_ok=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", out, source], check=True)
    (wheel,) = out.glob("streamer-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_every_file_that_the_folders_ship(wheel_names: set[str]) -> None:
    expected = {
        f"{installed}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, installed in FOLDERS.items()
        for pattern in SHIPPED
        for path in (ROOT / folder).glob(pattern)
    }
    assert {
        "streamer/py.typed",
        "streamer/kernels/__init__.py",
        "streamer/models/recipes/voice-it.toml",
    } <= expected
    assert expected - wheel_names == set()


def test_wheel_claims_no_other_name(wheel_names: set[str]) -> None:
    top = {name.split("/")[0] for name in wheel_names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"streamer"}


def test_every_folder_of_code_is_a_listed_package() -> None:
    """setuptools drops a subpackage that pyproject.toml does not list, without a word."""
    holders = {path.parent.relative_to(ROOT).as_posix() for f in FOLDERS for path in (ROOT / f).rglob("*.py")}
    assert holders == set(FOLDERS)


@pytest.mark.parametrize(
    "package", ["streamer", "streamer.kernels", "streamer.models", "streamer.models.training"]
)
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    program = f"import sys, {package}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert {"torch", "sounddevice", "numba"} & set(done.stdout.split()) == set()
