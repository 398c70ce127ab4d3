"""Decoding: a token or a few at a time, by rank-one updates of a state that is read and written once."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["scale", "H", "HV"])
def decode_kernel(
    q,
    k,
    v,
    g,
    beta,
    lam,
    start_of_sequence,
    initial,
    final,
    o,
    norm,
    wanted,
    scale,
    H,
    HV,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    HAS_G: tl.constexpr,
    HAS_LAM: tl.constexpr,
    L2NORM: tl.constexpr,
    NORM: tl.constexpr,
):
    """One program: one sequence, one value head, BV columns of h = S^T. `final` may be `initial`.

    h <- alpha h,   u = beta (v - h^T x),   h <- h + k u^T,   o = scale h^T q

    NORM stores not o and the final state but the norm of these columns after every token, [tokens, HV, NV], and only
    for the sequences and heads that are `wanted`, [N, HV].
    """
    pid = tl.program_id(0).to(tl.int64)
    NV: tl.constexpr = (V + BV - 1) // BV
    i_v, i_hv, i_n = pid % NV, (pid // NV) % HV, pid // (NV * HV)
    if NORM:  # noqa: SIM102 (there is nothing to load without it)
        if tl.load(wanted + i_n * HV + i_hv) == 0:
            return
    i_h = i_hv // (HV // H)
    start, end = tl.load(start_of_sequence + i_n).to(tl.int64), tl.load(start_of_sequence + i_n + 1).to(tl.int64)
    o_k, o_v = tl.arange(0, BK), i_v * BV + tl.arange(0, BV)
    m_k, m_v = o_k < K, o_v < V
    m_kv = m_k[:, None] & m_v[None, :]
    o_kv = (i_n * HV + i_hv) * K * V + o_k[:, None] * V + o_v[None, :]
    if HAS_INITIAL:
        b_h = tl.load(initial + o_kv, mask=m_kv, other=0.0).to(tl.float32)
    else:
        b_h = tl.zeros([BK, BV], tl.float32)
    for t in range(start, end):
        o_gate = t * HV + i_hv
        b_q = tl.load(q + (t * H + i_h) * K + o_k, mask=m_k, other=0.0).to(tl.float32)
        b_k = tl.load(k + (t * H + i_h) * K + o_k, mask=m_k, other=0.0).to(tl.float32)
        b_v = tl.load(v + o_gate * V + o_v, mask=m_v, other=0.0).to(tl.float32)
        if L2NORM:
            b_q *= tl.math.rsqrt(tl.sum(b_q * b_q, 0) + 1e-6)
            b_k *= tl.math.rsqrt(tl.sum(b_k * b_k, 0) + 1e-6)
        b_x = b_k
        if HAS_LAM:
            b_x += tl.load(lam + o_gate).to(tl.float32) * b_q
        if HAS_G:
            b_h *= tl.exp(tl.load(g + o_gate).to(tl.float32))
        b_u = tl.load(beta + o_gate).to(tl.float32) * (b_v - tl.sum(b_h * b_x[:, None], 0))
        b_h += b_k[:, None] * b_u[None, :]
        if NORM:
            # In units of the largest entry, so that no square over- or underflows.
            b_most = tl.max(tl.max(tl.abs(b_h), 1), 0)
            b_unit = tl.where(b_most > 0, b_h / tl.where(b_most > 0, b_most, 1.0), b_h)
            tl.store(norm + o_gate * NV + i_v, b_most * tl.sqrt(tl.sum(tl.sum(b_unit * b_unit, 1), 0)))
        else:
            b_o = scale * tl.sum(b_h * b_q[:, None], 0)
            tl.store(o + o_gate * V + o_v, b_o.to(o.dtype.element_ty), mask=m_v)
    if not NORM:
        tl.store(final + o_kv, b_h, mask=m_kv)
