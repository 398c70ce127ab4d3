"""Kernels 3 and 4: the gradient of the state from chunk to chunk, and of all the rest chunk by chunk."""

import triton
import triton.language as tl

from .forward import load_state, store_chunk_state, store_state
from .intra import decay_differences, running_decay


@triton.jit(do_not_specialize=["H", "HV"])
def state_gradient_kernel(
    do,
    q,
    k,
    inverse,
    readout,
    factors,
    through,
    span_start,
    span_end,
    span_chunk,
    dfinal,
    dinitial,
    dv,
    dstates,
    H,
    HV,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BV: tl.constexpr,
    HAS_DFINAL: tl.constexpr,
    TAILS: tl.constexpr,
    HAS_LAM: tl.constexpr,
    STORE_CHUNKS: tl.constexpr,
    DOT: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One program: one span, one value head, BV rows of dS, from the last chunk to the first. With dS of the state
    that leaves the chunk and T the inverse,

        deps = A^T dO + (e^{G_C - G} beta K) dS^T,   dV = dE = T^T deps
        dS <- e^{G_C} dS + (scale e^G dO - e^G lam dE)^T Q - (e^G dE)^T K

    do [tokens, HV V], q, k, inverse and readout come as tensor descriptors, and the last chunk is masked, as in
    `forward_kernel`.
    """
    pid = tl.program_id(0)
    NV: tl.constexpr = (V + BV - 1) // BV
    i_v, i_hv, i_s = pid % NV, (pid // NV) % HV, (pid // (NV * HV)).to(tl.int64)
    start, end = tl.load(span_start + i_s), tl.load(span_end + i_s)
    first = tl.load(span_chunk + i_s)
    o_c, o_k, o_v = tl.arange(0, C), tl.arange(0, K), i_v * BV + tl.arange(0, BV)
    m_v = o_v < V
    o_vt = tl.arange(0, BV)[None, :] + o_c[:, None] * (HV * V)
    column_k, column_v = (i_hv // (HV // H)) * K, i_hv * V + i_v * BV
    p_state = (i_s * HV + i_hv) * K * V
    if HAS_DFINAL:
        b_dS = load_state(dfinal + p_state, o_k, o_v, K, V, False)
    else:
        b_dS = tl.zeros([BV, K], tl.float32)
    chunks = tl.cdiv(end - start, C)
    full = (end - start) // C
    for FULL in tl.static_range(0 if TAILS else 1, 2):  # the last chunk, if it is not full, comes first
        for j in tl.range(0, full if FULL else chunks - full, num_stages=STAGES):
            i = (full if FULL else chunks) - 1 - j
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
            b_q = q.load([row, column_k])
            if not FULL:
                b_k = tl.where(m_t[:, None], b_k, 0.0)
                b_q = tl.where(m_t[:, None], b_q, 0.0)
            b_T = inverse.load([row_c, 0])
            b_A = readout.load([row_c, 0])
            m_tv = m_t[:, None] & m_v[None, :]
            p_tv = t * HV * V + column_v
            b_ds = b_dS.to(k.dtype)
            if STORE_CHUNKS:
                store_chunk_state(dstates + i_chunk * V * K, b_ds, o_k, o_v, K, V, False)
            b_do = do.load([row, column_v])  # as late as it can be: registers are short
            if not FULL:
                b_do = tl.where(m_t[:, None], b_do, 0.0)
            b_dO = tl.trans(b_do)
            b_deps = tl.dot(b_ds, tl.trans(b_k), input_precision=DOT) * b_write[None, :]
            b_deps = tl.dot(b_dO, b_A, acc=b_deps, input_precision=DOT)
            # What is left of deps when it is rounded for the product is added unrounded: T's diagonal is 1.
            b_d = b_deps.to(k.dtype)
            b_dE = tl.dot(b_d, b_T, acc=b_deps - b_d.to(tl.float32), input_precision=DOT)
            b_dP = b_dO.to(tl.float32) * b_read_q[None, :]
            if HAS_LAM:
                b_dP -= b_dE * b_erase_q[None, :]
            b_dR = -b_dE * b_erase_k[None, :]
            b_dS = tl.dot(b_dP.to(k.dtype), b_q, acc=b_dS * b_through, input_precision=DOT)
            b_dS = tl.dot(b_dR.to(k.dtype), b_k, acc=b_dS, input_precision=DOT)
            if STORE_CHUNKS:
                tl.store(dv + p_tv + o_vt, tl.trans(b_dE).to(dv.dtype.element_ty), mask=m_tv)
    store_state(dinitial + p_state, b_dS, o_k, o_v, K, V, False)


@triton.jit(do_not_specialize=["scale", "H", "HV"])
def token_gradient_kernel(
    do,
    dv,
    eps,
    states,
    dstates,
    q,
    k,
    g,
    beta,
    lam,
    chunk_start,
    chunk_end,
    dq,
    dk,
    dg,
    dbeta,
    dlam,
    scale,
    H,
    HV,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    HAS_G: tl.constexpr,
    HAS_LAM: tl.constexpr,
    L2NORM: tl.constexpr,
    DOT: tl.constexpr,
):
    """One program: one chunk of one value head, K in blocks of BK, V in blocks of BV. With D_ij = e^{G_i - G_j},

        M2 = scale D dO eps^T (i >= j),   M1 = -D dE eps^T (i > j)
        dQ_read = scale e^G dO S + M2 beta K,   dX = -e^G dE S + M1 beta K
        dKappa = M2^T Q + M1^T X + e^{G_C - G} eps dS
        dq = dQ_read + lam dX,   dk = dX + beta dKappa,   dlam = q.dX,   dbeta = k.dKappa

    and dG_i = q_i.dQ_read_i + x_i.dX_i - beta_i k_i.dKappa_i: each exponential stands where one of these does.
    """
    pid = tl.program_id(0).to(tl.int64)
    i_c, i_hv = pid // HV, pid % HV
    i_h = i_hv // (HV // H)
    start, end = tl.load(chunk_start + i_c).to(tl.int64), tl.load(chunk_end + i_c).to(tl.int64)
    o_c = tl.arange(0, C)
    o_t = start + o_c
    m_t = o_t < end
    p_qk, p_tv = (start * H + i_h) * K, (start * HV + i_hv) * V
    b_beta = tl.load(beta + o_t * HV + i_hv, mask=m_t, other=0.0).to(tl.float32)
    if HAS_LAM:
        b_lam = tl.load(lam + o_t * HV + i_hv, mask=m_t, other=0.0).to(tl.float32)
    else:
        b_lam = tl.zeros([C], tl.float32)
    b_G, b_last = running_decay(g, o_t, m_t, i_hv, HV, HAS_G, C)
    b_from_start = tl.exp(b_G.to(tl.float32))
    b_to_end = tl.exp((b_last - b_G).to(tl.float32))
    b_rq = tl.full([C], 1.0, tl.float32)
    b_rk = tl.full([C], 1.0, tl.float32)
    if L2NORM:
        b_q2 = tl.zeros([C], tl.float32)
        b_k2 = tl.zeros([C], tl.float32)
        for i_k in range((K + BK - 1) // BK):
            o_k = i_k * BK + tl.arange(0, BK)
            m_tk = m_t[:, None] & (o_k < K)[None, :]
            o_qk = p_qk + (o_c[:, None] * (H * K) + o_k[None, :])
            b_q = tl.load(q + o_qk, mask=m_tk, other=0.0).to(tl.float32)
            b_k = tl.load(k + o_qk, mask=m_tk, other=0.0).to(tl.float32)
            b_q2 += tl.sum(b_q * b_q, 1)
            b_k2 += tl.sum(b_k * b_k, 1)
        b_rq = tl.math.rsqrt(b_q2 + 1e-6)
        b_rk = tl.math.rsqrt(b_k2 + 1e-6)

    # Both triangles are accumulated as such: a transposed accumulator as an operand was miscompiled on Hopper.
    b_M1 = tl.zeros([C, C], tl.float32)
    b_M2 = tl.zeros([C, C], tl.float32)
    b_M1T = tl.zeros([C, C], tl.float32)
    b_M2T = tl.zeros([C, C], tl.float32)
    for i_v in range(tl.cdiv(V, BV)):
        o_v = i_v * BV + tl.arange(0, BV)
        m_tv = m_t[:, None] & (o_v < V)[None, :]
        o_tv = p_tv + (o_c[:, None] * (HV * V) + o_v[None, :])
        b_dO = tl.load(do + o_tv, mask=m_tv, other=0.0)
        b_dE = tl.load(dv + o_tv, mask=m_tv, other=0.0)
        b_eps = tl.load(eps + o_tv, mask=m_tv, other=0.0)
        b_M1 = tl.dot(b_dE, tl.trans(b_eps), acc=b_M1, input_precision=DOT)
        b_M2 = tl.dot(b_dO, tl.trans(b_eps), acc=b_M2, input_precision=DOT)
        b_M1T = tl.dot(b_eps, tl.trans(b_dE), acc=b_M1T, input_precision=DOT)
        b_M2T = tl.dot(b_eps, tl.trans(b_dO), acc=b_M2T, input_precision=DOT)
    # Masked before exp: above the diagonal the difference is positive and overflows.
    b_difference = decay_differences(b_G)
    b_D = tl.exp(tl.where(o_c[:, None] >= o_c[None, :], b_difference, float("-inf")))
    b_DT = tl.exp(tl.where(o_c[:, None] <= o_c[None, :], -b_difference, float("-inf")))
    dtype = q.dtype.element_ty
    strict = o_c[:, None] != o_c[None, :]
    b_k_of_M = (b_beta * b_rk)[None, :]
    b_M1K = tl.where(strict, -b_D * b_M1 * b_k_of_M, 0.0).to(dtype)
    b_M2K = (scale * b_D * b_M2 * b_k_of_M).to(dtype)
    b_M1T = tl.where(strict, -b_DT * b_M1T, 0.0)
    b_M2T = scale * b_DT * b_M2T
    # M2^T Q + M1^T X with X = K + lam Q: one product with Q, one with K.
    b_TQ = ((b_M2T + b_M1T * b_lam[None, :]) * b_rq[None, :]).to(dtype)
    b_TK = (b_M1T * b_rk[None, :]).to(dtype)

    b_dlam = tl.zeros([C], tl.float32)
    b_dbeta = tl.zeros([C], tl.float32)
    b_dG = tl.zeros([C], tl.float32)
    b_dlast = tl.zeros([C], tl.float32)
    b_hdh = 0.0
    b_q_dq = tl.zeros([C], tl.float32)
    b_k_dk = tl.zeros([C], tl.float32)
    for i_k in range((K + BK - 1) // BK):
        o_k = i_k * BK + tl.arange(0, BK)
        b_dQ = tl.zeros([C, BK], tl.float32)
        b_dX = tl.zeros([C, BK], tl.float32)
        b_dW = tl.zeros([C, BK], tl.float32)
        for i_v in range(tl.cdiv(V, BV)):
            o_v = i_v * BV + tl.arange(0, BV)
            m_tv = m_t[:, None] & (o_v < V)[None, :]
            o_tv = p_tv + (o_c[:, None] * (HV * V) + o_v[None, :])
            m_vk = (o_v < V)[:, None] & (o_k < K)[None, :]
            o_vk = pid * V * K + (o_v[:, None] * K + o_k[None, :])
            b_h = tl.load(states + o_vk, mask=m_vk, other=0.0)
            b_dh = tl.load(dstates + o_vk, mask=m_vk, other=0.0)
            b_dQ = tl.dot(tl.load(do + o_tv, mask=m_tv, other=0.0), b_h, acc=b_dQ, input_precision=DOT)
            b_dX = tl.dot(tl.load(dv + o_tv, mask=m_tv, other=0.0), b_h, acc=b_dX, input_precision=DOT)
            b_dW = tl.dot(tl.load(eps + o_tv, mask=m_tv, other=0.0), b_dh, acc=b_dW, input_precision=DOT)
            b_hdh += tl.sum(b_h.to(tl.float32) * b_dh.to(tl.float32))
        m_tk = m_t[:, None] & (o_k < K)[None, :]
        o_qk = p_qk + (o_c[:, None] * (H * K) + o_k[None, :])
        b_q = tl.load(q + o_qk, mask=m_tk, other=0.0)
        b_k = tl.load(k + o_qk, mask=m_tk, other=0.0)
        b_dQ = tl.dot(b_M2K, b_k, acc=b_dQ * (scale * b_from_start)[:, None], input_precision=DOT)
        b_dX = tl.dot(b_M1K, b_k, acc=-b_dX * b_from_start[:, None], input_precision=DOT)
        b_dW *= b_to_end[:, None]
        b_qn = b_q.to(tl.float32) * b_rq[:, None]
        b_kn = b_k.to(tl.float32) * b_rk[:, None]
        b_dlast += b_beta * tl.sum(b_kn * b_dW, 1)
        b_dW = tl.dot(b_TQ, b_q, acc=b_dW, input_precision=DOT)
        b_dW = tl.dot(b_TK, b_k, acc=b_dW, input_precision=DOT)
        b_q_dX = tl.sum(b_qn * b_dX, 1)
        b_k_dX = tl.sum(b_kn * b_dX, 1)
        b_k_dW = tl.sum(b_kn * b_dW, 1)
        b_q_dQ = tl.sum(b_qn * b_dQ, 1)
        b_dlam += b_q_dX
        b_dbeta += b_k_dW
        b_dG += b_q_dQ + b_k_dX + b_lam * b_q_dX - b_beta * b_k_dW
        b_q_dq += b_q_dQ + b_lam * b_q_dX
        b_k_dk += b_k_dX + b_beta * b_k_dW
        b_dQ += b_lam[:, None] * b_dX
        b_dX += b_beta[:, None] * b_dW
        if L2NORM and BK >= K:
            b_dQ = (b_dQ - b_qn * b_q_dq[:, None]) * b_rq[:, None]
            b_dX = (b_dX - b_kn * b_k_dk[:, None]) * b_rk[:, None]
        o_out = (start * HV + i_hv) * K + (o_c[:, None] * (HV * K) + o_k[None, :])
        tl.store(dq + o_out, b_dQ.to(dq.dtype.element_ty), mask=m_tk)
        tl.store(dk + o_out, b_dX.to(dk.dtype.element_ty), mask=m_tk)
    if L2NORM and BK < K:  # only now is q.dq known over all of K
        tl.debug_barrier()
        for i_k in range((K + BK - 1) // BK):
            o_k = i_k * BK + tl.arange(0, BK)
            m_tk = m_t[:, None] & (o_k < K)[None, :]
            o_qk = p_qk + (o_c[:, None] * (H * K) + o_k[None, :])
            o_out = (start * HV + i_hv) * K + (o_c[:, None] * (HV * K) + o_k[None, :])
            b_qn = tl.load(q + o_qk, mask=m_tk, other=0.0).to(tl.float32) * b_rq[:, None]
            b_kn = tl.load(k + o_qk, mask=m_tk, other=0.0).to(tl.float32) * b_rk[:, None]
            b_dQ = tl.load(dq + o_out, mask=m_tk, other=0.0).to(tl.float32)
            b_dX = tl.load(dk + o_out, mask=m_tk, other=0.0).to(tl.float32)
            b_dQ = (b_dQ - b_qn * b_q_dq[:, None]) * b_rq[:, None]
            b_dX = (b_dX - b_kn * b_k_dk[:, None]) * b_rk[:, None]
            tl.store(dq + o_out, b_dQ.to(dq.dtype.element_ty), mask=m_tk)
            tl.store(dk + o_out, b_dX.to(dk.dtype.element_ty), mask=m_tk)
    o_gate = o_t * HV + i_hv
    tl.store(dbeta + o_gate, b_dbeta, mask=m_t)
    if HAS_LAM:
        tl.store(dlam + o_gate, b_dlam, mask=m_t)
    if HAS_G:
        b_end = tl.sum(b_dlast, 0) + tl.exp(b_last.to(tl.float32)) * b_hdh
        # dg_t sums dG_i over i >= t; the chunk's last G also stands in e^{G_C} and in e^{G_C - G}.
        b_dg = tl.cumsum(b_dG, 0, reverse=True) + b_end
        # A gate of which nothing is left has no slope; what rounding leaves of one would be scaled up by g itself.
        b_g = tl.load(g + o_gate, mask=m_t, other=0.0).to(tl.float32)
        tl.store(dg + o_gate, tl.where(b_g < -104.0, 0.0, b_dg), mask=m_t)
