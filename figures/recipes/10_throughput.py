"""Throughput of the kernels against the floor, from the recorded run, as in notebook 06."""

import plotly.graph_objects as go
import xarray as xr

from qdelta_analysis import hardware
from qdelta_analysis.plots import throughput_figure

VENUE, HEIGHT = "icml-page", 4.3


def _recorded() -> xr.Dataset:
    found = hardware.recorded_throughput()
    if found is None:
        raise FileNotFoundError(f"{hardware.RECORDED} is not there; expected a run recorded by `make bench` on a GPU.")
    return found


def _caption(recorded: xr.Dataset) -> str:
    """Say what the recorded run found, whatever it is."""
    ours, gated = (recorded.throughput.sel(kernel=name) for name in ("ours", "FLA gated"))
    ahead = (ours / gated).transpose("pass", "shape").values
    forward, both = (f"{ratios.min():.2f} to {ratios.max():.2f} times" for ratios in ahead)
    share = 100 * ours.sel({"pass": "forward"}) / recorded.floor
    least, most = (
        f"{float(one):.0f} % (at {int(one.B)} × {int(one['T']):,} tokens, {int(one.H)} heads)"
        for one in (share[int(share.argmin("shape"))], share[int(share.argmax("shape"))])
    )
    return f"""Throughput of the chunk kernels on one {recorded.attrs["device"]} (bfloat16, chunks of 64, median time;
    longer is faster), forward (left) and with the backward pass (right), for B × T tokens, H heads, K wide keys and V
    wide values. Peers are flash-linear-attention 0.6's closest operators: gated (Gated DeltaNet, without query
    feedback), comba (which erases along another vector, here k + λq) and precond (preconditioned). Ours run
    {forward} as fast as gated forward, {both} with the backward pass, which was not timed of the other two. Bars
    across: the most that one ideal fused forward kernel could do by that chip's own measured bandwidth and matrix
    rate; ours reach {least} to {most} of it."""


CAPTION = _caption(_recorded())


def draw() -> tuple[go.Figure, dict]:
    """Return the figure and its parameters."""
    recorded = _recorded()
    return throughput_figure(recorded), {name: recorded.attrs[name] for name in ("title", "device", "date")}
