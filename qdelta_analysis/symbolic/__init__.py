"""Symbolic proofs of the fourteen claims G1 to G14 on Q-Delta's recurrence, and their formulas as NumPy functions.

    prove("G3")               the Proof, or ProofError
    prove_all()               all of them, by claim
    released_difference()     what the released kernels' form changes
    joint_spectral_radius_of_a_box()    JSR = max ||A||, for every box of gates

    claims()                  what the claims say: relations, with the hypotheses that each needs

A Proof displays itself as mathematics in a notebook; `to_latex()` is the same for a paper. What it shows is what SymPy
compared: a step is a relation, printed; its signs come from the hypotheses, which it names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from . import any_box, averages, chunk_identity, envelope, memory, mixed_error, released, spectrum
from .bridges import eigenvalues_function, norm_envelope_function, operator_norm_function
from .claim import Claim, Conclusion, Words
from .deciding import ProofError, check
from .engine import Derivation
from .proof import Fact, Proof, Step

__all__ = [
    "CLAIMS",
    "Claim",
    "Conclusion",
    "Derivation",
    "Fact",
    "Proof",
    "ProofError",
    "Step",
    "Words",
    "check",
    "claims",
    "eigenvalues_function",
    "joint_spectral_radius_of_a_box",
    "norm_envelope_function",
    "operator_norm_function",
    "prove",
    "prove_all",
    "released_difference",
]

_PROOFS: dict[str, Callable[[], Proof]] = {
    "G1": spectrum.spectrum,
    "G2": spectrum.spectral_radius,
    "G3": spectrum.operator_norm,
    "G4": mixed_error.contraction,
    "G5": mixed_error.tracking,
    "G6": mixed_error.alignment_box,
    "G7": envelope.norm_envelope,
    "G8": envelope.joint_spectral_radius,
    "G9": memory.memory_bound,
    "G10": averages.mean_square_growth,
    "G11": averages.persistent_excitation,
    "G12": chunk_identity.chunk_identity,
    "G13": spectrum.reduction,
    "G14": memory.compensated_decay,
}
_STATEMENTS: tuple[Callable[[], Claim], ...] = (
    *(spectrum.g1, spectrum.g2, spectrum.g3, mixed_error.g4, mixed_error.g5, mixed_error.g6, envelope.g7, envelope.g8),
    *(memory.g9, averages.g10, averages.g11, chunk_identity.g12, spectrum.g13, memory.g14),
)
CLAIMS: tuple[str, ...] = tuple(_PROOFS)


@cache
def prove(claim: str) -> Proof:
    """Derive one of the claims "G1" to "G14", each step checked by SymPy or a standard fact by name.

    Raises ProofError for a step that does not simplify to true, ValueError for another name.
    """
    if claim not in _PROOFS:
        raise ValueError(f"claim is {claim!r}; expected one of {', '.join(CLAIMS)}.")
    return _PROOFS[claim]()


def claims() -> dict[str, Claim]:
    """Return what all claims say, in their order: relations and hypotheses, printed and evaluated on dense matrices."""
    return {claim: statement() for claim, statement in zip(CLAIMS, _STATEMENTS, strict=True)}


def prove_all() -> dict[str, Proof]:
    """Derive all claims, in their order."""
    return {claim: prove(claim) for claim in CLAIMS}


@cache
def joint_spectral_radius_of_a_box() -> Proof:
    """Derive JSR = max ||A|| for unit q, k and any box of gates, beta and lam up to 2: beside claim G8.

        JSR = alpha sqrt(1 + lam^2 beta / (2 - beta))    where lam (beta - 1) < 2 - beta
        JSR = alpha (beta (1 + lam) - 1)                 elsewhere

    at the largest alpha, beta, lam. A reflection carries the token of the largest norm into its partner in a cycle of
    two. Raises ProofError as `prove` does.
    """
    return any_box.joint_spectral_radius_of_a_box()


@cache
def released_difference() -> Proof:
    """Derive what the released kernels' form inside a chunk changes: L_ij = beta_i e^(G_i - G_j) k_i.x_j.

    It differs from the recurrence, whose L has x_i.k_j, at first order in lam, unless lam_i q_i.k_j = lam_j k_i.q_j
    for all i > j in the chunk; for lam = 0 or chunks of one token both agree. Raises ProofError as `prove` does.
    """
    return released.released_difference()
