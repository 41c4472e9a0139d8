"""What pyproject.toml cannot say: ``flows/`` and ``tasks/`` are installed inside ``aethernet_workflows/``."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

WORKFLOWS = "aethernet_workflows"
INSIDE = find_packages(include=["flows", "flows.*", "tasks", "tasks.*"])


class BuildWithDeployments(build_py):
    """Also copies what Prefect is told to deploy."""

    def run(self) -> None:
        """Copy modules, then ``prefect.yaml`` beside them."""
        super().run()
        if not self.editable_mode:
            shutil.copyfile("prefect.yaml", Path(self.build_lib) / WORKFLOWS / "prefect.yaml")


setup(
    packages=[
        *find_packages(include=["aethernet", "aethernet.*"]),
        WORKFLOWS,
        *(f"{WORKFLOWS}.{name}" for name in INSIDE),
    ],
    package_dir={f"{WORKFLOWS}.{name}": name.replace(".", "/") for name in INSIDE},
    cmdclass={"build_py": BuildWithDeployments},
)
