"""Read YAML strictly into dataclasses: every mistake is an error that names the key."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import yaml

from decoding.evaluation.files.plain_text import quoted, read_text, shown
from solvers.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

MOST_BYTES, MOST_VALUES = 2**16, 10_000
"""More than any study needs to say, and little enough to be read in a second or two."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Where a number may lie.

    Parameters
    ----------
    least, above, most
        Bounds, the second one not included; None for no bound.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
        )

    def __str__(self) -> str:
        bounds = ((">=", self.least), (">", self.above), ("<=", self.most))
        return " and ".join(f"{sign} {bound:.10g}" for sign, bound in bounds if bound is not None)


Count = Annotated[int, Range(least=1)]
"""One or more."""

Natural = Annotated[int, Range(least=0)]
"""A whole number, 0 or more."""

Positive = Annotated[float, Range(above=0)]
"""A number above 0."""

Fraction = Annotated[float, Range(least=0, most=1)]
"""A number from 0 to 1."""

Dtype = Literal["float32", "bfloat16", "float16"]
"""How a model's numbers are kept."""


def read_settings(kind: type[T], given: object, path: str) -> T:
    """Read a dataclass from a mapping by the types of its fields; null is an empty mapping.

    Raises
    ------
    InputError
        A key that is unknown or missing, a value of another type, or one out of range.
    """
    known = {each.name: each for each in fields(kind)}
    values = check_keys({} if given is None else given, known, path)
    required = [name for name, each in known.items() if each.default is each.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise InputError(f"{dotted(path, missing[0])}: expected a value; got none; it has no default")
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{key: read_value(hints[key], value, dotted(path, key)) for key, value in values.items()})


def check_keys(given: object, known: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Check that something is a mapping of known keys, and return it.

    Raises
    ------
    InputError
        It is not.
    """
    if not isinstance(given, Mapping):
        wrong(path or "configuration", "keys with values", given, f"its keys are {', '.join(known)}")
    for key in given:
        if key not in known:
            wrong(dotted(path, key), "a known key", key, hint(key, known))
    return given


def read_value(wanted: Any, given: object, path: str) -> Any:
    """Read a value of a type: number, truth, text, tuple, dataclass, one of some words, or None.

    Raises
    ------
    InputError
        It is of another type or out of range.
    """
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        return None if given is None else read_value(next(each for each in parts if each is not NoneType), given, path)
    if isinstance(wanted, type) and is_dataclass(wanted):
        return read_settings(wanted, given, path)
    if origin is Annotated:
        return _number(parts[0], given, path, parts[1])
    if origin is Literal:
        return (
            given
            if isinstance(given, str) and given in parts
            else wrong(path, f"one of {', '.join(parts)}", given, hint(given, parts))
        )
    if origin is tuple:
        return _tuple(parts, given, path)
    if wanted is bool:
        return given if isinstance(given, bool) else wrong(path, "true or false", given)
    if wanted is str:
        return given if isinstance(given, str) and given.strip() else wrong(path, "text", given, "quotes make text")
    return _number(wanted, given, path, Range())


def _number(kind: type, given: object, path: str, within: Range) -> Any:
    value = math.nan
    if isinstance(given, int | float | str) and not isinstance(given, bool):
        try:
            value = float(given)  # YAML 1.1 reads 1e-3 as text
        except (ValueError, OverflowError):
            value = math.nan
    whole = kind is int
    if not math.isfinite(value) or value not in within or (whole and not value.is_integer()):
        wrong(path, f"a {'whole' if whole else 'finite'} number {within}".strip(), given)
    return given if isinstance(given, kind) else kind(value)


def read_list(given: object, path: str) -> list[Any]:
    """Read a list of anything.

    Raises
    ------
    InputError
        It is something else.
    """
    return list(given) if isinstance(given, list | tuple) else wrong(path, "a list", given, "such as [a, b]")


def _tuple(parts: tuple[Any, ...], given: object, path: str) -> tuple[Any, ...]:
    given = read_list(given, path)
    hints = (parts[0],) * len(given) if parts[1] is ... else parts
    if len(hints) != len(given):
        wrong(path, f"{len(hints)} values", given)
    return tuple(
        read_value(hint, value, f"{path}.{place}") for place, (hint, value) in enumerate(zip(hints, given, strict=True))
    )


def dotted(path: str, key: object) -> str:
    """Where a key stands."""
    name = shown(key)
    return f"{path}.{name}" if path else name


def wrong(path: str, expected: str, given: object, advice: str = "") -> NoReturn:
    """Say what is wrong with a value.

    Raises
    ------
    InputError
        Always.
    """
    raise InputError(f"{path}: expected {expected}; got {quoted(given)}{advice and f'; {advice}'}")


@contextmanager
def placed(path: str) -> Iterator[None]:
    """Say where the value stands that something else refuses.

    Raises
    ------
    InputError
        Of the block's own, behind the path.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def hint(word: object, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """Name the known word nearest to an unknown one, or all of them."""
    near = get_close_matches(shown(word)[:100], list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def read_yaml(path: Path) -> Any:
    """Read a YAML file whose mappings have every key once; an empty one is an empty mapping.

    Raises
    ------
    InputError
        It cannot be read, is not YAML, has a key twice, or says too much.
    """
    text = read_text(path, where=str(path), expected="readable YAML", most=MOST_BYTES)
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        repeated = next(_repeated(root), None)
        _check_size(root, path)
        given = None if root is None else loader.construct_document(root)
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        reason = shown(str(error.problem or error.context))
        raise InputError(f"{path}{line}: expected YAML; got something else: {reason}") from None
    # yaml raises whatever Python does about a date, a number or a tag that is none
    except Exception as error:  # noqa: BLE001
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: expected readable YAML; got something else: {shown(reason)}") from None
    if repeated is not None:
        wrong(f"{path}, line {repeated.start_mark.line + 1}", "every key once", repeated.value, "keep one of the two")
    return {} if given is None else given


def _check_size(root: yaml.Node | None, path: Path) -> None:
    """Refuse a document whose aliases, written out, are more than any study says, before they are written out."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = MOST_VALUES  # what holds itself is endless
            inside = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
            sizes[id(node)] = 1 if isinstance(node, yaml.ScalarNode) else 1 + sum(map(size, inside))
            if isinstance(node, yaml.ScalarNode):
                node.value.encode()  # half of a surrogate pair is no text
        return sizes[id(node)]

    if root is not None and size(root) > MOST_VALUES:
        raise InputError(
            f"{path}: expected at most {MOST_VALUES} values with all aliases written out; got more; write fewer aliases"
        )


def _repeated(root: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Keys that stand twice in one mapping: YAML's reader keeps the last without a word."""
    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
        elif isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                todo.append(value)
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        yield key
                    keys.add(key.value)
