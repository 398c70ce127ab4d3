"""Kernel that turns the sums of a traced forward pass into per-token diagnostics."""

import triton
import triton.language as tl

from .intra import inverse_norm, running_decay


@triton.jit(do_not_specialize=["T", "M", "H", "HV"])
def diagnostics_kernel(
    q,
    k,
    g,
    beta,
    lam,
    sums,
    norm2,
    chunk_start,
    chunk_end,
    error_before,
    error_after,
    key_retrieval,
    query_prediction,
    cosine,
    state_norm,
    T,
    M,
    H,
    HV,
    NV: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    HAS_G: tl.constexpr,
    HAS_LAM: tl.constexpr,
    L2NORM: tl.constexpr,
):
    """One program: one chunk of one value head. The norm of the memory obeys, with u = beta eps,

    ||S_i||^2 = e^{2 G_i} ||S||^2 + sum over j <= i of e^{2 (G_i - G_j)} (2 u_j.v_hat_j + ||u_j||^2 ||k_j||^2).
    """
    pid = tl.program_id(0).to(tl.int64)
    i_c, i_hv = pid // HV, pid % HV
    i_h = i_hv // (HV // H)
    start, end = tl.load(chunk_start + i_c).to(tl.int64), tl.load(chunk_end + i_c).to(tl.int64)
    o_c, o_k = tl.arange(0, C), tl.arange(0, BK)
    o_t = start + o_c
    m_t = o_t < end
    o_qk = (o_t * H + i_h)[:, None] * K + o_k[None, :]
    m_tk = m_t[:, None] & (o_k < K)[None, :]
    b_q = tl.load(q + o_qk, mask=m_tk, other=0.0).to(tl.float32)
    b_k = tl.load(k + o_qk, mask=m_tk, other=0.0).to(tl.float32)
    if L2NORM:
        b_q *= inverse_norm(b_q)[:, None]
        b_k *= inverse_norm(b_k)[:, None]
    b_kk = tl.sum(b_k * b_k, 1)
    b_alignment = b_kk
    o_gate = o_t * HV + i_hv
    if HAS_LAM:
        b_alignment += tl.load(lam + o_gate, mask=m_t, other=0.0).to(tl.float32) * tl.sum(b_q * b_k, 1)
    b_beta = tl.load(beta + o_gate, mask=m_t, other=0.0).to(tl.float32)
    b_error2 = tl.zeros([C], tl.float32)
    b_key2 = tl.zeros([C], tl.float32)
    b_query2 = tl.zeros([C], tl.float32)
    b_inner = tl.zeros([C], tl.float32)
    b_write = tl.zeros([C], tl.float32)
    b_norm2 = 0.0
    for i_v in tl.static_range(NV):
        p_sums = sums + i_v * 5 * T * HV + o_gate
        b_error2 += tl.load(p_sums, mask=m_t, other=0.0)
        b_key2 += tl.load(p_sums + T * HV, mask=m_t, other=0.0)
        b_query2 += tl.load(p_sums + 2 * T * HV, mask=m_t, other=0.0)
        b_inner += tl.load(p_sums + 3 * T * HV, mask=m_t, other=0.0)
        b_write += tl.load(p_sums + 4 * T * HV, mask=m_t, other=0.0)
        b_norm2 += tl.load(norm2 + i_v * M * HV + pid)
    b_G, _ = running_decay(g, o_t, m_t, i_hv, HV, HAS_G, C)
    b_growth = b_beta * (2 * b_write + b_beta * b_error2 * b_kk)
    m_past = o_c[:, None] >= o_c[None, :]
    b_D2 = tl.exp(tl.where(m_past, 2 * (b_G[:, None] - b_G[None, :]).to(tl.float32), float("-inf")))
    b_state2 = tl.exp(2 * b_G.to(tl.float32)) * b_norm2 + tl.sum(b_D2 * b_growth[None, :], 1)
    b_error = tl.sqrt(b_error2)
    b_size = tl.sqrt(b_key2) * tl.sqrt(b_query2)
    b_cosine = tl.where(b_size > 0, b_inner / tl.where(b_size > 0, b_size, 1.0), 0.0)
    tl.store(error_before + o_gate, b_error, mask=m_t)
    tl.store(error_after + o_gate, tl.abs(1 - b_beta * b_alignment) * b_error, mask=m_t)
    tl.store(key_retrieval + o_gate, tl.sqrt(b_key2), mask=m_t)
    tl.store(query_prediction + o_gate, tl.sqrt(b_query2), mask=m_t)
    tl.store(cosine + o_gate, tl.minimum(tl.maximum(b_cosine, -1.0), 1.0), mask=m_t)
    tl.store(state_norm + o_gate, tl.sqrt(tl.maximum(b_state2, 0.0)), mask=m_t)
