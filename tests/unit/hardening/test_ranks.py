"""What several processes tell one another, and how they share out batches; whole trainings are in tests/integration."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from resq_deploy.errors import OptionError
from resq_deploy.hardening.ranks import Ranks, joined_ranks
from resq_deploy.hardening.workbench import Workbench

TALK = """
import torch
from resq_deploy.hardening.ranks import joined_ranks

with joined_ranks() as ranks:
    assert ranks.count == 2
    kept = torch.nn.Conv2d(3, 2, 1).weight.detach().to(memory_format=torch.channels_last)
    tensors = [torch.full((2, 3), 1.0 + ranks.rank), torch.tensor([float(ranks.rank)]), kept.fill_(4 * ranks.rank)]
    ranks.average(tensors)
    assert [tensor.unique().tolist() for tensor in tensors] == [[1.5], [0.5], [2.0]]
    assert ranks.means({"a": ranks.rank, "b": 3.0}) == {"a": 0.5, "b": 3.0}
    parts = [torch.tensor([True, False]), torch.tensor([True])]
    mine = [part if place == ranks.rank else torch.zeros_like(part) for place, part in enumerate(parts)]
    assert ranks.joined(mine).tolist() == [True, False, True]
    assert ranks.first(lambda: {"rank": ranks.rank}) == {"rank": 0}
    print("talked")
"""


@pytest.fixture
def benches(options, dataset, tmp_path):
    def of(ranks):
        return Workbench(options, dataset, tmp_path, lambda _: None, ranks=ranks)

    return of(Ranks()), [of(Ranks(rank, 2)) for rank in range(2)]


def test_processes_share_out_the_batches_of_one(benches):
    alone, shared = benches
    whole = list(alone.batches("x", 1, epochs=1, epoch=0))
    parts = [list(bench.batches("x", 1, epochs=1, epoch=0)) for bench in shared]
    assert len(whole) == len(parts[0]) == len(parts[1]) > 1
    for batch, first, second in zip(whole, *parts, strict=True):
        for rank, part in enumerate((first, second)):
            assert torch.equal(part.images, batch.images[rank::2])
            assert torch.equal(part.labels, batch.labels[rank::2])
        assert (first.index, first.progress) == (second.index, second.progress) == (batch.index, batch.progress)


def test_processes_draw_the_same_faults_and_noise_of_their_own(benches):
    alone, shared = benches
    batches = [next(bench.batches("x", 1, epochs=1, epoch=0)) for bench in (alone, *shared)]
    faults = [torch.rand(3, generator=batch.generator) for batch in batches]
    noise = [torch.rand(3, generator=batch.noise) for batch in batches]
    assert torch.equal(faults[0], faults[1])
    assert torch.equal(faults[1], faults[2])
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[1], noise[2])


@pytest.mark.parametrize(("batch_size", "count"), [(15, 2), (16, 3), (4, 4)])
def test_batches_that_cannot_be_shared_are_refused(options, dataset, tmp_path, batch_size, count):
    odd = dataclasses.replace(options, batch_size=batch_size)
    with pytest.raises(OptionError, match=f"{batch_size} images cannot be shared evenly among {count} processes"):
        Workbench(odd, dataset, tmp_path, lambda _: None, ranks=Ranks(0, count))


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with joined_ranks() as ranks:
        assert (ranks.rank, ranks.count, ranks.leads) == (0, 1, True)
        tensor = torch.tensor([3.0])
        ranks.average([tensor])
        assert tensor.item() == 3


@pytest.mark.slow
def test_two_processes_talk(tmp_path):
    script = tmp_path / "talk.py"
    script.write_text(TALK)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    result = subprocess.run(launch, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("talked") == 2  # their lines may run into each other
