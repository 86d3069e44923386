"""The command `musix`: the group of all commands. Other packages add theirs by entry point."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from musix_runtime import settings
from musix_runtime.cli import bundle, experiment, queries, registry, rollout, serve, shadow
from musix_runtime.cli.commands import Commands
from musix_runtime.cli.entry import Stopped, stoppable
from musix_runtime.cli.output import print_status
from musix_runtime.errors import MusixError

CLOSED_PIPE = 141  # 128 and SIGPIPE: nobody reads the output any more, as with `| head -1`


def main() -> None:
    """Run the command and exit. A MusixError becomes one sentence on standard error and its exit code."""
    settings.disable_telemetry()
    settings.limit_blas_threads()
    _open_streams()
    try:
        code = stoppable(lambda: musix(standalone_mode=False))  # what `Context.exit` was given, None without
        sys.exit(code)
    except Stopped as stopped:
        print_status("stopped", error=True)
        sys.exit(stopped.exit_code)
    except click.Abort:
        print_status("stopped", error=True)
        sys.exit(130)
    except click.ClickException as error:
        with suppress(OSError):  # of standard error, where nobody may read
            error.show()
        sys.exit(2)
    except MusixError as error:
        print_status(f"error: {error}", error=True)
        sys.exit(error.exit_code)
    except OSError as error:  # of a file that no command checks, such as standard output
        place = error.filename or "standard output"
        advice = "check that it exists, that you may use it, and that its disk has room"
        print_status(f"error: {place}: expected one that can be used, found: {error.strerror}; {advice}", error=True)
        sys.exit(2)
    finally:
        _close_streams()


def _open_streams() -> None:
    """Make standard output and error take any character, whole lines or an error.

    A stream that was closed (`>&-`) becomes the null device: else sockets would get its descriptor. One without a
    buffer (PYTHONUNBUFFERED) gets one: else Python would drop what a full disk has no room for.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            _open_null(number)
        if stream is None or isinstance(stream.buffer, io.RawIOBase):
            encoding = stream.encoding if stream else "utf-8"
            setattr(sys, name, os.fdopen(number, "w", 1, encoding=encoding, closefd=False))
        getattr(sys, name).reconfigure(errors="replace")  # a console that is not UTF-8 shows "?" for other characters


def _close_streams() -> None:
    """Drop what cannot be written: Python would try again at its end, and exit with 120."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            _open_null(number)


def _open_null(number: int) -> None:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)


class _Musix(Commands):
    """The group of all commands. Where nobody reads its output any more, a command ends without a word."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _ending_at_a_closed_pipe():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _ending_at_a_closed_pipe():
            return super().invoke(ctx)


@contextmanager
def _ending_at_a_closed_pipe() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise click.exceptions.Exit(CLOSED_PIPE) from error


@click.group(cls=_Musix, entry_points="musix.commands", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="musix-edge")
def musix() -> None:
    """Train, export and serve music recommendations in one verified bundle."""


for _command in (
    *(bundle.verify, bundle.pack, bundle.unpack, bundle.keygen, bundle.sign, bundle.inspect, bundle.diff),
    *(queries.classify, queries.recommend, queries.similar),
    *(registry.publish, registry.versions, registry.rollback, registry.gc),
    *(experiment.experiment, rollout.rollout, shadow.shadow),
    serve.serve,
):
    musix.add_command(_command)
