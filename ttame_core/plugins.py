"""Registries of explainers, metrics and so on, open to other packages by entry points.

`GROUPS` lists the groups of entry points (docs/extending.md). The names are those of the installed
packages' entry points; what a name stands for is imported when it is first asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Generic, TypeVar

from ttame_core.errors import UserError

T = TypeVar("T")
GROUPS = (
    "ttame.explainers",
    "ttame.metrics",
    "ttame.scores",
    "ttame.sources",
    "ttame.annotations",
    "ttame.objectives",
)


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to things of one kind: ttame's own and those of other packages.

    Looking up raises UserError, which names package and entry point, where an entry point has a
    name that is taken, cannot be loaded, or is refused.

    Args:
        group: group of entry points by which other packages add theirs.
        own: ttame's own things, by name.
        refuse: function of a name and what its entry point loaded; returns words on what is wrong
            with it, or None.
    """

    def __init__(
        self,
        group: str,
        own: Mapping[str, T],
        refuse: Callable[[str, object], str | None],
    ) -> None:
        self.group = group
        self._own = own
        self._refuse = refuse
        self._loaded: dict[str, T] = {}

    @cached_property
    def added(self) -> Mapping[str, EntryPoint]:
        """The entry points of other packages, by name."""
        added: dict[str, EntryPoint] = {}
        for entry in sorted(_entries(self.group), key=lambda e: (e.name, e.value)):
            other = "ttame itself" if entry.name in self._own else None
            if entry.name in added:
                other = f"the package {package(added[entry.name])}"
            if other:
                raise UserError(
                    f"{origin(entry)} has a name that {other} has already: rename it, or uninstall "
                    "the package"
                )
            added[entry.name] = entry
        return added

    def __getitem__(self, name: str) -> T:
        added = self.added  # raises for any clash of names, whichever name is asked for
        if name in self._own:
            return self._own[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(added[name])
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self.added

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self.added

    def __len__(self) -> int:
        return len(self._own) + len(self.added)

    def _load(self, entry: EntryPoint) -> T:
        try:
            loaded = entry.load()
        except Exception as error:  # whatever another package's code raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"{origin(entry)} cannot be loaded ({reason}): mend or uninstall the package"
            ) from error
        if wrong := self._refuse(entry.name, loaded):
            raise UserError(f"{origin(entry)} {wrong}")
        return loaded


def registry_of(group: str, base: type[T], package: str, path: Iterable[str]) -> Registry[type[T]]:
    """Import all modules of a package, and register the subclasses of `base` that have a name.

    A class that does not define `name` itself is a base of others and is not registered.

    Args:
        group: group of entry points by which other packages add theirs.
        base: base class of all that is registered.
        package: `__name__` of the package.
        path: `__path__` of the package.
    """
    for module in iter_modules(path):
        import_module(f"{package}.{module.name}")
    own = {vars(cls)["name"]: cls for cls in _subclasses(base) if "name" in vars(cls)}
    return Registry(group, own, of_class(base))


def _subclasses(cls: type[T]) -> Iterator[type[T]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def of_class(base: type[T]) -> Callable[[str, object], str | None]:
    """Make the function `refuse` of a registry of classes.

    It accepts subclasses of `base` whose attribute `name` is the name of their entry point.

    Returns:
        A function of a name and what was loaded, which returns what is wrong, or None.
    """

    def refuse(name: str, loaded: object) -> str | None:
        if not (isinstance(loaded, type) and issubclass(loaded, base)):
            return f"is no subclass of {base.__module__}.{base.__qualname__}"
        if getattr(loaded, "name", None) != name:
            return f"is a class whose name is {getattr(loaded, 'name', None)!r}: both must be alike"
        return None

    return refuse


def origin(entry: EntryPoint) -> str:
    """Return words that name an entry point and its package, for messages."""
    return f"the entry point {entry.name} = {entry.value} ({entry.group}) of {package(entry)}"


def package(entry: EntryPoint) -> str:
    """Return the name of the package that an entry point belongs to."""
    return entry.dist.name if entry.dist else "an unknown package"


def versions() -> dict[str, str]:
    """Return the version of each package that adds anything to a registry, by its name."""
    packages = (entry.dist for group in GROUPS for entry in _entries(group))
    return {dist.name: dist.version for dist in packages if dist}


def has_additions(group: str) -> bool:
    """Return whether another package adds anything to the registry of a group of entry points."""
    return bool(_entries(group))


def _entries(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group in all packages that can be imported."""
    return _entries_on(tuple(sys.path))[group]


@lru_cache(maxsize=1)
def _entries_on(path: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    """Read the entry points of all groups: a path may hold hundreds of packages to look into."""
    everything = entry_points()
    return {group: tuple(everything.select(group=group)) for group in GROUPS}
