"""What a study's recipe may hold, and what is wrong with one that holds something else."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from resq_deploy.networks import NETWORKS

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "baseline": (),
    "attack": ("attack",),
    "fault": ("fault",),
    "attack+fault": ("attack", "fault"),
    "resq": ("attack", "fault"),
    "protected": ("attack", "fault"),
    "baseline+stage3": (),
    "baseline+protected": (),
}
"""The corners of the 2x2 table, the exports beside them, and the hardening stages that follow the baseline in each.

`resq` is the last corner with stage 3: what its export adds stands under [variant.resq.export-int8]. `protected` is
that with votes and codes. The last two are exported as those are and not hardened: what is left of a gain against them
is what training bought.
"""
EXPORTED_AS: Mapping[str, tuple[str, ...]] = {
    "protected": ("resq",),
    "baseline+stage3": ("resq",),
    "baseline+protected": ("resq", "protected"),
}
"""Variants whose tables stand below a variant's own, the last before the others."""

CORNERS = ("baseline", "attack", "fault", "attack+fault")
"""Those that the study asks where the recipe names none."""

CAMPAIGNS = ("faultcamp", "attackcamp")
RESERVED: Mapping[str, frozenset[str]] = {
    "train": frozenset({"network", "stem", "dataset", "data-dir", "out", "stages", "init", "seed", "resume"}),
    "export-int8": frozenset({"network", "out", "dataset", "data-dir", "seed", "junit"}),
    "faultcamp": frozenset({"dataset", "data-dir", "out", "seed", "resume", "dry-run", "fail-above", "junit"}),
    "attackcamp": frozenset(
        {"dataset", "data-dir", "out", "seed", "resume", "surrogate", "network", "fail-below", "junit"}
    ),
}
"""Options that the study gives itself."""

PARTS = ("train", "export-int8", *CAMPAIGNS)
AXES = ("dataset", "network", "variant")
"""Tables that lay options over those of the commands, the last before the others."""

_TOP = ("study", "grid", *AXES, "profile", *PARTS)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")

Tree = dict[str, Any]


def folder_name(name: str) -> str:
    """Return the folder of a network or data set; of one given as a path or `module:function`, all of it with dots."""
    return name.replace(":", ".").replace("/", ".").strip(".")


def table_problems(tree: Mapping[str, Any], grids: Sequence[Any]) -> Iterator[str]:
    """Yield what is wrong with the tables of a recipe, apart from the options in them.

    Args:
        tree: the recipe with a profile laid over it, or without.
        grids: the grids of the recipe with each of its profiles, whose networks and data sets it may speak of.
    """
    for name in sorted(tree.keys() - set(_TOP)):
        yield f"unknown table [{name}], known are {', '.join(_TOP)}"
    broken = [name for name in _TOP if not isinstance(tree.get(name, {}), dict)]
    yield from (f"'{name}' is no table" for name in broken)
    if broken:
        return
    study = tree.get("study", {})
    yield from (f"[study] has no '{name}', it has title" for name in sorted(study.keys() - {"title"}))
    if not isinstance(study.get("title", ""), str):
        yield "[study] title: give a text"
    yield from _grid_problems(tree.get("grid", {}))
    yield from _part_problems("", {part: tree.get(part, {}) for part in PARTS})
    for axis in AXES:
        known = VARIANTS if axis == "variant" else _named(axis, grids)
        for key, parts in tree.get(axis, {}).items():
            yield from _axis_problems(axis, key, parts, known)
    yield from _stage3_problems(tree)


def _stage3_problems(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield which variants with a stage 3 of their own are asked and not said."""
    asked = tree.get("grid", {}).get("variant")
    named = {name for name in asked if isinstance(name, str)} if isinstance(asked, list) else set()
    needed = {below for name in named for below in (*EXPORTED_AS.get(name, ()), name)} & {"resq", "protected"}
    of = {"resq": "'attack+fault' with stage 3", "protected": "'resq' with votes and codes"}
    for name in sorted(needed, reverse=True):
        table = tree.get("variant", {}).get(name)
        if not (isinstance(table, dict) and table.get("export-int8")):
            yield f"[grid] variant '{name}' is {of[name]}: say which under [variant.{name}.export-int8]"


def _grid_problems(grid: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(grid.keys() - {"network", "dataset", "variant", "seed"}):
        yield f"[grid] has no '{name}', it has network, dataset, variant, seed"
    for name, kind, needed in (
        ("network", str, True),
        ("dataset", str, True),
        ("variant", str, False),
        ("seed", int, False),
    ):
        if name not in grid and not needed:
            continue
        values = grid.get(name)
        if not isinstance(values, list) or not values:
            yield f"[grid] needs {name} = [...]"
        elif any(type(value) is not kind for value in values) or len(set(values)) < len(values):
            yield f"[grid] {name}: give {'numbers' if kind is int else 'names'}, each once"
        elif name == "seed":
            yield from (f"[grid] seed: {value} is below 0" for value in values if value < 0)
        elif name == "variant":
            yield from (_unknown_variant("[grid]", value) for value in values if value not in VARIANTS)
        else:
            yield from _folder_problems(name, values)
            if name == "network":
                yield from (
                    f"[grid] unknown network '{value}': give one of {', '.join(NETWORKS)}, or module:function"
                    for value in values
                    if ":" not in value and value not in NETWORKS
                )


def _folder_problems(axis: str, values: Sequence[str]) -> Iterator[str]:
    """Yield names without a folder of their own: one cell's files would lie in another's, or outside the study."""
    taken: dict[str, str] = {}
    for value in values:
        folder = folder_name(value)
        if not folder:
            yield f"[grid] {axis} '{value}' is no name"
        elif taken.setdefault(folder, value) != value:
            yield f"[grid] {axis} '{taken[folder]}' and '{value}' would share the folder {folder}: rename one"


def _named(axis: str, grids: Iterable[Any]) -> list[str]:
    """Return what the grids ask of an axis."""
    lists = [grid.get(axis) for grid in grids if isinstance(grid, dict)]
    return [value for values in lists if isinstance(values, list) for value in values]


def _axis_problems(axis: str, key: str, parts: object, known: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong with a table such as [dataset.gtsrb]."""
    allowed = [part for part in PARTS if (axis, part) != ("variant", "train")]  # variants share their trainings
    if key not in known:
        unknown = _unknown_variant("[variant]", key) if axis == "variant" else f"[{axis}.{key}]: not in [grid] {axis}"
        yield unknown
    elif not isinstance(parts, dict):
        yield f"[{axis}.{key}] is no table: write [{axis}.{key}.export-int8]"
    else:
        for part in sorted(parts.keys() - set(allowed)):
            yield f"[{axis}.{key}] has no '{part}', it has {', '.join(allowed)}"
        yield from _part_problems(f"{axis}.{key}.", {part: parts[part] for part in allowed if part in parts})


def _part_problems(where: str, parts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the tables of the commands."""
    for part, options in parts.items():
        if not isinstance(options, dict):
            yield f"[{where}{part}] is no table"
        elif part in CAMPAIGNS:
            for name, given in options.items():
                if not isinstance(given, dict):
                    yield f"[{where}{part}] holds '{name}' itself: name the campaign, as in [{where}{part}.ber]"
                elif not _NAME.fullmatch(name):
                    yield f"[{where}{part}.'{name}']: name it with letters, digits and any of _.+-"


def _unknown_variant(where: str, variant: str) -> str:
    return f"{where} unknown variant '{variant}', known are {', '.join(VARIANTS)}"
