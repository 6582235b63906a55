"""A plan carried out: weights stored under a code, then the rest that is to be protected voted.

The two are independent of each other, since a code gives weights under their names and a vote does so with what it
votes: the same tensors are protected alike in whichever order it is done.
"""

import onnx

from resq_deploy.codes.code import Code
from resq_deploy.protection.guards import guard
from resq_deploy.protection.hoist import hoisted
from resq_deploy.protection.plan import Plan
from resq_deploy.protection.protect import protect


def apply(model: onnx.ModelProto, plan: Plan, code: Code | None = None, health: bool = False) -> onnx.ModelProto:
    """Protect a file as planned.

    Args:
        model: the file that was planned for; not changed.
        plan: what protects which tensor.
        code: the code it was planned with; not needed where nothing is coded.
        health: whether the file is to count, as one more output, the words it corrected and those it could not.

    Returns:
        The protected model; the same for the same input.

    Raises:
        ModelError: if onnxruntime does not make of the file with protection what it makes of it without.
        ValueError: if the code is another than was planned with.
    """
    if plan.code is not None and code != plan.code:
        raise ValueError(f"planned for {plan.code.name}: give that code")
    if health:
        raise NotImplementedError
    given = hoisted(model) if plan.mode == "all" else model
    coded = protect(given, plan.coded, plan.code) if plan.code else given
    guarded: onnx.ModelProto = onnx.ModelProto.FromString(guard(coded.SerializeToString(), plan.voted))
    return guarded
