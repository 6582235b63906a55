"""Which judge a file gets, in campaigns and exports: the one asked for, or the one that fits its fault-free outputs."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import onnx

from resq_deploy.deployed.binding import bound
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.made_up import made_up
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.deployed.runtime_errors import RUNTIME_ERRORS, first_line
from resq_deploy.deployed.session import Session
from resq_deploy.errors import ModelError, ResqError
from resq_deploy.faults.judges.guess import Guess, Value, guess
from resq_deploy.faults.judges.judge import Judge
from resq_deploy.faults.judges.outputs import Labels, Outputs
from resq_deploy.faults.judges.registry import JUDGES, parse

GIVEN = "asked for with --judge"

_TRIED = 4
"""Made-up samples that a file is tried with."""

_UNTRIED: tuple[type[Exception], ...] = (*RUNTIME_ERRORS, ResqError, ValueError)
"""What trying may end in."""

_HANDED_ON = ("QuantizeLinear", "DequantizeLinear", "Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators behind which a value is still what it was."""


class Chosen(NamedTuple):
    """A judge, and why it was chosen.

    Attributes:
        judge: the judge.
        reason: a sentence for the user.
        guessed: whether nobody asked for it.
        notes: what else the user should know.
    """

    judge: Judge
    reason: str
    guessed: bool = False
    notes: tuple[str, ...] = ()


def choose(
    text: str | None, names: Sequence[str], session: Session, model: bytes, seen: Outputs, labels: Labels | None
) -> Chosen:
    """Return the judge of a file.

    Args:
        text: as asked for with `--judge`; None to guess.
        names: which outputs are judged; those that the judge reads for none.
        session: over the fault-free file.
        model: the serialised file.
        seen: its outputs for a few samples.
        labels: what is right for these.

    Raises:
        OptionError: if there is no such judge.
        ModelError: if it cannot judge these outputs, or it takes one and there are several.
    """
    makers = _makers(onnx.ModelProto.FromString(model).graph)
    outputs = [Value(name=name, values=values, maker=makers.get(name, "")) for name, values in seen.items()]
    others = [] if names else [Value(name=name) for name in session.others]
    found = guess([*outputs, *others], _inputs(session), labels)
    if text is None:
        judge = _with_outputs(found.judge, names)
        return Chosen(judge, found.reason, guessed=True, notes=(f"judged as {judge.name}: {found.reason}",))
    return Chosen(_asked(text, names, found, seen), GIVEN)


def guessed(model: DeployedModel, deployment: Deployment) -> Chosen | str:
    """Return the judge that a campaign on a file would take, told by made-up samples; or why there is none.

    Labels, which a campaign may have, tell more than outputs alone.
    """
    try:
        samples = made_up(model.proto, deployment, count=_TRIED)
        file = model.patcher().golden
        session = Session(file, dataclasses.replace(deployment, batch=1))  # any output is a sample's then
        inputs = bound(samples, session.inputs, [output.name for output in session.outputs])
        seen, _ = session.first_answers([inputs])
        return choose(None, (), session, file, seen, None)
    except _UNTRIED as error:
        return first_line(error)


def _inputs(session: Session) -> list[Value]:
    """Return what the file takes, as guesses want to know it."""
    return [Value(name=spec.name, shape=spec.shape[1:], type=spec.element) for spec in session.inputs]


def _with_outputs(judge: Judge, names: Sequence[str]) -> Judge:
    """Return the judge, of all the outputs that were named where it takes several anyway."""
    if set(names) <= set(judge.outputs):
        return judge
    missing = [name for name in names if name not in judge.outputs]
    raise ModelError(
        f"--outputs: {missing[0]!r} does not go with {', '.join(map(repr, judge.outputs))}, which is judged as "
        f"{judge.name}: give --judge, too, such as --judge values"
    )


def _asked(text: str, names: Sequence[str], found: Guess, seen: Outputs) -> Judge:
    name = text.partition(":")[0]
    like = found.judge if found.judge.name == name else None
    if like is not None and set(like.outputs) == set(names or like.outputs):
        return parse(text, like.outputs, like)  # a guess knows which output is which, and how they are read
    if names:
        return parse(text, names, like)
    return parse(text, _read_by(text, name, seen), like)


def _read_by(text: str, name: str, seen: Outputs) -> list[str]:
    """Return the outputs that a judge reads, if none were named.

    Raises:
        ModelError: if it reads one, and none or more than one would do.
    """
    numbers = [output for output, values in seen.items() if values.dtype.kind in "fiubO"]
    if name == "labels":
        return [output for output, values in seen.items() if values.dtype.kind in "iubOU"] or list(seen)
    if name not in JUDGES or name in ("boxes", "values") or len(seen) == 1:
        return numbers if name == "values" else list(seen)
    fitting, reasons = [], []
    for output in seen:
        try:
            parse(text, [output]).settled(seen)
            fitting.append(output)
        except ModelError as error:
            reasons.append(str(error))
    if len(fitting) != 1:
        if not fitting:
            raise ModelError(f"--judge {text} fits none of the model's {len(seen)} outputs: {reasons[0]}")
        raise ModelError(f"--judge {text} fits outputs {', '.join(map(repr, fitting))}: name one with --outputs")
    return fitting


def _makers(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the operator that makes each output, or makes what others hand on to it."""
    makers = {value: node for node in graph.node for value in node.output if value}
    found = {}
    for output in graph.output:
        value, seen = output.name, set[str]()
        while value in makers and value not in seen:
            seen.add(value)
            node = makers[value]
            found[output.name] = str(node.op_type)
            if node.op_type not in _HANDED_ON or not node.input:
                break
            value = node.input[0]
    return found
