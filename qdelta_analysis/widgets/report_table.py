"""The report as a table whose rows can be chosen, and whose worst tokens can be gone to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

from ..guarantees import GUARANTEES, Check, Report
from .parts import Whole, static


class ReportTable(Whole, anywidget.AnyWidget):
    """Show of each claim whether it holds, its margin and its worst token; `chosen` is the one told of in full.

    go_to: called with the token that the reader asks for.
    """

    _esm = static("report_table.js")
    _css = static("report_table.css")

    claims = traitlets.List(traitlets.Dict(), help="One for each row, in words.").tag(sync=True)
    summary = traitlets.Unicode("").tag(sync=True)
    chosen = traitlets.Unicode("", help="The claim whose finding is written out.").tag(sync=True)

    def __init__(self, go_to: Callable[[int], None]):
        super().__init__()
        self.on_msg(lambda widget, content, buffers: go_to(int(content["go"])))

    def show(self, report: Report) -> None:
        """Show another report; a claim chosen before stays so, at first it is the one that is worst off."""
        checks = report.checks
        claims = [_row(check) for check in checks.values()]
        with self.hold_sync():
            self.summary = report.summary
            self.chosen = self.chosen or next((name for name, c in checks.items() if c.verdict != "holds"), "G1")
            self.claims = claims


def _row(check: Check) -> dict[str, Any]:
    return {
        "id": check.id,
        "title": check.title,
        "verdict": check.verdict,
        "margin": "–" if math.isnan(check.margin) else f"{check.margin:.3g}".replace("-", "−"),
        "tolerance": f"rounding allowed {check.tolerance:.1e}" if check.tolerance > 0 else "no rounding allowed",
        "unit": check.unit,
        "token": check.token,
        "words": GUARANTEES[check.id].words,
        "found": check.sentence,
        "unmet": [condition.words for condition in check.unmet],
    }
