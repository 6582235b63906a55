"""`faults.csv`: one row a fault and bit; where it holds bits it is itself a valid fault list."""

import csv
from collections.abc import Iterator, Mapping, Sequence

from resq_deploy.campaign.plan import Plan
from resq_deploy.campaign.record import Record
from resq_deploy.faults.fault import Op, digest

_BITS = ("fault", "op", "tensor", "role", "layer", "index", "bit", "value")
_HEALTH = ("detected", "words_corrected", "words_uncorrectable")
_MASKS = ("fault", "ber", "chip", "flips", "mask")


def faults_csv(plan: Plan, records: Sequence[Record], figure: str = "accuracy") -> str:
    """Return the table of a campaign's faults and what each did.

    `images` and the outcomes are counts of images, what the judge sums up are totals over them, `total_` and its name;
    the judge's figure is a column where there is one.

    Which images those are, `share` and `parts` say: parts of the campaign's partition, so many from number `share` on.
    Where the file reports on its code words, it is told of each fault what it reports, and whether that is another
    report than the fault-free file's; nothing of a fault that is `due`.

    Args:
        plan: what was drawn.
        records: of all its faults, one or more.
        figure: the name of the judge's figure.
    """
    stream = _Lines()
    head = _MASKS if plan.masks else _BITS
    # What ends a line is quoted within a field: with both characters, whatever a tensor is called can be read again.
    health = _HEALTH if any(record.health for record in records) else ()
    rated = (figure,) if any(record.quality is not None for record in records) else ()
    totals = [f"total_{name}" for name in records[0].amounts]
    columns = (*head, "outcome", "images", *records[0].counts, *totals, *rated, "share", "parts", *health)
    writer = csv.DictWriter(stream, columns, lineterminator="\r\n", extrasaction="ignore")
    writer.writeheader()
    for record in records:
        result: Mapping[str, object] = {
            "outcome": str(record.outcome),
            "images": record.images,
            **record.counts,
            **{f"total_{name}": amount for name, amount in record.amounts.items()},
            **({} if record.quality is None else {figure: f"{record.quality:.6f}"}),
            "share": record.share,
            "parts": record.parts,
            **dict(
                zip(_HEALTH, (int(record.detected), *record.health) if record.health else ("", "", ""), strict=True)
            ),
        }
        for row in _rows(plan, record):
            writer.writerow({**row, **result})
    return "".join(stream.lines)


class _Lines:
    """Takes rows as they are written, and ends each with a line feed alone."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, row: str) -> None:
        self.lines.append(row.removesuffix("\r\n") + "\n")


def _rows(plan: Plan, record: Record) -> Iterator[dict[str, object]]:
    fault = plan.fault(record.number)
    if plan.masks:
        flips = sum(len(edit.index) for edit in fault.edits)
        mask = digest(fault.edits)
        yield {"fault": record.number, "ber": fault.ber, "chip": fault.chip, "flips": flips, "mask": mask}
        return
    for edit in fault.edits:
        surface = plan.surface(edit.tensor)
        for place, (index, bit) in enumerate(zip(edit.index, edit.bit, strict=True)):
            yield {
                "fault": plan.label(record.number),
                "op": str(edit.op),
                "tensor": edit.tensor,
                "role": str(surface.role),
                "layer": surface.layer,
                "index": int(index),
                "bit": int(bit),
                "value": int(edit.value[place]) if edit.op is Op.WORD else "",
            }
