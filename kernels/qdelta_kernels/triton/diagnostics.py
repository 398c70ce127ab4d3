"""Kernel that turns what a traced forward pass leaves behind into per-token diagnostics."""

import triton
import triton.language as tl

from .intra import decay_differences, running_decay


@triton.jit
def sized(b_x):
    """Return x to divide by: 1 where it is zero or too small for its inverse to be a float32, or infinite."""
    return tl.where((b_x > 1e-37) & (b_x < float("inf")), b_x, 1.0)


@triton.jit
def vectors(v, o_hat, reads, pid, o_gate, m_t, b_lam, o_v, V: tl.constexpr, C: tl.constexpr):
    """Load eps, v_hat and o_hat of a chunk's tokens, [C, BV]."""
    m_tv = m_t[:, None] & (o_v < V)[None, :]
    o_cv = (pid * C + tl.arange(0, C))[:, None] * V + o_v[None, :]
    b_o_hat = tl.load(o_hat + o_cv, mask=m_tv, other=0.0).to(tl.float32)
    b_read = tl.load(reads + o_cv, mask=m_tv, other=0.0).to(tl.float32)
    b_v = tl.load(v + o_gate[:, None] * V + o_v[None, :], mask=m_tv, other=0.0).to(tl.float32)
    return b_v - b_read, b_read - b_lam[:, None] * b_o_hat, b_o_hat


@triton.jit
def largest(v, o_hat, reads, pid, o_gate, m_t, b_lam, V: tl.constexpr, C: tl.constexpr, BV: tl.constexpr):
    """Return the largest entries of eps, v_hat and o_hat, [C] each, to divide by."""
    b_error = tl.zeros([C], tl.float32)
    b_key = tl.zeros([C], tl.float32)
    b_query = tl.zeros([C], tl.float32)
    for i_v in range(0, V, BV):
        b_eps, b_v_hat, b_o_hat = vectors(v, o_hat, reads, pid, o_gate, m_t, b_lam, i_v + tl.arange(0, BV), V, C)
        b_error = tl.maximum(b_error, tl.max(tl.abs(b_eps), 1))
        b_key = tl.maximum(b_key, tl.max(tl.abs(b_v_hat), 1))
        b_query = tl.maximum(b_query, tl.max(tl.abs(b_o_hat), 1))
    return sized(b_error), sized(b_key), sized(b_query)


@triton.jit
def sums(
    v,
    o_hat,
    reads,
    pid,
    o_gate,
    m_t,
    b_lam,
    b_error_unit,
    b_key_unit,
    b_query_unit,
    V: tl.constexpr,
    C: tl.constexpr,
    BV: tl.constexpr,
):
    """Return eps.eps, v_hat.v_hat, o_hat.o_hat, v_hat.o_hat and eps.v_hat in these units, [C] each."""
    b_error2 = tl.zeros([C], tl.float32)
    b_key2 = tl.zeros([C], tl.float32)
    b_query2 = tl.zeros([C], tl.float32)
    b_inner = tl.zeros([C], tl.float32)
    b_write = tl.zeros([C], tl.float32)
    for i_v in range(0, V, BV):
        b_eps, b_v_hat, b_o_hat = vectors(v, o_hat, reads, pid, o_gate, m_t, b_lam, i_v + tl.arange(0, BV), V, C)
        b_eps *= (1 / b_error_unit)[:, None]
        b_v_hat *= (1 / b_key_unit)[:, None]
        b_o_hat *= (1 / b_query_unit)[:, None]
        b_error2 += tl.sum(b_eps * b_eps, 1)
        b_key2 += tl.sum(b_v_hat * b_v_hat, 1)
        b_query2 += tl.sum(b_o_hat * b_o_hat, 1)
        b_inner += tl.sum(b_v_hat * b_o_hat, 1)
        b_write += tl.sum(b_eps * b_v_hat, 1)
    return b_error2, b_key2, b_query2, b_inner, b_write


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
    fallen,
    HV,
    V: tl.constexpr,
    C: tl.constexpr,
    BV: tl.constexpr,
    HAS_G: tl.constexpr,
    HAS_LAM: tl.constexpr,
    FALLEN: tl.constexpr,
):
    """One program: one chunk of one value head. The norm of the memory obeys, with u = beta eps,

    ||S_i||^2 = e^{2 G_i} ||S||^2 + sum over j <= i of e^{2 (G_i - G_j)} (2 u_j.v_hat_j + ||u_j||^2 ||k_j||^2).

    o_hat and reads = v - eps come chunk by chunk, [M, HV, C, V]; products [2, C] holds k.k and q.k, norm2 [V] the
    squared norms of the rows of the state that enters the chunk. `fallen` says of each token whether this sum is too
    small a part of what went before (FALLEN), or too far out in float32's range, to say anything of the norm.
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
    b_error_unit = tl.full([C], 1.0, tl.float32)
    b_key_unit = tl.full([C], 1.0, tl.float32)
    b_query_unit = tl.full([C], 1.0, tl.float32)
    b_error2, b_key2, b_query2, b_inner, b_write = sums(
        v, o_hat, reads, pid, o_gate, m_t, b_lam, b_error_unit, b_key_unit, b_query_unit, V, C, BV
    )
    b_least = tl.minimum(tl.minimum(b_error2, b_key2), b_query2)
    b_most = tl.maximum(tl.maximum(b_error2, b_key2), b_query2)
    if tl.max(tl.where(m_t & ~((b_least > 1e-28) & (b_most < 1e37)), 1, 0), 0) > 0:
        # Squares out of float32's range, or nothing to square: again in units of each vector's largest entry.
        b_error_unit, b_key_unit, b_query_unit = largest(v, o_hat, reads, pid, o_gate, m_t, b_lam, V, C, BV)
        b_error2, b_key2, b_query2, b_inner, b_write = sums(
            v, o_hat, reads, pid, o_gate, m_t, b_lam, b_error_unit, b_key_unit, b_query_unit, V, C, BV
        )
    b_start2 = tl.zeros([BV], tl.float32)
    for i_v in range(0, V, BV):
        b_start2 += tl.load(norm2 + pid * V + i_v + o_v, mask=o_v + i_v < V, other=0.0)
    b_error_way, b_key_way, b_query_way = tl.sqrt(b_error2), tl.sqrt(b_key2), tl.sqrt(b_query2)
    b_error = b_error_way * b_error_unit
    b_key = b_key_way * b_key_unit
    b_query = b_query_way * b_query_unit
    p_products = products + pid * 2 * C + o_c
    b_kk = tl.load(p_products)
    b_alignment = b_kk + b_lam * tl.load(p_products + C)
    # ||S||^2 in units of the largest of its terms: |u| |k|, and |v_hat| / |k| <= |alpha S|.
    b_k = tl.sqrt(b_kk)
    b_wrote, b_found = b_beta * b_error * b_k, b_key / sized(b_k)
    b_start = tl.sqrt(tl.sum(b_start2, 0))
    b_unit = sized(tl.maximum(b_start, tl.max(tl.maximum(tl.abs(b_wrote), b_found), 0)))
    b_wrote /= b_unit
    b_found /= b_unit
    b_growth = b_wrote * (b_wrote + 2 * b_found * b_write / sized(b_error_way * b_key_way))
    b_G, _ = running_decay(g, o_t, m_t, i_hv, HV, HAS_G, C)
    b_D2 = tl.exp(tl.where(o_c[:, None] >= o_c[None, :], 2 * decay_differences(b_G), float("-inf")))
    b_left = tl.exp(b_G.to(tl.float32)) * (b_start / b_unit)
    b_norm2 = b_left * b_left + tl.sum(b_D2 * b_growth[None, :], 1)
    # The largest value so far, decayed: b_norm2 has to lie along the other axis for that.
    b_norm2_past = tl.sum(tl.where(o_c[:, None] == o_c[None, :], b_norm2[:, None], 0.0), 0)
    b_most2 = tl.maximum(b_left * b_left, tl.max(b_D2 * b_norm2_past[None, :], 1))
    b_norm = tl.sqrt(tl.maximum(b_norm2, 0.0)) * b_unit
    b_sure = (b_norm2 >= FALLEN * b_most2) & (b_norm2 > 1e-30) & (b_norm > 1e-14) & (b_norm < 1e18)
    tl.store(fallen + o_gate, tl.where(b_sure, 0, 1).to(tl.int8), mask=m_t)
    b_cosine = b_inner / sized(b_key_way * b_query_way)
    tl.store(error_before + o_gate, b_error, mask=m_t)
    tl.store(error_after + o_gate, tl.abs(1 - b_beta * b_alignment) * b_error, mask=m_t)
    tl.store(key_retrieval + o_gate, b_key, mask=m_t)
    tl.store(query_prediction + o_gate, b_query, mask=m_t)
    tl.store(cosine + o_gate, tl.minimum(tl.maximum(b_cosine, -1.0), 1.0), mask=m_t)
    tl.store(state_norm + o_gate, b_norm, mask=m_t)
