"""What stored integers are for, where they are no values: shapes, axes, indices, switches; by proof, not by type."""

from collections.abc import Sequence

import onnx

from resq_deploy.deployed.nesting import subgraphs
from resq_deploy.deployed.operators import PASSED_ON, SWITCH, steering
from resq_deploy.deployed.wiring import Wiring

VALUE = ""
UNREAD = "read by no node"


class Steering:
    """Follows every value to where it ends, against the direction of the graph.

    A value steers if each of its readers takes it for a shape, axis, index or switch, or computes from it, and from
    nothing that depends on the image, values that steer. A switch counts only where it is handed on as it is: what is
    compared to make one is a value.

    Args:
        wiring: of the graph.
    """

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._known: dict[str, str] = {}
        for node in reversed(wiring.nodes):
            for output in filter(None, node.output):
                self._known[output] = self.end(output)

    def end(self, value: str) -> str:
        """Return what a value is for: `VALUE` to compute with, `UNREAD`, or what it steers."""
        wiring = self._wiring
        if value in wiring.returned:
            return VALUE
        ends = []
        for node in wiring.readers(value):
            ends.append(self._in_slot(*node))
        for name in filter(None, wiring.onward(value)):
            if name not in self._known:
                self._known[name] = VALUE  # in a circle, as only a file has that onnxruntime refuses
                self._known[name] = self.end(name)
            ends.append(self._known[name])
        return _joined(ends)

    def _in_slot(self, node: onnx.NodeProto, slot: int) -> str:
        """Return what one reader of a value takes it for."""
        steered = steering(node, slot)
        if steered is not None:
            return steered
        if subgraphs(node):
            return UNREAD  # what a loop begins with goes on inside it
        outputs = [output for output in node.output if output]
        if not self._wiring.varying.isdisjoint(outputs):
            return VALUE
        end = _joined([self._known.get(output, VALUE) for output in outputs])
        handed_on = node.op_type in PASSED_ON
        return VALUE if end == UNREAD or (end == SWITCH and not handed_on) else end


def _joined(ends: Sequence[str]) -> str:
    """Return what a value is for that is read for several ends."""
    read = [end for end in ends if end != UNREAD]
    return VALUE if VALUE in read else next(iter(read), UNREAD)
