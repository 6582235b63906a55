"""Known-answer self-tests: made from a campaign, and held against a file."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resq_deploy.api.given import PathLike, as_deployed, as_options, as_path
from resq_deploy.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from resq_deploy.api.model import Model
    from resq_deploy.campaign.finished import Finished
    from resq_deploy.data import Dataset
    from resq_deploy.data.samples import Data, Samples
    from resq_deploy.deployed.model import DeployedModel
    from resq_deploy.pipeline.selftest import SelfTestOptions
    from resq_deploy.pipeline.selftest_bundle import Checked


def selftest(
    model: "PathLike | Model",
    data: "str | os.PathLike[str] | Dataset | Samples",
    options: "SelfTestOptions | None" = None,
    *,
    campaign: PathLike,
    out: PathLike,
    data_dir: PathLike | None = None,
    split: float | None = None,
    feed: "Mapping[str, ArrayLike] | Sequence[str]" = (),
    state: Mapping[str, str] | Sequence[str] = (),
    size: Mapping[str, int] | Sequence[str] = (),
    **named: Any,
) -> dict[str, Any]:
    """Choose the inputs that reveal most harmful faults of a campaign, and write them as a bundle with a checker.

    Example:
        >>> found = rd.selftest("net.int8.onnx", "digits", campaign="run", images=8, out="selftest.npz")
        >>> found["coverage"]
        {'value': ..., 'low': ..., 'high': ..., 'n': ..., 'confidence': 0.95}

    Args:
        model: the file under test.
        data: what the campaign was run on.
        options: what to make it of; `named` options stand in place of theirs.
        campaign: run folder of a finished fault campaign on all images.
        out: the bundle to write, an `.npz`.
        data_dir: where named data sets lie.
        split: as the campaign was told, where the file's sidecar does not say.
        feed: as for `faultcamp`, or text as on the command line; so `state` and `size`.
        state: outputs that are fed back.
        size: of made-up samples.
        named: options by name, as `SelfTestOptions` has them; `held_out` a share, or the folder of a second campaign.

    Returns:
        What was chosen, and the share of harmful faults held out that it reveals: `coverage`, `curve` over the number
        of images, `by_role`, and so on.

    Raises:
        InputError: if file, data, campaign or options cannot be used.
        FailedError: if too few faults do harm to measure by.
    """
    import numpy as np

    from resq_deploy.data import Dataset
    from resq_deploy.data.samples import Samples, as_samples, parse_feeds, parse_sizes, parse_states
    from resq_deploy.pipeline.campaign_data import SYNTHETIC, data_for
    from resq_deploy.pipeline.selftest import SelfTestOptions, make

    target = as_path(out)
    if target.suffix != ".npz":
        raise OptionError(f"--out {target}: the file's name must end in .npz")
    if not target.parent.is_dir():
        raise OptionError(f"--out {target}: there is no folder {target.parent}")
    values = dict(named)
    if isinstance(values.get("held_out"), str | os.PathLike):
        values["held_out"] = as_path(values["held_out"])
    chosen = as_options(SelfTestOptions, options, values)
    once = parse_feeds(feed) if not isinstance(feed, Mapping) else {key: np.asarray(feed[key]) for key in feed}
    carried = {state[key]: key for key in state} if isinstance(state, Mapping) else parse_states(state)
    sizes = size if isinstance(size, Mapping) else parse_sizes(size)
    source = data if isinstance(data, Dataset | Samples) else os.fspath(data)

    def load(file: "DeployedModel", finished: "Finished") -> "Data":
        def found(count: int | None) -> "Data":
            return data_for(
                file,
                source,
                finished.options.deployment,
                data_dir=None if data_dir is None else as_path(data_dir),
                count=count,
                once=once,
                states=carried,
                sizes=sizes,
            )

        usual = found(None)
        made_up = source == SYNTHETIC and as_samples(usual).digest != finished.sha256.get("data")
        return found(finished.options.images) if made_up else usual

    return make(as_deployed(model), as_path(campaign), target, chosen, load, split=split)


def check_selftest(bundle: PathLike, model: PathLike, *, arithmetic: str | None = None) -> "Checked":
    """Hold a file's answers against the known ones of a bundle.

    Example:
        >>> rd.check_selftest("selftest.npz", "net.int8.onnx").passed
        True

    Args:
        bundle: as `selftest` wrote it.
        model: the file, damaged or not.
        arithmetic: `exact` or `native`; None for that of the bundle.

    Returns:
        `passed`, and `differences`, a line for every answer that is another one.

    Raises:
        InputError: if one of them is missing or unusable, or this CPU cannot give such answers.
    """
    from resq_deploy.deployed.arithmetic import Arithmetic
    from resq_deploy.pipeline.selftest_bundle import check

    return check(as_path(bundle), as_path(model), None if arithmetic is None else Arithmetic(arithmetic))
