"""What protection starts from: a file that stores nothing three times."""

import onnx

from resq_deploy.deployed.votes import find_votes


def unvoted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that stores each voted tensor once: what its three copies say, so that a fault in one is mended.

    Args:
        model: as `open_model` gives it; not changed.
    """
    votes = find_votes(model)
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    if not votes:
        return plain
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    # Copies that are stored in Constant nodes, or within subgraphs, no `guard` of ours has written.
    votes = tuple(vote for vote in votes if stored.keys() >= set(vote.copies))
    of_copy = {vote.copies[0]: vote for vote in votes}
    gone = {name for vote in votes for name in vote.copies}
    outputs = {vote.output for vote in votes}
    del plain.graph.initializer[:]
    for tensor in model.graph.initializer:
        if tensor.name in of_copy:
            vote = of_copy[tensor.name]
            made = plain.graph.initializer.add()
            made.CopyFrom(tensor)
            made.name = vote.output
            made.raw_data = vote.outcome({name: stored[name].raw_data for name in vote.copies})
        elif tensor.name not in gone:
            plain.graph.initializer.add().CopyFrom(tensor)
    del plain.graph.node[:]
    plain.graph.node.extend(
        node for node in model.graph.node if gone.isdisjoint(node.input) and outputs.isdisjoint(node.output)
    )
    return plain
