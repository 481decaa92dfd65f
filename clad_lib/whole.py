"""A text file that appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write to a draft beside `path` and move it there in one step; an OSError leaves nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        os.chmod(draft, 0o644)  # drafts are private by default
        os.replace(draft, path)
    finally:
        Path(draft).unlink(missing_ok=True)
