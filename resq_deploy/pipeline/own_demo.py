"""The whole line on a network of the user's own, step by step as commands."""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from resq_deploy.errors import ModelError, OptionError
from resq_deploy.records import RunFolder, sha256_file, write_atomic, write_json

FILES = ("baseline", "resq", "protected")
"""What is compared; `resq` is the hardened network without protection."""

_EPSILON = "4,8"
_STEPS = 10
_BER = "1e-4,1e-3,3e-3,1e-2,2e-2"

_GATES = (*(word for name in ("faults", "transfer-pgd", "square") for word in ("--gate", f"{name}=off")), "--no-gate")
"""What quantization costs is told, and stops nothing; faults and attacks are measured by steps of their own."""

Say = Callable[[str], None]
RunCommand = Callable[[Sequence[str]], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnOptions:
    """What the line is run on.

    Attributes:
        network: a name, or module:function.
        dataset: the data set, as `--dataset` takes it.
        data_dir: where named data sets lie.
        split: share of each class to test on, of images that come undivided.
        weights: weights to start from; None trains fresh ones first.
        clean_budget: what hardening may cost, in points of accuracy.
        presented: options on how the network wants its images, as they were given.
        training: further options of the training, as they were given.
        images: test images of attacks and faults.
        seed: of everything.
        arithmetic: in which the int8 files are run.
    """

    network: str
    dataset: str
    data_dir: pathlib.Path | None = None
    split: float | None = None
    weights: pathlib.Path | None = None
    clean_budget: float | None = None
    presented: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    images: int = 200
    seed: int = 0
    arithmetic: str = "exact"

    def __post_init__(self) -> None:
        if self.weights is not None and not self.weights.is_file():
            raise OptionError(f"--weights {self.weights}: there is no such file")
        if self.images < 1:
            raise OptionError(f"--images {self.images}: give a whole number from 1 up")

    def identity(self) -> dict[str, Any]:
        """Return all that decides the figures, as JSON values; of the weights their digest counts."""
        values = dataclasses.asdict(self)
        for path in ("data_dir", "weights"):
            del values[path]
        return values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One command.

    Attributes:
        arguments: the command and what it is given.
        out: what it writes: a run folder, or a file.
        resumable: whether it is a run folder, which a killed command goes on with.
    """

    arguments: tuple[str, ...]
    out: pathlib.Path
    resumable: bool = True

    @property
    def line(self) -> str:
        """The command as it is typed."""
        return shlex.join(("resq-deploy", *self.arguments))

    @property
    def is_done(self) -> bool:
        """Whether it has been taken to its end."""
        if not self.resumable:
            return self.out.exists() and (self.out.suffix != ".onnx" or self.out.with_suffix(".json").exists())
        try:
            return bool(json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))["status"] == "done")
        except (OSError, ValueError, KeyError):
            return False


def run_own(out: pathlib.Path, options: OwnOptions, run: RunCommand, *, resume: bool, say: Say) -> dict[str, Any]:
    """Harden, export, protect and prove a network; return the summary, which the page is made of.

    Args:
        out: run folder; gets a folder or file for each step, commands.sh and summary.json.
        options: on what.
        run: runs a command, given its name and arguments.
        resume: go on where an earlier run stopped.
        say: told each step as it begins.

    Raises:
        ResqError: if a step fails.
    """
    sha256 = {"weights": sha256_file(options.weights) if options.weights else None}
    lines: list[str] = []
    with RunFolder.open(out, command="demo", options=options.identity(), sha256=sha256, resume=resume):
        for step in steps(out, options, say):
            lines.append(step.line)
            _take(step, run, say)
        summary = {**_summary(out, options), "commands": lines}
        write_json(out / "summary.json", summary)
        write_atomic(out / "commands.sh", "\n".join(["# what `resq-deploy demo` ran, step by step", *lines, ""]))
    return summary


def _take(step: Step, run: RunCommand, say: Say) -> None:
    """Run one command, unless it has been run; go on with it where it was killed."""
    if step.is_done:
        say(f"done already: {step.line}")
        return
    say(step.line)
    started = step.resumable and (step.out / "manifest.json").exists()
    run([*step.arguments, *(("--resume",) if started else ())])


def steps(out: pathlib.Path, options: OwnOptions, say: Say) -> Iterator[Step]:
    """Yield the commands in their order, each once those before have been run: what they wrote decides."""
    data, network = _data(options), ("--network", options.network)
    start = ("--weights", str(options.weights)) if options.weights else ()
    budget = ("--clean-budget", f"{options.clean_budget:g}") if options.clean_budget is not None else ()
    how = (*start, *options.presented, *budget, *options.training)
    yield Step(arguments=("train", *network, *data, *how, "--out", str(out / "train")), out=out / "train")
    code = network if ":" in options.network else ()
    trained = out / "train" / "baseline.pt"
    sources: dict[str, tuple[str, ...]] = {
        "baseline": (str(trained), *code) if trained.exists() else (*network, *start, *options.presented),
        "resq": (str(out / "train"), *code),
        "protected": (str(out / "train"), *code, "--guard", "all"),
    }
    run = (*data, "--arithmetic", options.arithmetic)
    files = {name: out / f"{name}.int8.onnx" for name in sources}
    for name, source in sources.items():
        arguments = ("export-int8", *source, *run, *_GATES, "--out", str(files[name]))
        yield Step(arguments=arguments, out=files[name], resumable=False)
    of_float = {"baseline": ("--surrogate", str(trained), *code) if trained.exists() else (*network, *start)}
    attacks = ("square", "transfer-pgd", *(("twin-pgd",) if _have_twins(files.values(), say) else ()))
    folders = [out / "train"]
    for name, file in files.items():
        surrogate = of_float.get(name, ("--surrogate", str(out / "train"), *code))
        for command, kind, given in _proofs(options, attacks, surrogate):
            folders.append(out / f"{name}-{kind}")
            yield Step(arguments=(command, str(file), *run, *given, "--out", str(folders[-1])), out=folders[-1])
    page = out / "runs.html"
    yield Step(arguments=("report", *map(str, folders), "--out", str(page)), out=page, resumable=False)


def _data(options: OwnOptions) -> tuple[str, ...]:
    named = ("--data-dir", str(options.data_dir)) if options.data_dir else ()
    named = (*named, "--split", f"{options.split:g}") if options.split is not None else named
    return ("--dataset", options.dataset, *named, "--seed", str(options.seed))


def _have_twins(files: Iterable[pathlib.Path], say: Say) -> bool:
    """Return whether the gradients of all files can be had; say why not, where one's cannot."""
    from resq_deploy.deployed.model import DeployedModel
    from resq_deploy.twin import read_twin

    try:
        for file in files:
            read_twin(DeployedModel.load(file))
    except ModelError as error:
        say(f"attacks go without the file's own gradients: {error}")
        return False
    return True


def _proofs(
    options: OwnOptions, attacks: Sequence[str], surrogate: tuple[str, ...]
) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Return what each file goes through: the command, what its folder is called by, and its options."""
    images = ("--images", str(options.images))
    strength = ("--epsilon", _EPSILON, "--steps", str(_STEPS), "--queries", "100")
    return (
        ("faultcamp", "ber", ("--faults", "ber", "--roles", "weight", "--ber", _BER, "--chips", "10", *images)),
        ("faultcamp", "single", ("--samples", "300", *images)),
        ("attackcamp", "attacks", ("--attacks", ",".join(attacks), *surrogate, *strength, *images)),
    )


def _summary(out: pathlib.Path, options: OwnOptions) -> dict[str, Any]:
    """Return the figures of all steps, as those of the demo on digits."""
    files = {name: _figures(out, name) for name in FILES}
    attacked = _read(out / "baseline-attacks" / "summary.json")
    sidecar = _read(out / "baseline.int8.json")
    return {
        "schema": 1,
        "dataset": sidecar["dataset"]["name"],
        "arithmetic": attacked["arithmetic"],
        "network": options.network,
        "test_images": attacked["threat"]["images"],
        "attack_steps": attacked["threat"]["steps"],
        "attacks": list(attacked["threat"]["attacks"]),
        "fault_images": _read(out / "baseline-single" / "summary.json")["golden"]["images"],
        "files": files,
    }


def _figures(out: pathlib.Path, name: str) -> dict[str, Any]:
    sidecar = _read(out / f"{name}.int8.json")
    attacked, curve, single = (_read(out / f"{name}-{kind}" / "summary.json") for kind in ("attacks", "ber", "single"))
    return {
        "sha256": sidecar["model"]["sha256"],
        "accuracy": sidecar["accuracy"],
        "clean": attacked["clean"],
        "pgd": [
            {"epsilon": float(epsilon) / 255, "float": None, "int8": found}
            for epsilon, found in attacked["worst_case"].items()
        ],
        "trustworthy": attacked["trustworthy"],
        "curve": curve["curve"],
        "sdc1": single["rates"]["sdc1"],
        "single": {key: single[key] for key in ("population", "faults", "rates", "by_role")},
    }


def _read(path: pathlib.Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
