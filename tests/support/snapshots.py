"""Pages as they were when somebody last looked at them; `make snapshots` takes them as they are now."""

import os
import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "evaluation" / "snapshots"


def assert_as_in_snapshot(page: str, name: str, folder: Path = FOLDER) -> None:
    """Compare a page with the file of that name, without figures, styles and scripts, which are files of their own."""
    page = re.sub(r"<(style|svg|script)\b.*?</\1>", r"<\1/>", page, flags=re.DOTALL)
    if os.environ.get("RENEW_SNAPSHOTS"):
        (folder / name).write_text(page, encoding="utf-8")
    assert page == (folder / name).read_text(encoding="utf-8"), f"{name}: if the change is meant, run `make snapshots`"
