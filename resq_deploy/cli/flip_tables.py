"""How `attackcamp` shows the bit-flip attack and the matrix of faults and attacks."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from resq_deploy.api.words import percent
from resq_deploy.cli.shared import print_table

_ENDS = {"limit": "given up at the limit", "stuck": "no flip helps any more"}


def print_bit_flip(figures: Mapping[str, Any]) -> None:
    """Print `bit_flip` of a summary: a row an attack batch, and the flips that an attack takes."""
    goal, attacked, target = figures["goal"], figures["attacked"], figures["goal"]["target"]
    reached = (
        f"all in class {target}" if target is not None else f"chance + 1 point ({goal['chance'] + goal['margin']:.1%})"
    )
    reports = any(batch.get("health") for batch in figures["batches"])
    rows = []
    for number, batch in enumerate(figures["batches"]):
        shares = [percent(batch["accuracy"]), *([percent(batch["on_target"])] if target is not None else [])]
        told = [_reported(batch["health"])] if reports else []
        rows.append([str(number), str(batch["flips"]), _ENDS.get(batch["end"], reached), *shares, *told])
    headers = ["attack batch", "flips", "end", "accuracy", *(["on target"] if target is not None else [])]
    headers += ["health output"] if reports else []
    print_table("Bit-flip attack", headers, rows)
    speed = f"{figures['seconds_per_flip']:.1f} s a flip"
    click.echo(f"flips to {reached}: {_flips(figures['flips'])}; loss {figures['loss']}, {speed}")
    click.echo(
        f"the attacker knows the file, has {figures['sample']['images']} images a batch that are no test images, and "
        f"may flip {attacked['bits']:,} stored bits in {attacked['tensors']} tensors"
        + (f", {attacked['voted_tensors']} of them voted: two flips a bit" if attacked["voted_tensors"] else "")
        + (", under a code: every flip of a word counts" if attacked.get("coded_tensors") else "")
        + f"; accuracy without flips {percent(figures['golden'])}; bitflips.csv replays with faultcamp --fault-list"
    )


def _reported(health: Sequence[int]) -> str:
    """Write what a file reports of its code words."""
    corrected, uncorrectable = health
    return f"{corrected} corrected, {uncorrectable} uncorrectable"


def _flips(flips: Mapping[str, Any]) -> str:
    """Write the number of flips; where attacks were given up, as what it is not below."""
    interval = f"[{flips['low']:.1f}, {'-' if flips['high'] is None else format(flips['high'], '.1f')}]"
    text = f"{flips['value']:.1f} {interval} over {flips['n']} attack batches"
    if not flips["censored"]:
        return text
    return f"at least {text}, {flips['censored']} of which did not get there"


def print_fault_attack(figures: Mapping[str, Any]) -> None:
    """Print `fault_attack` of a summary: a row for clean images, and one for each attack and epsilon."""
    faults = figures["faults"]
    if faults["model"] == "ber":
        what = f"{faults['faults']} chips at a bit error rate of {faults['ber']:g} of the weights"
    else:
        what = f"{faults['faults']} faults of a list"
    rows = [("clean", figures["clean"])]
    rows += [
        (f"{attack} severity {radius}" if attack == "corruptions" else f"{attack} {radius}", cell)
        for attack, radii in figures["attacked"].items()
        for radius, cell in radii.items()
    ]
    accuracy = [[name, *_figures(cell, "fault_free", "faulty", "drop", "drop_beyond_clean")] for name, cell in rows]
    print_table(
        f"Accuracy under {what}", ["images", "fault-free", "with faults", "drop", "drop beyond clean"], accuracy
    )
    changed = [[name, *_figures(cell, "sdc1", "sdc1_beyond_clean", "lost", "lost_beyond_clean")] for name, cell in rows]
    print_table(
        "Answers that faults change (SDC-1), and right ones that they turn wrong",
        ["images", "SDC-1", "beyond clean", "turned wrong", "beyond clean"],
        changed,
    )
    click.echo(
        "beyond clean: points more than on clean images, paired by fault; adversarial images are those made for the "
        "fault-free file"
    )


def _figures(cell: Mapping[str, Any], *names: str) -> list[str]:
    """Write figures of a cell; those that it does not have stay empty."""
    return [percent(cell[name], 1) if cell.get(name) else "" for name in names]
