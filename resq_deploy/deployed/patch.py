"""Flipping stored bits of a file, and proving that exactly those bits changed.

The model is serialised once; where each tensor's bytes lie in it is read from the wire format. A faulty file is a
copy with some of those bytes changed, so that nothing else can change with them. The proof does not trust that
arithmetic: it parses the faulty bytes with onnx itself and compares element by element.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from resq_deploy.deployed.stored import Form, Site
from resq_deploy.deployed.surfaces import Surface
from resq_deploy.deployed.wire import Span, float_patterns, locate
from resq_deploy.errors import InjectionError, ModelError
from resq_deploy.faults.bits import Bytes, change_mask, count_bits
from resq_deploy.faults.fault import Edit, Fault, Op


class Patcher:
    """Makes faulty copies of a model whose parameters are all in `raw_data`.

    Args:
        model: the model, as `open_model` returns it.
        surfaces: the surfaces that faults may hit; a fault in one changes all places that hold its bytes.

    Attributes:
        golden: the fault-free model, serialised.
    """

    def __init__(self, model: onnx.ModelProto, surfaces: Sequence[Surface]) -> None:
        self.golden = model.SerializeToString()
        self._surfaces = {surface.tensor: surface for surface in surfaces}
        spans = dict(locate(self.golden))
        self._parts = {surface.tensor: _parts(surface, spans) for surface in surfaces}

    def shared(self, tensor: str) -> bool:
        """Return whether several places of the graph hold the bytes of a tensor."""
        return len(self._parts[tensor]) > 1

    def stored(self, tensor: str) -> Bytes:
        """Return a copy of the stored bytes of a tensor, shape [bytes]."""
        data = np.frombuffer(self.golden, dtype=np.uint8)
        parts = self._parts[tensor]
        return _whole([site for site, _ in parts], [data[span.raw] for _, span in parts], tensor).copy()

    def masks(self, fault: Fault) -> dict[str, Bytes]:
        """Return the XOR mask of each tensor the fault changes; a tensor that stays as it was is left out.

        Several edits of one tensor are applied one after the other, in the order of the fault.
        """
        masks: dict[str, Bytes] = {}
        for edit in fault.edits:
            surface = self._surfaces[edit.tensor]
            before = masks.get(edit.tensor)
            stored = self.stored(edit.tensor)
            if before is None:
                masks[edit.tensor] = change_mask(stored, edit, surface.width)
            else:
                masks[edit.tensor] = before ^ change_mask(stored ^ before, edit, surface.width)
        return {tensor: mask for tensor, mask in masks.items() if mask.any()}

    def values(self, masks: Mapping[str, Bytes]) -> dict[str, bytes]:
        """Return the stored bytes of each masked tensor with its mask applied."""
        return {tensor: (self.stored(tensor) ^ mask).tobytes() for tensor, mask in masks.items()}

    def apply(self, masks: Mapping[str, Bytes]) -> bytes:
        """Return the serialised model with the masks applied to its stored bytes, wherever they are held."""
        faulty = bytearray(self.golden)
        data = np.frombuffer(faulty, dtype=np.uint8)
        for tensor, value in self.values(masks).items():
            for site, span in self._parts[tensor]:
                data[span.raw] = _stretch(value, site)
        return bytes(faulty)

    def prove(self, fault: Fault, faulty: bytes) -> int:
        """Check that a faulty model differs from the golden one in exactly the bits the fault asks for.

        Everything outside the values of the touched tensors must be byte-equal; each place that holds one is parsed
        with onnx on both sides, all must say the same, and the touched elements are compared with what the operations
        mean.

        Returns:
            How many stored bits differ; bits that several places hold are stored once.

        Raises:
            InjectionError: at the first difference between what was asked and what changed.
        """
        parts = {tensor: self._parts[tensor] for tensor in fault.tensors}
        if not _equal_outside(self.golden, faulty, [span for held in parts.values() for _, span in held]):
            raise InjectionError(f"injection into {', '.join(fault.tensors)} changed bytes of other tensors")
        messages = {tensor: [faulty[span.message] for _, span in held] for tensor, held in parts.items()}
        return sum(self._prove_tensor(fault, tensor, messages[tensor]) for tensor in fault.tensors)

    def prove_values(self, fault: Fault, values: Mapping[str, bytes]) -> int:
        """Check, as `prove` does, new stored bytes of the touched tensors alone; a tensor left out is unchanged."""
        total = 0
        for tensor in fault.tensors:
            messages = []
            for site, span in self._parts[tensor]:
                message = bytearray(self.golden[span.message])
                if tensor in values:
                    start = span.message.start
                    raw = span.raw
                    inside = slice(raw.start - start, raw.stop - start) if isinstance(raw, slice) else raw - start
                    np.frombuffer(message, dtype=np.uint8)[inside] = _stretch(values[tensor], site)
                messages.append(bytes(message))
            total += self._prove_tensor(fault, tensor, messages)
        return total

    def _prove_tensor(self, fault: Fault, tensor: str, messages: Sequence[bytes]) -> int:
        """Check one tensor, given what holds it in the faulty file, serialised; return how many bits differ."""
        surface, parts = self._surfaces[tensor], self._parts[tensor]
        sites = [site for site, _ in parts]
        golden = _whole(sites, [_parsed(site, self.golden[span.message]) for site, span in parts], tensor)
        faulty = _whole(sites, [_parsed(site, message) for site, message in zip(sites, messages, strict=True)], tensor)
        edits = [edit for edit in fault.edits if edit.tensor == tensor]
        touched = _distinct(np.concatenate([edit.index for edit in edits]))
        before, after = (_elements(data, touched, surface) for data in (golden, faulty))
        expected = _expected(before, touched, edits, surface.width)
        # The count over all bytes sees every other element, and the padding after packed ones.
        changed = count_bits(golden ^ faulty)
        if not np.array_equal(after, expected) or changed != count_bits((before ^ expected).view(np.uint8)):
            raise InjectionError(f"injection into {tensor!r} did not change exactly the bits asked for")
        return changed


def _parts(surface: Surface, spans: Mapping[str, Span]) -> list[tuple[Site, Span]]:
    """Return the places that hold a surface, and where they lie in the serialised model.

    Raises:
        ModelError: if they are not there, or hold less than the surface.
    """
    parts = [(site, spans[site.place]) for site in surface.sites if site.place in spans]
    held = max((site.start + site.length for site, _ in parts), default=0)
    fits = all(span.length == site.length for site, span in parts)
    if len(parts) < len(surface.sites) or not fits or held * 8 < surface.bits:
        raise ModelError(f"tensor {surface.tensor!r} cannot be found in the serialised model")
    return parts


def _stretch(value: bytes, site: Site) -> Bytes:
    """Return those of a surface's bytes that a place holds."""
    return np.frombuffer(value, dtype=np.uint8)[site.start : site.start + site.length]


def _parsed(site: Site, message: bytes) -> Bytes:
    """Return the bytes that a serialised tensor or attribute holds, as onnx or protocol buffers read it."""
    field = site.place.rpartition(".")[2]
    if field in (Form.FLOAT.value, Form.FLOATS.value):
        return float_patterns(message, field).view(np.uint8)
    return np.frombuffer(onnx.TensorProto.FromString(message).raw_data, dtype=np.uint8)


def _whole(sites: Sequence[Site], held: Sequence[Bytes], tensor: str) -> Bytes:
    """Return the bytes of a surface from the places that hold them.

    Raises:
        InjectionError: if two places that hold the same bytes do not agree.
    """
    if len(sites) == 1:
        return held[0]
    whole = np.zeros(max(site.start + site.length for site in sites), dtype=np.uint8)
    known = np.zeros(len(whole), dtype=bool)
    for site, part in zip(sites, held, strict=True):
        stretch = slice(site.start, site.start + site.length)
        if len(part) != site.length or (whole[stretch] != part)[known[stretch]].any():
            raise InjectionError(f"the places that hold {tensor!r} do not hold the same")
        whole[stretch], known[stretch] = part, True
    return whole


def _distinct(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return different positions, ascending; masks of random bit errors are in order already, which saves the sort."""
    ordered = index if (index[1:] >= index[:-1]).all() else np.sort(index)
    distinct: NDArray[np.int64] = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    return distinct


def _elements(data: Bytes, index: NDArray[np.int64], surface: Surface) -> NDArray[np.uint64]:
    """Parse a tensor's bytes; return its elements at `index` as unsigned patterns, same shape."""
    number = onnx.TensorProto.DataType.Value(surface.dtype.upper())
    tensor = onnx.TensorProto(data_type=number, dims=surface.shape, raw_data=data.tobytes())
    array = numpy_helper.to_array(tensor).reshape(-1)[index]
    patterns = array.view(f"u{array.dtype.itemsize}").astype(np.uint64)
    # 4-bit elements are widened by sign on parsing.
    return patterns & np.uint64((1 << surface.width) - 1)


def _expected(
    before: NDArray[np.uint64], touched: NDArray[np.int64], edits: Sequence[Edit], width: int
) -> NDArray[np.uint64]:
    """Return what the operations mean for the touched elements of one tensor, in plain element arithmetic."""
    elements = before.copy()
    for edit in edits:
        place = np.searchsorted(touched, edit.index)
        if edit.op is Op.WORD:
            elements[place] = edit.value & np.uint64((1 << width) - 1)
            continue
        bits = np.uint64(1) << edit.bit.astype(np.uint64)
        if edit.op is Op.FLIP:
            np.bitwise_xor.at(elements, place, bits)
        elif edit.op is Op.SET1:
            np.bitwise_or.at(elements, place, bits)
        else:
            np.bitwise_and.at(elements, place, ~bits)
    return elements


def _equal_outside(golden: bytes, faulty: bytes, spans: Sequence[Span]) -> bool:
    """Return whether two byte strings are equal outside the values at the given spans."""
    if len(golden) != len(faulty):
        return False
    left, right = (np.frombuffer(data, dtype=np.uint8) for data in (golden, faulty))
    differs = left != right
    for span in spans:
        differs[span.raw] = False
    return not differs.any()
