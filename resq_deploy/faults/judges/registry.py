"""Which judges there are, and how one is asked for by name."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from resq_deploy.errors import OptionError
from resq_deploy.faults.judges.binary import Binary
from resq_deploy.faults.judges.boxes import Boxes
from resq_deploy.faults.judges.decoders import DECODERS
from resq_deploy.faults.judges.embedding import Embedding
from resq_deploy.faults.judges.judge import Judge
from resq_deploy.faults.judges.labels import ClassLabels
from resq_deploy.faults.judges.maps import Map
from resq_deploy.faults.judges.own import Own, source_digest, user_function
from resq_deploy.faults.judges.top1 import Top1
from resq_deploy.faults.judges.values import Values
from resq_deploy.faults.outcomes import COUNTS

JUDGES: Mapping[str, type[Judge]] = {
    judge.name: judge for judge in (Top1, Binary, ClassLabels, Map, Boxes, Embedding, Values)
}
"""By name; beside them there is `module:function`."""

RUNGS = tuple(dict.fromkeys((*COUNTS, *(rung for judge in JUDGES.values() for rung in judge.rungs))))
"""The rungs of any judge's ladder, those of classifiers first."""


def parse(text: str, outputs: Sequence[str], like: Judge | None = None) -> Judge:
    """Return the judge that a text asks for: `NAME`, `NAME:option=value,...`, or `module:function`.

    Args:
        text: as given to `--judge`.
        outputs: the outputs it is to judge.
        like: a judge of that name whose options it has where the text gives none; None for the defaults.

    Raises:
        OptionError: if there is no such judge or option, or a value makes no sense.
    """
    asked = _asked(text)
    if asked is None:
        return Own(outputs=tuple(outputs), function=text)
    kind, given = asked
    kept = {key: getattr(like, key) for key in _options(kind)} if like is not None and type(like) is kind else {}
    return kind(outputs=tuple(outputs), **{**kept, **given})


def _asked(text: str) -> tuple[type[Judge], dict[str, Any]] | None:
    """Return the kind of judge that a text asks for, with its options; None for one of the user's own.

    Raises:
        OptionError: as `parse`.
    """
    name, _, rest = text.partition(":")
    if name not in JUDGES:
        if rest and "=" not in rest:
            return None
        raise OptionError(f"no judge {name!r}: give one of {', '.join(JUDGES)}, or module:function of your own")
    kind, options = JUDGES[name], dict[str, Any]()
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        field = _options(kind).get(key.strip())
        if field is None or not equals:
            known = ", ".join(_options(kind)) or "none"
            raise OptionError(f"--judge {text}: cannot read {part!r}; options of {name}: {known}, as option=value")
        options[field.name] = _read(text, field, value.strip())
    return kind, options


def check_judge(text: str) -> None:
    """Check what can be known of a judge that a text asks for before there is a file to judge.

    Raises:
        OptionError: as `parse`.
    """
    if _asked(text) is None:
        user_function(text, "--judge")


def with_decoder(text: str | None, decode: str | None) -> str | None:
    """Return what is asked of `--judge` with a detector's decoder in it.

    Args:
        text: as given to `--judge`; None for nothing, which with a decoder is `boxes`.
        decode: the decoder's name, or `module:function`; None for nothing.

    Raises:
        OptionError: if another judge is asked for, or another decoder.
    """
    if decode is None:
        return text
    name, _, rest = (text or Boxes.name).partition(":")
    if name != Boxes.name:
        raise OptionError(f"--decode {decode} is for detectors, which --judge {Boxes.name} judges, not --judge {text}")
    given = [part for part in rest.split(",") if part]
    if any(part.partition("=")[0].strip() == "decode" for part in given):
        raise OptionError(f"--judge {text} and --decode {decode} both say how to decode: give one")
    if not decode or "," in decode:
        raise OptionError(f"--decode {decode!r}: give one of {', '.join(DECODERS)}, or module:function of your own")
    return f"{Boxes.name}:{','.join([*given, f'decode={decode}'])}"


def code_digest(judge: Judge) -> str | None:
    """Return the SHA-256 of the user's own code that judges or decodes: of its file; None where there is none.

    Raises:
        OptionError: if the code cannot be imported.
    """
    if isinstance(judge, Own):
        return source_digest(judge.function, "--judge")
    if isinstance(judge, Boxes) and ":" in judge.decode:
        return source_digest(judge.decode, "--decode")
    return None


def identity(judge: Judge) -> dict[str, Any]:
    """Return what a judge is as JSON values: its name, outputs and options, for a run folder."""
    values = {field.name: getattr(judge, field.name) for field in dataclasses.fields(judge)}
    return {"name": judge.name, **values, "outputs": list(judge.outputs)}


def from_identity(values: Mapping[str, Any]) -> Judge:
    """Return the judge that `identity` tells of.

    Raises:
        OptionError: if it names none.
    """
    options = {key: value for key, value in values.items() if key != "name"}
    kind = Own if values["name"] == Own.name else JUDGES.get(values["name"])
    if kind is None:
        raise OptionError(f"no judge {values['name']!r} in this resq-deploy")
    return kind(**{**options, "outputs": tuple(values["outputs"])})


def described(kind: type[Judge]) -> list[tuple[str, str, str]]:
    """Return the options of a judge for people: name and default, unit, what it does."""
    return [
        (f"{name}={_written(field.default)}", field.metadata["unit"], field.metadata["text"])
        for name, field in _options(kind).items()
    ]


def _options(kind: type[Judge]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(kind) if "unit" in field.metadata}


def _written(value: object) -> str:
    if value is None or value == "":
        return "auto"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _read(text: str, field: dataclasses.Field[Any], value: str) -> Any:
    """Return the value of an option, of the type of its default."""
    if value == "auto" and field.default in (None, ""):
        return field.default
    if isinstance(field.default, bool):
        if value not in ("yes", "no", "true", "false"):
            raise OptionError(f"--judge {text}: {field.name} is yes or no, not {value!r}")
        return value in ("yes", "true")
    try:
        if isinstance(field.default, str):
            return value
        return int(value) if isinstance(field.default, int) else float(value)
    except ValueError as error:
        unit = field.metadata["unit"]
        raise OptionError(f"--judge {text}: {field.name} is a number ({unit}), not {value!r}") from error
