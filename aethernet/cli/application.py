"""What both command lines are made of: one way to declare a command, one way for errors to end one.

A command is a function. A parameter whose type is a dataclass of options stands for its fields, each an option of its
own, so that options which several commands have are written once (:mod:`aethernet.cli.options`)::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class TrustOptions:
        PANEL: ClassVar[str] = "Who must have signed"
        public_key: Annotated[Path | None, typer.Option(help="PEM file ...")] = None

    def verify(bundle: Annotated[Path, typer.Argument(help="Release folder.")], trust: TrustOptions) -> None:
        "Find changed files."

    app = make_app("What this command line is for.")
    add_commands(app, verify, panel="Releases")
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo, OptionInfo

from aethernet.cli.interruption import interruptible
from aethernet.cli.output import exit_code_for, keep_names, print_error
from aethernet.errors import named_extra
from aethernet.version import __version__

__all__ = ["ENVIRONMENT", "RENAMED", "add_commands", "expand", "make_app", "with_new_names"]

ENVIRONMENT = "AETHERNET"
"""Options can also be given as variables, AETHERNET_RELEASE_HUB for ``release --hub``; an empty one counts as none."""

RENAMED = {
    "--octaves": "--pyramid-levels",
    "--extremes": "--synthetic-patches",
    "--extreme-weight": "--synthetic-weight",
}
"""Earlier name of an option -> its name. The earlier one, and its variable, keep working and are shown nowhere."""

_METAVARS = {bool: "", Path: "PATH", str: "TEXT", int: "N", float: "X"}


def make_app(purpose: str | None, *, completion: bool = False) -> typer.Typer:
    """A command line with ``-h``, ``--version`` and ``--debug``; call it with ``auto_envvar_prefix=ENVIRONMENT``.

    Args:
        purpose: What it is for; begins its help.
        completion: Whether to offer shell completion, which a shell can only use for a program with a name.
    """
    app = typer.Typer(
        cls=CommandLine,
        add_completion=completion,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help=(purpose or "").replace("``", ""),
        epilog=f"Every option can be set by a variable, too: {ENVIRONMENT}_COMMAND_OPTION.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(expand(_root))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; accepted behind a command, too.")
    ] = False,
) -> None:
    del version, debug  # the one has its callback, the other is read by CommandLine


def add_commands(app: typer.Typer, *functions: Callable[..., None], panel: str | None = None, group: str = "") -> None:
    """Make each function the command of its name: ``release_all`` is ``release-all``, ``list_`` is ``list``.

    Args:
        app: Of :func:`make_app`, or a group within one.
        functions: Their docstrings become the help.
        panel: Heading in the list of commands.
        group: Name of the group, where ``app`` is one within another.
    """
    for function in functions:
        name = function.__name__.rstrip("_").replace("_", "-")
        prefix = "_".join(filter(None, (ENVIRONMENT, group, name))).upper().replace("-", "_")
        app.command(name, cls=Command, rich_help_panel=panel)(expand(function, prefix))


def expand(function: Callable[..., None], environment: str = ENVIRONMENT) -> Callable[..., None]:
    """The function with each parameter that is a dataclass of options replaced by the dataclass' fields.

    Options get their name in the help's terms: no type names, no names of variables; the variable that sets one is
    called as the option is, ``environment`` in front.

    Raises:
        TypeError: Two options have one name.
    """
    parameters: list[inspect.Parameter] = []
    bundles: dict[str, tuple[type, list[str]]] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not dataclasses.is_dataclass(kind):
            parameters.append(_shown(parameter, environment, None))
            continue
        hints = typing.get_type_hints(kind, include_extras=True)
        fields = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=hints[field.name],
                default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            )
            for field in dataclasses.fields(kind)
        ]
        parameters += [_shown(one, environment, getattr(kind, "PANEL", None)) for one in fields]
        bundles[parameter.name] = (typing.cast(type, kind), [one.name for one in fields])

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name, (kind, names) in bundles.items():
            values[name] = kind(**{one: values.pop(one) for one in names})
        function(**values)

    names = [one.name for one in parameters]
    if len(set(names)) < len(names):
        raise TypeError(f"expected every option of {function.__name__} once, found {', '.join(sorted(names))}")
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _shown(parameter: inspect.Parameter, environment: str, panel: str | None) -> inspect.Parameter:
    """The parameter with what its help shows decided; keyword-only, so that required ones may follow others."""
    kind, *extras = typing.get_args(parameter.annotation)
    info = copy.copy(next(one for one in extras if isinstance(one, OptionInfo | ArgumentInfo)))
    info.show_envvar = False
    info.rich_help_panel = info.rich_help_panel or panel
    if isinstance(info, OptionInfo):
        info.metavar = _metavar(kind) if info.metavar is None else info.metavar
        info.envvar = _variables(info, parameter.name, environment)
    else:
        info.metavar = info.metavar or parameter.name.upper()
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info])


def _metavar(kind: Any) -> str | None:
    (plain,) = [one for one in typing.get_args(kind) or (kind,) if one is not type(None)][:1]
    (plain,) = typing.get_args(plain)[:1] or (plain,)
    return _METAVARS.get(plain)


def _variables(info: OptionInfo, name: str, environment: str) -> list[str]:
    """Those that the option says, then one named as the option is, then those of earlier names."""
    # Typer keeps the first of the names as the default of an option in Annotated.
    given = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    (option,) = [one.partition("/")[0] for one in given if one.startswith("--")][:1] or [f"--{name}"]
    option = option.replace("_", "-")
    said = [info.envvar] if isinstance(info.envvar, str) else list(info.envvar or ())
    names = [option, *(old for old, new in RENAMED.items() if new == option)]
    return [*said, *(f"{environment}_{one.strip('-').replace('-', '_').upper()}" for one in names)]


def with_new_names(words: Sequence[str], options: set[str]) -> list[str]:
    """A command's arguments with earlier names of its options (:data:`RENAMED`) replaced, up to ``--``."""
    end = words.index("--") if "--" in words else len(words)
    found = []
    for word in words[:end]:
        name, equals, value = word.partition("=")
        new = RENAMED.get(name, name)
        found.append(f"{new}{equals}{value}" if new in options and name not in options else word)
    return [*found, *words[end:]]


class Command(TyperCommand):
    """A command whose options answer to their earlier names, too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Typer's, behind the table of earlier names."""
        known = {word for parameter in self.params for word in parameter.opts}
        return super().parse_args(ctx, with_new_names(args, known))


class CommandLine(TyperGroup):
    """The commands as a whole: whatever ends one becomes words on stderr and an exit code."""

    _debug = False

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run a command; errors become words and exit codes (:func:`~aethernet.cli.output.exit_code_for`)."""
        words = list(sys.argv[1:] if args is None else args)
        if "--debug" in words:
            # Accepted anywhere, because it is added after something went wrong.
            words = ["--debug", *(word for word in words if word != "--debug")]
        keep_names()
        with interruptible():
            try:
                return super().main(words, *rest, **options)
            except SystemExit:
                raise
            except BaseException as error:  # noqa: BLE001 (here everything ends)
                self._end(error)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an interruption is reported here, before Typer makes it silent."""
        self._debug = bool(ctx.params.get("debug"))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            self._end(error)

    def _end(self, error: BaseException) -> typing.NoReturn:
        error = named_extra(error)
        if self._debug:
            traceback.print_exception(error)
        else:
            print_error(error)
        raise SystemExit(exit_code_for(error)) from None
