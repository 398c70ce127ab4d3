"""Sweeps in real processes: killed at every step and at any moment, interrupted, in a terminal, and on a cluster."""

import collections
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
from typer.testing import CliRunner

from qdelta_analysis import generators, sweep
from qdelta_analysis.cli import app

QDELTA = Path(sys.executable).parent / "qdelta"

# Forks one child for every step at which a file comes into being, and kills it just before that step.
KILLER = """
import itertools, os, pathlib, shutil, signal, sys
import numpy as np
from qdelta_analysis import generators, sweep
from qdelta_analysis.sweep import computing, running
from tests.forked import child

computing.TASK_SECONDS = running.TASK_SECONDS = 1000  # tasks of 1, 8, 64 ... points, however slow this machine is
folder = pathlib.Path(sys.argv[1])
GRID = {"lam": [0.0, 0.5, 1.0], "seed": list(range(8))}

def make(seed):
    return generators.isotropic(T=4, K=2, V=2, seed=seed)

def run(path, log):
    def measure(x):
        lam, seed = float(x.lam[0, 0, 0]), int(x.metadata["settings"].split("seed=")[1].split(",")[0])
        with open(log, "a") as file:
            file.write(f"{lam} {seed}\\n")
        if (lam, seed) == (0.5, 3):
            raise ValueError("it")
        return {"twice": 2 * (10 * lam + seed), "once": 10 * lam + seed}
    return sweep.run(measure, GRID, make, path=path, n_jobs=1, progress=False)

def until_step(step, path, log):
    left = itertools.count(step, -1)
    def killing(real):
        def wrapped(*arguments):
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)
        return wrapped
    pathlib.Path.replace, os.rename = killing(pathlib.Path.replace), killing(os.rename)
    run(path, log)

def resume(path, log):
    kept = set()
    if path.exists():
        held = sweep.load(path)
        for i, j in np.ndindex(held.status.shape):
            mark, lam, seed = held.status[i, j].item(), GRID["lam"][i], GRID["seed"][j]
            if mark == 1:
                assert held.twice[i, j] == 2 * (10 * lam + seed), (lam, seed)
                assert held.once[i, j] == 10 * lam + seed, (lam, seed)
            if mark == 2:
                assert held.error[i, j] == "ValueError: it", (lam, seed)
            if mark:
                kept.add(f"{lam} {seed}")
    before = len(log.read_text().splitlines()) if log.exists() else 0
    assert before - len(kept) <= 15, (before, kept)  # no more than what one task held
    whole = run(path, log)
    after = log.read_text().splitlines()[before:]
    assert sorted([*after, *kept]) == sorted(f"{lam} {seed}" for lam in GRID["lam"] for seed in GRID["seed"])
    marks = [[2 if (lam, seed) == (0.5, 3) else 1 for seed in GRID["seed"]] for lam in GRID["lam"]]
    assert whole.status.values.tolist() == marks
    assert not list(path.rglob("*.partial"))
    print(len(kept), "kept", flush=True)

for step in itertools.count():
    path, log = folder / f"{step}.zarr", folder / f"{step}.log"
    ended = child(until_step, step, path, log)
    if os.WIFEXITED(ended):  # there was no such step: the sweep came to its end
        sys.exit(os.WEXITSTATUS(ended))
    assert os.WTERMSIG(ended) == signal.SIGKILL
    if child(resume, path, log):
        sys.exit(f"step {step}")
"""


def test_a_kill_before_any_step_loses_nothing_that_was_recorded(tmp_path):
    command = [sys.executable, "-c", KILLER, tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=Path(__file__).parents[2])
    assert (run.returncode, run.stderr) == (0, "")
    kept = [int(line.split()[0]) for line in run.stdout.splitlines()]
    assert len(kept) > 15  # steps at which a process was killed
    assert kept == sorted(kept)
    assert sorted(set(kept)) == [0, 1, 9]  # of 24, the first task having been one point and the second eight


SLOW = """
import time
def slow(x):
    lam = float(x.lam[0, 0, 0])
    time.sleep(0.004)
    with open("log", "a") as file:
        file.write(f"{lam} {x.T}\\n")
    return {"sum": lam + x.T}
"""


def start(folder: Path, *arguments) -> subprocess.Popen:
    command = [QDELTA, "sweep", "slow:slow", "--lam", "0:2:33", "-N", "2:41:40", "-d", "2", "-o", "it.zarr", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(folder: Path, done: int) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        if (folder / "it.zarr").exists() and int((sweep.load(folder / "it.zarr").status == 1).sum()) >= done:
            return
        time.sleep(0.01)
    raise AssertionError(f"fewer than {done} points in four minutes")


def test_a_kill_at_any_moment_loses_no_finished_point(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    make = np.random.default_rng(0)
    kept: set[str] = set()
    for more in (1, 100, 100):
        process = start(tmp_path, "--jobs", "2")
        wait_for(tmp_path, len(kept) + more)
        time.sleep(make.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        held = sweep.load(tmp_path / "it.zarr")
        log = (tmp_path / "log").read_text().splitlines()
        assert not kept & set(log)  # what was done is not done again
        found = {f"{lam} {N}" for lam in held.lam.values for N in held.N.values if held.status.sel(lam=lam, N=N) == 1}
        assert kept < found
        assert (held["sum"].where(held.status == 1) == held.lam + held.N).sum() == len(found)
        assert len(set(log) - found) < 4 * 50 * 2  # at most four tasks were under way
        kept = found
        (tmp_path / "log").unlink()
    process = start(tmp_path, "--jobs", "2")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "1320 points (lam 33, d 1, N 40): 1320 done, 0 failed" in out
    log = (tmp_path / "log").read_text().splitlines()
    assert len(log) == 1320 - len(kept)
    assert not kept & set(log)


def test_an_interrupt_keeps_what_is_done(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    process = start(tmp_path)
    wait_for(tmp_path, 50)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "qdelta: interrupted; it.zarr keeps what is done, and the same command goes on with it." in err
    assert "Traceback" not in err
    assert 50 <= int((sweep.load(tmp_path / "it.zarr").status == 1).sum()) < 1320
    second = start(tmp_path)
    assert second.wait(60) == 0


# In a terminal


def qdelta(*arguments):
    """The command in this process, which has everything imported; the tests above run it as users do."""
    return CliRunner().invoke(app, ["sweep", *map(str, arguments)])


@pytest.fixture
def here(tmp_path, monkeypatch, as_users_call):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sweep_is_a_table_a_bar_and_a_dataset(here):
    command = ["memory", "--lam", "0:1:3,2", "--beta", "0.5", "-c", "-0.5,0.5", "-d", 4, "-N", 16, "--seed", "0:4:5"]
    run = qdelta(*command, "-o", "it.zarr")
    assert run.exit_code == 0, run.stderr
    assert "40 points (lam 4, beta 1, c 2, d 1, N 1, seed 5): 40 done, 0 failed" in run.stdout
    assert "40/40" in run.stderr
    data = sweep.load("it.zarr")
    assert data.lam.values.tolist() == [0.0, 0.5, 1.0, 2.0]
    assert data.seed.dtype == np.int64
    alone = sweep.run(
        "memory", {"c": [0.5], "seed": [3], "d": [4], "N": [16], "lam": [2.0], "beta": [0.5]}, progress=False
    )
    expected = data.final_norm.sel(lam=2.0, c=0.5, seed=3).item()
    assert alone.final_norm.item() == pytest.approx(expected, rel=1e-5)


def test_failed_points_are_counted_and_the_first_is_named(here):
    command = [
        "transition",
        "--lam",
        "1,3",
        "--tokens",
        "repeated keys",
        "--axis",
        "distinct=2,3",
        "-d",
        4,
        "-o",
        "it.zarr",
    ]
    run = qdelta(*command)
    assert run.exit_code == 1, run.stderr
    assert "4 points (lam 2, d 1, distinct 2): 2 done, 2 failed" in run.stdout
    assert "failed at lam=3.0, d=4, distinct=2: ValueError: lam has values in [3, 3]" in run.stdout
    assert qdelta(*command, "--retry-failed").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing", "--lam", "1"], "measure is 'nothing'; expected a function, or one of error, memory, recall"),
        (["os:nothing", "--lam", "1"], "measure is 'os:nothing'; expected MODULE:FUNCTION that can be imported"),
        (["memory"], "grid is empty; expected at least one axis"),
        (["memory", "--lam", "0:1"], "lam is '0:1'; expected values such as 0,0.5,1 or FIRST:LAST:HOW-MANY."),
        (["memory", "--lam", "0:1:many"], "lam is '0:1:many'; expected values such as"),
        (["memory", "--lam", "0,,1"], "lam is '0,,1'; expected values such as"),
        (["memory", "--axis", "distinct"], "--axis is 'distinct'; expected NAME=VALUES."),
        (["memory", "--lam", "1", "--axis", "lam=2"], "--axis gives lam again; expected every axis once."),
        (["memory", "--tokens", "spiral", "--lam", "1"], "make is 'spiral'; expected a function, or one of cone"),
        (["memory", "--axis", "width=2"], "expected lam, beta, alpha and parameters of"),
        (["memory", "--lam", "1", "--scheduler", "tcp://127.0.0.1:1"], "127.0.0.1:1"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(arguments, sentence, here):
    run = qdelta(*arguments, "-o", "it.zarr")
    assert run.exit_code == 2, run.stderr
    assert sentence in run.stderr
    assert run.stderr.startswith("qdelta: ")
    assert run.stderr.count("\n") == 1
    assert list(here.iterdir()) == []


def test_a_measure_that_calls_sys_exit_is_a_failure_like_any_other(here):
    (here / "leaving.py").write_text("import sys\nsys.exit()\n")
    run = qdelta("leaving:f", "--lam", "1", "-o", "it.zarr")
    assert (run.exit_code, run.stdout) == (2, "")
    assert "expected MODULE:FUNCTION that can be imported: SystemExit" in run.stderr
    (here / "left.py").write_text("import sys\ndef f(x):\n    sys.exit(0) if x.lam.max() > 1 else 0\n    return 1.0\n")
    run = qdelta("left:f", "--lam", "1,2", "-o", "it.zarr", "--jobs", 1)
    assert run.exit_code == 1, run.stderr
    assert "2 points (lam 2): 1 done, 1 failed" in run.stdout
    assert "failed at lam=2.0: SystemExit: 0" in run.stdout


# On a cluster


def where(x) -> dict[str, float]:
    time.sleep(0.01)
    if x.T == 5:
        raise ValueError("five")
    return {"process": os.getpid(), "sum": x.T + float(x.lam[0, 0, 0])}


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        yield cluster


def test_two_dask_workers_compute_and_this_process_writes(cluster, tmp_path):
    from distributed import Client

    grid = {"N": list(range(2, 12)), "lam": [0.0, 0.25, 0.5, 1.0]}
    make = generators.isotropic
    with Client(cluster) as client, joblib.parallel_config(backend="dask", client=client):
        workers = {info["id"] for info in client.scheduler_info()["workers"].values()}
        pids = set(client.run(os.getpid).values())
        data = sweep.run(where, {"T": grid["N"], "lam": grid["lam"]}, make, path=tmp_path / "it.zarr", progress=False)
        named = sweep.run("memory", {"lam": [0.0, 1.0], "seed": range(6), "d": [4], "N": [30]}, progress=False)
    assert len(workers) == len(pids) == 2
    assert os.getpid() not in pids
    fine = data.where(data.T != 5, drop=True)
    assert set(fine.process.values.ravel()) == pids
    np.testing.assert_array_equal(fine["sum"], (fine.T + fine.lam).transpose("T", "lam"))
    assert (data.error.sel(T=5) == "ValueError: five").all()
    assert (sweep.load(tmp_path / "it.zarr").status == data.status).all()
    here = sweep.run("memory", {"lam": [0.0, 1.0], "seed": range(6), "d": [4], "N": [30]}, progress=False)
    np.testing.assert_allclose(named.final_norm, here.final_norm, rtol=1e-5)


def test_a_sweep_on_a_cluster_is_stopped_and_goes_on(cluster, tmp_path):
    from distributed import Client

    options = {"path": tmp_path / "it.zarr", "progress": False}
    grid = {"T": [3, 4], "lam": np.linspace(0, 1, 65)}
    with Client(cluster) as client, joblib.parallel_config(backend="dask", client=client):
        stopped = sweep.run(where, grid, generators.isotropic, stop=lambda: True, **options)
        done = stopped.status == 1
        assert 0 < done.sum() < done.size
        assert (sweep.load(tmp_path / "it.zarr").status == stopped.status).all()
        whole = sweep.run(where, grid, generators.isotropic, **options)
    assert (whole.status == 1).all()
    np.testing.assert_array_equal(whole.process.where(done), stopped.process)  # who computed them computed them once


def test_the_same_command_computes_on_the_cluster(cluster, here):
    grid = ["--lam", "0,1", "-N", "4", "--seed", "0:9:10", "-d", "2"]
    run = qdelta("transition", *grid, "-o", "it.zarr", "--scheduler", cluster.scheduler_address)
    assert run.exit_code == 0, run.stderr
    assert "20 done, 0 failed" in run.stdout


def test_a_worker_that_dies_costs_no_point(cluster, tmp_path):
    from distributed import Client

    with Client(cluster) as client, joblib.parallel_config(backend="dask", client=client):
        killed = []

        def kill_one(data):
            if not killed:
                killed.append(collections.Counter(data.process.values[data.status.values == 1]).most_common(1)[0][0])
                os.kill(int(killed[0]), signal.SIGKILL)

        grid = {"T": [3, 4], "lam": np.linspace(0, 1, 129)}
        data = sweep.run(where, grid, generators.isotropic, path=tmp_path / "it.zarr", watch=kill_one, progress=False)
    assert (data.status == 1).all()
    assert killed
    np.testing.assert_array_equal(*np.broadcast_arrays(data["sum"], (data.T + data.lam).transpose("T", "lam")))
