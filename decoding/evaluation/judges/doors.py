"""What a judge may be called and where it may be asked."""

from urllib.parse import urlsplit

from solvers.errors import InputError
from solvers.shown import one_line

LONGEST_NAME = 60


def check_name(name: str) -> None:
    """Check that a name can stand in tables, files and figures.

    Raises
    ------
    InputError
        It is empty, longer than 60 characters, or steers terminals.
    """
    if not (name.strip() and name.isprintable() and len(name) <= LONGEST_NAME):
        shown = f"{one_line(name, LONGEST_NAME)!r}, {len(name)} characters"
        raise InputError(
            f"name: expected 1 to {LONGEST_NAME} printable characters; got {shown}; give this judge such a name"
        )


def is_endpoint(url: str) -> bool:
    """Whether something can be asked there: http or https, a host, and a port that there is."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = url.isprintable() and not any(each.isspace() for each in url)
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
