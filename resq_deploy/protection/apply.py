"""A plan carried out: votes first, so that a file that reports its health counts them, then weights under a code.

Both give what they protect under its own name, and leave all that read it as they are: in the other order the file
would store the same, elsewhere.
"""

import onnx

from resq_deploy.codes.code import Code
from resq_deploy.protection.gather import gathered
from resq_deploy.protection.guards import guard
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
    given = gathered(model) if plan.mode == "all" else model
    guarded: onnx.ModelProto = onnx.ModelProto.FromString(guard(given.SerializeToString(), plan.voted))
    return protect(guarded, plan.coded, plan.code, health=health) if plan.code else guarded
