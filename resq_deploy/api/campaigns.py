"""Campaigns on a file: faults in its stored bits, and attacks on its inputs."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resq_deploy.api.given import (
    PathLike,
    Say,
    Tell,
    as_asked,
    as_dataset,
    as_deployed,
    as_options,
    as_path,
    silent,
    told,
)
from resq_deploy.api.runs import AttackRun, FaultRun
from resq_deploy.records import read_manifest

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from resq_deploy.api.model import Model
    from resq_deploy.campaign.gates import Gate
    from resq_deploy.campaign.options import CampaignOptions
    from resq_deploy.campaign.run import Campaign
    from resq_deploy.data import Dataset
    from resq_deploy.data.preprocessing import Asked, Preprocessing
    from resq_deploy.data.samples import Samples
    from resq_deploy.pipeline.attack_gates import AttackGate
    from resq_deploy.pipeline.attack_options import AttackOptions


def faultcamp(
    model: "PathLike | Model",
    data: "str | os.PathLike[str] | Dataset | Samples",
    options: "CampaignOptions | None" = None,
    *,
    out: PathLike,
    data_dir: PathLike | None = None,
    preprocessing: "Preprocessing | Asked | None" = None,
    resume: bool = False,
    refine: PathLike | None = None,
    gates: "Sequence[str | Gate]" = (),
    progress: bool | Tell = False,
    say: Say = silent,
    feed: "Mapping[str, ArrayLike] | None" = None,
    state: Mapping[str, str] | None = None,
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
        preprocessing: what stands between images and the file; None for what its sidecar says.
        resume: go on with the campaign in `out`.
        refine: run folder of a finished campaign to go on with, where its intervals are widest.
        gates: bounds as on the command line, such as `sdc1=0.01`; what became of them stands in the summary's `gates`.
        progress: True for a bar, or a function that is told.
        say: told what a user should know.
        feed: values of inputs that are the same for all samples, by input.
        state: outputs that are fed back as inputs, output -> input: a sample is a sequence then.
        named: options by name, as `CampaignOptions` has them; roles, bits and rates may be text, as on the command
            line (`roles="weight,bias"`).

    Raises:
        InputError: if model, data or options cannot be used.
        FailedError: if the figures cannot be trusted; a gate that fails is no error here.
    """
    campaign = _fault_campaign(model, data, options, data_dir, preprocessing, refine, gates, say, feed, state, named)
    path = as_path(out)
    with told(progress, "faults") as tell:
        summary = campaign.run(
            path,
            resume=resume,
            report=lambda now: tell(now.done, now.total, "bit errors" if campaign.plan.masks else "faults"),
        )
    return FaultRun(path, read_manifest(path), summary)


def estimate_faultcamp(
    model: "PathLike | Model",
    data: "str | os.PathLike[str] | Dataset | Samples",
    options: "CampaignOptions | None" = None,
    *,
    data_dir: PathLike | None = None,
    preprocessing: "Preprocessing | Asked | None" = None,
    feed: "Mapping[str, ArrayLike] | None" = None,
    state: Mapping[str, str] | None = None,
    **named: Any,
) -> dict[str, Any]:
    """Return population, planned faults and an estimate of the seconds a campaign would take; writes nothing.

    Args:
        model: as for `faultcamp`; so `data`, `options`, `data_dir` and `named`.
        data: its test images.
        options: what to do.
        data_dir: where named data sets lie.
        preprocessing: what stands between images and the file; None for what its sidecar says.
        feed: as for `faultcamp`; so `state`.
        state: outputs that are fed back.
        named: options by name.
    """
    return _fault_campaign(
        model, data, options, data_dir, preprocessing, None, (), silent, feed, state, named
    ).estimate()


def attackcamp(
    model: "PathLike | Model",
    data: "str | os.PathLike[str] | Dataset",
    options: "AttackOptions | None" = None,
    *,
    out: PathLike,
    data_dir: PathLike | None = None,
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
        preprocessing: what stands between images and the file; None for what its sidecar says.
        resume: go on with the campaign in `out`.
        gates: bounds as on the command line, such as `robust@4=0.4`; what became of them stands in the summary.
        progress: True for a bar, or a function that is told.
        say: told what a user should know.
        named: options by name, as `AttackOptions` has them.

    Raises:
        InputError: if model, data or options cannot be used.
        MissingExtraError: if an attack needs what is not installed.
    """
    from resq_deploy.attacks.ball import Norm
    from resq_deploy.deployed.sidecar import accuracy_told, made_ready
    from resq_deploy.pipeline.attack import AttackCampaign
    from resq_deploy.pipeline.attack_options import AttackOptions

    values = dict(named)
    for name, convert in (("attacks", tuple), ("epsilon", tuple), ("norm", Norm), ("surrogate", as_path)):
        if values.get(name) is not None:
            values[name] = convert(values[name])
    file, chosen = as_deployed(model), as_options(AttackOptions, options, values)
    found = as_dataset(data, data_dir)
    dataset, chosen, notes = made_ready(chosen, file, found, as_asked(preprocessing).on(found))
    campaign = AttackCampaign(file, dataset, chosen, _attack_gates(gates))
    for line in (*notes, *campaign.notes, *accuracy_told(file, dataset, campaign.golden.right, campaign.golden.labels)):
        say(line)
    path = as_path(out)
    with told(progress, "units") as tell:
        summary = campaign.run(path, resume=resume, report=lambda now: tell(now.done, now.total, now.stage))
    return AttackRun(path, read_manifest(path), summary)


def _fault_campaign(
    model: "PathLike | Model",
    data: "str | os.PathLike[str] | Dataset | Samples",
    options: "CampaignOptions | None",
    data_dir: PathLike | None,
    preprocessing: "Preprocessing | Asked | None",
    refine: PathLike | None,
    gates: "Sequence[str | Gate]",
    say: Say,
    feed: "Mapping[str, ArrayLike] | None",
    state: Mapping[str, str] | None,
    named: Mapping[str, Any],
) -> "Campaign":
    import numpy as np

    from resq_deploy.campaign.gates import parse_gate
    from resq_deploy.campaign.options import CampaignOptions
    from resq_deploy.campaign.refine import Base
    from resq_deploy.campaign.run import Campaign
    from resq_deploy.data import Dataset
    from resq_deploy.data.samples import Samples
    from resq_deploy.deployed.sidecar import accuracy_told, made_ready
    from resq_deploy.pipeline.campaign_data import data_for

    file, chosen = as_deployed(model), as_options(CampaignOptions, options, _read_names(named))
    found = data_for(
        file,
        data if isinstance(data, Dataset | Samples) else os.fspath(data),
        chosen.deployment,
        data_dir=None if data_dir is None else as_path(data_dir),
        count=named.get("images"),
        once={name: np.asarray(value) for name, value in (feed or {}).items()},
        states={taken: output for output, taken in (state or {}).items()},
    )
    given, chosen, notes = made_ready(chosen, file, found, as_asked(preprocessing).on(found))
    base = None if refine is None else Base.read(as_path(refine))
    if base is not None:
        chosen = base.refined(chosen)
    bounds = [parse_gate(gate) if isinstance(gate, str) else gate for gate in gates]
    campaign = Campaign(file, given, chosen, say, bounds, base)
    for line in (
        *notes,
        *(f"note: {note}" for note in campaign.golden.notes),
        *accuracy_told(file, given, campaign.golden.right, campaign.golden.labels),
    ):
        say(line)
    return campaign


def _read_names(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a fault campaign whose values may be text, as on the command line, as values."""
    from resq_deploy.campaign.options import (
        FaultModel,
        parse_bits,
        parse_draw,
        parse_images_per_fault,
        parse_rates,
        parse_roles,
    )

    values = dict(named)
    readers = {
        "roles": parse_roles,
        "bits": parse_bits,
        "ber": parse_rates,
        "images_per_fault": parse_images_per_fault,
        "draw": parse_draw,
    }
    for name, read in readers.items():
        if isinstance(values.get(name), str):
            values[name] = read(values[name])
    if isinstance(values.get("ber"), float):
        values["ber"] = (values["ber"],)
    for name in ("roles", "bits", "ber"):
        if name in values:
            values[name] = tuple(values[name])
    if values.get("fault_list") is not None:
        values |= {"fault_list": as_path(values["fault_list"]), "faults": FaultModel.LIST}
    elif "faults" in values:
        values["faults"] = FaultModel(values["faults"])
    return values


def _attack_gates(gates: "Sequence[str | AttackGate]") -> "list[AttackGate]":
    from resq_deploy.pipeline.attack_gates import parse_gate

    return [parse_gate(gate) if isinstance(gate, str) else gate for gate in gates]
