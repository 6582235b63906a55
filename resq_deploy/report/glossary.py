"""What the terms of a report mean: each is spelt out once on a page, and shown where a pointer rests on it."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from resq_deploy.report.document import Block, Bullets, Caption, Commands, Document, Notice, Section, Table

TERMS: Mapping[str, str] = {
    "fault": "one or more changed bits of the stored file; what it does is what the file answers once it is loaded "
    "again",
    "SDC-1": "silent data corruption: the file runs, and gives another answer than without the fault; of a classifier, "
    "another top-1 class",
    "SDC-5": "the new top-1 answer is none of the five best of the fault-free file",
    "SDC-10": "the confidence in the answer moves by more than a tenth of its value (sdc10_abs: by more than 0.1)",
    "SDC-20": "the same by more than a fifth (sdc20_abs: by more than 0.2)",
    "masked": "all outputs are bit-equal to those without the fault",
    "benign": "outputs differ, the answer is the same",
    "due": "detected, unrecoverable error: the file no longer loads or runs",
    "bit error rate": "the probability with which every stored bit flips, each by itself",
    "chip": "one drawing of all bits that flip at a bit error rate: one simulated device",
    "role": "what a stored value is for: weight, bias, scale, zero point, code ...",
    "golden": "without fault",
    "exposure": "how often stored bits make a device fail, from what one flip does and how often flips come",
    "FIT": "failures in time: in 10^9 hours of operation",
    "diagnostic coverage": "share of the failing faults that the file's own health output reports (ISO 26262)",
    "interval": "`78.2 % [74.1, 81.0]`: measured 78.2 %; between 74.1 and 81.0 % over all faults, chips or images like "
    "those drawn, at the level given",
    "Linf": "largest change of any pixel that an attack may make; 4/255: four steps of 255",
    "L2": "Euclidean length of the change of all pixels together",
    "epsilon": "how far an attack may go, by the norm",
    "PGD": "projected gradient descent: steps along the gradient, kept within the radius",
    "APGD": "PGD with a step size that adapts",
    "Square": "an attack without gradients that asks for the scores of changed images (Andriushchenko et al., 2020)",
    "HopSkipJump": "an attack that sees classes alone (Chen et al., 2020)",
    "twin": "a differentiable reading of the int8 file, which gives attacks its gradients",
    "masked gradients": "gradients that lead nowhere, so that attacks along them fail without the file being robust",
    "worst case": "an image counts as right if it is under every attack of the run",
    "corruption": "what a sensor, the weather or a codec does to an image (Hendrycks and Dietterich, 2019)",
    "audit": "faults run again by reloading the flipped file, and compared bit by bit",
    "McNemar": "a test on images that one file answers right and the other wrong",
    "Holm": "a correction for having tested several figures",
}
"""By term, as a report writes it; longer ones are found before those they hold."""

_PATTERN = re.compile(
    r"(?<![\w-])(" + "|".join(map(re.escape, sorted(TERMS, key=len, reverse=True))) + r")(?:s|ing)?(?![\w-])"
)


def terms_in(texts: Iterable[str]) -> dict[str, str]:
    """Return the terms that texts hold, with their meanings, in the order of `TERMS`."""
    found = {match[1] for text in texts for match in _PATTERN.finditer(text)}
    return {term: meaning for term, meaning in TERMS.items() if term in found}


def with_glossary(document: Document) -> Document:
    """Return a report with the terms that it uses spelt out at its end."""
    found = terms_in(_texts(document))
    if not found:
        return document
    table = Table(headers=["term", "meaning"], rows=[list(term) for term in found.items()])
    glossary = Section(title="What the words mean", topic="Glossary", blocks=[table])
    return dataclasses.replace(document, sections=[*document.sections, glossary])


def mark(text: str, seen: set[str], marked: Callable[[str, str], str]) -> str:
    """Mark the terms of a text that were not seen before, and remember them.

    Args:
        text: the text.
        seen: terms that were; gets those of the text.
        marked: makes the mark of a term as it is written, and its meaning.
    """

    def first(match: re.Match[str]) -> str:
        if match[1] in seen:
            return match[0]
        seen.add(match[1])
        return marked(match[0], TERMS[match[1]])

    return _PATTERN.sub(first, text)


def _texts(document: Document) -> Iterator[str]:
    yield document.lead
    if document.verdict:
        for statement in document.verdict.statements:
            yield from (statement.text, *statement.reservations)
        yield from document.verdict.grounds
    for section in document.sections:
        yield section.title
        for block in section.blocks:
            yield from _words(block)


def _words(block: Block) -> Iterator[str]:
    if isinstance(block, str):
        yield block
    elif isinstance(block, Notice | Caption):
        yield block.text
    elif isinstance(block, Bullets):
        yield from block.items
    elif isinstance(block, Commands):
        yield block.folded
    elif isinstance(block, Table):
        yield from (block.folded, *block.headers)
        yield from (cell for row in block.rows for cell in row)
    else:
        yield from (block.x_title, block.description)
