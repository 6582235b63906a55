"""Data-parallel training: the processes that torchrun started, and what they tell one another.

Gradients are averaged by hand and not by DistributedDataParallel: a step of stage 2 consists of two backward passes,
one of them clamped before it is added, through `torch.func.functional_call`; DistributedDataParallel reduces in hooks
on one backward pass through `forward`. One all-reduce before the optimiser's step gives every process the gradient
that a single one would have (up to batch-norm, whose statistics in training mode are those of a process's own share).
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from resq_deploy.errors import OptionError, TrainingError

Value = TypeVar("Value")

_TIME_TO_TELL = 2.0
"""Seconds."""

_TOLD = "resq-deploy told of an error"


class Ranks:
    """The processes of a run; by default there is one.

    Every method that talks to the others has to be called by all of them, in the same order.

    Attributes:
        rank: number of this process, counted from 0; number 0 alone writes files and reports.
        count: how many there are.
        local: number of this process among those of its machine.
    """

    def __init__(self, rank: int = 0, count: int = 1, local: int = 0) -> None:
        self.rank = rank
        self.count = count
        self.local = local

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and reports."""
        return self.rank == 0

    def share(self, values: Tensor) -> Tensor:
        """Return this process's share of a batch: every `count`-th entry along the first dimension."""
        return values[self.rank :: self.count]

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating-point tensors of one device by their means over all processes, in one exchange."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
        with _linked():
            dist.all_reduce(flat)
        flat /= self.count
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(part.view(tensor.shape))

    def means(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the mean of each figure over all processes."""
        values = torch.tensor(list(figures.values()), dtype=torch.float64)
        if self.count > 1:
            with _linked():
                dist.all_reduce(values)
            values /= self.count
        return dict(zip(figures, values.tolist(), strict=True))

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Return a sequence of tensors as one, of which each process made only every `count`-th, the rest being zero.

        Args:
            parts: bool tensors [n] on the CPU; the same lengths in all processes.
        """
        whole = torch.cat(list(parts))
        if self.count == 1:
            return whole
        counts = whole.to(torch.int32)
        with _linked():
            dist.all_reduce(counts)
        return counts.bool()

    def first(self, make: Callable[[], Value]) -> Value:
        """Return to all processes what the first one makes."""
        made: list[Value | None] = [make() if self.leads else None]
        if self.count > 1:
            with _linked():
                dist.broadcast_object_list(made)
        return cast(Value, made[0])


@contextlib.contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started, if it did; else there is one.

    An error ends all of them: the first to fail says so, the others, which then miss it, end silently.

    Raises:
        OptionError: if torch was built without what processes talk through.
        SystemExit: in place of an error of which another process has told.
    """
    if not launched():
        yield Ranks()
        return
    if not dist.is_available():
        raise OptionError("this torch was built without torch.distributed: train in one process, without torchrun")
    store, rank, count = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=count)
    try:
        yield Ranks(rank, count, int(os.environ["LOCAL_RANK"]))
    except BaseException as error:
        if not _is_first(store):
            leave_silently(getattr(error, "exit_status", 1))
        raise
    finally:
        dist.destroy_process_group()


def launched() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def leave_silently(status: int) -> NoReturn:
    """End this process where another one tells of the error; torchrun stops them all as soon as one has ended."""
    time.sleep(_TIME_TO_TELL)
    raise SystemExit(status) from None


def _is_first(store: Store) -> bool:
    """Return whether no other process has told of an error yet."""
    try:
        return store.add(_TOLD, 1) == 1
    except RuntimeError:  # the store has gone with the process that kept it: better twice than never
        return True


@contextlib.contextmanager
def _linked() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise TrainingError("another process of this run has ended: start all of them again with --resume") from error
