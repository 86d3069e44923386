"""A group of commands to which other packages add theirs by entry points."""

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from musix_runtime.errors import InputError, shorten

MAX_SUMMARY = 500  # characters of a command's summary in `--help`


class _Text(click.types.StringParamType):
    """Text in UTF-8: no file or database takes the other bytes that a shell may pass. Paths have another type."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(super().convert(value, param, ctx))
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"expected text in UTF-8, found {shorten(text)!r}", param, ctx)
        return text


TEXT = _Text()


class Commands(click.Group):
    """A group with its own commands and those of a group of entry points, which are loaded when they are used.

    What is text in their arguments and options must be UTF-8.
    """

    def __init__(self, *args: Any, entry_points: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._group = entry_points

    @property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return _entry_points_of(self._group)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._entry_points})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is None and cmd_name in self._entry_points:
            command = self._entry_points[cmd_name].load()
        if not isinstance(command, click.Command):
            return None
        _check_texts(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the arguments. The error for an unknown one names the most similar."""
        if args[0] not in (known := self.list_commands(ctx)):
            from difflib import get_close_matches

            if similar := get_close_matches(args[0], known, 1):
                ctx.fail(f"No such command {args[0]!r}. Did you mean {similar[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first sentence of each command in full; click would cut off a long one."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(limit=MAX_SUMMARY)) for name, command in commands if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            entry = self._entry_points.get(ctx.invoked_subcommand or "")
            if not (entry and entry.extras) or (error.name or "").partition(".")[0] in sys.stdlib_module_names:
                raise
            install = f"install it with: pip install 'musix-edge[{','.join(entry.extras)}]'"
            raise InputError(f"{ctx.command_path} {ctx.invoked_subcommand}: needs {error.name}; {install}") from error


def _check_texts(command: click.Command) -> None:
    """Let a command, and those of a group, refuse text that is not UTF-8."""
    for parameter in command.params:
        if parameter.type is click.STRING:
            parameter.type = TEXT
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        _check_texts(each)


@cache
def _entry_points_of(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}
