"""What a study is asked to do: a TOML recipe, read and checked as a whole before anything runs."""

import copy
import dataclasses
import importlib.resources
import itertools
import pathlib
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from resq_deploy.errors import OptionError

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "baseline": (),
    "attack": ("attack",),
    "fault": ("fault",),
    "attack+fault": ("attack", "fault"),
    "resq": ("attack", "fault"),
}
"""The corners of the 2x2 table, and the hardening stages that follow the baseline in each.

`resq` is the last of them with stage 3: what its export adds stands under [variant.resq.export-int8].
"""
_CORNERS = tuple(variant for variant in VARIANTS if variant != "resq")

CAMPAIGNS = ("faultcamp", "attackcamp")
RESERVED: Mapping[str, frozenset[str]] = {
    "train": frozenset({"network", "dataset", "data-dir", "out", "stages", "init", "seed", "resume"}),
    "export-int8": frozenset({"out", "dataset", "data-dir", "seed"}),
    "faultcamp": frozenset({"dataset", "data-dir", "out", "seed", "resume", "dry-run", "fail-above"}),
    "attackcamp": frozenset({"dataset", "data-dir", "out", "seed", "resume", "surrogate"}),
}
"""Options that the study gives itself."""

_PARTS = ("train", "export-int8", *CAMPAIGNS)
_AXES = ("dataset", "network", "variant")
"""Tables that lay options over those of the commands, the last before the others."""

_TOP = ("study", "grid", *_AXES, "profile", *_PARTS)
_FOLDER = "recipes"

Tree = dict[str, Any]
CheckArguments = Callable[[str, Sequence[str]], str | None]
"""Takes a command and its arguments; returns what is wrong with them, or None."""


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """One cell of the grid.

    Attributes:
        network: the network's name.
        dataset: the data set's name or path.
        variant: which of `VARIANTS`.
        seed: of training, export and campaigns.
    """

    network: str
    dataset: str
    variant: str
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A study.

    Attributes:
        title: what it is about.
        profile: the profile chosen, or None.
        networks: the grid's networks.
        datasets: the grid's data sets.
        variants: the grid's corners of the 2x2 table, and `resq`.
        seeds: the grid's seeds.
        tree: the options by command, and what differs by data set, network and variant.
    """

    title: str
    profile: str | None
    networks: tuple[str, ...]
    datasets: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    tree: Mapping[str, Any]

    def cells(self) -> Iterator[Cell]:
        """Yield the cells of the grid, network by network, data set by data set, seed by seed."""
        for network, dataset, seed, variant in itertools.product(
            self.networks, self.datasets, self.seeds, self.variants
        ):
            yield Cell(network=network, dataset=dataset, variant=variant, seed=seed)

    def options(self, cell: Cell) -> Tree:
        """Return a cell's options by command; of campaigns by name, too.

        A variant's go before a network's, and these before a data set's.
        """
        tree = {part: copy.deepcopy(self.tree.get(part, {})) for part in _PARTS}
        for axis in _AXES:
            tree = _merged(tree, self.tree.get(axis, {}).get(getattr(cell, axis), {}))
        return tree


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = importlib.resources.files("resq_deploy") / _FOLDER
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_recipe(source: str, profile: str | None, check: CheckArguments) -> Recipe:
    """Read a recipe and check all of it.

    Args:
        source: a TOML file, or the name of a recipe that comes with the package.
        profile: the table under `profile` that is laid over the rest, or None.
        check: tells what is wrong with a command's arguments.

    Raises:
        OptionError: if it cannot be read, or with everything that is wrong in it.
    """
    tree = _parsed(source)
    if profile is not None:
        profiles = tree.get("profile", {})
        if profile not in profiles:
            known = ", ".join(sorted(profiles)) or "none"
            raise OptionError(f"{source} has no profile '{profile}': it has {known}")
        tree = _merged(tree, profiles[profile])
    problems = list(_problems(tree))
    if problems:
        raise OptionError(f"{source}: " + "; ".join(problems))
    grid = tree["grid"]
    recipe = Recipe(
        title=str(tree.get("study", {}).get("title", source)),
        profile=profile,
        networks=tuple(grid["network"]),
        datasets=tuple(grid["dataset"]),
        variants=tuple(grid.get("variant", _CORNERS)),
        seeds=tuple(grid.get("seed", [0])),
        tree=tree,
    )
    problems = sorted({problem for cell in recipe.cells() for problem in _option_problems(recipe.options(cell), check)})
    if problems:
        raise OptionError(f"{source}: " + "; ".join(problems))
    return recipe


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Return options as arguments of a command line: `true` is a flag, a list repeats its option."""
    written = []
    for name, value in options.items():
        for single in value if isinstance(value, list) else [value]:
            if single is True:
                written.append(f"--{name}")
            elif single is not False:
                written += [f"--{name}", str(single)]
    return written


def _parsed(source: str) -> Tree:
    path = pathlib.Path(source)
    shipped = importlib.resources.files("resq_deploy") / _FOLDER / f"{source}.toml"
    try:
        is_name = path.name == source and not path.suffix and shipped.is_file()
        text = (shipped if is_name else path).read_text(encoding="utf-8")
        return tomllib.loads(text)
    except OSError as error:
        known = ", ".join(shipped_recipes())
        raise OptionError(f"cannot read {source} ({error.strerror}): give a TOML file, or one of {known}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{source} is not TOML: {error}") from error


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Return two trees laid over each other; a table is merged with a table, anything else goes before."""
    both = copy.deepcopy(dict(below))
    for key, value in above.items():
        under = both.get(key)
        both[key] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return both


def _problems(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the tables of a recipe."""
    for name in tree.keys() - set(_TOP):
        yield f"unknown table [{name}], known are {', '.join(_TOP)}"
    for name in _TOP:
        if not isinstance(tree.get(name, {}), dict):
            yield f"'{name}' is no table"
            return
    grid = tree.get("grid", {})
    for name in grid.keys() - {"network", "dataset", "variant", "seed"}:
        yield f"[grid] has no '{name}', it has network, dataset, variant, seed"
    yield from _axis_problems(grid)
    for command in CAMPAIGNS:
        for name, options in tree.get(command, {}).items():
            if not isinstance(options, dict):
                yield f"[{command}] holds '{name}' itself: name the campaign, as in [{command}.ber]"
    variants = tree.get("variant", {})
    yield from _unknown_variants("[variant]", variants)
    asked = grid.get("variant")
    if isinstance(asked, list) and "resq" in asked and not variants.get("resq"):
        yield "[grid] variant 'resq' is 'attack+fault' with stage 3: say which under [variant.resq.export-int8]"
    for axis in _AXES:
        known = [part for part in _PARTS if (axis, part) != ("variant", "train")]  # variants share their trainings
        for key, parts in tree.get(axis, {}).items():
            for part in parts.keys() - set(known) if isinstance(parts, dict) else ["="]:
                yield f"[{axis}.{key}] has no '{part}', it has {', '.join(known)}"


def _axis_problems(grid: Mapping[str, Any]) -> Iterator[str]:
    for name, kind, default in (
        ("network", str, None),
        ("dataset", str, None),
        ("variant", str, ()),
        ("seed", int, ()),
    ):
        values = grid.get(name, default)
        if not isinstance(values, list | tuple) or (not values and default is None):
            yield f"[grid] needs {name} = [...]"
        elif any(type(value) is not kind for value in values) or len(set(values)) < len(values):
            yield f"[grid] {name}: give {'numbers' if kind is int else 'names'}, each once"
    if isinstance(grid.get("variant"), list):
        yield from _unknown_variants("[grid]", grid["variant"])


def _unknown_variants(where: str, variants: Iterable[str]) -> Iterator[str]:
    for variant in variants:
        if variant not in VARIANTS:
            yield f"{where} unknown variant '{variant}', known are {', '.join(VARIANTS)}"


def _option_problems(tree: Mapping[str, Any], check: CheckArguments) -> Iterator[str]:
    """Yield what is wrong with a cell's options."""
    for part, options in tree.items():
        named = options.items() if part in CAMPAIGNS else [("", options)]
        for name, given in named:
            where = f"[{part}.{name}]" if name else f"[{part}]"
            for option in sorted(given.keys() & RESERVED[part]):
                yield f"{where} {option}: the study gives this itself"
            wrong = check(part, arguments({key: value for key, value in given.items() if key not in RESERVED[part]}))
            if wrong:
                yield f"{where} {wrong}"
