"""What a study is asked to do: a TOML recipe, read and checked as a whole before anything runs."""

import copy
import dataclasses
import importlib.resources
import itertools
import pathlib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from resq_deploy.errors import OptionError
from resq_deploy.pipeline.study_format import (
    AXES,
    CAMPAIGNS,
    CORNERS,
    EXPORTED_AS,
    PARTS,
    RESERVED,
    Tree,
    table_problems,
)

_FOLDER = "recipes"

CheckOptions = Callable[[str, Mapping[str, Any], list[str]], str | None]
"""Takes a command, its options, and these as arguments with what a study adds; returns what is wrong, or None."""


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
        source: the file it was read from, or its name.
        title: what it is about.
        profile: the profile chosen, or None.
        networks: the grid's networks.
        datasets: the grid's data sets.
        variants: the grid's corners of the 2x2 table, and the exports beside them.
        seeds: the grid's seeds.
        tree: the options by command, and what differs by data set, network and variant.
    """

    source: str
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

        A variant's go before those of the variants it is exported as, these before a network's, and these before a
        data set's.
        """
        tree = {part: copy.deepcopy(self.tree.get(part, {})) for part in PARTS}
        for axis in AXES:
            named = getattr(cell, axis)
            for key in (*(EXPORTED_AS.get(named, ()) if axis == "variant" else ()), named):
                tree = _merged(tree, self.tree.get(axis, {}).get(key, {}))
        return tree


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = importlib.resources.files("resq_deploy") / _FOLDER
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_recipe(source: str, profile: str | None, check: CheckOptions) -> Recipe:
    """Read a recipe and check all of it, profiles that are not asked for as well.

    Args:
        source: a TOML file, or the name of a recipe that comes with the package.
        profile: the table under `profile` that is laid over the rest, or None.
        check: tells what is wrong with a command's options.

    Raises:
        OptionError: if it cannot be read, or with everything that is wrong in it.
    """
    tree = _parsed(source)
    profiles = tree.pop("profile", {})
    if not isinstance(profiles, dict) or not all(isinstance(table, dict) for table in profiles.values()):
        raise OptionError(f"{source}: 'profile' holds something that is no table: write [profile.NAME.train]")
    if profile is not None and profile not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        raise OptionError(f"{source} has no profile '{profile}': it has {known}")
    trees = {None: tree} | {name: _merged(tree, table) for name, table in profiles.items()}
    check = _asked_once(check)
    for name in sorted(trees, key=lambda name: name != profile):  # first the one asked for
        problems = list(table_problems(trees[name], [each.get("grid", {}) for each in trees.values()]))
        if not problems:
            recipe = _recipe(trees[name], name, source)
            wrong = {text for cell in recipe.cells() for text in _option_problems(recipe.options(cell), check)}
            problems = sorted(wrong)
        if problems:
            where = "" if name in (None, profile) else f" [profile.{name}]"
            raise OptionError(f"{source}:{where} " + "; ".join(problems))
    return _recipe(trees[profile], profile, source)


def _asked_once(check: CheckOptions) -> CheckOptions:
    """Return a check that asks each question once: most cells share their options."""
    known: dict[str, str | None] = {}

    def asked(command: str, options: Mapping[str, Any], line: list[str]) -> str | None:
        question = repr((command, options, line))
        if question not in known:
            known[question] = check(command, options, line)
        return known[question]

    return asked


def _recipe(tree: Tree, profile: str | None, source: str) -> Recipe:
    grid = tree["grid"]
    return Recipe(
        source=source,
        title=tree.get("study", {}).get("title", pathlib.Path(source).stem),
        profile=profile,
        networks=tuple(grid["network"]),
        datasets=tuple(grid["dataset"]),
        variants=tuple(grid.get("variant", CORNERS)),
        seeds=tuple(grid.get("seed", [0])),
        tree=tree,
    )


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


def needs_surrogate(attackcamp: Mapping[str, Any]) -> bool:
    """Return whether an attack campaign wants the float network: where its attacks are not named, it is used."""
    attacks = attackcamp.get("attacks")
    return attacks is None or "transfer-pgd" in {name.strip() for name in str(attacks).split(",")}


def _tried(command: str, options: Mapping[str, Any]) -> list[str]:
    """Return options as arguments, with a dash for what only the study knows."""
    line = ["--network", "-"] if command == "train" else ["-"]
    line += ["--surrogate", "-"] if command == "attackcamp" and needs_surrogate(options) else []
    return [*line, "--dataset", "-", "--out", "-", *arguments(options)]


def _option_problems(tree: Mapping[str, Any], check: CheckOptions) -> Iterator[str]:
    """Yield what is wrong with a cell's options."""
    for part, options in tree.items():
        named = options.items() if part in CAMPAIGNS else [("", options)]
        for name, given in named:
            where = f"[{part}.{name}]" if name else f"[{part}]"
            for option in sorted(given.keys() & RESERVED[part]):
                yield f"{where} {option}: the study gives this itself"
            free = {key: value for key, value in given.items() if key not in RESERVED[part]}
            wrong = check(part, free, _tried(part, free))
            if wrong:
                yield f"{where} {wrong}"
