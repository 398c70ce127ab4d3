"""Products of transitions A_1 A_2 ... A_n: how fast a memory can grow, typically grows, and grew.

Exponents and rates of growth are in nats per token; joint spectral radii, worst and mean-square growth are factors per
token. Everything is computed in float64.
"""

from .box import JointSpectralRadius, joint_spectral_radius, worst_growth
from .finite import FiniteJointSpectralRadius, joint_spectral_radius_of
from .lyapunov import lyapunov_spectrum, top_lyapunov_exponent
from .moments import critical_beta, critical_lam, mean_square_growth, persistent_excitation
from .sampling import sampled_mean_square_growth
from .summary import growth_summary, growth_table
from .windows import observed_growth, transient_growth

__all__ = [
    "FiniteJointSpectralRadius",
    "JointSpectralRadius",
    "critical_beta",
    "critical_lam",
    "growth_summary",
    "growth_table",
    "joint_spectral_radius",
    "joint_spectral_radius_of",
    "lyapunov_spectrum",
    "mean_square_growth",
    "observed_growth",
    "persistent_excitation",
    "sampled_mean_square_growth",
    "top_lyapunov_exponent",
    "transient_growth",
    "worst_growth",
]
