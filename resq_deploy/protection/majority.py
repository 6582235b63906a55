"""The majority of five or seven copies, bit by bit, as bitwise nodes that onnxruntime folds.

They stand in the graph as they are: where they were a function, onnxruntime would name values that it makes otherwise
than in the file without code.
"""

from collections.abc import Sequence

from onnx import NodeProto, helper

LEAST_OPSET = 18
"""The first opset with bitwise operators."""

COPIES = (7, 5)
"""Numbers of copies there are circuits for, the safest first."""


def majority_nodes(copies: Sequence[str], output: str) -> list[NodeProto]:
    """Return nodes that take the majority of five or seven stored values.

    Of seven: the sum of seven bits is that of three sums' last bits and twice that of three carries, so that four or
    more are set where two or more of the carries are. Of five: <v <xyz> <wx <wyz>>>, where <> is the majority of three
    (Knuth, The Art of Computer Programming 4A, section 7.1.1).

    Args:
        copies: names of the copies.
        output: name of the result; begins those of the values between.
    """
    circuit = _Circuit(output)
    if len(copies) == max(COPIES):
        a, b, c, d, e, f, g = copies
        sums = circuit.xor(circuit.xor(a, b), c), circuit.xor(circuit.xor(d, e), f)
        circuit.of_three(circuit.of_three(a, b, c), circuit.of_three(d, e, f), circuit.of_three(*sums, g))
    else:
        v, w, x, y, z = copies
        circuit.of_three(v, circuit.of_three(x, y, z), circuit.of_three(w, x, circuit.of_three(w, y, z)))
    circuit.nodes[-1].output[0] = output
    return circuit.nodes


class _Circuit:
    def __init__(self, prefix: str) -> None:
        self.nodes: list[NodeProto] = []
        self._prefix = prefix
        self._known: dict[tuple[str, ...], str] = {}

    def of_three(self, a: str, b: str, c: str) -> str:
        """Return ((a ^ b) & (a ^ c)) ^ a: a, unless both others differ from it."""
        return self.xor(self._node("BitwiseAnd", self.xor(a, b), self.xor(a, c)), a)

    def xor(self, first: str, second: str) -> str:
        return self._node("BitwiseXor", first, second)

    def _node(self, operator: str, *inputs: str) -> str:
        key = (operator, *inputs)
        if key not in self._known:
            self._known[key] = f"{self._prefix}m{len(self._known):x}"
            self.nodes.append(helper.make_node(operator, inputs, [self._known[key]]))
        return self._known[key]
