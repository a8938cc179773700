"""`pip install .` alone works: the wheel holds the package, its data and the presets."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from autoprune.config.presets import presets

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_wheel_runs_without_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"
    skip = shutil.ignore_patterns(".venv", ".git", "results", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=skip)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    (wheel,) = tmp_path.glob("autoprune-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = (
        "import autoprune, autoprune.config as c, autoprune.config.presets as p\n"
        "spec = {'task': 'digits', 'budget': {'macs': '50%'}}\n"
        "names = [n for n in p.presets() if c.RunConfig.from_dict({**spec, 'space': n})]\n"
        "print(autoprune.__file__, *names)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "installed")},
    )
    file, *names = done.stdout.split()
    assert Path(file).parent == tmp_path / "installed" / "autoprune"
    assert names == list(presets())
    assert list((tmp_path / "installed" / "autoprune" / "report").glob("*.css"))
