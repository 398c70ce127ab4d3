"""The report: all checks of one QDeltaInputs, for people (terminal, notebook) and for programs (xarray, JSON)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from .facts import Facts
from .model import VERDICTS, Check, Verdict

_MARKS: dict[Verdict, str] = {"holds": "✓", "hypotheses not met": "–", "violated": "✗"}
_COLOURS: dict[Verdict, str] = {"holds": "#1b7f4d", "hypotheses not met": "#8a6100", "violated": "#b3261e"}


@dataclass(frozen=True, repr=False)
class Report:
    """What `guarantees.check` found. Each claim is named: no verdict here stands for "stable" as such.

    facts: what the checks read, for `at_token`.
    """

    checks: Mapping[str, Check]
    facts: Facts

    @property
    def ok(self) -> bool:
        """Whether all hypotheses are met and all claims hold, in every head."""
        return all(check.verdict == "holds" for check in self.checks.values())

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Claim -> verdict, the worst over heads."""
        return {name: check.verdict for name, check in self.checks.items()}

    def __getitem__(self, claim: str) -> Check:
        return self.checks[claim]

    @property
    def title(self) -> str:
        """Where the inputs come from, and their sizes."""
        x = self.facts.inputs
        source = ", ".join(x.metadata[key] for key in ("source", "settings", "layer") if key in x.metadata)
        heads = f"{x.H} head" + "s" * (x.H != 1)
        return f"{source or 'inputs'}: {x.B} x {x.T} tokens, {heads}, memory {x.V} x {x.K}, {_dtype(x.q)}"

    @property
    def summary(self) -> str:
        """How many claims have which verdict."""
        count = {verdict: list(self.verdicts.values()).count(verdict) for verdict in VERDICTS}
        return (
            f"{count['holds']} claims hold, {count['violated']} violated, "
            f"{count['hypotheses not met']} whose hypotheses are not met (they say nothing of these inputs)"
        )

    @property
    def tolerances(self) -> str:
        """What rounding is allowed."""
        t = self.facts.tolerances
        return (
            f"Tolerances for {_dtype(self.facts.inputs.q)}: unit length {t.unit:.1e}; the memory as the chunk form "
            f"computes it {t.recurrence:.1e} of its size; float64 algebra {t.algebra:.0e}. "
            "margin = limit - value for a bound, -residual for an identity; negative beyond tolerance: violated. "
            "A claim's margin is stated even where its hypotheses are not met."
        )

    def to_text(self, details: bool = False) -> str:
        """Return the table for a terminal, and under it what each claim found; details: every numerical test too."""
        lines = [f"Q-Delta guarantees on {self.title}", self.summary, ""]
        lines.append(f"{'claim':<6}{'':<42} {'verdict':<20} {'margin':>10}  {'at':<24} {'in':<18}")
        for name, check in self.checks.items():
            mark = f"{_MARKS[check.verdict]} {check.verdict}"
            row = f"{name:<6}{check.title:<42} {mark:<20} {_margin(check.margin):>10}  {_where(check):<24} {check.unit}"
            lines.append(row.rstrip())
        lines.append("")
        for name, check in self.checks.items():
            heads = "" if len(set(check.verdicts)) == 1 else f"[{_heads(check)}] "
            lines.append(f"{name + ':':<6}{heads}{check.sentence}.")
            lines += [f"      not met: {_condition(c)}" for c in check.unmet]
            lines += [f"      {_finding(f)}" for f in check.findings if details]
        return "\n".join([*lines, "", self.tolerances])

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"Report({self.title}; {self.summary})"

    def _repr_html_(self) -> str:
        """Return a table in which every verdict is a word and a mark besides a colour."""
        head = "".join(f"<th style='text-align:left'>{x}</th>" for x in ("claim", "verdict", "margin", "at", "found"))
        rows = "".join(_html_row(name, check) for name, check in self.checks.items())
        return (
            f"<div><b>Q-Delta guarantees on {escape(self.title)}</b><br>{escape(self.summary)}"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            f"<small>{escape(self.tolerances)}</small></div>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python; what could not be evaluated is None."""
        x, t = self.facts.inputs, self.facts.tolerances
        return {
            "format": "qdelta-guarantees",
            "format_version": "1",
            "ok": self.ok,
            "inputs": {"B": x.B, "T": x.T, "H": x.H, "K": x.K, "V": x.V, "dtype": _dtype(x.q), **_metadata(x)},
            "tolerances": {"unit": t.unit, "recurrence": t.recurrence, "algebra": t.algebra},
            "claims": {name: _plain(check) for name, check in self.checks.items()},
        }

    def to_json(self, indent: int | None = None) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_xarray(self) -> xr.Dataset:
        """Return verdict, margin, hypotheses_met, dims (claim, head), and per claim overall, title, unit and the place.

        The place: batch, token, and the tolerance there.
        """
        checks = list(self.checks.values())
        per_claim = {
            "overall": [c.verdict for c in checks],
            "title": [c.title for c in checks],
            "unit": [c.unit for c in checks],
            "tolerance": [c.tolerance for c in checks],
            "batch": [c.batch for c in checks],
            "token": [c.token for c in checks],
        }
        per_head = {
            "verdict": np.array([c.verdicts for c in checks]),
            "margin": np.array([c.margins for c in checks]),
            "hypotheses_met": np.array([np.all([k.met for k in c.conditions], axis=0) for c in checks]),
        }
        variables = {name: ("claim", np.array(x)) for name, x in per_claim.items()}
        variables |= {name: (("claim", "head"), x) for name, x in per_head.items()}
        coordinates = {"claim": list(self.checks), "head": np.arange(self.facts.inputs.H)}
        return xr.Dataset(variables, coordinates, {**self.facts.inputs.metadata, "tolerances": self.tolerances})


def _dtype(x) -> str:
    return str(x.dtype).removeprefix("torch.")


def _metadata(inputs) -> dict[str, str]:
    return {key: value for key, value in inputs.metadata.items() if key != "text"}


def _margin(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _where(check: Check) -> str:
    if check.token < 0:
        return f"head {check.head}"
    batch = f"sequence {check.batch}, " if check.batch > 0 else ""
    return f"{batch}token {check.token}, head {check.head}"


def _heads(check: Check) -> str:
    kinds = {verdict: [str(h) for h, found in enumerate(check.verdicts) if found == verdict] for verdict in VERDICTS}
    return "; ".join(f"{verdict} in {', '.join(heads)}" for verdict, heads in kinds.items() if heads)


def _condition(condition) -> str:
    excess = condition.excess
    head = int(excess.value.argmax())
    failing = [str(h) for h, met in enumerate(condition.met) if not met]
    heads = "" if len(condition.met) == 1 else f", heads {', '.join(failing)}"
    found = f" (off by {excess.value[head]:.3g})" if math.isfinite(excess.value[head]) else ""
    return f"{condition.name}: {condition.words}{found}{heads}"


def _finding(finding) -> str:
    head = int((finding.worst.value - finding.worst.tolerance).nan_to_num(nan=-math.inf).argmax())
    margin, tolerance = float(finding.margin[head]), float(finding.worst.tolerance[head])
    allowed = f"tolerance {tolerance:.1e}" if tolerance >= 0 else "strict"
    mark = "could not be evaluated" if math.isnan(margin) else f"margin {margin:.3g}, {allowed}"
    verdict = "✓" if bool(finding.passes.all()) else "✗" if bool(finding.fails.any()) else "–"
    return f"{verdict} {finding.words}: {mark}"


def _html_row(name: str, check: Check) -> str:
    unmet = "".join(f"<br><i>not met: {escape(_condition(c))}</i>" for c in check.unmet)
    verdict = f"<b style='color:{_COLOURS[check.verdict]}'>{_MARKS[check.verdict]} {check.verdict}</b>"
    cells = [
        f"<b>{name}</b> {escape(check.title)}",
        verdict if len(set(check.verdicts)) == 1 else f"{verdict}<br>{escape(_heads(check))}",
        f"{_margin(check.margin)}<br><small>{escape(check.unit)}</small>",
        escape(_where(check)),
        escape(check.sentence) + unmet,
    ]
    return "<tr>" + "".join(f"<td style='text-align:left;vertical-align:top'>{cell}</td>" for cell in cells) + "</tr>"


def _plain(check: Check) -> dict[str, Any]:
    return {
        "title": check.title,
        "verdict": check.verdict,
        "verdicts": list(check.verdicts),
        "conclusion_holds": check.conclusion_holds,
        "margin": _finite(check.margin),
        "margins": list(map(_finite, check.margins)),
        "unit": check.unit,
        "tolerance": _finite(check.tolerance),
        "worst": {"batch": check.batch, "token": check.token, "head": check.head},
        "found": check.sentence,
        "numbers": {k: list(map(_finite, v)) if isinstance(v, tuple) else _finite(v) for k, v in check.numbers.items()},
        "hypotheses": [
            {"name": c.name, "words": c.words, "met": list(c.met), "excess": _finite_list(c.excess.value)}
            for c in check.conditions
        ],
        "tests": [
            {
                "words": f.words,
                "needs_hypotheses": f.needs,
                "margins": _finite_list(f.margin),
                "tolerances": _finite_list(f.worst.tolerance),
            }
            for f in check.findings
        ],
    }


def _finite_list(x: Tensor) -> list[float | None]:
    return list(map(_finite, x.tolist()))


def _finite(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None
