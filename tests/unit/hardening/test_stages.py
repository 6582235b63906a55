"""What stages 1 and 2 do around their losses: perturbation, guard, faults, clamping, clipping, curriculum."""

import dataclasses
import math
import shutil

import pytest
import torch
from torch import nn

from resq_deploy.errors import OptionError
from resq_deploy.hardening.stage0_baseline import Baseline
from resq_deploy.hardening.stage1_desensitize import Desensitize
from resq_deploy.hardening.stage2_fault_aware import FaultAware, add_clamped, frozen_statistics
from resq_deploy.hardening.workbench import Workbench


@pytest.fixture
def batch(bench):
    return next(bench.batches("b", epochs=1, epoch=0))


@pytest.fixture
def make_bench(options, dataset, tmp_path):
    def make(**changes):
        return Workbench(dataclasses.replace(options, **changes), dataset, tmp_path, lambda _: None)

    return make


@pytest.mark.parametrize("attack", ["n-fgsm", "pgd"])
def test_a_step_of_stage_1_leaves_the_gradient_of_equation_2(make_bench, attack):
    bench = make_bench(attack=attack)
    stage = Desensitize(bench)
    batch = next(bench.batches("b", epochs=1, epoch=0))
    result = stage.step(batch)
    assert set(result.terms) == {"clean", "adversarial", "feature", "consistency"}
    assert result.loss == pytest.approx(sum(term.item() for term in result.terms.values()))
    assert all(parameter.grad is not None for parameter in bench.network.parameters())
    assert bench.network.body.conv1.weight.grad.abs().max() > 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own, while it compiles
@pytest.mark.parametrize("stage", [Baseline, Desensitize])
def test_a_compiled_step_leaves_the_gradients_of_an_eager_one(make_bench, stage, monkeypatch):
    compile_, passes, found = torch.compile, [], []
    monkeypatch.setattr(torch, "compile", lambda function: passes.append(function) or compile_(function))
    for wanted in (False, True):
        bench = make_bench(compile=wanted)
        stage(bench).step(next(bench.batches("b", epochs=1, epoch=0)))
        found.append({name: weight.grad for name, weight in bench.network.named_parameters()})
        assert bool(passes) == wanted
    for name, eager in found[0].items():
        torch.testing.assert_close(found[1][name], eager, rtol=0.02, atol=1e-4 * eager.abs().max().item() + 1e-6)


def test_without_a_compiler_compile_is_one_line(make_bench, monkeypatch):
    def broken(_):
        raise RuntimeError("no compiler\nfound\n\nSet TORCH_LOGS to see more")

    monkeypatch.setattr(torch, "compile", lambda _: broken)
    with pytest.raises(OptionError, match=r"--compile: torch cannot compile here \(no compiler found\): install"):
        make_bench(compile=True)


def test_epsilon_warms_up_linearly(make_bench):
    stage = Desensitize(make_bench(epsilon=0.08, epsilon_warmup=0.5))
    assert [stage.epsilon_at(share) for share in (0, 0.25, 0.5, 0.9)] == pytest.approx([0, 0.04, 0.08, 0.08])
    assert Desensitize(make_bench(epsilon=0.08)).epsilon_at(0) == 0.08


def test_the_guard_rejects_a_sudden_drop_only_and_softens_the_step(bench):
    stage = Desensitize(bench)
    stage.guard_before = 0.7
    assert not stage.rejects({"guard_accuracy": 0.51})
    assert stage.rejects({"guard_accuracy": 0.49})
    stage.soften()
    assert stage.step_share == 0.5
    assert stage.score({"guard_accuracy": 0.6, "robust_accuracy": 0.4}) == 0.4
    assert stage.guard_before == 0.6
    other = Desensitize(bench)
    other.load_state(stage.state())
    assert (other.step_share, other.guard_before) == (0.5, 0.6)


def test_a_softened_step_moves_images_less(bench, batch, monkeypatch):
    seen = []
    forward = bench.network.forward_with_taps
    monkeypatch.setattr(bench.network, "forward_with_taps", lambda x: (seen.append(x), forward(x))[1])
    stage = Desensitize(bench)
    for _ in range(2):
        batch.noise.manual_seed(0)
        stage.step(batch)
        stage.step_share = 0.0
    moved = (seen[0] - seen[1]).abs()
    assert moved.max() == pytest.approx(bench.options.epsilon, rel=1e-3)


@pytest.mark.parametrize(
    ("hardened", "changes", "terms"),
    [
        (False, {}, {"clean", "faulty"}),
        (True, {}, {"clean", "adversarial", "consistency", "distill", "faulty"}),
        (True, {"perturb_in_fault": False}, {"clean", "distill", "faulty"}),
        (True, {"distill_weight": 0.0}, {"clean", "adversarial", "consistency", "faulty"}),
    ],
    ids=["without stage 1", "after stage 1", "equation 5 alone", "mu 0"],
)
def test_terms_of_stage_2(make_bench, hardened, changes, terms):
    bench = make_bench(**changes)
    stage = FaultAware(bench, hardened=hardened)
    stage.injecting = True
    result = stage.step(next(bench.batches("b", epochs=1, epoch=0)))
    assert set(result.terms) == terms
    assert result.loss == pytest.approx(sum(term.item() for term in result.terms.values()))


def test_the_faulty_branch_alternates_between_the_views(bench, batch, monkeypatch):
    stage = FaultAware(bench, hardened=True)
    stage.injecting = True
    views = []
    monkeypatch.setattr(stage, "_faulty_branch", lambda _, view, __: views.append(view) or torch.zeros(()))
    for index in (0, 1):
        stage.step(dataclasses.replace(batch, index=index))
    assert torch.equal(views[0], batch.images)
    assert not torch.equal(views[1], batch.images)
    assert (views[1] - batch.images).abs().max() <= 3 * bench.options.epsilon + 1e-6


def test_injection_starts_below_the_curriculum_and_never_stops(make_bench):
    bench = make_bench(curriculum=0.75)
    stage = FaultAware(bench, hardened=False)
    threshold = 0.75 * math.log(3)
    stage._follow_loss(threshold + 0.1)
    assert not stage.injecting
    stage._follow_loss(threshold)
    assert not stage.injecting, "one low batch does not lower the running loss enough"
    for _ in range(10):
        stage._follow_loss(threshold - 0.2)
    assert stage.injecting
    stage._follow_loss(100.0)
    assert stage.injecting


def test_before_the_injection_there_is_no_faulty_branch_and_the_clean_one_has_full_weight(make_bench):
    bench = make_bench(curriculum=0.0)
    batch = next(bench.batches("b", epochs=1, epoch=0))
    stage = FaultAware(bench, hardened=False)
    alone = stage.step(batch)
    stage.injecting = True
    both = stage.step(batch)
    assert set(alone.terms) == {"clean"}
    assert alone.terms["clean"].item() == pytest.approx(2 * both.terms["clean"].item(), rel=0.05)


@pytest.mark.parametrize(("clip", "over"), [("channel", (1, 2, 3)), ("layer", (0, 1, 2, 3))])
def test_clipping_anneals_and_binds(make_bench, clip, over):
    bench = make_bench(clip=clip, clip_final=0.6, clip_share=0.5)
    stage = FaultAware(bench, hardened=False)
    assert [stage.clip_at(share) for share in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.8, 0.6, 0.6])
    layer = bench.network.body.layer1[0].conv1
    before = layer.weight.detach().clone()
    stage.after_step(next(bench.batches("b", epochs=2, epoch=1)))
    limit = 0.6 * before.abs().amax(dim=over, keepdim=True)
    assert torch.equal(layer.weight, before.clamp(-limit, limit))
    assert layer.weight.abs().amax(dim=over).flatten().tolist() == pytest.approx(limit.flatten().tolist())


def test_rates_are_log_uniform_in_the_last_decade(bench, generator):
    stage = FaultAware(bench, hardened=False)
    rates = torch.tensor([stage.draw_rate(generator) for _ in range(400)])
    assert rates.min() >= 1e-3
    assert rates.max() <= 1e-2
    assert (rates < 10**-2.5).double().mean().item() == pytest.approx(0.5, abs=0.1)


def test_clamped_gradients_are_added():
    weight = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    unused = nn.Parameter(torch.zeros(1))
    weight.grad = torch.tensor([1.0, 1.0, 1.0])
    add_clamped([torch.tensor([0.01, 7.0, -7.0]), None], [weight, unused], bound=0.05, weight=0.5)
    torch.testing.assert_close(weight.grad, torch.tensor([1.005, 1.025, 0.975]))
    assert unused.grad is None


def test_the_faulty_branch_leaves_statistics_and_ranges_alone(bench, batch):
    stage = FaultAware(bench, hardened=False)
    bench.network.train()
    before = {name: value.clone() for name, value in bench.network.state_dict().items()}
    ranges = dict(stage.activations.ranges)
    stage._faulty_branch(batch, batch.images, stage.grid.stored())
    assert all(torch.equal(value, before[name]) for name, value in bench.network.state_dict().items())
    assert stage.activations.ranges == ranges
    bound = 0.5 * bench.options.gradient_clamp
    assert max(parameter.grad.abs().max().item() for parameter in bench.network.parameters()) <= bound + 1e-8


def test_frozen_statistics_give_modes_back(tiny):
    tiny.train()
    tiny.bn2.eval()
    with frozen_statistics(tiny):
        assert not tiny.bn1.training
        assert tiny.training
    assert tiny.bn1.training
    assert not tiny.bn2.training


def test_only_critical_layers_are_injected(make_bench):
    stage = FaultAware(make_bench(fault_layers="critical", critical_layers=2), hardened=False)
    assert len(stage.injected) == 2
    everywhere = FaultAware(make_bench(fault_layers="all"), hardened=False)
    assert everywhere.injected[:2] == stage.injected
    assert set(everywhere.injected) == set(everywhere.grid.layers)


def test_the_teacher_stays_as_it_was(bench, batch):
    stage = FaultAware(bench, hardened=True)
    before = {name: value.clone() for name, value in stage.teacher.state_dict().items()}
    with torch.no_grad():
        for parameter in bench.network.parameters():
            parameter.add_(0.1)
    stage.step(batch)
    assert all(torch.equal(value, before[name]) for name, value in stage.teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in stage.teacher.parameters())


def test_the_best_epoch_of_stage_2_has_the_highest_mean_of_what_is_at_stake(bench):
    stage = FaultAware(bench, hardened=False)
    assert stage.score({"clean_accuracy": 0.9, "faulty_accuracy": 0.5}) == pytest.approx(0.7)
    with_attack = {"clean_accuracy": 0.9, "faulty_accuracy": 0.5, "robust_accuracy": 0.4, "loss": 9.0}
    assert stage.score(with_attack) == pytest.approx(0.6)


@pytest.mark.parametrize("kind", [Desensitize, FaultAware])
def test_labels_are_smoothed_in_stages_1_and_2_if_asked(make_bench, kind):
    terms = {}
    for smoothing in (0.0, 1.0):
        bench = make_bench(hardening_smoothing=smoothing)
        stage = kind(bench) if kind is Desensitize else kind(bench, hardened=False)
        stage.injecting = True
        terms[smoothing] = stage.step(next(bench.batches("b", epochs=1, epoch=0))).terms
    changed = {name for name, term in terms[0.0].items() if term.item() != pytest.approx(terms[1.0][name].item())}
    assert changed == ({"clean", "adversarial"} if kind is Desensitize else {"clean", "faulty"})
