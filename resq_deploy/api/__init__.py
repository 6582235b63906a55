"""The toolkit from Python: `import resq_deploy as rd`, then `rd.load`, `rd.faultcamp`, `rd.attackcamp` and so on.

What is here is also what the commands are made of. Nothing heavy is imported before it is needed: torch by what trains
or traces a network, matplotlib by figures, pandas by data frames. Every error meant for the user is a
`resq_deploy.errors.ResqError`, whose message is one line.
"""

from resq_deploy.api.campaigns import attackcamp, estimate_faultcamp, faultcamp
from resq_deploy.api.comparing import Compared, compare, write_report
from resq_deploy.api.data import dataset
from resq_deploy.api.making import export_int8, harden, protect, scrub
from resq_deploy.api.model import Model, load
from resq_deploy.api.runs import AttackRun, Fault, FaultBit, FaultRun, Run, TrainRun, open_run

__all__ = [
    "AttackRun",
    "Compared",
    "Fault",
    "FaultBit",
    "FaultRun",
    "Model",
    "Run",
    "TrainRun",
    "attackcamp",
    "compare",
    "dataset",
    "estimate_faultcamp",
    "export_int8",
    "faultcamp",
    "harden",
    "load",
    "open_run",
    "protect",
    "scrub",
    "write_report",
]
