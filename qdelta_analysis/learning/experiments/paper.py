"""The paper's own figures, to stand beside ours: of other sizes, data and tokens, and none of them measured here."""

from __future__ import annotations

import pandas as pd

_SOURCE = "Q-Delta (arXiv 2606.08804), as the paper reports it"


def paper_results() -> pd.DataFrame:
    """Return the paper's averages by model, in per cent; NaN where it reports none.

    Columns: average accuracy at 340M and at 1.3B parameters, average over S-NIAH at 1.3B, and average real-world
    recall. `attrs["source"]` names the paper. Source: Q-Delta (arXiv 2606.08804), its result tables.
    """
    table = pd.DataFrame(
        [
            ("RetNet", 44.55, 50.31, 38.09, None),
            ("Mamba", 46.64, 52.39, 62.62, 27.7),
            ("Mamba2", 46.27, 52.46, 76.58, 32.4),
            ("DeltaNet", 43.82, 52.53, 81.29, 30.1),
            ("Gated DeltaNet", 46.01, 52.77, 83.51, 34.2),
            ("Q-Delta", 47.24, 53.47, 90.02, 33.2),
        ],
        columns=["model", "accuracy, 340M", "accuracy, 1.3B", "S-NIAH, 1.3B", "real-world recall"],
    ).set_index("model")
    table.attrs["source"] = _SOURCE
    return table


def paper_ablation() -> pd.DataFrame:
    """Return the paper's ablation at 340M: perplexities on WikiText and LAMBADA, average accuracy in per cent.

    Indexed by the names that `learning.ablation` gives the same variants. Source: Q-Delta (arXiv 2606.08804), its
    ablation table.
    """
    table = pd.DataFrame(
        [
            ("q-delta", 26.89, 32.67, 47.24),
            ("q-delta, lam = 0.2", 26.96, 35.39, 46.99),
            ("q-delta, lam = 0.5", 26.86, 33.31, 47.20),
            ("q-delta, lam = 0.8", 26.61, 33.58, 46.42),
            ("q-delta, no decay", 26.52, 32.97, 45.86),
            ("q-delta, lam = 1", 26.55, 35.21, 46.36),
        ],
        columns=["variant", "WikiText perplexity", "LAMBADA perplexity", "accuracy"],
    ).set_index("variant")
    table.attrs["source"] = _SOURCE
    return table
