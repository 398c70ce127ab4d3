"""Kernel that turns what a traced forward pass leaves behind into per-token diagnostics."""

import triton
import triton.language as tl

from .intra import decay_differences, running_decay


@triton.jit(do_not_specialize=["HV"])
def diagnostics_kernel(
    v,
    o_hat,
    reads,
    g,
    beta,
    lam,
    products,
    norm2,
    chunk_start,
    chunk_end,
    error_before,
    error_after,
    key_retrieval,
    query_prediction,
    cosine,
    state_norm,
    HV,
    V: tl.constexpr,
    C: tl.constexpr,
    BV: tl.constexpr,
    HAS_G: tl.constexpr,
    HAS_LAM: tl.constexpr,
):
    """One program: one chunk of one value head. The norm of the memory obeys, with u = beta eps,

    ||S_i||^2 = e^{2 G_i} ||S||^2 + sum over j <= i of e^{2 (G_i - G_j)} (2 u_j.v_hat_j + ||u_j||^2 ||k_j||^2).

    o_hat and reads = v - eps come chunk by chunk, [M, HV, C, V]; products [2, C] holds k.k and q.k, norm2 [V] the
    squared norms of the rows of the state that enters the chunk.
    """
    pid = tl.program_id(0).to(tl.int64)
    i_c, i_hv = pid // HV, pid % HV
    start, end = tl.load(chunk_start + i_c).to(tl.int64), tl.load(chunk_end + i_c).to(tl.int64)
    o_c, o_v = tl.arange(0, C), tl.arange(0, BV)
    o_t = start + o_c
    m_t = o_t < end
    o_gate = o_t * HV + i_hv
    b_beta = tl.load(beta + o_gate, mask=m_t, other=0.0).to(tl.float32)
    b_lam = tl.zeros([C], tl.float32)
    if HAS_LAM:
        b_lam += tl.load(lam + o_gate, mask=m_t, other=0.0).to(tl.float32)
    b_error2 = tl.zeros([C], tl.float32)
    b_key2 = tl.zeros([C], tl.float32)
    b_query2 = tl.zeros([C], tl.float32)
    b_inner = tl.zeros([C], tl.float32)
    b_write = tl.zeros([C], tl.float32)
    b_norm2 = tl.zeros([BV], tl.float32)
    for i_v in range(0, V, BV):
        m_v = o_v + i_v < V
        m_tv = m_t[:, None] & m_v[None, :]
        o_cv = (pid * C + o_c)[:, None] * V + (o_v + i_v)[None, :]
        b_o_hat = tl.load(o_hat + o_cv, mask=m_tv, other=0.0).to(tl.float32)
        b_read = tl.load(reads + o_cv, mask=m_tv, other=0.0).to(tl.float32)
        b_v = tl.load(v + o_gate[:, None] * V + (o_v + i_v)[None, :], mask=m_tv, other=0.0).to(tl.float32)
        b_v_hat = b_read - b_lam[:, None] * b_o_hat
        b_eps = b_v - b_read
        b_error2 += tl.sum(b_eps * b_eps, 1)
        b_key2 += tl.sum(b_v_hat * b_v_hat, 1)
        b_query2 += tl.sum(b_o_hat * b_o_hat, 1)
        b_inner += tl.sum(b_v_hat * b_o_hat, 1)
        b_write += tl.sum(b_eps * b_v_hat, 1)
        b_norm2 += tl.load(norm2 + pid * V + i_v + o_v, mask=m_v, other=0.0)
    p_products = products + pid * 2 * C + o_c
    b_kk = tl.load(p_products)
    b_alignment = b_kk + b_lam * tl.load(p_products + C)
    b_G, _ = running_decay(g, o_t, m_t, i_hv, HV, HAS_G, C)
    b_growth = b_beta * (2 * b_write + b_beta * b_error2 * b_kk)
    m_past = o_c[:, None] >= o_c[None, :]
    b_D2 = tl.exp(tl.where(m_past, 2 * decay_differences(b_G), float("-inf")))
    b_state2 = tl.exp(2 * b_G.to(tl.float32)) * tl.sum(b_norm2, 0) + tl.sum(b_D2 * b_growth[None, :], 1)
    b_error = tl.sqrt(b_error2)
    b_size = tl.sqrt(b_key2) * tl.sqrt(b_query2)
    b_cosine = tl.where(b_size > 0, b_inner / tl.where(b_size > 0, b_size, 1.0), 0.0)
    tl.store(error_before + o_gate, b_error, mask=m_t)
    tl.store(error_after + o_gate, tl.abs(1 - b_beta * b_alignment) * b_error, mask=m_t)
    tl.store(key_retrieval + o_gate, tl.sqrt(b_key2), mask=m_t)
    tl.store(query_prediction + o_gate, tl.sqrt(b_query2), mask=m_t)
    tl.store(cosine + o_gate, tl.minimum(tl.maximum(b_cosine, -1.0), 1.0), mask=m_t)
    tl.store(state_norm + o_gate, tl.sqrt(tl.maximum(b_state2, 0.0)), mask=m_t)
