"""The command line, also installed as `clad`."""

from __future__ import annotations

import logging
import sys
import warnings

import typer

from clad_lib import detector_commands, results_commands  # noqa: F401  add commands to the app
from clad_lib.commands import app

INTERRUPTED = 130  # how Typer reports ctrl-C
GOES_ON = "what was finished is kept"


def main() -> None:
    """Run the command line: status 1 and one line for an expected error, 2 for wrong usage."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # an interrupted kernel leaves tasks
    try:
        status = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except typer.Exit as error:
        status = error.exit_code
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own: wrong usage
            sys.stderr.write(f"clad: {error.format_message()}\n")
            sys.exit(2)
        if not isinstance(error, ValueError) and not type(error).__module__.startswith("clad_lib"):
            raise
        sys.exit(f"clad: {error}")
    if status == INTERRUPTED:
        sys.exit(f"clad: interrupted; {GOES_ON}")
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
