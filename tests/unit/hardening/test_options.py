import dataclasses
import json
import subprocess
import sys

import pytest

from resq_deploy.errors import OptionError
from resq_deploy.hardening.options import TrainOptions, with_recipe

BASE = {"network": "resnet8", "dataset": "digits"}


@pytest.mark.parametrize(
    ("change", "mend"),
    [
        ({"stages": ()}, "give --stages with some of baseline,attack,fault"),
        ({"stages": ("basline",)}, "unknown stage 'basline'"),
        ({"stages": ("fault", "attack")}, "give --stages attack,fault"),
        ({"stages": ("attack", "attack")}, "give --stages attack"),
        ({"epsilon": 0.0}, "give --epsilon above 0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"epsilon": 4.0}, "epsilon is 4: give a number from 0 to 1"),
        ({"epochs_fault": 0}, "epochs-fault is 0: give at least 1"),
        ({"train_images": 0}, "train-images is 0"),
        ({"batch_size": 1}, "batch-norm needs 2"),
        ({"seed": -1}, "seed is -1"),
        ({"fault_rate": 0.0}, "fault-rate is 0"),
        ({"fault_rate": 1e-20}, "fault-rate is 1e-20: give a number from 1e-09"),
        ({"fault_rate": 0.7}, "fault-rate is 0.7"),
        ({"adversarial_weight": 1.5}, "adversarial-weight is 1.5"),
        ({"clip_final": 0.0}, "clip-final is 0"),
        ({"attack": "pgd", "attack_steps": 1, "attack_step": 1 / 255}, "give more steps or larger ones"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_options_that_make_no_sense_name_the_mend(change, mend):
    with pytest.raises(OptionError, match=mend) as caught:
        TrainOptions(**{**BASE, **change})
    assert "\n" not in str(caught.value)


def test_what_the_user_gives_goes_before_the_recipe():
    assert with_recipe("gtsrb", {"network": "resnet20"}).epsilon_warmup == 0.3
    assert with_recipe("gtsrb", {"network": "resnet20", "epsilon_warmup": 0.0}).epsilon_warmup == 0
    assert with_recipe("cifar10", {"network": "resnet20", "epsilon_warmup": None}).epsilon_warmup == 0


def test_a_transformer_gets_adamw_and_its_rates_unless_told_otherwise():
    swin = with_recipe("gtsrb", {"network": "swin_t"})
    assert (swin.optimizer, swin.rate_baseline, swin.weight_decay) == ("adamw", 1e-3, 0.05)
    assert swin.epsilon_warmup == 0.3, "what the data set asks beside the rates stays"
    assert with_recipe("gtsrb", {"network": "swin_t", "rate_baseline": 5e-4}).rate_baseline == 5e-4
    assert with_recipe("gtsrb", {"network": "swin_t", "optimizer": "sgd"}).rate_baseline == 0.05
    assert with_recipe("cifar10", {"network": "resnet20", "optimizer": "adamw"}).rate_fault == 1e-4
    assert with_recipe("cifar10", {"network": "resnet20"}).optimizer == "sgd"


def test_the_identity_is_json_and_holds_all_that_decides_the_figures():
    options = TrainOptions(**BASE)
    identity = json.loads(json.dumps(options.identity()))
    fields = {field.name for field in dataclasses.fields(TrainOptions)}
    assert fields - identity.keys() == {"device", "channels"}
    assert TrainOptions(**BASE, channels="bgr").identity()["channels"] == "bgr"
    assert identity["stages"] == ["baseline", "attack", "fault"]
    assert TrainOptions(**BASE, device="cpu").identity() == options.identity()


def test_options_and_events_come_without_torch():
    code = "import sys, resq_deploy.hardening.options, resq_deploy.hardening.events, resq_deploy.cli.train; "
    code += "sys.exit('torch' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
