"""The command line: one console script, `wsi`."""

from __future__ import annotations

import logging
import sys
import tomllib
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import App, Parameter
from cyclopts.config import Toml
from rich.console import Console
from rich.markup import escape

from tiling.errors import WSIError
from tiling.urls import redacted
from wsi_pipeline import __version__
from wsi_pipeline.camelyon.chain_cli import camelyon
from wsi_pipeline.cli_flags import Flag
from wsi_pipeline.cli_inspect import inspect
from wsi_pipeline.cli_models import models
from wsi_pipeline.cli_slides import slides
from wsi_pipeline.errors import UsageError, reason_of
from wsi_pipeline.progress import quiet_libraries
from wsi_pipeline.segmentation.cli import segment

EXIT_USAGE, EXIT_NOTHING_DONE, EXIT_INTERRUPTED = 2, 3, 130

app = App(
    name="wsi",
    version=__version__,
    help="Whole-slide images to tiles, embeddings, attention-based MIL scores and heatmaps.\n\n"
    "Research use only; not a medical device.",
    help_epilogue="Start here:\n\n  wsi demo\n\n  wsi run slides/ -o out\n\n  wsi COMMAND --help",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)
app.meta.suppress_keyboard_interrupt = False
for commands in (slides, models, inspect):
    app.command(commands, name="*")
app.command(camelyon)
app.command(segment)
app.meta.group_parameters = cyclopts.Group("For every command", sort_key=0)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Path | None = None,
    debug: Annotated[bool, Flag] = False,
) -> Any:
    """Read the configuration file, then run the command.

    Parameters
    ----------
    config
        TOML file with a table per command, e.g. [run]; flags win over it.
    debug
        Show tracebacks and the log.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_PublicFormatter())
    handler.setLevel(logging.DEBUG if debug else logging.WARNING)
    logging.basicConfig(level=handler.level, handlers=[handler])
    if not debug:
        quiet_libraries()
    if config is not None:
        app.config = (_read_config(config),)
    return app(tokens, exit_on_error=False, print_error=False, result_action="return_value")


class _PublicFormatter(logging.Formatter):
    """Log lines without the credentials that URLs in them may carry."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    tokens = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = _show_warning
    sys.excepthook = _show_traceback
    sys.exit(run_tokens(tokens))


def run_tokens(tokens: list[str]) -> int:
    """Run the command line in this process and return its exit code."""
    app.config = ()
    try:
        code = app.meta(
            tokens, exit_on_error=False, print_error=False, result_action="return_value"
        )
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        _complain("interrupted; run the same command again to go on")
        return EXIT_INTERRUPTED
    except cyclopts.CycloptsError as err:
        _complain(f"{err} (wsi COMMAND --help shows what is allowed)")
        return EXIT_USAGE
    except (WSIError, OSError) as err:
        if "--debug" in tokens:
            raise
        _complain(reason_of(err))
        return EXIT_USAGE if is_usage(err) else EXIT_NOTHING_DONE


def is_usage(err: Exception) -> bool:
    """Whether `err` is about what was asked for, not about slides or the machine."""
    names = {"UsageError", "LabelTableError", "EncoderError", "ModelError", "AnnotationError"}
    return any(kind.__name__ in names for kind in type(err).__mro__)


def _read_config(path: Path) -> Toml:
    """Return the configuration as cyclopts reads it, every table and key in it known.

    cyclopts itself looks at the table of the command that runs, and at no other.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise UsageError(f"{path}: {err}") from err
    _check_tables(path, tables, app)
    return Toml(path, must_exist=True)


def _check_tables(path: Path, tables: dict[str, Any], group: App, prefix: str = "") -> None:
    commands = [name for name in group if not name.startswith("-")]
    for name, table in tables.items():
        if name not in commands or not isinstance(table, dict):
            raise UsageError(f"{path}: [{prefix}{name}] is no command; use {', '.join(commands)}")
        if group[name].default_command is None:  # a group of commands, [camelyon.froc]
            _check_tables(path, table, group[name], f"{prefix}{name}.")
            continue
        options = _options_of(name, group)
        unknown = [key for key in table if key.replace("_", "-") not in options]
        if unknown:
            raise UsageError(
                f"{path}: [{prefix}{name}] has no option {unknown[0]!r}; use {', '.join(options)}"
            )


def _options_of(command: str, group: App = app) -> list[str]:
    """Return the long names of a command's options, without dashes."""
    arguments = group[command].assemble_argument_collection()
    names = [name for argument in arguments for name in argument.names]
    return [name[2:] for name in names if name.startswith("--")]


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as people read it, without the place in the code."""
    console = Console(stderr=True)
    console.print(f"[yellow]warning:[/] {escape(redacted(str(message)))}", highlight=False)


def _show_traceback(kind: type[BaseException], err: BaseException, trace: Any) -> None:
    """Show what `--debug` asks for; libraries put whole URLs, signatures included, in messages."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, err, trace))))


def _complain(message: str) -> None:
    text = escape(redacted(message))
    Console(stderr=True).print(f"[red]wsi:[/] {text}", highlight=False, soft_wrap=True)
