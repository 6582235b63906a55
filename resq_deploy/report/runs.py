"""Run folders as a report reads them: finished, whole, of a known schema; anything else is one clear line."""

import dataclasses
import fnmatch
import functools
import importlib.resources
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jsonschema

from resq_deploy.errors import RunFolderError
from resq_deploy.records import read_json, read_manifest

_MANIFEST = "manifest.json"
COMMANDS = ("train", "faultcamp", "attackcamp")
"""The commands whose run folders a report reads."""

_SCHEMAS = {"train": 1, "faultcamp": 2, "attackcamp": 1}
"""The schema versions of the summaries that can be read."""

_RECORDS = (
    "manifest.json",
    "summary.json",
    "faults.csv",
    "campaign.sqlite*",
    "criticality.json",
    "metrics.jsonl",
    "bitflips.*",
    "fault_attack.json",
    "steps.json",
    ".lock",
    "*.pt",
    "*.npz",
    "*.onnx",
    "*.int8.json",
)
"""What run folders consist of: records, checkpoints, adversarial images, exported files."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A finished run; one whose audit failed is finished, too, and must be seen to have failed.

    Attributes:
        label: what the report calls it: the end of its path, as much as tells the runs apart.
        path: its folder.
        manifest: `manifest.json`.
        summary: `summary.json`.
    """

    label: str
    path: pathlib.Path
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    def command(self) -> str:
        """The command that made it."""
        return str(self.manifest["command"])

    @property
    def options(self) -> Mapping[str, Any]:
        """The options that decide its figures."""
        options: Mapping[str, Any] = self.manifest["options"]
        return options

    @property
    def model(self) -> str | None:
        """SHA-256 of the file under test; None for training."""
        return self.digest("model")

    @property
    def file(self) -> str:
        """Name of the file under test, as far as it was recorded."""
        return str(self.manifest["settings"].get("model_file") or self.label)

    @property
    def confidence(self) -> float:
        """Coverage of its intervals."""
        if self.command == "train":
            return float(next(iter(self.summary["stages"].values()))["test"]["clean"]["confidence"])
        if self.command == "attackcamp":
            return float(self.summary["clean"]["confidence"])
        accuracy = self.summary["golden"].get("accuracy")  # of other tasks than classification there is none
        return float(accuracy["confidence"] if accuracy else self.options["confidence"])

    def digest(self, what: str) -> str | None:
        """Return the SHA-256 of something the run read: model, data, fault_list, surrogate, train, test, init."""
        found: str | None = self.manifest["sha256"].get(what)
        return found


LAYERS_DRAWN = (
    "Where layers were drawn evenly, a fault's layer was drawn first, each alike whatever its size, and then a bit of "
    "it: rates are means over the layers of the mean over a layer's faults, and a bit error rate counts draws. Bits of "
    "small layers weigh more than those of large ones, so that such figures do not say what random flips do."
)
"""What a reader must know of figures from campaigns that drew layers."""


def draws_layers(run: Run) -> bool:
    """Return whether a fault campaign drew layers evenly, whatever their size."""
    return run.summary.get("draw") == "layers"


def subsampled(run: Run) -> bool:
    """Return whether faults of a campaign were judged on some of its images each."""
    return bool(run.summary.get("images", {}).get("not_known"))


def audit_failed(run: Run) -> bool:
    """Return whether faults of a campaign, run again, gave something else: its figures must not be used."""
    return bool(run.summary.get("audit", {}).get("mismatches"))


def arithmetic(run: Run) -> str:
    """Return in which arithmetic a campaign ran its file, in words; if natively, on what kind of CPU."""
    found = run.summary.get("arithmetic")
    if not found:
        return "not recorded"
    if found["name"] == "exact":
        return "exact"
    return f"native, on a CPU that {'saturates' if found['cpu_saturates'] else 'does not saturate'}"


def is_record(file: pathlib.Path, folders: Iterable[pathlib.Path]) -> bool:
    """Return whether a file is, by name and place, one that runs consist of: in a folder given, or in any run folder.

    Args:
        file: it need not exist.
        folders: run folders, or folders that hold them.
    """
    real = file.resolve()
    if not any(fnmatch.fnmatchcase(real.name, pattern) for pattern in _RECORDS):
        return False
    children = [child for folder in folders for child in (folder, *folder.glob("*/")) if child.is_dir()]
    return any(real.is_relative_to(child.resolve()) for child in children) or (real.parent / _MANIFEST).is_file()


def load_runs(paths: Sequence[pathlib.Path]) -> list[Run]:
    """Read run folders, in the order given; a folder that holds run folders, as the demo's, stands for those.

    Raises:
        RunFolderError: naming the folder, if one is missing, broken, unfinished, of another schema version, given
            twice, or made by a command without a report.
    """
    folders = [folder for path in paths for folder in _expanded(path)]
    twice = next((p for place, p in enumerate(folders) if p.resolve() in {q.resolve() for q in folders[:place]}), None)
    if twice is not None:
        raise RunFolderError(f"{twice} is given twice: give each run folder once")
    labels = _labels([folder.resolve() for folder in folders])
    return [load_run(folder, label) for folder, label in zip(folders, labels, strict=True)]


def check_schema(value: object, name: str, path: pathlib.Path) -> None:
    """Hold a JSON value against one of the package's schemas.

    Raises:
        RunFolderError: naming file and place, if it does not fit.
    """
    error = jsonschema.exceptions.best_match(_validator(name).iter_errors(value))
    if error is not None:
        where = ".".join(map(str, error.absolute_path)) or "its top level"
        raise RunFolderError(
            f"{path} is broken or half-written (at {where}: {error.message[:200]}): run again, or use the version "
            "that wrote it"
        )


@functools.cache
def _validator(name: str) -> Any:
    text = (importlib.resources.files("resq_deploy") / "schemas" / f"{name}.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


def _expanded(path: pathlib.Path) -> Iterable[pathlib.Path]:
    manifest = read_manifest(path)
    if manifest.get("command") in COMMANDS:
        return [path]
    if manifest.get("command") == "study":
        raise RunFolderError(f"{path} is a study: its tables are in {path / 'study.html'}; give run folders inside it")
    inside = sorted(child.parent for child in path.glob("*/manifest.json"))
    lost = next((one for one in sorted(path.glob("*/summary.json")) if one.parent not in inside), None)
    if lost is not None:
        raise RunFolderError(
            f"{lost.parent} holds a summary.json and no manifest.json: copy the whole folder again, run again, or give "
            "the run folders beside it one by one"
        )
    found = [folder for folder in inside if read_manifest(folder).get("command") in COMMANDS]
    if not found:
        raise RunFolderError(
            f"{path} is a run of {manifest.get('command')!r}: report reads run folders of {', '.join(COMMANDS)}"
        )
    return found


def load_run(path: pathlib.Path, label: str) -> Run:
    """Read one run folder.

    Args:
        path: the folder.
        label: what to call it; one whose faults were drawn evenly over layers is called so, too.

    Raises:
        RunFolderError: naming the folder, if it is missing, broken, unfinished or of another schema version.
    """
    manifest = read_manifest(path)
    check_schema(manifest, "manifest", path / "manifest.json")
    file = path / "summary.json"
    if manifest["status"] not in ("done", "failed") or (manifest["status"] == "failed" and not file.is_file()):
        raise _unfinished(path, manifest)
    if not file.is_file():
        raise RunFolderError(f"cannot read {file}: it is missing; copy the whole folder again, or run again")
    summary = read_json(file)
    version = summary.get("schema") if isinstance(summary, dict) else None
    known = _SCHEMAS[manifest["command"]]
    if version != known:
        raise RunFolderError(f"{file} has schema version {version!r}, this resq-deploy reads {known}: run again")
    check_schema(summary, manifest["command"], file)
    run = Run(label=_printable(label), path=path, manifest=manifest, summary=summary)
    if manifest["status"] == "failed" and not audit_failed(run):
        raise _unfinished(path, manifest)  # the summary is of an earlier session, or of another failure
    # What names the run in every figure and table names the drawing, too.
    return dataclasses.replace(run, label=f"{run.label} (layers drawn evenly)") if draws_layers(run) else run


def _unfinished(path: pathlib.Path, manifest: Mapping[str, Any]) -> RunFolderError:
    return RunFolderError(
        f"{path} is not finished (status {manifest['status']!r}): finish it with --resume, or run again"
    )


def _labels(paths: Sequence[pathlib.Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart."""
    parts = 1
    while True:
        labels = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(labels)) == len(set(paths)):
            return labels
        parts += 1


def _printable(label: str) -> str:
    """Show the bytes of a name that is not UTF-8 as escapes: no page can hold them."""
    return label.encode(errors="backslashreplace").decode()


def of_command(runs: Iterable[Run], command: str) -> list[Run]:
    """Return the runs of one command, in order."""
    return [run for run in runs if run.command == command]
