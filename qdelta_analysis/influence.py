"""Influence of every value on every readout: the linear recurrence written as attention over all past values.

        o_i = sum_j M_ij v_j + (what is left of S_0),    j <= i,    exactly, M being a number per pair of tokens

With G the running sum of g, D_ij = e^{G_i - G_j} for i >= j, and L_ij = beta_i D_ij x_i.k_j for i > j:

        M = tril(D Q K^T) (I + L)^-1 diag(beta)                         for o_t = S_t q_t
        M = tril(D Q K^T, -1) (I + L)^-1 diag(beta)                     for o_hat_t = alpha_t S_{t-1} q_t
        M = tril(D K K^T, -1) (I + L)^-1 diag(beta)                     for v_hat_t = alpha_t S_{t-1} k_t

The readout is the paper's, without the kernels' `scale`. The triangular system is solved inside chunks only; between
chunks each written unit is carried forward as a vector in key space, or each read backward as a covector, whichever
are fewer. So a row or a column of a long sequence costs O(T K C) and no T x T matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal, SupportsIndex, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from qdelta_kernels import recurrent_qdelta_rule
from qdelta_kernels.arguments import check_arguments
from qdelta_kernels.autocast import outside_autocast
from qdelta_kernels.chunkwise import Chunks, blocks, chunk_layout, prepare_chunks
from qdelta_kernels.decay import remains
from qdelta_kernels.diagnostics import length

from .checks import is_whole, plain
from .inputs import QDeltaInputs
from .readouts import read_thrice
from .scaled import ratio
from .threads import one_thread

Target = Literal["o", "v_hat", "o_hat"]
TARGETS: tuple[Target, ...] = get_args(Target)
MEANINGS = {
    "o": "o_t = S_t q_t, the output",
    "v_hat": "v_hat_t = alpha_t S_{t-1} k_t, the key's retrieval before the write",
    "o_hat": "o_hat_t = alpha_t S_{t-1} q_t, the query's prediction before the write",
}
_CHUNK = 64
_MOST_BYTES = 8 << 30


def exact(
    inputs: QDeltaInputs,
    rows: slice | None = None,
    columns: slice | None = None,
    *,
    of: Sequence[Target] = TARGETS,
    most_bytes: int = _MOST_BYTES,
) -> xr.Dataset:
    """Return how much each written value contributes to each readout: M, or a block of it.

        o_i = sum_j M_ij v_j + (what is left of S_0)

    Args:
        inputs: the tokens; computed in float64 where they are, else in float32.
        rows: the readouts i, a slice of tokens (None: all); its places are those of `QDeltaInputs.tokens`.
        columns: the written values j, likewise.
        of: which readouts: "o", "v_hat", "o_hat".
        most_bytes: refuse a result that is larger.

    Returns:
        A dataset with one variable per readout and dims (batch, head, time, source); 0 where j is no past of i.

    Raises ValueError for rows or columns that are no range of tokens, another readout, or a result too large.
    Source: Q-Delta (arXiv 2606.08804), equations 8 to 15; the closed form of M is this project's.
    """
    return _labelled(inputs, rows, columns, of, most_bytes, erase=True)


def heuristic(
    inputs: QDeltaInputs,
    rows: slice | None = None,
    columns: slice | None = None,
    *,
    of: Sequence[Target] = TARGETS,
    most_bytes: int = _MOST_BYTES,
) -> xr.Dataset:
    """Return what the influence would be if nothing were ever erased: decay and write only. It is not exact.

        M_ij ~ beta_j D_ij q_i.k_j    (o;  for v_hat with k_i in place of q_i)

    This is how linear attention is often pictured; for a delta rule it leaves out every correction. Arguments, result
    and errors are those of `exact`.
    """
    return _labelled(inputs, rows, columns, of, most_bytes, erase=False)


def row(inputs: QDeltaInputs, i: SupportsIndex, *, of: Sequence[Target] = TARGETS) -> xr.Dataset:
    """Return the influence of every past value on the readouts at token i, without the matrix.

    One backward pass of a covector through the recurrence. Result as that of `exact`, dims (batch, head, source).
    """
    at = _token("i", i, inputs.T)
    return exact(inputs, slice(at, at + 1), slice(0, at + 1), of=of).isel(time=0)


def column(inputs: QDeltaInputs, j: SupportsIndex, *, of: Sequence[Target] = TARGETS) -> xr.Dataset:
    """Return the influence of the value at token j on every readout from there on, without the matrix.

    One forward pass of the unit written at j. Result as that of `exact`, dims (batch, head, time).
    """
    at = _token("j", j, inputs.T)
    return exact(inputs, slice(at, None), slice(at, at + 1), of=of).isel(source=0)


@outside_autocast
@one_thread()
@torch.no_grad()
def initial(inputs: QDeltaInputs, rows: slice | None = None, *, of: Sequence[Target] = TARGETS) -> xr.Dataset:
    """Return through which covector w_i the initial state reaches each readout: its share is S_0 w_i.

    Dims (batch, head, time, key); arguments and errors are those of `exact`.
    """
    inputs, named, at = inputs.wide(), _targets(of), _tokens("rows", rows, inputs.T)
    found = _Pass(inputs, named, at, None, erase=True).run()
    return _dataset(inputs, named, found, at, {"key": np.arange(inputs.K)})


@outside_autocast
@one_thread()
@torch.no_grad()
def check(inputs: QDeltaInputs) -> xr.Dataset:
    """Return how far M V + S_0 w is from the recurrence, run token by token: ||difference|| / ||readouts||.

    Dims (batch, head), one variable per readout; 0 where both vanish. Rounding, times how much the memory outgrew what
    is read from it. Forms the whole matrix.
    """
    inputs = inputs.wide()
    M, w = exact(inputs), initial(inputs)
    v = inputs.v.transpose(1, 2)  # [B, H, T, V]
    S_0 = v.new_zeros(inputs.B, inputs.H, inputs.K, inputs.V)
    if inputs.initial_state is not None:
        S_0 = inputs.initial_state
    errors = {}
    for name, looped in _token_loop(inputs).items():
        built = torch.as_tensor(M[name].values).to(v) @ v + torch.as_tensor(w[name].values).to(v) @ S_0
        size = lambda x: length(torch.nn.functional.pad(x.flatten(2), (0, 1)))[0]  # a zero: there may be no token
        error = ratio(torch, size(built - looped), size(looped))
        errors[name] = (("batch", "head"), error.cpu().numpy(), {"long_name": f"relative error of {MEANINGS[name]}"})
    return xr.Dataset(errors, attrs=dict(M.attrs))


def _token_loop(inputs: QDeltaInputs) -> dict[Target, Float[Tensor, "B H T V"]]:
    """Return every readout by the recurrence, token by token."""
    o_hat, v_hat, o = (x.transpose(1, 2) for x in read_thrice(inputs, recurrent_qdelta_rule))
    return {"o": o, "v_hat": v_hat, "o_hat": o_hat}


@outside_autocast
@one_thread()
@torch.no_grad()
def _labelled(inputs, rows, columns, of, most_bytes: int, erase: bool) -> xr.Dataset:
    inputs, named = inputs.wide(), _targets(of)
    rows, columns = _tokens("rows", rows, inputs.T), _tokens("columns", columns, inputs.T)
    size = len(named) * inputs.B * inputs.H * len(rows) * len(columns) * inputs.v.element_size()
    if size > most_bytes:
        raise ValueError(
            f"rows and columns ask for {len(rows)} x {len(columns)} numbers a head, {size / 2**30:.1f} GiB in all; "
            f"expected at most {most_bytes / 2**30:g} GiB: ask for fewer, or set most_bytes."
        )
    found = _Pass(inputs, named, rows, columns, erase).run()
    return _dataset(inputs, named, found, rows, {"source": np.asarray(columns)}, erase)


@dataclass(frozen=True)
class _Chunk:
    """What c tokens of all n = B H heads write, pass on and read.

    S_end = S_start (kept I - erased^T write) + (values)^T write;  readouts = S_start reads^T + local values
    """

    tokens: range
    write: Tensor  # [n, c, K]
    erased: Tensor  # [n, c, K]
    kept: Tensor  # [n, 1, 1]
    reads: Tensor  # [targets, n, c, K]
    local: Tensor  # [targets, n, c, c]


class _Pass:
    """One pass over the tokens that fills a block of the influence matrix; columns=None stands for the initial state.

    The tokens are cut where rows or columns begin or end, so that every chunk lies in them or outside.
    """

    def __init__(self, inputs: QDeltaInputs, of: tuple[Target, ...], rows: range, columns: range | None, erase: bool):
        self.inputs, self.of, self.rows, self.erase = inputs, of, rows, erase
        self.columns = range(0) if columns is None else columns
        self.n, self.sources = inputs.B * inputs.H, inputs.K if columns is None else len(columns)
        self.initial = columns is None

    def run(self) -> Tensor:
        """Return the block, [targets, B H, rows, columns], or [targets, B H, rows, K] for the initial state."""
        out = self.inputs.v.new_zeros(len(self.of), self.n, len(self.rows), self.sources)
        if out.numel():
            (self._forward if self.sources <= len(self.rows) else self._backward)(out)
        return out

    def _forward(self, out: Tensor) -> None:
        """Carry what each source wrote, as a vector in key space, to the readouts."""
        carried = out.new_zeros(self.n, self.sources, self.inputs.K)
        met = 0
        if self.initial:
            carried[:], met = torch.eye(self.inputs.K, dtype=out.dtype, device=out.device), self.sources
        for chunk in self._chunks(reverse=False):
            c = len(chunk.tokens)
            if chunk.tokens[0] in self.rows:
                at = slice(chunk.tokens[0] - self.rows.start, chunk.tokens[0] - self.rows.start + c)
                out[:, :, at, :met] = chunk.reads @ carried[:, :met].mT
                if chunk.tokens[0] in self.columns:
                    out[:, :, at, met : met + c] = chunk.local
            past = carried[:, :met]
            past.copy_(torch.baddbmm(chunk.kept * past, past @ chunk.erased.mT, chunk.write, alpha=-1))
            if chunk.tokens[0] in self.columns:
                carried[:, met : met + c] = chunk.write
                met += c

    def _backward(self, out: Tensor) -> None:
        """Carry what each row reads, as a covector, back to the sources."""
        targets, last = len(self.of), len(self.rows)
        carried = out.new_zeros(targets, self.n, last, self.inputs.K)
        first = last  # rows from here on have been met
        for chunk in self._chunks(reverse=True):
            c = len(chunk.tokens)
            later = carried[:, :, first:]
            if chunk.tokens[0] in self.columns:
                at = slice(chunk.tokens[0] - self.columns.start, chunk.tokens[0] - self.columns.start + c)
                out[:, :, first:, at] = later @ chunk.write.mT
                if chunk.tokens[0] in self.rows:
                    out[:, :, first - c : first, at] = chunk.local
            later.copy_(chunk.kept * later - (later @ chunk.write.mT) @ chunk.erased)
            if chunk.tokens[0] in self.rows:
                carried[:, :, first - c : first] = chunk.reads
                first -= c
        if self.initial:
            out.copy_(carried)

    def _chunks(self, reverse: bool) -> Iterator[_Chunk]:
        start, stop = self.columns.start, self.rows.stop
        cuts = {self.columns.start, self.columns.stop, self.rows.start, self.rows.stop}
        ends = sorted(min(max(cut, start), stop) for cut in cuts)
        for a, b in _ordered(itertools.pairwise(ends), reverse):
            if a < b:
                yield from self._segment(range(a, b), reverse)

    def _segment(self, tokens: range, reverse: bool) -> Iterator[_Chunk]:
        """Yield the chunks of a stretch of tokens, prepared block by block."""
        x = self.inputs
        q, k, g, beta, lam = (y[:, tokens.start : tokens.stop] for y in (x.q, x.k, x.g, x.beta, x.lam))
        a = check_arguments(q, k, q.new_zeros(*beta.shape, 1), g, beta, lam)  # M does not depend on v
        layout = chunk_layout(a, _CHUNK)
        read = tokens.start in self.rows
        for block in _ordered(blocks(layout, a.q, a.v), reverse):
            c = prepare_chunks(layout, block, a.q, a.k, a.v, a.g, a.beta, a.lam)
            starts = range(tokens.start + block.first * layout.C, tokens.start + block.last * layout.C, layout.C)
            parts = _parts(c, self.of if read else (), self.erase)
            # [..., chunks x B, H, R, c, .] -> [chunks, ..., B H R, c, .]
            by_chunk = [p.unflatten(-5, (len(starts), x.B)).flatten(-5, -3).movedim(-4, 0) for p in parts]
            for i, at in _ordered(enumerate(starts), reverse):
                size = min(layout.C, tokens.stop - at)
                write, erased, kept, reads, local = (p[i] for p in by_chunk)
                yield _Chunk(
                    tokens=range(at, at + size),
                    write=write[:, :size],
                    erased=erased[:, :size],
                    kept=kept,
                    reads=reads[..., :size, :],
                    local=local[..., :size, :size],
                )


def _parts(c: Chunks, of: tuple[Target, ...], erase: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return write, erased, kept, reads and local of `_Chunk` for a block of chunks, [..., M, H, R, C, .]."""
    q, k = c.q[:, :, None], c.k[:, :, None]
    start, beta = c.from_start[..., None], c.beta[..., None]
    U = c.inverse * beta.mT if erase else torch.diag_embed(c.beta)
    write = U.mT @ (c.to_end[..., None] * k)
    erased = start * (k + c.lam[..., None] * q) if erase else torch.zeros_like(write)
    readout, retrieval = c.readout(), remains(c.gram[:, :, None, c.C :], c.decay)
    weights = {"o": (readout, q), "o_hat": (readout.tril(-1), q), "v_hat": (retrieval.tril(-1), k)}
    local = torch.stack([weights[name][0] @ U for name in of]) if of else U.new_zeros(0, *U.shape)
    reads = torch.stack([start * weights[name][1] for name in of]) if of else U.new_zeros(0, *write.shape)
    return write, erased, c.from_start[..., -1:, None], reads - local @ erased, local


def _ordered(items, reverse: bool):
    return reversed(list(items)) if reverse else items


def _targets(of: Sequence[Target]) -> tuple[Target, ...]:
    named = tuple(of)
    if not named or isinstance(of, str) or not set(named) <= set(TARGETS):
        raise ValueError(f"of is {of!r}; expected some of {', '.join(TARGETS)}, in a list or tuple.")
    return named


def _tokens(name: str, tokens: slice | None, T: int) -> range:
    if tokens is None:
        return range(T)
    start, stop, step = (plain(getattr(tokens, end, ())) for end in ("start", "stop", "step"))
    start, stop, step = 0 if start is None else start, T if stop is None else stop, 1 if step is None else step
    if all(is_whole(at) and -T <= at <= T for at in (start, stop)) and is_whole(step) and step == 1:
        found = range(*slice(start, stop).indices(T))
        if found.start <= found.stop:
            return found
    raise ValueError(
        f"{name} is {tokens!r}; expected a slice of tokens, with step 1, from one place to a later one of -T = {-T} to "
        f"T = {T}, or None for all."
    )


def _token(name: str, token: SupportsIndex, T: int) -> int:
    at = plain(token)
    if not is_whole(at) or not 0 <= at < T:
        raise ValueError(f"{name} is {token!r}; expected a token from 0 to T - 1 = {T - 1}.")
    return int(at)


def _dataset(
    inputs: QDeltaInputs, of: tuple[Target, ...], found: Tensor, rows: range, last: dict[str, np.ndarray], erase=True
) -> xr.Dataset:
    dims = ("batch", "head", "time", *last)
    values = found.unflatten(1, (inputs.B, inputs.H)).cpu().numpy()
    attrs = {
        **inputs.metadata,
        "made_by": f"qdelta_analysis.influence {version('qdelta')}, torch {torch.__version__}",
        "influence": "exact" if erase else "heuristic: the erase term is dropped",
    }
    variables = {name: (dims, x, {"long_name": MEANINGS[name]}) for name, x in zip(of, values, strict=True)}
    sizes = {"batch": np.arange(inputs.B), "head": np.arange(inputs.H), "time": np.asarray(rows)}
    return xr.Dataset(variables, {**sizes, **last}, attrs)
