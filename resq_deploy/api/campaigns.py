"""Campaigns on a file: faults in its stored bits, and attacks on its inputs."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resq_deploy.api.extras import need_extra
from resq_deploy.api.given import (
    PathLike,
    Say,
    Tell,
    as_asked,
    as_dataset,
    as_deployed,
    as_path,
    silent,
    told,
)
from resq_deploy.api.named import attack_options, fault_options
from resq_deploy.api.runs import AttackRun, FaultRun
from resq_deploy.records import check_free, read_manifest

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from resq_deploy.api.model import Model
    from resq_deploy.campaign.gates import Gate, Need
    from resq_deploy.campaign.options import CampaignOptions
    from resq_deploy.campaign.run import Campaign
    from resq_deploy.data import Dataset
    from resq_deploy.data.preprocessing import Asked, Preprocessing
    from resq_deploy.data.samples import Data, Samples
    from resq_deploy.deployed.deployment import Deployment
    from resq_deploy.deployed.model import DeployedModel
    from resq_deploy.pipeline.attack import AttackCampaign
    from resq_deploy.pipeline.attack_gates import AttackGate
    from resq_deploy.pipeline.attack_options import AttackOptions


def faultcamp(
    model: "PathLike | Model",
    data: "str | os.PathLike[str] | Dataset | Samples",
    options: "CampaignOptions | None" = None,
    *,
    out: PathLike,
    data_dir: PathLike | None = None,
    split: float | None = None,
    preprocessing: "Preprocessing | Asked | None" = None,
    resume: bool = False,
    refine: PathLike | None = None,
    gates: "Sequence[str | Gate]" = (),
    progress: bool | Tell = False,
    say: Say = silent,
    feed: "Mapping[str, ArrayLike] | Sequence[str]" = (),
    state: Mapping[str, str] | Sequence[str] = (),
    size: Mapping[str, int] | Sequence[str] = (),
    **named: Any,
) -> FaultRun:
    """Flip stored bits of a file, run it on test images with onnxruntime, and count what happens.

    Example:
        >>> run = rd.faultcamp("net.int8.onnx", "digits", out="run", samples=200, images=100)
        >>> run.sdc1
        Estimate(value=..., low=..., high=..., n=200, confidence=0.95)

    Args:
        model: the file under test.
        data: its test images, or other samples, judge the faults: a data set, an `.npz` with one array an input, or
            `synthetic` for samples that are made up.
        options: what to do; `named` options stand in place of theirs.
        out: run folder to write.
        data_dir: where named data sets lie.
        split: share of each class to test on, of a folder DIR/CLASS/*; None for what the sidecar says.
        preprocessing: what stands between images and the file; None for what its sidecar says.
        resume: go on with the campaign in `out`.
        refine: run folder of a finished campaign to go on with, where its intervals are widest.
        gates: bounds as on the command line, such as `sdc1=0.01`; what became of them is in the run's `gates`.
        progress: True for a bar, or a function that is told.
        say: told what a user should know.
        feed: values of inputs that are the same for all samples, by input; or as text, `NAME=VALUE`.
        state: outputs that are fed back as inputs, output -> input: a sample is a sequence then; or `OUT=IN`.
        size: how long open dimensions of made-up samples are, by name or place; or `AXIS=N`.
        named: options by name, as `fault_options` takes them (`roles="weight,bias"`, `arithmetic="native"`).

    Raises:
        InputError: if model, data or options cannot be used.
        FailedError: if the figures cannot be trusted; a gate that fails is no error here.
    """
    path, chosen = as_path(out), fault_options(options, **named)
    held = _fault_gates(gates)
    check_free(path, resume=resume)
    asked = _Asked(data, data_dir, split, preprocessing, refine, feed, state, size, named.get("images"))
    campaign = _fault_campaign(model, chosen, asked, held, say)
    for line in (*_arithmetic_told(chosen.deployment), *map(_need_told, _narrow(campaign, held))):
        say(line)
    with told(progress, "faults") as tell:
        summary = campaign.run(
            path,
            resume=resume,
            # Bit error rates are never pooled, not even here.
            report=lambda now: tell(
                now.done, now.total, "bit errors" if campaign.plan.masks else f"SDC-1 {100 * now.sdc1:.2f} %"
            ),
        )
    return FaultRun(path, read_manifest(path), summary)


def estimate_faultcamp(
    model: "PathLike | Model",
    data: "str | os.PathLike[str] | Dataset | Samples",
    options: "CampaignOptions | None" = None,
    *,
    data_dir: PathLike | None = None,
    split: float | None = None,
    preprocessing: "Preprocessing | Asked | None" = None,
    refine: PathLike | None = None,
    gates: "Sequence[str | Gate]" = (),
    say: Say = silent,
    feed: "Mapping[str, ArrayLike] | Sequence[str]" = (),
    state: Mapping[str, str] | Sequence[str] = (),
    size: Mapping[str, int] | Sequence[str] = (),
    **named: Any,
) -> dict[str, Any]:
    """Return population, planned faults and an estimate of the seconds a campaign would take; writes nothing.

    Args:
        model: as for `faultcamp`; so all that is not told of here.
        data: its test images.
        options: what to do.
        data_dir: where named data sets lie.
        split: share of each class to test on.
        preprocessing: what stands between images and the file; None for what its sidecar says.
        refine: run folder of a finished campaign to go on with.
        gates: bounds, which none is held against: the plan's `needs` says what they take to pass.
        say: told what a user should know.
        feed: values of inputs that are the same for all samples.
        state: outputs that are fed back.
        size: how long open dimensions of made-up samples are.
        named: options by name.

    Returns:
        The plan: `population`, `planned`, `expected`, `seconds` and so on; `needs`, a list of `told`, in words, and
        `reachable`, whether the gate can pass at all.
    """
    chosen, held = fault_options(options, **named), _fault_gates(gates)
    asked = _Asked(data, data_dir, split, preprocessing, refine, feed, state, size, named.get("images"))
    campaign = _fault_campaign(model, chosen, asked, (), say)
    from resq_deploy.campaign.gates import needs

    told_needs = [{"told": str(need), "reachable": need.reachable} for need in needs(held, campaign.plan)]
    return {**campaign.estimate(), "needs": told_needs}


def attackcamp(
    model: "PathLike | Model",
    data: "str | os.PathLike[str] | Dataset",
    options: "AttackOptions | None" = None,
    *,
    out: PathLike,
    data_dir: PathLike | None = None,
    split: float | None = None,
    preprocessing: "Preprocessing | Asked | None" = None,
    resume: bool = False,
    gates: "Sequence[str | AttackGate]" = (),
    progress: bool | Tell = False,
    say: Say = silent,
    **named: Any,
) -> AttackRun:
    """Attack a file as it is deployed, on onnxruntime, and check that the figures can be trusted.

    Example:
        >>> run = rd.attackcamp("net.int8.onnx", "digits", out="run", attacks=["square"], epsilon=[4], images=100)
        >>> run.robust()[4.0], run.trustworthy

    Args:
        model: the file under test.
        data: its test images are attacked.
        options: what to do; `named` options stand in place of theirs.
        out: run folder to write.
        data_dir: where named data sets lie.
        split: share of each class to test on, of a folder DIR/CLASS/*; None for what the sidecar says.
        preprocessing: what stands between images and the file; None for what its sidecar says.
        resume: go on with the campaign in `out`.
        gates: bounds as on the command line, such as `robust@4=0.4`; what became of them is in the run's `gates`.
        progress: True for a bar, or a function that is told.
        say: told what a user should know.
        named: options by name, as `attack_options` takes them.

    Raises:
        InputError: if model, data or options cannot be used.
        MissingExtraError: if an attack needs what is not installed.
    """
    path, chosen = as_path(out), attack_options(options, **named)
    held = _attack_gates(gates)
    _check_attacks(chosen)
    check_free(path, resume=resume)
    file = as_deployed(model)
    found = as_dataset(data, data_dir, split)
    campaign = _attack_campaign(file, found, chosen, split, as_asked(preprocessing), held, say)
    with told(progress, "units") as tell:
        summary = campaign.run(path, resume=resume, report=lambda now: tell(now.done, now.total, now.stage))
    return AttackRun(path, read_manifest(path), summary)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What a fault campaign is run on, as the caller says it."""

    data: "str | os.PathLike[str] | Dataset | Samples"
    data_dir: PathLike | None
    split: float | None
    preprocessing: "Preprocessing | Asked | None"
    refine: PathLike | None
    feed: "Mapping[str, ArrayLike] | Sequence[str]"
    state: Mapping[str, str] | Sequence[str]
    size: Mapping[str, int] | Sequence[str]
    count: int | None

    def found(self, file: "DeployedModel", deployment: "Deployment") -> "Data":
        """Return the data."""
        import numpy as np

        from resq_deploy.data import Dataset
        from resq_deploy.data.samples import Samples, parse_feeds, parse_sizes, parse_states
        from resq_deploy.pipeline.campaign_data import data_for

        feed, state, size = self.feed, self.state, self.size
        return data_for(
            file,
            self.data if isinstance(self.data, Dataset | Samples) else os.fspath(self.data),
            deployment,
            data_dir=None if self.data_dir is None else as_path(self.data_dir),
            count=self.count,
            once={name: np.asarray(value) for name, value in feed.items()}
            if isinstance(feed, Mapping)
            else parse_feeds(feed),
            states={taken: output for output, taken in state.items()}
            if isinstance(state, Mapping)
            else parse_states(state),
            sizes=size if isinstance(size, Mapping) else parse_sizes(size),
        )


def _fault_campaign(
    model: "PathLike | Model", options: "CampaignOptions", asked: _Asked, gates: "Sequence[Gate]", say: Say
) -> "Campaign":
    """Return a campaign that is ready to run, and say what is to be known of it."""
    from resq_deploy.campaign.refine import Base
    from resq_deploy.campaign.run import Campaign
    from resq_deploy.deployed.sidecar import accuracy_told, made_ready

    wish = as_asked(asked.preprocessing)
    base = None if asked.refine is None else Base.read(as_path(asked.refine))
    chosen = options if base is None else base.refined(options)
    file = as_deployed(model)
    found = asked.found(file, chosen.deployment)
    data, chosen, notes = made_ready(chosen, file, found, wish.on(found), split=asked.split)
    campaign = Campaign(file, data, chosen, say, gates, base)
    golden = campaign.golden
    for line in (
        *notes,
        *(f"note: {note}" for note in golden.notes),
        *accuracy_told(file, data, golden.right, golden.labels),
    ):
        say(line)
    return campaign


def _attack_campaign(
    file: "DeployedModel",
    found: "Dataset",
    options: "AttackOptions",
    split: float | None,
    asked: "Asked",
    gates: "Sequence[AttackGate]",
    say: Say,
) -> "AttackCampaign":
    """Return a campaign that is ready to run, and say what is to be known of it."""
    from resq_deploy.deployed.sidecar import accuracy_told, made_ready
    from resq_deploy.pipeline.attack import AttackCampaign

    calibrates = "bit-flip" in options.chosen
    data, chosen, notes = made_ready(options, file, found, asked.on(found), split=split, calibrates=calibrates)
    campaign = AttackCampaign(file, data, chosen, gates)
    for line in (
        *notes,
        *(f"note: {note}" for note in campaign.notes),
        *accuracy_told(file, data, campaign.golden.right, campaign.golden.labels),
        *_arithmetic_told(chosen.deployment),
    ):
        say(line)
    return campaign


def _check_attacks(options: "AttackOptions") -> None:
    """Check, before anything is loaded, that what the attacks need is installed and there.

    Raises:
        InputError: if it is not.
    """
    from resq_deploy.pipeline.float_source import FloatSource

    needs = {"hopskipjump": ("attacks", "art")} | dict.fromkeys(
        ("transfer-pgd", "twin-pgd", "twin-apgd", "bit-flip"), ("train", "torch")
    )
    for attack in options.chosen:
        if attack in needs:
            extra, module = needs[attack]
            need_extra(f"the attack {attack} (--attacks square does without)", extra, module)
    options.check_files()
    if options.surrogate is not None:
        FloatSource(source=options.surrogate, network=options.network)


def _arithmetic_told(deployment: "Deployment") -> Iterator[str]:
    """Yield what native arithmetic means on this CPU, where that is another than exact."""
    if deployment.arithmetic == "native" and deployment.saturates:
        yield (
            "note: native arithmetic on a CPU that saturates sums of 8-bit products: the figures hold for this kind of "
            "CPU alone"
        )


def _narrow(campaign: "Campaign", gates: "Sequence[Gate]") -> "list[Need]":
    """Return what gates need whose bound a campaign of this margin may not tell from nothing."""
    from resq_deploy.campaign.gates import needs

    found = needs(gates, campaign.plan)
    return [need for need in found if need.margin is not None and need.gate.bound <= need.margin]


def _need_told(need: "Need") -> str:
    return f"note: {need}, which may leave its upper end above the bound: give a lower --margin"


def _fault_gates(gates: "Sequence[str | Gate]") -> "list[Gate]":
    from resq_deploy.campaign.gates import parse_gate

    return [parse_gate(gate) if isinstance(gate, str) else gate for gate in gates]


def _attack_gates(gates: "Sequence[str | AttackGate]") -> "list[AttackGate]":
    from resq_deploy.pipeline.attack_gates import parse_gate

    return [parse_gate(gate) if isinstance(gate, str) else gate for gate in gates]
