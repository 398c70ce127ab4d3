"""The report in its forms, and the words at a token."""

import json

import pytest
import torch

from qdelta_analysis import generators, guarantees, load_trained

from .claims import CLAIMS, UNMET, inputs


def test_report_formats():
    report = guarantees.check(load_trained()[2])
    plain = json.loads(report.to_json(indent=2))
    assert plain["ok"] is report.ok is False
    assert set(plain["claims"]) == set(CLAIMS)
    assert plain["inputs"]["H"] == 4
    assert "text" not in plain["inputs"]
    for name, claim in plain["claims"].items():
        assert claim["verdict"] == report[name].verdict
        assert len(claim["verdicts"]) == len(claim["margins"]) == 4
        assert len(claim["tests"]) == len(report[name].findings)
    html = report._repr_html_()
    text = report.to_text(details=True)
    for name, guarantee in guarantees.GUARANTEES.items():
        assert f"<b>{name}</b> {guarantee.title}" in html
        assert f"\n{name} " in text or f"\n{name}:" in text
    assert "✓ holds" in html
    assert "– hypotheses not met" in html
    assert "tolerance 7.6e-06" in text
    assert len(text) > len(str(report))
    dataset = report.to_xarray()
    assert dataset.verdict.dims == dataset.margin.dims == dataset.hypotheses_met.dims == ("claim", "head")
    assert dataset.sizes == {"claim": 14, "head": 4}
    assert dataset.overall.sel(claim="G9") == UNMET
    assert not dataset.hypotheses_met.sel(claim="G9").any()
    assert float(dataset.margin.sel(claim="G6").min()) == report["G6"].margin
    assert repr(report).startswith("Report(trained q-delta")


def test_html_shows_no_markup_of_the_inputs():
    x = generators.isotropic(T=70).with_metadata(source="<script>alert(1)</script>")
    assert "<script>" not in guarantees.check(x)._repr_html_()


def test_words_at_a_token_are_the_checks_there():
    x = inputs(T=60, H=2, B=2)
    report = guarantees.check(x)
    margins = {}
    for batch in range(2):
        for head in range(2):
            for token in range(60):
                for statement in guarantees.at_token(report, token, head, batch):
                    margins.setdefault(statement.id, []).append(statement.margin)
                    assert statement.verdict == report[statement.id].verdicts[head]
    for name in ("G2", "G3", "G4", "G6", "G7"):
        assert min(margins[name]) == pytest.approx(report[name].margin, abs=1e-12)
    assert guarantees.at_token(guarantees.Facts(x), 5) == guarantees.at_token(report, 5)
    with pytest.raises(IndexError, match="token is 60; expected 0 to 59"):
        guarantees.at_token(report, 60)


def test_words_at_a_token_compute_nothing_twice(monkeypatch):
    x = load_trained()[0].heads(2).to(torch.float64)
    facts = guarantees.Facts(x)
    first = guarantees.at_token(facts, 0)

    def again(self, function):
        assert function in self._found
        return self._found[function]

    monkeypatch.setattr(guarantees.Facts, "find", again)
    monkeypatch.setattr(guarantees.Facts, "blocks", lambda self: pytest.fail("a second pass over the tokens"))
    assert guarantees.at_token(facts, 0) == first
    assert guarantees.at_token(facts, 20) != first
