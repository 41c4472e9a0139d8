"""``aethernet doctor``: what works on this machine."""

from __future__ import annotations

from typing import Any

import typer

from aethernet.cli.options import AsJson
from aethernet.cli.output import emit_json, print_table, say, show_facts

__all__ = ["doctor"]


def doctor(as_json: AsJson = False) -> None:
    """Say what works here: runtimes (each tried on a small network), extras, processor, GPU, Hub token, cache.

    Ends with 1 where something that is installed does not work. Nothing is shown that names you or is secret.
    """
    from aethernet.doctor import diagnose

    found = diagnose(tell=lambda name: say(f"trying {name} …"))
    broken = [name for name, one in found["runtimes"].items() if one["state"] == "broken"]
    if as_json:
        emit_json(found)
    else:
        _show(found)
    if broken:
        say(f"installed here and not working: {', '.join(broken)}")
        raise typer.Exit(1)


def _show(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    machine, devices, cache = found["machine"], found["devices"], found["cache"]
    nvidia = devices["nvidia"]
    show_facts(
        {
            "aethernet": f"{found['aethernet']['version']}, Python {found['aethernet']['python']}",
            "system": f"{machine['system']} {machine['machine']}",
            "processor": f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB of memory",
            "instructions": machine["features"],
            "NVIDIA GPU": ", ".join(str(value) for value in nvidia.values()) if nvidia else "none",
            "Vulkan": devices["vulkan"],
            "token for the Hub": found["hub"]["token"],
            "cache": f"{cache['folder']}: {sum(cache['bytes'].values()) / 1e6:.1f} MB",
        },
        False,
    )
    runtimes = Table("runtime", "state", "", title="Runtimes", title_justify="left")
    for name, one in found["runtimes"].items():
        runtimes.add_row(name, one["state"], escape(one["words"]))
    print_table(runtimes)
    extras = Table("extra", "state", "for", title="Extras", title_justify="left")
    for name, one in found["extras"].items():
        state = "installed" if one["installed"] else f"lacks {', '.join(one['missing'])}"
        extras.add_row(name, escape(state), one["purpose"])
    print_table(extras)
    for one in found["extras"].values():
        if not one["installed"]:
            print(f"to {one['purpose']}: {one['add']}")
