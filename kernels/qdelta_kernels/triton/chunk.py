"""The chunk form on a GPU: launches the kernels, forwards, backwards and for traces."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .backward import state_gradient_kernel, token_gradient_kernel
from .forward import forward_kernel, scan_kernel
from .intra import intra_kernel
from .launch import Launch, Launches, ceil_power, launches, processors
from .plan import Plan, Widths, block_rows, plan
from .spans import Spans, bounds_of, chunk_slots, cut

# How the products inside the kernels treat float32; half precision is multiplied as it is.
PRECISION = "tf32x3"
# And how they treat the triangular solve, always in float32: T is rounded to the inputs' dtype, and only bfloat16's
# rounding is far above that of tf32 products.
SOLVE = {torch.bfloat16: "tf32", torch.float16: "ieee", torch.float32: "ieee"}


@dataclass(frozen=True)
class Call:
    """One call's tensors (contiguous) and sizes."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor | None
    beta: Tensor
    lam: Tensor | None
    initial: Tensor | None
    scale: float
    l2norm: bool
    C: int
    bounds: tuple[tuple[int, int], ...]
    slots: int  # room for chunks

    @staticmethod
    def of(q, k, v, g, beta, lam, initial, cu_seqlens, scale, l2norm, C) -> Call:
        """Bring the tensors into the layout that the kernels read: contiguous, K a power of two, V a multiple of 16."""
        B, T = q.shape[:2]
        K, V = ceil_power(q.shape[3]), -(-v.shape[3] // 16) * 16
        q, k, v = padded(q, K), padded(k, K), padded(v, V)
        initial = None if initial is None else padded(initial.float(), V, K)
        tensors = (None if x is None else x.contiguous() for x in (q, k, v, g, beta, lam, initial))
        return Call(
            *tensors,
            scale=scale,
            l2norm=l2norm,
            C=C,
            bounds=bounds_of(B, T, cu_seqlens),
            slots=chunk_slots(B, T, cu_seqlens, C),
        )

    @property
    def heads(self) -> tuple[int, int]:
        """H and HV."""
        return self.q.shape[2], self.v.shape[2]

    @property
    def sizes(self) -> tuple[int, int]:
        """K and V."""
        return self.q.shape[3], self.v.shape[3]

    @property
    def longest(self) -> int:
        """How many chunks the longest sequence has, at least 1."""
        return max(1, *(-(-(b - a) // self.C) for a, b in self.bounds))

    @property
    def launches(self) -> Launches:
        """The table's row for these inputs."""
        return launches(self.q.dtype, self.sizes[0], self.q.device)

    def plan(self, *, every_product: bool = False) -> Plan:
        """Choose blocks of V, and how many spans each sequence is cut into."""
        heads = len(self.bounds) * self.heads[1]
        return plan(self.widths(self.launches.forward), heads, self.sizes[0], self.longest, every_product=every_product)

    def widths(self, by_width: dict[str, Launch]) -> Widths:
        """What a serial kernel chooses from."""
        return Widths(**by_width, V=self.sizes[1], processors=processors(self.q.device))

    def spans(self, plan: Plan, stops: tuple[int, ...] = ()) -> Spans:
        """Cut the sequences into spans; stops: chunks at which one begins as well."""
        return cut(self.bounds, self.C, plan.length, self.q.device, stops)

    def tiles(self, x: Tensor, width: int) -> TensorDescriptor:
        """Describe tokens [B, T, H, D] as a matrix [B T, H D] that is read in tiles of a chunk by `width`."""
        tokens = x.shape[0] * x.shape[1]
        row = x.shape[2] * x.shape[3]
        return TensorDescriptor(x, [tokens, row], [row, 1], [self.C, width])

    def flags(self) -> dict[str, bool]:
        """Which optional arguments there are."""
        return {"HAS_G": self.g is not None, "HAS_LAM": self.lam is not None, "L2NORM": self.l2norm}


def padded(x: Tensor, last: int, before: int | None = None) -> Tensor:
    """Append zeros to the last axis (and the one before it) up to these sizes."""
    more = last - x.shape[-1], 0 if before is None else before - x.shape[-2]
    return torch.nn.functional.pad(x, (0, more[0], 0, more[1])) if any(more) else x


@dataclass(frozen=True)
class Prepared:
    """What `intra_kernel` computes, for each chunk and value head."""

    inverse: Tensor  # [M, HV, C, C]: T = (I + L)^-1, less its diagonal for traces
    readout: Tensor  # [M, HV, C, C]: A
    factors: Tensor  # [M, HV, 4, C]
    through: Tensor  # [M, HV]
    products: Tensor | None = None  # [M, HV, 2, C]: k.k and q.k, for traces

    def tiles(self) -> tuple[TensorDescriptor, TensorDescriptor]:
        """Describe inverse and readout as matrices [M HV C, C] that are read a chunk at a time."""
        M, HV, C, _ = self.inverse.shape
        return tuple(TensorDescriptor(x, [M * HV * C, C], [C, 1], [C, C]) for x in (self.inverse, self.readout))


def prepare(call: Call, spans: Spans, *, trace: bool = False) -> Prepared:
    """Compute what needs no state; for a trace A leaves out each token's own write, and T its diagonal of ones."""
    q, C, M = call.q, call.C, max(call.slots, len(spans.chunk_start))
    (H, HV), (K, _) = call.heads, call.sizes
    float32 = {"device": q.device, "dtype": torch.float32}
    found = Prepared(
        inverse=torch.empty((M, HV, C, C), device=q.device, dtype=q.dtype),
        readout=torch.empty((M, HV, C, C), device=q.device, dtype=q.dtype),
        factors=torch.empty((M, HV, 4, C), **float32),
        through=torch.empty((M, HV), **float32),
        products=torch.empty((M, HV, 2, C), **float32) if trace else None,
    )
    launch = call.launches.intra
    if chunks := len(spans.chunk_start):
        intra_kernel[(chunks * HV,)](
            q,
            call.k,
            call.g,
            call.beta,
            call.lam,
            spans.chunk_start,
            spans.chunk_end,
            found.inverse,
            found.readout,
            found.factors,
            found.through,
            found.products,
            call.scale,
            H,
            HV,
            K=K,
            C=C,
            BK=min(launch.BK or K, K),
            TRACE=trace,
            **call.flags(),
            DOT=PRECISION,
            SOLVE=SOLVE[q.dtype],
            **launch.threads,
            num_stages=launch.stages,
        )
    return found


@dataclass(frozen=True)
class Traced:
    """Room for what a traced forward pass stores of each chunk and value head; rows past a sequence's end are junk."""

    o_hat: Tensor  # [M, HV, C, V]
    reads: Tensor  # [M, HV, C, V]: v - eps
    norm2: Tensor  # [M, HV, V]: the squared norm of each row of S, on entering the chunk

    @staticmethod
    def of(call: Call) -> Traced:
        """Make room for a call."""
        shape = (call.slots, call.heads[1], call.C, call.sizes[1])
        o_hat, reads = (call.v.new_empty(shape) for _ in range(2))
        return Traced(o_hat, reads, call.v.new_empty((*shape[:2], shape[3]), dtype=torch.float32))

    def arguments(self, BV: int) -> tuple[TensorDescriptor, TensorDescriptor, Tensor]:
        """Describe o_hat and reads as matrices [M HV C, V] that are written in tiles of a chunk by BV."""
        M, HV, C, V = self.o_hat.shape
        matrices = (TensorDescriptor(x, [M * HV * C, V], [V, 1], [C, BV]) for x in (self.o_hat, self.reads))
        return *matrices, self.norm2


def run(
    call: Call,
    spans: Spans,
    prepared: Prepared,
    launch: Launch,
    initial: Tensor | None,
    *,
    transfer: bool = False,
    final: Tensor | None = None,
    o: Tensor | None = None,
    eps: Tensor | None = None,
    states: Tensor | None = None,
    traced: Traced | None = None,
) -> None:
    """Carry the state through every span, writing whatever of final, o, eps, states and traced there is room for."""
    (H, HV), (K, V) = call.heads, call.sizes
    if call.v.numel() == 0:  # no tokens to describe to the kernel: what enters leaves
        if final is not None:
            final.zero_() if initial is None else final.copy_(initial)
        return
    BV = block_rows(launch, V, transfer)
    rows = V + K if transfer else V
    grid = (len(spans.start) * HV * triton.cdiv(rows, BV),)
    forward_kernel[grid](
        call.tiles(call.q, K),
        call.tiles(call.k, K),
        call.tiles(call.v, BV),
        *prepared.tiles(),
        prepared.factors,
        prepared.through,
        spans.start,
        spans.end,
        spans.chunk,
        initial,
        final,
        o,
        eps,
        states,
        *((None,) * 3 if traced is None else traced.arguments(BV)),
        H,
        HV,
        K=K,
        V=V,
        C=call.C,
        BV=BV,
        HAS_INITIAL=initial is not None,
        TAILS=spans.tails,
        TRANSFER=transfer,
        HAS_LAM=call.lam is not None,
        STORE_O=o is not None,
        STORE_EPS=eps is not None,
        STORE_STATES=states is not None,
        STORE_FINAL=final is not None,
        STORE_TRACE=traced is not None,
        HOLLOW=prepared.products is not None,
        UPRIGHT=launch.upright,
        DOT=PRECISION,
        STAGES=launch.stages,
        **launch.threads,
    )


def scan(call: Call, spans: Spans, products: Tensor, start: Tensor | None, local: Tensor | None = None) -> Tensor:
    """Return the state that enters each span; with `local`, the gradient of the state that leaves each span."""
    (_, HV), (K, V) = call.heads, call.sizes
    entering = call.q.new_empty((len(spans.start), HV, K, V), dtype=torch.float32)
    BV = min(32, ceil_power(V))
    scan_kernel[(len(call.bounds) * HV * triton.cdiv(V, BV),)](
        products,
        local,
        spans.of_sequence,
        start,
        entering,
        HV,
        K=K,
        V=V,
        BK=K,
        BJ=min(64, K),
        BV=BV,
        HAS_INITIAL=start is not None,
        REVERSE=local is not None,
        DOT=PRECISION,
        num_warps=4,
        num_stages=1,
    )
    return entering


def span_products(call: Call, spans: Spans, prepared: Prepared, launch: Launch, *, last: bool = False) -> Tensor:
    """Return, for each span, its final state from zero beside its transfer matrix, [W, HV, K, V + K]; for the last
    span of each sequence zero and the identity, unless it is asked for."""
    (_, HV), (K, V) = call.heads, call.sizes
    products = call.q.new_empty((len(spans.start), HV, K, V + K), dtype=torch.float32)
    walked = spans if last else replace(spans, end=spans.end_before_last)
    run(call, walked, prepared, launch, None, transfer=True, final=products)
    return products


def last_of_sequences(call: Call, spans: Spans, final: Tensor) -> Tensor:
    """Return the final state of each sequence, given that of each span."""
    return final[spans.of_sequence[1:] - 1] if spans.split else final


def chunk_forward(call: Call) -> tuple[Tensor, Tensor, Prepared]:
    """Return outputs, final states, and what the backward pass can use again."""
    plan = call.plan()
    spans = call.spans(plan)
    prepared = prepare(call, spans)
    initial = call.initial
    if spans.split:
        initial = scan(call, spans, span_products(call, spans, prepared, plan.products), call.initial)
    (_, HV), (K, V) = call.heads, call.sizes
    final = call.q.new_empty((len(spans.start), HV, K, V), dtype=torch.float32)
    o = torch.empty_like(call.v)
    run(call, spans, prepared, plan.launch, initial, final=final, o=o)
    return o, last_of_sequences(call, spans, final), prepared


def chunk_backward(call: Call, prepared: Prepared, do: Tensor, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return the gradients of q, k, v, g, beta, lam and the initial state; the states are computed again."""
    plan = call.plan(every_product=True)
    spans = call.spans(plan)
    (H, HV), (K, V) = call.heads, call.sizes
    _, _, reverse = call.widths(call.launches.state_gradient).fastest(len(spans.start) * HV)
    q, M = call.q, call.slots
    do, dfinal = do.contiguous(), None if dfinal is None else dfinal.contiguous()
    states, dstates = (torch.empty((M, HV, V, K), device=q.device, dtype=q.dtype) for _ in range(2))
    eps, dv = torch.empty_like(call.v), torch.empty_like(call.v)
    dinitial = torch.empty((len(spans.start), HV, K, V), device=q.device, dtype=torch.float32)
    initial = call.initial
    gradient = StateGradient(call, spans, prepared, reverse, do)
    if spans.split:
        products = span_products(call, spans, prepared, plan.products, last=True)
        initial = scan(call, spans, products, call.initial)
        gradient.run(None, dinitial=dinitial)
        dfinal = scan(call, spans, products, dfinal, local=dinitial)
    run(call, spans, prepared, plan.launch, initial, eps=eps, states=states)
    gradient.run(dfinal, dinitial=dinitial, dv=dv, dstates=dstates)
    dinitial = dinitial[spans.of_sequence[:-1]] if spans.split else dinitial
    launch = call.launches.token_gradient
    B, T, R = *q.shape[:2], HV // H
    # The value heads of one group add up their gradients of q and k: in float32, so that nothing is lost on the way.
    dqk = {"device": q.device, "dtype": q.dtype if R == 1 else torch.float32}
    dq, dk = (torch.empty((B, T, HV, K), **dqk) for _ in range(2))
    dg, dbeta, dlam = (torch.empty((B, T, HV), device=q.device, dtype=torch.float32) for _ in range(3))
    if chunks := len(spans.chunk_start):
        token_gradient_kernel[(chunks * HV,)](
            do,
            dv,
            eps,
            states,
            dstates,
            q,
            call.k,
            call.g,
            call.beta,
            call.lam,
            spans.chunk_start,
            spans.chunk_end,
            dq,
            dk,
            dg,
            dbeta,
            dlam,
            call.scale,
            H,
            HV,
            K=K,
            V=V,
            C=call.C,
            BK=min(launch.BK, ceil_power(K)),
            BV=min(launch.BV, ceil_power(V)),
            **call.flags(),
            DOT=PRECISION,
            **launch.threads,
            num_stages=launch.stages,
        )
    if R > 1:
        dq, dk = (x.unflatten(2, (H, R)).sum(3).to(q.dtype) for x in (dq, dk))
    return dq, dk, dv, dg, dbeta, dlam, dinitial


@dataclass(frozen=True)
class StateGradient:
    """The reverse pass over the chunks, with what it reads."""

    call: Call
    spans: Spans
    prepared: Prepared
    launch: Launch
    do: Tensor

    def run(self, dfinal: Tensor | None, *, dinitial: Tensor, dv: Tensor | None = None, dstates: Tensor | None = None):
        """Carry the gradient of the state back through every span; keep it at every chunk if there is room."""
        call, spans, prepared, launch = self.call, self.spans, self.prepared, self.launch
        (H, HV), (K, V) = call.heads, call.sizes
        if call.v.numel() == 0:
            dinitial.zero_() if dfinal is None else dinitial.copy_(dfinal)
            return
        BV = min(launch.BV, ceil_power(V))
        state_gradient_kernel[(len(spans.start) * HV * triton.cdiv(V, BV),)](
            call.tiles(self.do, BV),
            call.tiles(call.q, K),
            call.tiles(call.k, K),
            *prepared.tiles(),
            prepared.factors,
            prepared.through,
            spans.start,
            spans.end,
            spans.chunk,
            dfinal,
            dinitial,
            dv,
            dstates,
            H,
            HV,
            K=K,
            V=V,
            C=call.C,
            BV=BV,
            HAS_DFINAL=dfinal is not None,
            TAILS=spans.tails,
            HAS_LAM=call.lam is not None,
            STORE_CHUNKS=dstates is not None,
            DOT=PRECISION,
            STAGES=launch.stages,
            **launch.threads,
        )
