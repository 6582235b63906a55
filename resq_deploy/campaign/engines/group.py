"""Which faults are best evaluated together."""

from typing import NamedTuple


class Group(NamedTuple):
    """Faults that share golden activations and sessions; groups are ordered as their faults are best evaluated.

    Attributes:
        stretch: of nodes that sessions can be held for at once, the number.
        place: of the first node that reads what they change.
        tensor: where no node reads it, the tensor.
        portion: how many to evaluate at a time on all images, and more on fewer; few where each takes long, so that no
            worker waits for another.
    """

    stretch: int
    place: int
    tensor: str
    portion: int
