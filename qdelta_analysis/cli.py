"""`qdelta`: the toolkit from a terminal. Everything heavy is imported inside the commands, so `--help` is quick."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from errno import EPIPE
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from .extras import MissingExtraError

if TYPE_CHECKING:
    import xarray as xr

    from .guarantees import Report
    from .inputs import QDeltaInputs


class _Commands(TyperGroup):
    """Prints on any terminal, and to a file or a pipe that takes no more; what a command lacks is one sentence."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command line."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # what a terminal's encoding lacks
        with _printing():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; all errors of its own files end inside it."""
        with _printing():
            try:
                return super().invoke(ctx)
            except MissingExtraError as error:
                _refuse(error)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Explore delta-rule linear attention whose query takes part in the memory's evolution (Q-Delta).",
)

PRESETS = ("trained", "isotropic", "cone", "two-token cycle", "repeated keys")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qdelta {version('qdelta')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = (
        False
    ),
) -> None:
    """Hold the options that stand before any command."""


@app.command()
def lab(
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
    port: Annotated[int | None, typer.Option(help="Port on 127.0.0.1; by default the first free one.")] = None,
) -> None:
    """Open JupyterLab at the explorer."""
    from .lab import launch

    try:
        raise typer.Exit(launch(open_browser=browser, port=port))
    except (OSError, ValueError) as error:
        _refuse(error)


@app.command()
def trace(
    source: Annotated[
        str, typer.Argument(help=f"A file of inputs, or a preset (./cone is a file): {', '.join(PRESETS)}.")
    ],
    layer: Annotated[int, typer.Option(help="Layer of the trained trace, from 0.")] = 0,
    lam: Annotated[float | None, typer.Option(help="Replace the query feedback everywhere.")] = None,
    snapshots: Annotated[int, typer.Option(help="How many states to keep.")] = 32,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="PATH", help="Write the dataset here (netCDF).")
    ] = None,
) -> None:
    """Follow the memory through a stretch of tokens: a table, and a dataset with --output."""
    from .files import replacing
    from .tracing import trace as trace_inputs

    try:
        if output is not None:
            _require_another(output, source)
        # Where nothing can be written is known before anything is computed.
        with nullcontext() if output is None else replacing(output) as new:
            inputs = open_inputs(source, layer)
            dataset = trace_inputs(inputs if lam is None else inputs.with_lam(lam), snapshots)
            text = _table(dataset)
            if new is not None:
                # As bytes: HDF5 that cannot finish a file of its own ends the process.
                new.write_bytes(dataset.to_netcdf(engine="h5netcdf"))
    except (ValueError, TypeError, OSError) as error:
        _refuse(error)
    else:
        typer.echo(text)
        if output is not None:
            typer.echo(f"wrote {output}")


@app.command()
def check(
    source: Annotated[
        str, typer.Argument(help=f"A file of inputs, or a preset (./cone is a file): {', '.join(PRESETS)}.")
    ],
    layer: Annotated[int, typer.Option(help="Layer of the trained trace, from 0.")] = 0,
    lam: Annotated[float | None, typer.Option(help="Replace the query feedback everywhere.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    details: Annotated[bool, typer.Option(help="List every numerical test.")] = False,
) -> None:
    """Test the claims G1 to G14 on some tokens, and say how fast the memory can grow, typically grows, and grew.

    The exit status is 0 if all hypotheses are met and all claims hold, 1 if one does not, 2 on bad input.
    """
    from .guarantees import check as check_inputs

    try:
        inputs = open_inputs(source, layer)
        report = check_inputs(inputs if lam is None else inputs.with_lam(lam))
        text = _json(report) if json else _text(report, details)
    except (ValueError, TypeError, OSError) as error:
        _refuse(error)
    else:
        typer.echo(text)
        raise typer.Exit(0 if report.ok else 1)


def _text(report: Report, details: bool) -> str:
    from .products import growth_summary, growth_table

    inputs = report.facts.inputs
    growth = ["", growth_table(growth_summary(inputs))] if inputs.T else []
    return "\n".join([report.to_text(details), *growth])


def _json(report: Report) -> str:
    """The report, and under "growth" what `products.growth_summary` found, [sequence][head]; None for no number."""
    import json

    from .products import growth_summary

    inputs = report.facts.inputs
    found = growth_summary(inputs).data_vars.items() if inputs.T else ()
    growth = {name: [[_finite(y) for y in heads] for heads in x.values.tolist()] for name, x in found}
    return json.dumps(report.to_dict() | {"growth": growth}, indent=1, allow_nan=False)


def _finite(x: float) -> float | None:
    return x if isfinite(x) else None


@app.command()
def sweep(
    measure: Annotated[
        str, typer.Argument(help="error, memory, recall, transition, growth, or MODULE:FUNCTION of your own.")
    ],
    path: Annotated[Path, typer.Option("--output", "-o", help="Keep the results here (zarr); resumed if it is there.")],
    lam: Annotated[str | None, typer.Option(help="Query feedback: 0,0.5,1, or 0:1:11 for 11 values.")] = None,
    beta: Annotated[str | None, typer.Option(help="Write strength.")] = None,
    alpha: Annotated[str | None, typer.Option(help="Decay.")] = None,
    c: Annotated[str | None, typer.Option("-c", help="cos(q, k).")] = None,
    d: Annotated[str | None, typer.Option("-d", help="Width of keys and values.")] = None,
    N: Annotated[str | None, typer.Option("-N", help="Tokens, and so pairs that are written.")] = None,
    seed: Annotated[str | None, typer.Option(help="Seeds of the draws.")] = None,
    axis: Annotated[list[str] | None, typer.Option(help="NAME=VALUES of another parameter of the tokens.")] = None,
    tokens: Annotated[str, typer.Option(help="cone, isotropic, repeated keys, two-token cycle or trained.")] = "cone",
    jobs: Annotated[int | None, typer.Option(help="Workers; by default one for each core.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler whose workers compute.")] = None,
    batched: Annotated[bool, typer.Option("--batched", help="FUNCTION takes many memories at once.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed points again.")] = False,
) -> None:
    """Measure all combinations of some values; what is done stays on disk, and the same command again goes on.

    The exit status is 0 if all points are done, 1 if some failed, 2 on bad input, 130 when interrupted.
    """
    from .sweep import run
    from .sweep.terminal import grid_of, measure_of, summary, workers

    given = {"lam": lam, "beta": beta, "alpha": alpha, "c": c, "d": d, "N": N, "seed": seed}
    try:
        with workers(scheduler):
            data = run(
                measure_of(measure),
                grid_of(given, axis or []),
                tokens,
                path=path,
                batched=batched or None,
                n_jobs=jobs,
                retry_failed=retry_failed,
            )
    except (ValueError, TypeError, OSError) as error:
        _refuse(error)
    except KeyboardInterrupt:
        typer.echo(f"qdelta: interrupted; {path} keeps what is done, and the same command goes on with it.", err=True)
        raise typer.Exit(130) from None
    else:
        typer.echo(summary(data))
        raise typer.Exit(0 if (data.status == 1).all() else 1)


@app.command()
def experiment(
    name: Annotated[str, typer.Argument(help="mqar, niah, lm, ablation or states.")],
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="How many seeds, from 0.")] = 5,
    runs: Annotated[Path, typer.Option(help="Where runs are kept; finished ones are not repeated.")] = Path(
        "runs/experiments"
    ),
    size: Annotated[str, typer.Option(help="cpu or gpu: how large models and tasks are.")] = "cpu",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each on one thread.")] = 1,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the table and its note here.")] = None,
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard's event files beside the CSV logs.")] = True,
    watch: Annotated[int | None, typer.Option(min=1, help="Log what the memories do every so many steps.")] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Train through torch.compile; by default on a GPU.")
    ] = None,
) -> None:
    """Train and compare the rules on a task; a table with spread over seeds and a test against Gated DeltaNet.

    On several GPUs: torchrun --nproc-per-node=N --no-python qdelta experiment NAME --size gpu.
    The exit status is 0 if all runs are done, 1 if a loss stopped being finite, 2 on bad input, 130 when interrupted.
    """
    from .learning.experiments import plan, results, run_experiment, summary, summary_text, write_results

    folder = runs / size
    try:
        if output is not None and output.exists() and not output.is_dir():
            raise ValueError(f"output is {output}, a file; expected a folder.")
        paths = run_experiment(
            plan(name, size),
            range(seeds),
            folder,
            jobs=jobs,
            device=device,
            tensorboard=tensorboard,
            watch_every=watch,
            compiled=compiled,
        )
        if os.environ.get("RANK", "0") != "0":
            return
        text = summary_text(summary(results(paths)))
        written = [] if output is None else write_results(paths, output)
    except (ValueError, TypeError, OSError) as error:
        _refuse(error)
    except FloatingPointError as error:
        typer.echo(f"qdelta: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(f"qdelta: interrupted; {folder} keeps what is done, and the same command goes on with it.", err=True)
        raise typer.Exit(130) from None
    else:
        typer.echo(text)
        for path in written:
            typer.echo(f"wrote {path}")


@app.command()
def figures(
    names: Annotated[list[str] | None, typer.Argument(help="Which recipes; by default all.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say which figures no longer match.")] = False,
    folder: Annotated[Path | None, typer.Option(help="A folder with recipes; by default this checkout's.")] = None,
) -> None:
    """Draw the figures for papers from their recipes: PDF, SVG, PNG, a JSON sidecar each, and the gallery.

    With --check nothing is written: each figure is computed anew and compared with its sidecar. The exit status is 0 if
    all are drawn or match, 1 if one does not match or its recipe fails then, 2 on bad input, a file that is no recipe,
    or a figure that cannot be drawn; the others are done all the same.
    """
    from . import gallery
    from .rendering import find_browser

    try:
        at = folder or gallery.figures_folder()
        paths = gallery.recipe_files(at, names or ())
        if not check:
            find_browser()
    except (ValueError, OSError, RuntimeError) as error:
        _refuse(error)
    recipes = []
    for path in paths:
        try:
            recipes.append(gallery.load(path))
        except ValueError as error:
            _complain(error)
    status = 0 if len(recipes) == len(paths) else 2
    for recipe in recipes:
        if check:
            wrong = gallery.check(at, recipe)
            status = max(status, int(bool(wrong)))
            said = "matches" if not wrong else "no longer matches: " + "; ".join(wrong[:5])
            _say(f"{recipe.name}: {said}" + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""))
            continue
        try:
            _say(f"wrote {', '.join(map(str, gallery.build(at, recipe)))}")
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            _complain(f"{at / 'recipes' / recipe.name}.py: {error}")
            status = 2
    if len(recipes) < len(paths) and not names:
        _complain(f"{at / 'README.md'} was not looked at, as not every recipe can be read.")
    elif not names:
        try:
            lines = gallery.check_page(at) if check else [f"wrote {gallery.write_page(at)}"]
        except (ValueError, OSError) as error:
            _refuse(error)
        for line in lines:
            _say(line)
        status = max(status, int(check and bool(lines)))
    raise typer.Exit(status)


def open_inputs(source: str, layer: int = 0) -> QDeltaInputs:
    """Return the inputs of a preset, or of a file; a preset wins over a file of the same name (./cone is the file)."""
    from .generators import GENERATORS
    from .inputs import QDeltaInputs

    if layer != 0 and source != "trained":
        raise ValueError(f"layer is {layer}; expected it for the preset trained only, as {source} has no layers.")
    if source == "trained":
        from .data import load_trained

        layers = load_trained()
        if not 0 <= layer < len(layers):
            raise ValueError(f"layer is {layer}; expected 0 to {len(layers) - 1}.")
        return layers[layer]
    if source in GENERATORS:
        return GENERATORS[source]()
    if not source or not Path(source).exists():
        raise ValueError(f"source is {source!r}, no file and no preset; the presets are {', '.join(PRESETS)}.")
    return QDeltaInputs.load(source)


def _require_another(output: str, source: str) -> None:
    if Path(output).exists() and Path(source).exists() and Path(output).samefile(source):
        raise ValueError(f"output is {output}, the file that is read; expected another.")


def _table(dataset: xr.Dataset) -> str:
    """Lay out smallest, median and largest of every diagnostic over time, head by head."""
    source = ", ".join(dataset.attrs[key] for key in ("source", "settings") if key in dataset.attrs)
    sizes = dataset.sizes
    lines = [
        f"{source or 'inputs'}: {sizes['batch']} x {sizes['time']} tokens, {sizes['head']} heads, "
        f"memory {sizes['value']} x {sizes['key']}",
        "",
    ]
    if sizes["time"] == 0:
        return "\n".join([*lines, "there are no tokens"])
    lines.append(f"{'over time and batch':<18} {'head':>4} {'min':>11} {'median':>11} {'max':>11}")
    for name, values in dataset.data_vars.items():
        if values.dims != ("batch", "time", "head"):
            continue
        for head in range(sizes["head"]):
            x = values[..., head]
            quantiles = (float(x.min()), float(x.median()), float(x.max()))
            label = str(name) if head == 0 else ""
            lines.append(f"{label:<18} {head:>4} " + " ".join(f"{q:>11.4g}" for q in quantiles))
    if "overflow" in dataset.attrs:
        lines += ["", dataset.attrs["overflow"] + "."]
    return "\n".join(lines)


def _refuse(error: Exception) -> NoReturn:
    """Say in one line what is wrong, and end with status 2."""
    _complain(error)
    raise typer.Exit(2)


def _complain(error: Exception | str) -> None:
    with suppress(OSError):
        typer.echo(f"qdelta: {' '.join(str(error).split()) or type(error).__name__}", err=True)


def _say(text: str) -> None:
    with _printing():
        typer.echo(text)


@contextmanager
def _printing() -> Iterator[None]:
    """End quietly where nobody reads on (the status is that of SIGPIPE), and with a sentence where nothing fits."""
    try:
        yield
    except OSError as error:
        with suppress(OSError):  # else Python would try once more to write what is left, and fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == EPIPE:
            raise SystemExit(141) from None
        with suppress(OSError):
            typer.echo(f"qdelta: the output cannot be written: {error.strerror}.", err=True)
        raise SystemExit(2) from None
