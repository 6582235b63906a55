"""What a file can be run by is known before anything is."""

import pytest

from resq_deploy.deployed.deployment import Deployment
from resq_deploy.errors import ModelError


def test_an_unknown_provider_is_refused_with_those_there_are():
    with pytest.raises(ModelError, match=r"no provider 'NoSuchProvider' here; available: .*CPUExecutionProvider"):
        Deployment(providers=("NoSuchProvider",))
