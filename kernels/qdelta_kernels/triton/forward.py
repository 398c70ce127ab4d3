"""Kernel 2: the state from chunk to chunk, and the outputs, in parallel over sequences, heads and blocks of V."""

import triton
import triton.language as tl


@triton.jit
def along_v(b_x, UPRIGHT: tl.constexpr):
    """Lay a vector along V: the first axis, or the last if upright."""
    return tl.expand_dims(b_x, 0 if UPRIGHT else 1)


@triton.jit
def across_v(b_x, UPRIGHT: tl.constexpr):
    """Lay a vector along the axis that is not V: tokens, or K."""
    return tl.expand_dims(b_x, 1 if UPRIGHT else 0)


@triton.jit
def turned(b_x, UPRIGHT: tl.constexpr):
    """Turn a tile whose last axis is V, as all are in memory, to how it is held here; or back."""
    return b_x if UPRIGHT else tl.trans(b_x)


@triton.jit
def times(b_x, b_y, acc, UPRIGHT: tl.constexpr, DOT: tl.constexpr):
    """Return X Y^T + acc for X [V, n] and Y [m, n]; upright, X is held as [n, V], the result as [m, V]."""
    if UPRIGHT:
        b_xy = tl.dot(b_y, b_x, acc=acc, input_precision=DOT)
    else:
        b_xy = tl.dot(b_x, tl.trans(b_y), acc=acc, input_precision=DOT)
    return b_xy


@triton.jit
def load_state(p_state, o_k, o_v, K: tl.constexpr, V: tl.constexpr, UPRIGHT: tl.constexpr):
    """Load one state's rows of S, [BV, BK] (upright: [BK, BV]), from its transpose [K, V] in memory."""
    o_k, o_v = across_v(o_k, UPRIGHT), along_v(o_v, UPRIGHT)
    return tl.load(p_state + (o_k * V + o_v), mask=(o_v < V) & (o_k < K), other=0.0).to(tl.float32)


@triton.jit
def store_state(p_state, b_S, o_k, o_v, K: tl.constexpr, V: tl.constexpr, UPRIGHT: tl.constexpr):
    """Store rows of S to the transpose [K, V] in memory."""
    o_k, o_v = across_v(o_k, UPRIGHT), along_v(o_v, UPRIGHT)
    tl.store(p_state + (o_k * V + o_v), b_S, mask=(o_v < V) & (o_k < K))


@triton.jit
def store_chunk_state(p_states, b_s, o_k, o_v, K: tl.constexpr, V: tl.constexpr, UPRIGHT: tl.constexpr):
    """Store rows of S as they are, [V, K] in memory."""
    o_k, o_v = across_v(o_k, UPRIGHT), along_v(o_v, UPRIGHT)
    tl.store(p_states + (o_v * K + o_k), b_s, mask=(o_v < V) & (o_k < K))


@triton.jit(do_not_specialize=["H", "HV"])
def forward_kernel(
    q,
    k,
    v,
    inverse,
    readout,
    factors,
    through,
    span_start,
    span_end,
    span_chunk,
    initial,
    final,
    o,
    eps,
    states,
    o_hat,
    reads,
    norm2,
    H,
    HV,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BV: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    TAILS: tl.constexpr,
    TRANSFER: tl.constexpr,
    HAS_LAM: tl.constexpr,
    STORE_O: tl.constexpr,
    STORE_EPS: tl.constexpr,
    STORE_STATES: tl.constexpr,
    STORE_FINAL: tl.constexpr,
    STORE_TRACE: tl.constexpr,
    HOLLOW: tl.constexpr,
    UPRIGHT: tl.constexpr,
    DOT: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One program: one span of tokens, one value head, BV rows of S; for each chunk, with T the inverse,

        eps = T E,   E = V - (e^G K + e^G lam Q) S^T
        O = scale e^G Q S^T + A eps
        S <- e^{G_C} S + (e^{G_C - G} beta eps)^T K

    computed transposed, so that S, E and eps stay in registers as left operands; UPRIGHT, as written, for states too
    large for that: they are right operands then, and pass through shared memory. With TRANSFER the state has K more
    rows, [S; I]: with values of zero they become the product of the span's transitions.

    q, k [tokens, H K], v [tokens, HV V], inverse and readout [M HV C, C] come as tensor descriptors. A tile that
    reaches past its sequence holds what lies there, which may be no number at all: where there are TAILS, the last
    chunk of a sequence that is not full is a loop of its own that masks it; full chunks go from memory to the products
    as they are. A tile that reaches past its head's V holds rows of S that are never stored, and touch no others.

    STORE_TRACE, with scale = 1 and A's diagonal zero, stores o_hat = alpha S q, each token's own write left out, and
    `reads` = v - eps = alpha S x (descriptors of [M HV C, V]), and the squared norm of every row of the state that
    enters each chunk. Stores by descriptor need no registers for addresses; there are none left.
    """
    pid = tl.program_id(0)
    ROWS: tl.constexpr = V + K if TRANSFER else V
    NV: tl.constexpr = (ROWS + BV - 1) // BV
    i_v, i_hv, i_s = pid % NV, (pid // NV) % HV, (pid // (NV * HV)).to(tl.int64)
    start, end = tl.load(span_start + i_s), tl.load(span_end + i_s)
    first = tl.load(span_chunk + i_s)
    o_c, o_k, o_v = tl.arange(0, C), tl.arange(0, K), i_v * BV + tl.arange(0, BV)
    m_v = o_v < ROWS
    o_vt = tl.arange(0, BV)[None, :] + o_c[:, None] * (HV * V)
    column_k, column_v = (i_hv // (HV // H)) * K, i_hv * V + i_v * BV
    p_state = (i_s * HV + i_hv) * K * ROWS
    if HAS_INITIAL:
        b_S = load_state(initial + p_state, o_k, o_v, K, V, UPRIGHT)
    elif TRANSFER:
        b_S = tl.where(along_v(o_v - V, UPRIGHT) == across_v(o_k, UPRIGHT), 1.0, 0.0)
        if i_v * BV >= V:
            column_v = HV * V  # beyond the last column there are zeros
    else:
        b_S = tl.zeros([K, BV] if UPRIGHT else [BV, K], tl.float32)
    full = (end - start) // C
    for TAIL in tl.static_range(2 if TAILS else 1):
        for i in tl.range(full if TAIL else 0, tl.cdiv(end - start, C) if TAIL else full, num_stages=STAGES):
            t = start + i * C
            row = t.to(tl.int32)
            i_chunk = (first + i) * HV + i_hv
            row_c = (i_chunk * C).to(tl.int32)
            p_factors = factors + i_chunk * 4 * C + o_c
            b_erase_k = tl.load(p_factors)
            b_erase_q = tl.load(p_factors + C)
            b_read_q = tl.load(p_factors + 2 * C)
            b_write = tl.load(p_factors + 3 * C)
            b_through = tl.load(through + i_chunk)
            m_t = o_c < end - t
            b_k = k.load([row, column_k])
            if TAIL:
                b_k = tl.where(m_t[:, None], b_k, 0.0)
            b_T = inverse.load([row_c, 0])
            b_s = b_S.to(k.dtype)
            p_tv = t * HV * V + column_v
            m_tv = m_t[:, None] & m_v[None, :]
            if STORE_STATES:
                store_chunk_state(states + i_chunk * V * K, b_s, o_k, o_v, K, V, UPRIGHT)
            b_E = times(b_s, b_k, None, UPRIGHT, DOT) * -across_v(b_erase_k, UPRIGHT)
            if HAS_LAM or STORE_O or STORE_TRACE:
                b_q = q.load([row, column_k])
                if TAIL:
                    b_q = tl.where(m_t[:, None], b_q, 0.0)
                b_P = times(b_s, b_q, None, UPRIGHT, DOT)
                if HAS_LAM:
                    b_E -= b_P * across_v(b_erase_q, UPRIGHT)
            b_e = b_E.to(k.dtype)
            if HOLLOW:
                b_eps = times(b_e, b_T, None, UPRIGHT, DOT)
            else:
                # What is left of E when it is rounded for the product is added unrounded: T's diagonal is 1.
                b_eps = times(b_e, b_T, b_E - b_e.to(tl.float32), UPRIGHT, DOT)
            b_v = v.load([row, column_v])
            if TAIL:
                b_v = tl.where(m_t[:, None], b_v, 0.0)
            b_v = turned(b_v, UPRIGHT)
            b_eps = times(b_v, b_T, b_eps, UPRIGHT, DOT)
            if HOLLOW:
                b_eps += b_E  # not an accumulator: that takes more registers
                if STORE_TRACE:  # before v is added, in which small reads would be lost
                    reads.store([row_c, i_v * BV], turned(-b_eps, UPRIGHT).to(k.dtype))
                b_eps += b_v.to(tl.float32)
            b_u = (b_eps * across_v(b_write, UPRIGHT)).to(k.dtype)
            b_S_new = times(b_u, tl.trans(b_k), b_S * b_through, UPRIGHT, DOT)
            if STORE_EPS:
                tl.store(eps + p_tv + o_vt, turned(b_eps, UPRIGHT).to(k.dtype), mask=m_tv)
            if STORE_O or STORE_TRACE:
                b_A = readout.load([row_c, 0])
                b_O = times(b_eps.to(k.dtype), b_A, b_P * across_v(b_read_q, UPRIGHT), UPRIGHT, DOT)
            if STORE_O:
                tl.store(o + p_tv + o_vt, turned(b_O, UPRIGHT).to(o.dtype.element_ty), mask=m_tv)
            if STORE_TRACE:
                o_hat.store([row_c, i_v * BV], turned(b_O, UPRIGHT).to(k.dtype))
                tl.store(norm2 + i_chunk * V + o_v, tl.sum(b_S * b_S, 0 if UPRIGHT else 1), mask=m_v)
            b_S = b_S_new
    if STORE_FINAL:
        store_state(final + p_state, b_S, o_k, o_v, K, ROWS, UPRIGHT)


@triton.jit(do_not_specialize=["HV"])
def scan_kernel(
    spans,
    local,
    span_of_sequence,
    initial,
    entering,
    HV,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BJ: tl.constexpr,
    BV: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    REVERSE: tl.constexpr,
    DOT: tl.constexpr,
):
    """One program: one sequence, one value head, BV columns of h = S^T: the state that enters each of its spans.

        h <- M h + N, with M [K, K] the span's transfer matrix and N its final state from zero

    `spans` holds [N, M] side by side, [K, V + K]. REVERSE runs from the last span to the first with M^T and takes N
    from `local` [K, V]: the same for the gradient of the state.
    """
    pid = tl.program_id(0).to(tl.int64)
    NV: tl.constexpr = (V + BV - 1) // BV
    i_v, i_hv, i_n = pid % NV, (pid // NV) % HV, pid // (NV * HV)
    first, last = tl.load(span_of_sequence + i_n).to(tl.int64), tl.load(span_of_sequence + i_n + 1).to(tl.int64)
    o_k, o_v, o_j = tl.arange(0, BK), i_v * BV + tl.arange(0, BV), tl.arange(0, BJ)
    o_kv = o_k[:, None] * V + o_v[None, :]
    m_kv = (o_k < K)[:, None] & (o_v < V)[None, :]
    if HAS_INITIAL:
        b_h = tl.load(initial + (i_n * HV + i_hv) * K * V + o_kv, mask=m_kv, other=0.0).to(tl.float32)
    else:
        b_h = tl.zeros([BK, BV], tl.float32)
    for i in range(last - first):
        i_s = first + i
        if REVERSE:
            i_s = last - 1 - i
        p_N, p_h = spans + (i_s * HV + i_hv) * K * (V + K), entering + (i_s * HV + i_hv) * K * V
        p_M = p_N + V
        tl.store(p_h + o_kv, b_h, mask=m_kv)
        # What was stored is read again, a few rows at a time: all of M does not fit next to the processor.
        tl.debug_barrier()
        if REVERSE:
            b_h = tl.load(local + (i_s * HV + i_hv) * K * V + o_kv, mask=m_kv, other=0.0)
        else:
            b_h = tl.load(p_N + o_k[:, None] * (V + K) + o_v[None, :], mask=m_kv, other=0.0)
        for j in range(0, K, BJ):
            m_kj = (o_k < K)[:, None] & (j + o_j < K)[None, :]
            if REVERSE:
                b_M = tl.load(p_M + (j + o_j)[None, :] * (V + K) + o_k[:, None], mask=m_kj, other=0.0)
            else:
                b_M = tl.load(p_M + o_k[:, None] * (V + K) + (j + o_j)[None, :], mask=m_kj, other=0.0)
            m_jv = (j + o_j < K)[:, None] & (o_v < V)[None, :]
            b_hj = tl.load(p_h + (j + o_j)[:, None] * V + o_v[None, :], mask=m_jv, other=0.0)
            b_h = tl.dot(b_M, b_hj, acc=b_h, input_precision=DOT)
