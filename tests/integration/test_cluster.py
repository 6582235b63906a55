"""Campaigns on a Dask cluster of real processes on loopback: the same figures as with threads, whoever dies."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import dask
import distributed
import pytest

from resq_deploy import cli
from resq_deploy.campaign import cluster, cluster_link
from resq_deploy.campaign.engines.testbed import Kit
from resq_deploy.campaign.options import CampaignOptions
from resq_deploy.campaign.run import Campaign
from resq_deploy.data import load_dataset
from resq_deploy.deployed.model import DeployedModel
from resq_deploy.errors import FailedError, InjectionError

pytestmark = pytest.mark.slow

RESQ = pathlib.Path(sys.executable).with_name("resq-deploy")  # as installed: spawned workers import it once more
LONG = ("--engine", "reload", "--images", 100, "--samples", 300)  # some portions, to be killed in the middle
PATIENCE = 600  # seconds until a wait for what must come is given up


def faultcamp(model, out, *more):
    return [str(RESQ), "faultcamp", *map(str, (model, "--dataset", "digits", "--out", out, *more))]


def run(model, out, *more):
    """Run a campaign that must end well and say nothing but notes; return its table and its summary."""
    done = subprocess.run(faultcamp(model, out, *more), capture_output=True, text=True)
    assert (done.returncode, beside_notes(done.stderr)) == (0, [])
    return figures(out)


def beside_notes(said):
    """Return the lines on standard error that are no notes, nor progress, which a slow machine has time to tell of."""
    return [line for line in said.splitlines() if line and not (line.startswith("note: ") or " passed" in line)]


def figures(out):
    summary = json.loads((out / "summary.json").read_text())
    return (out / "faults.csv").read_bytes(), {**summary, "throughput": 0}


@contextlib.contextmanager
def started(*call, **environment):
    """Start a process of Dask's; end it if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, call)], stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def paused(halted):
    """Start a campaign, leader of a process group, that stops when it has stored a part of its faults."""

    def start(call):
        return halted("resq_deploy.campaign.store:Store.add", 2, *call[1:], start_new_session=True)

    return start


def worker(address, **environment):
    return started(
        "distributed.cli.dask_worker", address, "--nthreads", 1, "--no-dashboard", "--no-nanny", **environment
    )


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """A scheduler of its own process, without workers; its address."""
    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    call = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard")
    routes = {"DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": "[]"}
    with started(*call, "--scheduler-file", file, **routes):
        deadline = time.monotonic() + PATIENCE
        while not (file.exists() and file.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield json.loads(file.read_text())["address"]


@pytest.fixture
def workers(scheduler):
    """Two workers that have reached the scheduler."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(worker(scheduler)) for _ in range(2)]
        await_workers(scheduler, 2)
        yield processes


def await_workers(scheduler, count):
    """Wait until the scheduler knows of exactly so many workers."""
    with distributed.Client(scheduler, set_as_default=False) as client:
        deadline = time.monotonic() + PATIENCE
        while len(client.nthreads()) != count:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module")
def whole(digits_int8, tmp_path_factory):
    """What the long campaign ends with, by threads."""
    return run(digits_int8, tmp_path_factory.mktemp("campaigns") / "whole", *LONG)


@pytest.fixture
def refused(monkeypatch, capsys, digits_int8, tmp_path):
    """Run a small campaign in this process; it must end with one line, which is returned, and write nothing."""

    def run(status, *more):
        out = tmp_path / "run"
        arguments = faultcamp(digits_int8, out, "--samples", 5, "--images", 20, *more)
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        err = beside_notes(capsys.readouterr().err)
        assert ended.value.code == status, err
        assert not out.exists()
        return err

    return run


@pytest.mark.parametrize(
    "asked",
    [
        (),
        ("--flip-direction", "1to0:0.7", "--true-cells", 0.5),
        ("--faults", "cluster", "--memory-layout", "rows:64", "--flip-direction", "1to0", "--true-cells", "rows:2"),
    ],
    ids=["single", "true and anti cells", "upsets"],
)
def test_a_local_cluster_gives_the_figures_of_threads(digits_int8, tmp_path, asked):
    """Drawn in strata, so that the plan grows between rounds and is sent again."""
    more = ("--images", 50, "--margin", 0.05, *asked)
    threads = run(digits_int8, tmp_path / "threads", *more)
    local = run(digits_int8, tmp_path / "local", *more, "--scheduler", "local", "--workers", 2)
    assert local == threads
    assert threads[1]["audit"]["checked"] > 0
    settings = json.loads((tmp_path / "local" / "manifest.json").read_text())["settings"]
    assert (settings["scheduler"], settings["workers"]) == ("local", 2)


def test_a_worker_that_dies_changes_no_figure(paused, digits_int8, scheduler, workers, whole, tmp_path):
    out = tmp_path / "run"
    campaign = paused(faultcamp(digits_int8, out, *LONG, "--scheduler", scheduler))
    os.kill(workers[0].pid, signal.SIGKILL)
    campaign.send_signal(signal.SIGCONT)
    assert (campaign.wait(), beside_notes(campaign.stderr.read())) == (0, [])
    assert figures(out) == whole


def test_workers_that_all_die_are_waited_for(paused, digits_int8, scheduler, workers, whole, tmp_path):
    out = tmp_path / "run"
    campaign = paused(faultcamp(digits_int8, out, *LONG, "--scheduler", scheduler))
    for process in workers:
        os.kill(process.pid, signal.SIGKILL)
    campaign.send_signal(signal.SIGCONT)
    told = next(line for line in campaign.stderr if beside_notes(line))
    assert told == f"no Dask worker at {scheduler}: waiting 60 s for one\n"
    with worker(scheduler):
        assert (campaign.wait(), beside_notes(campaign.stderr.read())) == (0, [])
    assert figures(out) == whole


def test_a_coordinator_that_dies_is_resumed_with_threads(paused, digits_int8, scheduler, workers, whole, tmp_path):
    out = tmp_path / "run"
    campaign = paused(faultcamp(digits_int8, out, *LONG, "--scheduler", scheduler))
    campaign.kill()
    campaign.wait()
    assert not (out / "summary.json").exists()
    assert run(digits_int8, out, *LONG, "--resume") == whole


@pytest.mark.parametrize("images", ["auto", 24])
def test_faults_on_some_images_each_are_gone_on_with_on_what_is_left_of_a_cluster(
    paused, digits_int8, scheduler, workers, images, tmp_path
):
    """Drawn phase by phase, on images that depend on what was found: a worker dies, then the coordinator."""
    options = ("--images", 200, "--margin", 0.04, "--images-per-fault", images)
    threads = run(digits_int8, tmp_path / "threads", *options)
    assert threads[1]["images"]["per_fault"] < 200
    out = tmp_path / "run"
    campaign = paused(faultcamp(digits_int8, out, *options, "--scheduler", scheduler))
    os.kill(workers[0].pid, signal.SIGKILL)
    campaign.kill()
    campaign.wait()
    assert not (out / "summary.json").exists()
    assert run(digits_int8, out, *options, "--scheduler", scheduler, "--resume") == threads


def test_a_campaign_of_threads_is_refined_on_a_cluster(digits_int8, tmp_path):
    base = ("--images", 200, "--margin", 0.05)
    run(digits_int8, tmp_path / "base", *base)
    refined = ("--images", 200, "--refine", tmp_path / "base", "--samples", 60)
    threads = run(digits_int8, tmp_path / "threads", *refined)
    assert threads[1]["refined"]["added"] > 0
    assert run(digits_int8, tmp_path / "local", *refined, "--scheduler", "local", "--workers", 2) == threads


def test_ctrl_c_ends_a_local_cluster_soon_and_in_one_line(paused, digits_int8, tmp_path):
    """The terminal sends it to all processes of the group."""
    out = tmp_path / "run"
    call = faultcamp(digits_int8, out, *LONG, "--scheduler", "local", "--workers", 2)
    campaign = paused(call)
    os.killpg(campaign.pid, signal.SIGINT)
    campaign.send_signal(signal.SIGCONT)
    assert campaign.wait(timeout=PATIENCE) == 130
    assert beside_notes(campaign.stderr.read()) == ["resq-deploy: interrupted; a run folder goes on with --resume"]
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(ProcessLookupError):  # nothing is left of the group, once init has reaped it
        while time.monotonic() < deadline:
            os.killpg(campaign.pid, 0)
            time.sleep(0.1)
        pytest.fail("a process is left over")


OTHER = "import importlib.metadata as m; f = m.version; m.version = lambda n: '1' if n == 'onnxruntime' else f(n)"
MISSING = "import sys; sys.modules['resq_deploy'] = None"


@pytest.mark.parametrize(
    ("module", "said"),
    [(OTHER, "has onnxruntime 1, this campaign"), (MISSING, "cannot load the campaign: install resq-deploy")],
    ids=["version", "missing"],
)
def test_a_worker_that_could_give_other_figures_is_refused(scheduler, refused, tmp_path, module, said):
    (tmp_path / "sitecustomize.py").write_text(module)
    await_workers(scheduler, 0)
    with worker(scheduler, PYTHONPATH=str(tmp_path)):
        await_workers(scheduler, 1)
        (line,) = refused(2, "--scheduler", scheduler)
    assert said in line


def test_no_worker_at_all(scheduler, refused, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 1.0)
    await_workers(scheduler, 0)
    waiting, line = refused(1, "--scheduler", scheduler)
    assert waiting == f"no Dask worker at {scheduler}: waiting 1 s for one"
    assert f"start some with 'dask worker {scheduler}'" in line


@pytest.mark.parametrize(
    ("address", "reason"),
    [("tcp://127.0.0.1:9", "no answer in 1 s"), ("nowhere", "missing port number"), ("", "missing port number")],
)
def test_an_address_that_cannot_be_reached(refused, monkeypatch, address, reason):
    monkeypatch.setattr(cluster_link, "_CONNECT", 1.0)
    (line,) = refused(2, "--scheduler", address)
    assert line.startswith(f"resq-deploy: --scheduler '{address}': no Dask scheduler can be reached there ({reason}")


@pytest.mark.parametrize("scheduler", ["local", "tcp://127.0.0.1:9"])
def test_without_dask_one_line_says_what_to_install(digits_int8, tmp_path, scheduler):
    code = "import sys; sys.modules['distributed'] = None; from resq_deploy.cli import main; main()"
    call = [sys.executable, "-c", code, *faultcamp(digits_int8, tmp_path / "run", "--scheduler", scheduler)[1:]]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "resq-deploy: --scheduler needs the extra 'dask': pip install 'resq-deploy[dask]'\n"


@pytest.fixture
def broken(digits_int8):
    """Evaluate faults on a cluster whose workers' patcher does something else with the values it is to store."""
    model, digits = DeployedModel.load(digits_int8), load_dataset("digits")
    campaign = Campaign(model, digits, CampaignOptions(samples=4, images=20))

    def run(address, values):
        patcher = model.patcher()
        patcher.values = values
        options = dataclasses.replace(campaign.options, scheduler=address)
        surfaces = {surface.tensor: surface for surface in model.surfaces}
        kit = Kit(patcher=patcher, surfaces=surfaces, golden=campaign.golden, options=options)
        with cluster.Cluster(kit, address, 2, lambda _: None) as executor:
            return list(executor.run(campaign.plan, [[0], [1], [2], [3]]))

    return run


def test_what_a_worker_raises_arrives_as_it_is(broken, scheduler, workers):
    with pytest.raises(InjectionError, match="did not change exactly the bits asked for"):
        broken(scheduler, lambda _: {})


def test_faults_that_end_every_worker_are_given_up(broken, monkeypatch):
    monkeypatch.setattr(cluster, "_TRIES", 2)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        pytest.raises(FailedError, match="Dask lost a task 2 times"),
    ):
        broken("local", lambda _: os.kill(os.getpid(), signal.SIGKILL))
