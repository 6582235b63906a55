"""The networks that are hardened: normalisation inside, stems for small images, feature taps.

Importing this package does not import torch; `build_network` does, when it is called.
"""

from resq_deploy.networks.names import NETWORKS
from resq_deploy.networks.registry import build_network

__all__ = ["NETWORKS", "build_network"]
