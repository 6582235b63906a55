"""What a study has done, by digests: of the arguments, of what was read, of what was written."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from resq_deploy.errors import RunFolderError
from resq_deploy.pipeline.study_steps import Step
from resq_deploy.records import read_json, sha256_file, write_json

_STATE = "steps.json"


class Ledger:
    """What is done, by digests; kept in the study's folder.

    Args:
        folder: the study's folder.
        data: a digest of every data set that is used; of others, what was recorded is believed.

    Raises:
        RunFolderError: if the ledger is broken.
    """

    def __init__(self, folder: pathlib.Path, data: Mapping[str, str]) -> None:
        self._folder = folder
        self._data = data
        self._path = folder / _STATE
        self._entries = _read(self._path)
        self._known: dict[str, str | None] = {}

    def has(self, step: Step) -> bool:
        """Return whether a step is done: same arguments, same files read, and what it wrote is there unchanged."""
        entry = self._entries.get(step.name)
        if not isinstance(entry, dict) or not isinstance(entry.get("asked"), dict):
            return False
        asked = self._asked(step)
        if step.dataset not in self._data:
            asked["data"] = entry["asked"].get("data")
        return bool(entry["asked"] == asked) and entry.get("wrote") == self._digests(step.writes)

    def add(self, step: Step, seconds: float) -> None:
        """Record a step that has just been run."""
        for path in step.writes:
            self._known.pop(path, None)
        self._entries[step.name] = {
            "asked": self._asked(step),
            "wrote": self._digests(step.writes),
            "seconds": round(seconds, 1),
        }
        write_json(self._path, self._entries)

    def entry(self, step: Step) -> dict[str, Any]:
        """Return the time a step took and the files it wrote."""
        return {"seconds": self._entries[step.name]["seconds"], "wrote": list(step.writes)}

    def _asked(self, step: Step) -> dict[str, Any]:
        return {
            "command": step.command,
            "arguments": list(step.arguments),
            "data": self._data.get(step.dataset),
            "read": self._digests(path for _, path in step.reads),
        }

    def _digests(self, paths: Iterable[str]) -> dict[str, str | None]:
        return {path: self._digest(path) for path in paths}

    def _digest(self, path: str) -> str | None:
        if path not in self._known:
            file = self._folder / path
            self._known[path] = sha256_file(file) if file.is_file() else None
        return self._known[path]


def _read(path: pathlib.Path) -> dict[str, Any]:
    mend = "delete it and --resume: finished trainings and campaigns are recognised, files are exported again"
    try:
        entries = read_json(path) if path.is_file() else {}
    except RunFolderError as error:
        raise RunFolderError(f"{error}: {mend}") from error
    if not isinstance(entries, dict):
        raise RunFolderError(f"{path} is not what a study writes: {mend}")
    return entries
