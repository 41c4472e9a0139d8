"""How ``flows/`` and ``tasks/`` travel in a wheel: inside this package, which is all they add to an environment.

Their own names are too general to install. Whoever uses them puts this package's folder on the path of its own process,
and of those that it starts, so that the same code imports the same names as in the repository. In a clone, and in an
editable installation of one, that folder is the clone. ``pyproject.toml`` names :func:`add_workflows` as a plug-in of
the command line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

__all__ = ["add_workflows", "code_folder"]


def code_folder() -> Path:
    """The folder that holds ``flows`` and ``tasks``."""
    here = Path(__file__).resolve().parent
    return here if (here / "flows").is_dir() else here.parent


def add_workflows(app: Any) -> None:
    """Add the commands of ``python -m flows`` to a command line of :mod:`aethernet.cli.application`."""
    if (folder := str(code_folder())) not in sys.path:
        sys.path.insert(0, folder)
    from flows.__main__ import add_all_commands

    add_all_commands(app)
