"""Running a sweep: which points are missing, who computes them, and what is kept."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from typing import Any

import joblib
import numpy as np
import xarray as xr
from joblib.parallel import get_active_backend
from tqdm.auto import tqdm

from ..checks import require_jobs
from ..threads import one_thread
from .computing import TASK_SECONDS, Found, Task, compute, most_rows, task_of
from .measures import MEASURES, Measure
from .points import GATES, RESERVED, Plan, require_grid
from .sources import SOURCES, Source, cone
from .store import MISSING, Results

_TASK_POINTS = 1024


def run(
    measure: str | Measure,
    grid: Mapping[str, Sequence[Any] | np.ndarray],
    make: str | Source = cone,
    *,
    path: str | os.PathLike | None = None,
    batched: bool | None = None,
    n_jobs: int | None = None,
    retry_failed: bool = False,
    progress: bool = True,
    stop: Callable[[], bool] | None = None,
    watch: Callable[[xr.Dataset], None] | None = None,
) -> xr.Dataset:
    """Measure every point of a grid, as numbers with labelled axes.

    Args:
        measure: a name in `MEASURES`, or a function of inputs that returns a number, or numbers by name.
        grid: the values of every axis: the gates lam, beta, alpha, put in place of the inputs' own for all tokens, and
            any parameters of `make`, such as c, d, N and seed. Points are all combinations.
        make: a name in `SOURCES`, or a function that returns the inputs of one memory, B = H = 1.
        path: where to keep the results (zarr, version 3). If a sweep of the same functions is there, as far as
            `sweep.identity` looks, only what it lacks is computed; more values may be added to the end of an axis.
        batched: `measure` takes many memories at once, [B, H], and returns arrays [B, H]; None: as the named ones do.
        n_jobs: how many workers; None: as a surrounding `joblib.parallel_config` says, else one for each core.
        retry_failed: compute the points again that failed.
        progress: show a bar with the remaining time.
        stop: asked after every few points; when true, the sweep ends with what is done.
        watch: called after every few points with the results so far.

    Returns:
        A dataset with the grid's axes as dims: the measured numbers, NaN where there are none, `status` (0 missing,
        1 done, 2 failed) and `error`, what a failed point raised.

    Raises ValueError for a grid that does not fit, also into memory, and for a path that holds something else, a sweep
    of other functions or a damaged one; nothing is changed then. The same call gives the same bits, however it was
    stopped and whoever computed; points that were there before the grid grew keep theirs.

    The workers are threads of this process, as everything here computes outside of Python's lock; inside
    `with joblib.parallel_config(backend="loky")` they are processes, and with backend="dask", or "ray", those of a
    cluster: the same code. Only this process writes. An interrupt keeps what is done.
    """
    if n_jobs is not None:
        require_jobs(n_jobs)
    plan = _plan(measure, grid, make, batched)
    with Results(plan, path) as results, one_thread():
        if retry_failed:
            results.forget_failed()
        bar = tqdm(
            total=results.status.size,
            initial=results.status.size - results.missing,
            unit="point",
            disable=not progress,
        )
        ended = threading.Event()
        with bar:
            # Again, if a task ran out of time before it came to all of its points.
            while results.missing and not ended.is_set():
                with closing(_computed(results.plan, results.status, n_jobs, ended)) as found_in_turn:
                    for found in found_in_turn:  # to their end, once it is near: what workers are at is kept
                        bar.update(results.record(found))
                        if results.failed:
                            bar.set_postfix(failed=results.failed, refresh=False)
                        if watch is not None:
                            watch(results.dataset())
                        if stop is not None and stop():
                            ended.set()
        return results.dataset()


def _computed(plan: Plan, status: np.ndarray, n_jobs: int | None, ended: threading.Event) -> Generator[Found]:
    """Yield what the workers find, as it comes, soon to its end once the sweep has `ended`.

    What is not yet begun is dropped when the caller goes away.
    """
    gone = threading.Event()
    over = lambda: gone.is_set() or ended.is_set()
    tasks, work = _Tasks(plan, status, over), _Work(over)
    jobs = get_active_backend()[1] if n_jobs is None else n_jobs
    options: dict[str, Any] = {"prefer": "threads", "batch_size": 1, "return_as": "generator_unordered"}
    parallel = joblib.Parallel(n_jobs=-1 if jobs is None else jobs, **options)
    found_in_turn: Any = parallel(joblib.delayed(work)(plan, task) for task in tasks)
    try:
        for found in found_in_turn:
            if found.count:  # else another task has all of its points
                tasks.took(found)
                yield found
    finally:
        gone.set()
        with warnings.catch_warnings():
            # Who interrupts a sweep means to leave tasks undone.
            warnings.filterwarnings("ignore", r"\d+ tasks have been successfully executed", UserWarning)
            found_in_turn.close()
        work.wait()


class _Work:
    """Computes tasks, and can wait for those that run in threads of this process, where nothing can stop them.

    Once the sweep has ended, tasks end with the point that they are at. Sent to another process it is a new one, whose
    tasks end with their process.
    """

    def __init__(self, ended: Callable[[], bool] = lambda: False):
        self.ended, self.running = ended, 0
        self.idle = threading.Condition()

    def __reduce__(self):
        return _Work, ()

    def __call__(self, plan: Plan, task: Task) -> Found:
        with self.idle:
            self.running += 1
        try:
            return compute(plan, task, self.ended)
        finally:
            with self.idle:
                self.running -= 1
                self.idle.notify_all()

    def wait(self) -> None:
        """Wait until no task runs."""
        with self.idle:
            self.idle.wait_for(lambda: self.running == 0)


class _Tasks:
    """Hands out points till the end, as many at a time as take about TASK_SECONDS by what the last ones took."""

    def __init__(self, plan: Plan, status: np.ndarray, ended: Callable[[], bool]):
        self.blocks, self.status, self.size, self.ended = plan.blocks(), status.ravel(), 1, ended
        self.missing = self.status == MISSING

    def __iter__(self) -> Iterator[Task]:
        for block in self.blocks:
            missing = np.flatnonzero(self.missing[block.indices])
            at, G = 0, len(block.columns)
            while at < len(missing) and not self.ended():
                if self.status[block.rows[missing[at] // G] + block.columns[missing[at] % G]] != MISSING:
                    at += 1  # it was computed with others meanwhile
                    continue
                end = min(at + self.size, len(missing))
                if end < len(missing):
                    # What is stacked stays together, or else what shares its tokens, where there is room for it.
                    starts = [int(np.searchsorted(missing, missing[end] // n * n)) for n in (G * most_rows(G), G)]
                    end = next((start for start in starts if start > at), end)
                yield task_of(block, missing, at, end)
                at = end

    def took(self, found: Found) -> None:
        """Learn from what some points took."""
        wanted = found.count * TASK_SECONDS / max(found.seconds, 1e-9)
        self.size = int(min(max(wanted, 1), _TASK_POINTS, 8 * self.size))


def require_sweep(measure: str | Measure, grid: Mapping[str, Sequence[Any] | np.ndarray], make: str | Source) -> None:
    """Raise ValueError for what `run` refuses before it computes anything."""
    _plan(measure, grid, make, None)


def _plan(measure: str | Measure, grid: Mapping[str, Any], make: str | Source, batched: bool | None) -> Plan:
    named = _named("measure", measure, MEASURES)
    require_grid({name: len(values) for name, values in grid.items() if isinstance(values, Sized)})
    axes = {}
    for name, values in grid.items():
        array = np.asarray(values)
        kinds = "biuf" if name in GATES else "biufUT"
        if array.ndim != 1 or len(array) == 0 or array.dtype.kind not in kinds:
            words = "" if name in GATES else " or of words"
            raise ValueError(f"grid has {name} = {values!r}; expected a list of numbers{words}.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"grid has {name} = {array.tolist()}; expected finite values.")
        if len(np.unique(array)) < len(array):
            raise ValueError(f"grid has {name} = {array.tolist()}; expected distinct values.")
        if name in RESERVED:
            raise ValueError(f"grid has an axis {name}; expected another name, this one is a result's.")
        axes[name] = array.astype(np.float64) if name in GATES else array
    if not axes:
        raise ValueError("grid is empty; expected at least one axis, such as {'lam': [0, 0.5, 1]}.")
    many = named in MEASURES.values() if batched is None else batched
    return Plan(named, _named("make", make, SOURCES), axes, many)


def _named(what: str, given: Any, table: Mapping[str, Any]) -> Any:
    if isinstance(given, str) and given in table:
        return table[given]
    if isinstance(given, str) or not callable(given):
        raise ValueError(f"{what} is {given!r}; expected a function, or one of {', '.join(table)}.")
    return given
