"""The integers of layers that the optimiser hands on unread, so that they can be replaced behind it."""

from collections.abc import Callable

import numpy as np

from resq_deploy.campaign.engines.channels import INTEGERS, integer_operands
from resq_deploy.campaign.engines.cuts import changed_nodes
from resq_deploy.campaign.engines.injection import Injector
from resq_deploy.campaign.engines.protection import Protection
from resq_deploy.deployed.runtime_graph import RuntimeGraph, Signature
from resq_deploy.faults.bits import Bytes

Optimise = Callable[[bytes], RuntimeGraph | None]


def find_kept(
    injector: Injector,
    protection: Protection,
    graph: RuntimeGraph,
    golden: frozenset[Signature],
    optimise: Optimise,
) -> frozenset[str]:
    """Return integers of layers that are read behind the optimiser as they are stored, voted or decoded.

    Tried out with one file in which all of them are faulty: it must be optimised to the golden graph with just these
    bytes in it.

    Args:
        injector: knows the stored bytes and which tensors may be hit.
        protection: votes and codes of the file.
        graph: the golden graph.
        golden: its signatures.
        optimise: returns the optimised graph of a faulty file; None if there is none.
    """
    patcher, codes = injector.patcher, protection.decoding.codes
    masks, changes = _damage(injector, protection, graph)
    values = {
        **protection.voting.outcome(patcher.values(masks)),
        **protection.decoding.values(codes.left(codes.masks(changes))),
    }
    faulty = optimise(patcher.apply({**masks, **codes.masks(changes)}))
    if faulty is None:
        return frozenset()
    changed = changed_nodes(faulty.signatures(graph), golden)
    alike = changed == {place for name in values for place in graph.readers(name)} and [
        node.output[0] for node in faulty.nodes
    ] == [node.output[0] for node in graph.nodes]
    kept = (name for name in values if name in faulty.parameters and faulty.parameters[name].raw_data == values[name])
    return frozenset(kept if alike else ())


def _damage(
    injector: Injector, protection: Protection, graph: RuntimeGraph
) -> tuple[dict[str, Bytes], dict[str, Bytes]]:
    """Return masks of stored tensors, and changes of decoded ones, that change each integer operand of one layer."""
    patcher, codes = injector.patcher, protection.decoding.codes
    decoded = codes.weights if protection.decoding.words else {}
    masks, changes = dict[str, Bytes](), dict[str, Bytes]()
    for place, node in enumerate(graph.nodes):
        for name in integer_operands(node):
            parameter = graph.parameters.get(name)
            if parameter is None or graph.readers(name) != [place]:
                continue
            if name in decoded:
                stored = codes.value(name).tobytes()
                if parameter.raw_data == stored and len(stored) > 1:
                    changes[name] = np.zeros(len(stored), dtype=np.uint8)
                    changes[name][-1] = 1
                continue
            copies = protection.voting.copies(name)
            if not all(injector.knows(copy) and not patcher.shared(copy) for copy in copies):
                continue
            stored = protection.voting.stored(name)
            if parameter.data_type in INTEGERS and parameter.raw_data == stored and len(stored) > 1:
                mask: Bytes = np.zeros(len(stored), dtype=np.uint8)
                mask[-1] = 0x40
                masks.update(dict.fromkeys(copies, mask))
    return masks, changes
