"""What a campaign keeps of its attacks: an `.npz` for each attack and radius, and until that is whole, its units."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from resq_deploy.attacks.target import Labels
from resq_deploy.attacks.units import Attacked, Unit, shards
from resq_deploy.attacks.workers import Kit, run_units
from resq_deploy.records import write_atomic

_UNITS = "units"


class Store:
    """The adversarial images in a folder.

    Args:
        folder: where they lie; made when something is written.
        labels: right classes of the images of the campaign, shape [N].
        extras: further arrays for each file, such as the names of the classes.
    """

    def __init__(self, folder: pathlib.Path, labels: Labels, extras: dict[str, NDArray[Any]]) -> None:
        self._folder = folder
        self._labels = labels
        self._extras = extras

    def attack(
        self,
        attacks: Sequence[str],
        radii: Mapping[str, float],
        kit: Kit,
        *,
        workers: int,
        report: Callable[[str, int, int], None],
    ) -> dict[str, dict[str, Attacked]]:
        """Run attacks at radii on all images, or what is missing of them; returns attack -> epsilon -> result.

        Args:
            attacks: names.
            radii: radius in [0, 1] pixels by the name it has in files.
            kit: runs the units.
            workers: processes.
            report: told the attack that was run, how many units are done, and how many there are.

        Raises:
            RunFolderError: if a file is broken, or nothing can be written.
            ResqError: what an attack raised.
        """
        groups = [(attack, epsilon) for attack in attacks for epsilon in radii]
        units = {
            (attack, epsilon): shards(attack, epsilon, radii[epsilon], len(self._labels)) for attack, epsilon in groups
        }
        missing = [
            unit
            for group in groups
            if not self._whole(*group).exists()
            for unit in units[group]
            if not self._part(unit).exists()
        ]
        total = sum(map(len, units.values()))
        if missing:
            report(missing[0].attack, total - len(missing), total)
        for done, (unit, result) in enumerate(run_units(kit, missing, workers), start=total - len(missing) + 1):
            write_atomic(self._part(unit), result.as_bytes({}))
            report(unit.attack, done, total)
        results: dict[str, dict[str, Attacked]] = {attack: {} for attack in attacks}
        for attack, epsilon in groups:
            results[attack][epsilon] = self._joined(attack, epsilon, units[attack, epsilon])
        return results

    def _joined(self, attack: str, epsilon: str, units: Iterable[Unit]) -> Attacked:
        """Return what came of an attack at a radius; its units become one file."""
        whole = self._whole(attack, epsilon)
        if whole.exists():
            result = Attacked.load(whole, self._labels)
        else:
            result = Attacked.joined(
                [Attacked.load(self._part(unit), self._labels[unit.begin : unit.end]) for unit in units]
            )
            write_atomic(whole, result.as_bytes(self._extras))
        for unit in units:
            self._part(unit).unlink(missing_ok=True)
        return result

    def _whole(self, attack: str, epsilon: str) -> pathlib.Path:
        return self._folder / f"{attack}-{epsilon}.npz"

    def _part(self, unit: Unit) -> pathlib.Path:
        return self._folder / _UNITS / f"{unit.name}.npz"
