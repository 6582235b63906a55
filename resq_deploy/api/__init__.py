"""The toolkit from Python: `import resq_deploy as rd`, then `rd.load`, `rd.faultcamp`, `rd.attackcamp` and so on.

What is here is also what the commands are made of. Nothing heavy is imported before it is needed: torch by what trains
or traces a network, matplotlib by figures, pandas by data frames. Every error meant for the user is a
`resq_deploy.errors.ResqError`, whose message is one line.
"""

import importlib
from typing import TYPE_CHECKING, Any

from resq_deploy.api.campaigns import attackcamp, estimate_faultcamp, faultcamp
from resq_deploy.api.comparing import FORMATS, Compared, Written, compare, write_report
from resq_deploy.api.data import dataset
from resq_deploy.api.demonstration import DemoRun, demo
from resq_deploy.api.exporting import export_int8, export_options, gate_options, protect, task_wish
from resq_deploy.api.gates import GateVerdict, junit
from resq_deploy.api.images import preprocessing
from resq_deploy.api.inspection import Inspection
from resq_deploy.api.integrity import Integrity, check_digests, write_digests
from resq_deploy.api.model import Model, load
from resq_deploy.api.named import attack_options, fault_options
from resq_deploy.api.runs import AttackRun, Fault, FaultBit, FaultRun, Run, TrainRun, open_run
from resq_deploy.api.safety import DANGEROUS, FMEDA_BY, FmedaResult, fmeda
from resq_deploy.api.scrubbing import Scrubbed, scrub, write_checker
from resq_deploy.api.self_tests import check_selftest, selftest
from resq_deploy.api.studying import StudyRequest, study, study_commands
from resq_deploy.api.training import harden, train_options

if TYPE_CHECKING:
    from resq_deploy.campaign.options import CampaignOptions as CampaignOptions
    from resq_deploy.data import Dataset as Dataset
    from resq_deploy.data.preprocessing import Asked as Asked
    from resq_deploy.data.preprocessing import Preprocessing as Preprocessing
    from resq_deploy.deployed.arithmetic import Arithmetic as Arithmetic
    from resq_deploy.deployed.deployment import Deployment as Deployment
    from resq_deploy.deployed.folding import Folding as Folding
    from resq_deploy.hardening.options import TrainOptions as TrainOptions
    from resq_deploy.pipeline.attack_options import AttackOptions as AttackOptions
    from resq_deploy.pipeline.gates import GateOptions as GateOptions
    from resq_deploy.pipeline.protect import Judgement as Judgement
    from resq_deploy.pipeline.protect import Outcome as Outcome
    from resq_deploy.pipeline.selftest import SelfTestOptions as SelfTestOptions
    from resq_deploy.pipeline.selftest_bundle import Checked as Checked
    from resq_deploy.pipeline.task_export import TaskWish as TaskWish
    from resq_deploy.protection.any_file import ProtectOptions as ProtectOptions
    from resq_deploy.protection.inspection import Protection as Protection
    from resq_deploy.quantization.options import ExportOptions as ExportOptions

_TYPES = {
    "Arithmetic": "resq_deploy.deployed.arithmetic",
    "Asked": "resq_deploy.data.preprocessing",
    "AttackOptions": "resq_deploy.pipeline.attack_options",
    "CampaignOptions": "resq_deploy.campaign.options",
    "Checked": "resq_deploy.pipeline.selftest_bundle",
    "Dataset": "resq_deploy.data",
    "Deployment": "resq_deploy.deployed.deployment",
    "ExportOptions": "resq_deploy.quantization.options",
    "Folding": "resq_deploy.deployed.folding",
    "GateOptions": "resq_deploy.pipeline.gates",
    "Judgement": "resq_deploy.pipeline.protect",
    "Outcome": "resq_deploy.pipeline.protect",
    "Preprocessing": "resq_deploy.data.preprocessing",
    "ProtectOptions": "resq_deploy.protection.any_file",
    "Protection": "resq_deploy.protection.inspection",
    "SelfTestOptions": "resq_deploy.pipeline.selftest",
    "TaskWish": "resq_deploy.pipeline.task_export",
    "TrainOptions": "resq_deploy.hardening.options",
}
"""Where types of options and results lie: they need numpy and more, and are imported when they are asked for."""

__all__ = [
    "DANGEROUS",
    "FMEDA_BY",
    "FORMATS",
    "AttackRun",
    "Compared",
    "DemoRun",
    "Fault",
    "FaultBit",
    "FaultRun",
    "FmedaResult",
    "GateVerdict",
    "Inspection",
    "Integrity",
    "Model",
    "Run",
    "Scrubbed",
    "StudyRequest",
    "TrainRun",
    "Written",
    "attack_options",
    "attackcamp",
    "check_digests",
    "check_selftest",
    "compare",
    "dataset",
    "demo",
    "estimate_faultcamp",
    "export_int8",
    "export_options",
    "fault_options",
    "faultcamp",
    "fmeda",
    "gate_options",
    "harden",
    "junit",
    "load",
    "open_run",
    "preprocessing",
    "protect",
    "scrub",
    "selftest",
    "study",
    "study_commands",
    "task_wish",
    "train_options",
    "write_checker",
    "write_digests",
    "write_report",
    *_TYPES,
]


def __getattr__(name: str) -> Any:
    """Return a type of options or results."""
    if name in _TYPES:
        return getattr(importlib.import_module(_TYPES[name]), name)
    raise AttributeError(f"module 'resq_deploy.api' has no attribute {name!r}")
