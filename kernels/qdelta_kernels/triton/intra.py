"""Kernel 1: all that can be computed inside each chunk before the state is known, all chunks in parallel."""

import triton
import triton.language as tl


@triton.jit
def running_decay(p_g, o_t, m_t, i_hv, HV, HAS_G: tl.constexpr, C: tl.constexpr):
    """Return G, the running sum of g inside the chunk [C], and its last value, in float64.

    A difference of two float32 sums near -3000 would be wrong by 2e-4; 64 additions in float64 cost nothing. From -110
    on a gate leaves nothing in float32, and counts as -110: a sum that held more, -inf above all, would swallow the
    gates that follow. (A comparison, not a maximum: that would make a number of NaN.)
    """
    if HAS_G:
        b_g = tl.load(p_g + o_t * HV + i_hv, mask=m_t, other=0.0).to(tl.float64)
        b_g = tl.where(b_g < -110.0, -110.0, b_g)
    else:
        b_g = tl.zeros([C], tl.float64)
    return tl.cumsum(b_g, 0), tl.sum(b_g, 0)


@triton.jit
def decay_differences(b_G):
    """Return G_i - G_j [C, C], each rounded by 2^-24 of itself and not of G, as if taken in float64, which needs twice
    the registers: G is held as a float32 and what it lacks, and their differences are added."""
    b_high = b_G.to(tl.float32)
    b_low = (b_G - b_high.to(tl.float64)).to(tl.float32)
    return (b_high[:, None] - b_high[None, :]) + (b_low[:, None] - b_low[None, :])


@triton.jit
def _quarters(b_x, m: tl.constexpr, n: tl.constexpr):
    """Cut each of m blocks [2n, 2n] into its upper left, lower left and lower right quarter, [m, n, n]."""
    left, right = tl.split(tl.permute(tl.reshape(b_x, [m, 2, n, 2, n]), [0, 2, 4, 1, 3]))
    upper_left, lower_left = tl.split(left)
    _, lower_right = tl.split(right)
    return upper_left, lower_left, lower_right


@triton.jit
def _assemble(upper_left, lower_left, lower_right, m: tl.constexpr, n: tl.constexpr):
    """Undo `_quarters`; the upper right quarter is zero."""
    left = tl.join(upper_left, lower_left)
    right = tl.join(tl.zeros_like(lower_right), lower_right)
    return tl.reshape(tl.permute(tl.join(left, right), [0, 3, 1, 4, 2]), [m, 2 * n, 2 * n])


@triton.jit
def _stack(b_x, b_y, m: tl.constexpr, n: tl.constexpr):
    """Put two lots of m blocks [n, n] one after the other, [2m, n, n]."""
    return tl.reshape(tl.permute(tl.join(b_x, b_y), [3, 0, 1, 2]), [2 * m, n, n])


@triton.jit
def _unstack(b_x, m: tl.constexpr, n: tl.constexpr):
    """Undo `_stack`."""
    return tl.split(tl.permute(tl.reshape(b_x, [2, m, n, n]), [1, 2, 3, 0]))


@triton.jit
def _invert_small(b_L, m: tl.constexpr, SOLVE: tl.constexpr):
    """Return (I + L)^-1 for m strictly lower triangular blocks [16, 16], by doubling.

    With T the inverse of I + L's block diagonal in blocks of s, and N what L holds besides it in blocks of 2s,
    T - T N T inverts the block diagonal in blocks of 2s: forward substitution, block by block.
    """
    o = tl.arange(0, 16)
    row, column = o[None, :, None], o[None, None, :]
    b_T = tl.where(row == column, 1.0, 0.0) - tl.where(row // 2 == column // 2, b_L, 0.0)
    for level in tl.static_range(1, 4):
        s = 2**level
        b_N = tl.where((row // (2 * s) == column // (2 * s)) & (row // s != column // s), b_L, 0.0)
        b_TN = tl.dot(b_T, b_N, input_precision=SOLVE)
        b_T -= tl.dot(b_TN, b_T, input_precision=SOLVE)
    return b_T


@triton.jit
def _lower_left(upper_left, b_N, lower_right, SOLVE: tl.constexpr):
    """Return an inverse's lower left quarter, negated, from its diagonal quarters and N, what stood there before."""
    return tl.dot(tl.dot(lower_right, b_N, input_precision=SOLVE), upper_left, input_precision=SOLVE)


@triton.jit
def store_unit_lower_inverse(p_T, b_L, C: tl.constexpr, SOLVE: tl.constexpr, HOLLOW: tl.constexpr):
    """Store T = (I + L)^-1, or T - I if HOLLOW, at p_T [C, C], for L [C, C] strictly lower triangular, in float32.

    C is 16, 32 or 64.

    Quarter by quarter: put together first, they would take registers that there are not.
    """
    dtype = p_T.dtype.element_ty
    if C == 16:
        o = tl.arange(0, 16)
        b_T = tl.reshape(_invert_small(tl.reshape(b_L, [1, 16, 16]), 1, SOLVE), [16, 16])
        if HOLLOW:
            b_T = tl.where(o[:, None] == o[None, :], 0.0, b_T)
        tl.store(p_T + o[:, None] * 16 + o[None, :], b_T.to(dtype))
    else:
        n: tl.constexpr = C // 2
        upper_left, b_N, lower_right = _quarters(tl.reshape(b_L, [1, C, C]), 1, n)
        b_D = _stack(upper_left, lower_right, 1, n)
        if n == 16:
            b_T = _invert_small(b_D, 2, SOLVE)
        else:
            upper_left, b_M, lower_right = _quarters(b_D, 2, 16)
            b_T = _invert_small(_stack(upper_left, lower_right, 2, 16), 4, SOLVE)
            upper_left, lower_right = _unstack(b_T, 2, 16)
            b_T = _assemble(upper_left, -_lower_left(upper_left, b_M, lower_right, SOLVE), lower_right, 2, 16)
        o = tl.arange(0, n)
        o_quarter = o[:, None] * C + o[None, :]
        o_diagonal = tl.arange(0, 2)[:, None, None] * (n * C + n) + o_quarter[None]
        if HOLLOW:
            tl.store(p_T + o_diagonal, tl.where(o[:, None] == o[None, :], 0.0, b_T).to(dtype))
        else:
            tl.store(p_T + o_diagonal, b_T.to(dtype))
        tl.store(p_T + n + o_quarter, tl.zeros([n, n], dtype))
        upper_left, lower_right = _unstack(b_T, 1, n)
        b_X = _lower_left(
            tl.reshape(upper_left, [n, n]), tl.reshape(b_N, [n, n]), tl.reshape(lower_right, [n, n]), SOLVE
        )
        tl.store(p_T + n * C + o_quarter, -b_X.to(dtype))


@triton.jit(do_not_specialize=["scale", "H", "HV"])
def intra_kernel(
    q,
    k,
    g,
    beta,
    lam,
    chunk_start,
    chunk_end,
    inverse,
    readout,
    factors,
    through,
    products,
    scale,
    H,
    HV,
    K: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    TRACE: tl.constexpr,
    HAS_G: tl.constexpr,
    HAS_LAM: tl.constexpr,
    L2NORM: tl.constexpr,
    DOT: tl.constexpr,
    SOLVE: tl.constexpr,
):
    """One program: one chunk of one value head. With u_t = beta_t eps_t and eps_t = v_t - alpha_t S_{t-1} x_t,

        L_ij = e^{G_i - G_j} x_i.k_j beta_j (i > j),   A_ij = scale e^{G_i - G_j} q_i.k_j beta_j (i >= j),
        eps = T (V - e^G X S^T) with T = (I + L)^-1,   O = scale e^G Q S^T + A eps

    it stores T (`inverse`), A (`readout`), e^{G_C} (`through`), and four factors per token, [4, C], that scale what
    the state is read and written with: e^G (for k), e^G lam (for q), scale e^G (for q), e^{G_C - G} beta (for k).
    With L2NORM the factors carry 1 / ||k|| and 1 / ||q||. With TRACE the diagonals of T and of A are left out, and each
    token's k.k and q.k are stored (`products`, [2, C]).
    """
    pid = tl.program_id(0).to(tl.int64)
    i_c, i_hv = pid // HV, pid % HV
    i_h = i_hv // (HV // H)
    start, end = tl.load(chunk_start + i_c).to(tl.int64), tl.load(chunk_end + i_c).to(tl.int64)
    o_c, o_k = tl.arange(0, C), tl.arange(0, BK)
    o_t = start + o_c
    m_t = o_t < end
    o_qk = ((start + o_c) * H + i_h)[:, None] * K + o_k[None, :]
    b_qk = tl.zeros([C, C], tl.float32)
    b_kk = tl.zeros([C, C], tl.float32)
    b_q2 = tl.zeros([C], tl.float32)
    b_k2 = tl.zeros([C], tl.float32)
    b_q_k = tl.zeros([C], tl.float32)
    for i_k in tl.static_range(0, K, BK):
        b_q = tl.load(q + o_qk + i_k, mask=m_t[:, None], other=0.0)
        b_k = tl.load(k + o_qk + i_k, mask=m_t[:, None], other=0.0)
        b_qk = tl.dot(b_q, tl.trans(b_k), acc=b_qk, input_precision=DOT)
        b_kk = tl.dot(b_k, tl.trans(b_k), acc=b_kk, input_precision=DOT)
        if L2NORM:
            b_q2 += tl.sum(b_q.to(tl.float32) * b_q.to(tl.float32), 1)
        if L2NORM or TRACE:
            b_k2 += tl.sum(b_k.to(tl.float32) * b_k.to(tl.float32), 1)
        if TRACE:
            b_q_k += tl.sum(b_q.to(tl.float32) * b_k.to(tl.float32), 1)
    if TRACE:
        p_products = products + pid * 2 * C + o_c
        tl.store(p_products, b_k2)
        tl.store(p_products + C, b_q_k)
    b_beta = tl.load(beta + o_t * HV + i_hv, mask=m_t, other=0.0).to(tl.float32)
    b_G, b_last = running_decay(g, o_t, m_t, i_hv, HV, HAS_G, C)
    # Zero beyond the sequence's end: what later kernels load there then changes nothing.
    b_from_start = tl.where(m_t, tl.exp(b_G.to(tl.float32)), 0.0)
    b_to_end = tl.exp((b_last - b_G).to(tl.float32))
    b_rk = tl.full([C], 1.0, tl.float32)
    b_rq = tl.full([C], 1.0, tl.float32)
    if L2NORM:
        b_rk = tl.math.rsqrt(b_k2 + 1e-6)
        b_rq = tl.math.rsqrt(b_q2 + 1e-6)
        b_qk *= b_rq[:, None] * b_rk[None, :]
        b_kk *= b_rk[:, None] * b_rk[None, :]
    b_lam = tl.zeros([C], tl.float32)
    if HAS_LAM:
        b_lam += tl.load(lam + o_t * HV + i_hv, mask=m_t, other=0.0).to(tl.float32)
    # Stored now: what is held on to during the inversion has to be spilled.
    p_factors = factors + pid * 4 * C + o_c
    tl.store(p_factors, b_from_start * b_rk)
    tl.store(p_factors + C, b_from_start * b_lam * b_rq)
    tl.store(p_factors + 2 * C, scale * b_from_start * b_rq)
    tl.store(p_factors + 3 * C, b_to_end * b_beta * b_rk)
    tl.store(through + pid, tl.exp(b_last.to(tl.float32)))

    # Masked before exp: above the diagonal the difference is positive and overflows.
    m_read = o_c[:, None] >= o_c[None, :]
    m_erase = o_c[:, None] > o_c[None, :]
    b_D = tl.exp(tl.where(m_read, decay_differences(b_G), float("-inf"))) * b_beta[None, :]
    o_cc = o_c[:, None] * C + o_c[None, :]
    p_cc = pid * C * C
    # Masked after the product too: what comes later may be too large for a product with what came before.
    b_A = tl.where(m_erase if TRACE else m_read, scale * b_D * b_qk, 0.0)
    tl.store(readout + p_cc + o_cc, b_A.to(readout.dtype.element_ty))
    if HAS_LAM:
        b_kk += b_lam[:, None] * b_qk
    b_L = tl.where(m_erase, b_D * b_kk, 0.0)
    store_unit_lower_inverse(inverse + p_cc, b_L, C, SOLVE, TRACE)
