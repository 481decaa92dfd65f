"""The command line, also installed as `clad`."""

import logging
import sys
import warnings
from typing import Any

import typer

INTERRUPTED = 130  # how Typer reports ctrl-C
GOES_ON = "what was finished is kept"


def application() -> typer.Typer:
    """All commands; ValueError for a table of data sets or methods that cannot be read."""
    from clad_lib import commands, detector_commands, results_commands  # noqa: F401

    return commands.app


def main() -> None:
    """Run the command line: status 1 and one line for an expected error, 2 for wrong usage."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    getattr(sys.stdout, "reconfigure", dict)(errors="backslashreplace")  # names may be no text
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # an interrupted kernel leaves tasks
    try:
        status = application()(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except typer.Exit as error:
        status = error.exit_code
    except Exception as error:
        usage: Any = getattr(error, "format_message", None)  # click's own: wrong usage
        ours = isinstance(error, ValueError) or type(error).__module__.startswith("clad_lib")
        if not ours and not usage:
            raise
        sys.stderr.write(f"clad: {usage() if usage else error}\n")
        status = 2 if usage else 1
    sys.exit(f"clad: interrupted; {GOES_ON}" if status == INTERRUPTED else status or 0)


if __name__ == "__main__":
    main()
