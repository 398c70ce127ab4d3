"""How a proof is made: each step is checked by SymPy from what is granted, and what it used is written beside it.

Granted are the hypotheses of the claim, and the relations of earlier steps with the hypotheses that these used. A
symbol has no sign of its own: that beta is nonnegative is known in a step only where a hypothesis, or a step, says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import sympy as sp
from sympy.core.relational import Relational

from .claim import Claim, Hypothesis, Words, in_words
from .deciding import INEQUALITIES, ProofError, gap_of, refuting, remainder, same, seen, solve, unequal
from .notation import parenthesised, tex
from .proof import Fact, Kind, Proof, Step, shown

Used = frozenset[Hypothesis]
Signs = Mapping[sp.Symbol, sp.Symbol]


@dataclass(frozen=True)
class _Granted:
    """A relation that may be used, and the hypotheses that it rests on."""

    relation: Any
    used: Used

    @property
    def symbol(self) -> sp.Symbol | None:
        """The symbol whose sign this is, if it is one's."""
        if not isinstance(self.relation, INEQUALITIES):
            return None
        gap = gap_of(self.relation)
        return gap if isinstance(gap, sp.Symbol) else None


class Derivation:
    """A proof in the making: each method checks its step, then records and grants it."""

    def __init__(self, claim: Claim):
        self.claim = claim
        self.steps: list[Step] = []
        self._step_used: list[Used] = []
        self._granted = [_Granted(h, frozenset([h])) for h in claim.hypotheses]
        self._meaning: dict[Any, tuple[Any, Used]] = {}
        self._rules: list[tuple[sp.Expr, sp.Expr]] = []

    def let(self, symbol: Any, meaning: Any, reason: str) -> Any:
        """Name an expression or matrix: identities see the expression, and the proof shows both. Returns the symbol.

        The symbol may also be a product of noncommutative ones, k^T x, to be replaced wherever it stands.
        """
        meaning = _sympified(meaning)
        self._name(symbol, meaning, frozenset(), reason)
        self._add("definition", sp.Eq(symbol, meaning, evaluate=False), reason, frozenset())
        return symbol

    def room(self, expr: Any, positive: bool = False) -> sp.Symbol:
        """Return a symbol that stands for expr, prints as (expr), and is nonnegative since that is granted.

        positive: more than that. Raises ProofError where neither a hypothesis nor an earlier step says so, with a
        point that meets the hypotheses and refutes it, if there is one.
        """
        found = self._find(expr, positive)
        if found is None:
            sign = ">" if positive else ">="
            residual = f"{expr} {sign} 0, which no hypothesis and no step says"
            bounds = [g.relation for g in self._granted]
            witness = refuting(self._meant(expr)[0], True, positive, self._bounds(bounds))
            raise ProofError(self.claim.name, f"room for {expr}", residual, witness)
        symbol = sp.Symbol(parenthesised(expr), **{"positive" if positive else "nonnegative": True})
        self._meaning[symbol] = (sp.sympify(expr), found)
        return symbol

    def equal(
        self,
        left: Any,
        right: Any,
        reason: str,
        at: Iterable[Any] = (),
        room: sp.Symbol | None = None,
        through: Iterable[Any] = (),
    ) -> None:
        """Left = right, two expressions, matrices or lists of them.

        at: equations among the hypotheses, put in. room: one in whose terms the last of its symbols is written, so
        that its sign is seen. through: equations of earlier steps, put in one after the other.
        """
        left, right = _sympified(left), _sympified(right)
        used: Used = frozenset(at)
        self._granted_all(used, reason)
        put_in = {equation.lhs: equation.rhs for equation in at}
        used |= self._granted_all(through, reason)
        for equation in reversed([*through]):
            put_in[equation.lhs] = equation.rhs.xreplace(put_in)
        if room is not None:
            meaning, granted = self._meaning[room]
            used |= granted
            symbol = max(meaning.free_symbols, key=str)
            sign = {"positive" if room.is_positive else "nonnegative": True, "integer": meaning.is_integer}
            put_in |= {symbol: sp.solve(meaning - sp.Dummy("w", **sign), symbol)[0]}
        (meant_left, used_left), (meant_right, used_right) = (self._meant(side, put_in) for side in (left, right))
        used |= used_left | used_right | self._defined([left, right, meant_left, meant_right], put_in, reason)
        used |= self._vanishes(_difference(meant_left, meant_right), reason)
        self._add("identity", sp.Eq(left, right, evaluate=False), reason, used)

    def at_least(
        self, big: Any, small: Any, certificate: Any, reason: str, *, strict: bool = False, squared: bool = False
    ) -> None:
        """Big >= small (> where `strict`), because big - small is a certificate whose sign is seen from its form.

        squared: it is the squares whose difference the certificate is, and big is nonnegative. That the difference is
        nonnegative is also tried at points that meet the hypotheses.
        """
        big, small, certificate = sp.sympify(big), sp.sympify(small), sp.sympify(certificate)
        gap = big**2 - small**2 if squared else big - small
        # Where the names alone say it, what stands behind them does not matter.
        rooms_only = sp.expand(self._behind_rooms(gap - certificate)) == 0
        if rooms_only:
            used, meant, sides = frozenset(), self._behind_rooms(gap), [gap, certificate]
        else:
            (meant, used), (meant_certificate, used_there) = self._meant(gap), self._meant(certificate)
            used, sides = used | used_there, [gap, certificate, meant, meant_certificate]
            used |= self._vanishes(meant - meant_certificate, reason)
        used |= self._defined(sides, {}, reason)
        used |= self._sign(certificate, strict, reason)
        if squared:
            used |= self._sign(big, False, reason)
        rooms = [self._meaning[s][0] >= 0 for s in certificate.free_symbols if s in self._meaning and _is_room(s)]
        signs = [g.relation for g in self._simple(meant.free_symbols)]
        named = [self._behind_rooms(bound) for bound in (*used, *rooms, *signs) if isinstance(bound, Relational)]
        witness = refuting(meant, True, strict, named if rooms_only else self._bounds([*used, *rooms]))
        if witness is not None:
            raise ProofError(self.claim.name, reason, gap, witness)
        relation = (sp.Gt if strict else sp.Ge)(big, small, evaluate=False)
        display = (sp.Gt if strict else sp.Ge)(big**2, small**2, evaluate=False) if squared else relation
        self._add(
            "inequality", relation, reason, used, shown(display, certificate) + self._therefore(relation, squared)
        )

    def chain(self, *terms: Any, reason: str, without: Iterable[Any] = ()) -> None:
        """Terms in ascending order, each at most the next by what is granted: so the first is at most the last.

        without: hypotheses in whose place an earlier step stands that says the same.
        """
        pairs = [sp.Le(small, big, evaluate=False) for small, big in pairwise(terms)]
        used = self._granted_all(pairs, reason)
        for hypothesis in without:
            says = lambda g, h: same(g.relation, h) or (isinstance(h, sp.Ne) and unequal(g.relation, gap_of(h)))
            derived = [g.used for g in self._granted if says(g, hypothesis) and hypothesis not in g.used]
            if not derived:
                raise ProofError(self.claim.name, reason, f"{hypothesis}, which no step says")
            used = (used - {hypothesis}) | derived[0]
        latex = r" \le ".join(tex(sp.sympify(term)) for term in terms)
        self._add("inequality", sp.Le(terms[0], terms[-1], evaluate=False), reason, used, latex)

    def squeeze(self, left: Any, right: Any, reason: str) -> None:
        """Left = right, since both left <= right and left >= right are granted."""
        used = self._granted_all([sp.Le(left, right, evaluate=False), sp.Ge(left, right, evaluate=False)], reason)
        self._add("identity", sp.Eq(left, right, evaluate=False), reason, used)

    def states(self, index: int, reason: str, certificate: Any = None, **options: Any) -> None:
        """Derive a relation of the claim, as it stands there: `equal`, or `at_least` with its certificate."""
        relation: Any = self.claim.conclusions[index].relation
        if isinstance(relation, sp.Eq):
            return self.equal(relation.lhs, relation.rhs, reason, **options)
        strict = isinstance(relation, sp.Gt | sp.Lt)
        return self.at_least(relation.gts, relation.lts, certificate, reason, strict=strict, **options)

    def equivalent(self, index: int, of: sp.Expr, reason: str, through: Any = None) -> None:
        """Derive that two conditions of the claim are met by the same values of an expression, `of`.

        through: an equation of an earlier step, put into both.
        """
        left, right = self.claim.conclusions[index].relation.args
        sets, z = [], sp.Symbol("z", real=True)
        used = frozenset() if through is None else self._granted_all([through], reason)
        put_in = {} if through is None else {through.lhs: through.rhs}
        for side in (left, right):
            found, more = self._solutions(side.xreplace(put_in), of, z, reason)
            sets.append(found)
            used |= more
        if sets[0] != sets[1]:
            raise ProofError(self.claim.name, reason, f"{sets[0]} and {sets[1]}", {})
        self._add(
            "inequality", sp.Equivalent(left, right, evaluate=False), reason, used, rf"{tex(left)} \iff {tex(right)}"
        )

    def by(self, fact: Fact, relation: Any, reason: str = "", using: Iterable[Any] = ()) -> None:
        """Cite a standard fact, and say what follows from it; `using`: what it needs, granted already."""
        text = f"{fact.value}. {reason}".removesuffix(". ")
        self._follows("fact", relation, text, self._granted_all((*fact.needs, *using), text))

    def suppose(self, relation: Any, reason: str) -> Any:
        """Suppose a relation, for an induction; no proof may rest on it in the end. Returns the relation."""
        self._add("supposition", relation, reason, frozenset([relation]))
        return relation

    def induct(self, relation: Any, reason: str, supposed: Any, using: Iterable[Any]) -> None:
        """Conclude by induction what a supposition and the steps in `using` show, and take the supposition back."""
        text = f"{Fact.INDUCTION.value}. {reason}"
        self._follows("fact", relation, text, self._granted_all(using, text) - {supposed})

    def uses(self, claim: Claim, index: int, reason: str, at: Mapping[Any, Any] | None = None) -> None:
        """Use a relation of another claim, with symbols replaced: all that it needs must be granted here."""
        at, conclusion = dict(at or {}), claim.conclusions[index]
        put_in = lambda x: x if isinstance(x, Words) else x.xreplace(at)
        needed = self._granted_all([put_in(h) for h in conclusion.given], f"Claim {claim.name}")
        self._follows("claim", put_in(conclusion.relation), f"Claim {claim.name}: {reason}", needed)

    def proof(self) -> Proof:
        """Return what was proved: each relation of the claim is a step, which used exactly what is said of it."""
        steps, claim = list(self.steps), self.claim
        for conclusion in claim.conclusions:
            found = [i for i, step in enumerate(steps) if same(step.relation, conclusion.relation)]
            if not found:
                raise ProofError(claim.name, "the statement", f"{conclusion.relation}, which no step derives")
            given = frozenset(conclusion.given)
            exact = [i for i in found if self._step_used[i] == given]
            if not exact:
                missing, unneeded = self._step_used[found[-1]] - given, given - self._step_used[found[-1]]
                left = f"{[*missing]} used but not stated, {[*unneeded]} stated but not used, for {conclusion.relation}"
                raise ProofError(claim.name, "the statement", left)
            steps[exact[-1]] = replace(steps[exact[-1]], states=True)
        hypotheses = tuple(in_words(claim.common))
        return Proof(claim.name, claim.title, claim.statement, hypotheses, tuple(steps), claim.dimension)

    def _name(self, symbol: Any, meaning: Any, used: Used, reason: str) -> None:
        product = isinstance(symbol, sp.Mul | sp.Pow)
        earlier = any(symbol in getattr(step.relation, "free_symbols", ()) for step in self.steps)
        bound = any(symbol in h.free_symbols for h in self.claim.hypotheses if not isinstance(h, Words))
        if earlier or bound or symbol in self._meaning or not any(x.isalpha() for x in str(symbol)):
            raise ProofError(self.claim.name, reason, f"{symbol} already stands for something else")
        meant = self._meant(meaning)[0]
        if getattr(symbol, "is_nonnegative", None) and not symbol.is_integer and not meant.is_nonnegative:
            raise ProofError(self.claim.name, reason, f"{symbol}, whose sign nothing gives")
        if product:
            self._rules.append((symbol, meaning))
        else:
            self._meaning[symbol] = (meaning, used)

    def _follows(self, kind: Kind, relation: Any, reason: str, used: Used) -> None:
        """Record what is cited; an equation of a symbol that means nothing yet gives it that meaning."""
        named = isinstance(relation, sp.Eq) and isinstance(relation.lhs, sp.Symbol | sp.MatrixSymbol)
        earlier = any(relation.lhs in getattr(s.relation, "free_symbols", ()) for s in self.steps) if named else True
        if not earlier and relation.lhs not in self._meaning:
            self._name(relation.lhs, relation.rhs, used, reason)
        self._add(kind, relation, reason, used)

    def _meant(self, expr: Any, put_in: Mapping[Any, Any] | None = None) -> tuple[Any, Used]:
        """What stands behind the names in an expression, and what that used."""
        used: Used = frozenset()
        expr = expr.xreplace(dict(put_in or {}))
        while named := [s for s in expr.atoms(sp.Symbol, sp.MatrixSymbol) if s in self._meaning]:
            used = used.union(*(self._meaning[s][1] for s in named))
            expr = expr.xreplace({s: self._meaning[s][0] for s in named}).xreplace(dict(put_in or {}))
        expr = expr.xreplace(dict(put_in or {}))
        explicit = lambda M: sp.Matrix(M.doit().as_explicit()).det(method="berkowitz")
        return expr.replace(sp.Determinant, explicit).doit(), used

    def _behind_rooms(self, expr: Any) -> Any:
        """An expression with what rooms stand for, all other names left as they are."""
        while rooms := {s: self._meaning[s][0] for s in expr.free_symbols if s in self._meaning and _is_room(s)}:
            expr = expr.xreplace(rooms)
        return expr

    def _simple(self, symbols: set[Any]) -> list[_Granted]:
        return [g for g in self._granted if g.symbol in symbols]

    def _needed(self, passes: Callable[[Signs], bool], symbols: set[Any]) -> Used | None:
        """Which of the granted signs a check needs: none, or as few as leave it true; None if all do not help."""
        if passes({}):
            return frozenset()
        kept = self._simple(symbols)
        if not kept or not passes(_signs(kept)):
            return None
        for one in sorted(kept, key=lambda g: isinstance(g.relation, sp.Ge | sp.Le)):  # the strict ones go first
            fewer = [g for g in kept if g is not one]
            if passes(_signs(fewer)):
                kept = fewer
        return frozenset().union(*(g.used for g in kept))

    def _vanishes(self, gap: Any, reason: str) -> Used:
        while (simpler := _replaced(gap, self._rules)) != gap:
            gap = simpler
        symbols = gap.free_symbols
        thorough = not self._simple(symbols)
        passes = lambda signs: remainder(gap.xreplace(dict(signs)), thorough or bool(signs)) is None
        used = self._needed(passes, symbols)
        if used is None and not (thorough or passes(dict[sp.Symbol, sp.Symbol]())):
            used = frozenset() if remainder(gap) is None else None
        if used is None:
            raise ProofError(self.claim.name, reason, remainder(gap), refuting(gap, False, False, ()))
        return used

    def _sign(self, expr: Any, strict: bool, reason: str) -> Used:
        """What shows that an expression is nonnegative; the root of what is granted to be so is."""
        said = self._find(expr, strict)
        if said is not None:
            return said
        used: Used = frozenset()
        for root in expr.atoms(sp.Pow):
            found = self._find(root.base, False) if root.exp == sp.S.Half else None
            if found is not None:
                used |= found
                expr = expr.xreplace({root: sp.Dummy(nonnegative=True)})
        for symbol in expr.free_symbols:
            known = symbol.is_integer or _is_room(symbol) or _is_length(symbol) or isinstance(symbol, sp.Dummy)
            if symbol.is_nonnegative and not known:
                raise ProofError(self.claim.name, reason, f"{symbol}, whose sign nothing gives")
            if _is_room(symbol):
                used |= self._meaning[symbol][1]
        found = self._needed(lambda signs: seen(expr.xreplace(dict(signs)), strict), expr.free_symbols)
        if found is None:
            witness = refuting(self._meant(expr)[0], True, strict, self._bounds(self.claim.hypotheses))
            raise ProofError(self.claim.name, reason, expr, witness)
        return used | found

    def _defined(self, sides: Iterable[Any], put_in: Mapping[Any, Any], reason: str) -> Used:
        """What keeps every divisor from zero."""
        used: Used = frozenset()
        divisors = {p.base for side in sides for p in side.atoms(sp.Pow) if p.exp.could_extract_minus_sign()}
        for base in sorted(divisors, key=str):
            if base.is_nonzero or (isinstance(base, sp.Symbol) and _is_room(base)):
                continue
            plain = base.as_content_primitive()[1]
            found = next((g.used for g in self._granted if unequal(g.relation, plain)), None)
            if found is None:
                found = self._needed(lambda s, b=base: bool(b.xreplace(dict(s)).is_nonzero), base.free_symbols)
            if found is None:
                raise ProofError(self.claim.name, reason, f"a division by {base}, which may be zero")
            used |= found
        return used

    def _find(self, expr: Any, positive: bool) -> Used | None:
        """What the granted relation that says expr >= 0 (or > 0) used."""
        for g in self._granted:
            says = isinstance(g.relation, INEQUALITIES) and (isinstance(g.relation, sp.Gt | sp.Lt) or not positive)
            if says and sp.expand(gap_of(g.relation) - expr) == 0:
                return g.used
        return None

    def _granted_all(self, needed: Iterable[Any], reason: str) -> Used:
        """What the relations and words that a step needs used; each must be granted, or plainly true."""
        used: Used = frozenset()
        for one in needed:
            if one == sp.true:
                continue
            found = next((g.used for g in self._granted if same(g.relation, one)), None)
            if found is None and isinstance(one, INEQUALITIES):
                found = self._find(gap_of(one), isinstance(one, sp.Gt | sp.Lt))
            if found is None:
                raise ProofError(self.claim.name, reason, f"{one}, which no hypothesis and no step says")
            used |= found
        return used

    def _bounds(self, relations: Iterable[Any]) -> list[Any]:
        """Relations that points must meet, in terms of what stands behind the names."""
        bounds = [r for r in relations if isinstance(r, Relational)]
        return [self._meant(bound)[0] for bound in bounds]

    def _solutions(self, condition: Any, of: sp.Expr, z: sp.Symbol, reason: str) -> tuple[Any, Used]:
        """Which values z of an expression meet a condition, and what that used."""
        if isinstance(condition, sp.And):
            parts = [self._solutions(part, of, z, reason) for part in condition.args]
            return sp.Intersection(*(s for s, _ in parts)), frozenset().union(*(u for _, u in parts))
        gap, used = self._meant(gap_of(condition))
        factors, rest = [], sp.S.One
        for factor in sp.Mul.make_args(sp.factor_terms(sp.expand(gap))):
            if of.free_symbols & factor.free_symbols:
                rest *= factor
            else:
                factors.append(factor)
        used |= self._sign(sp.Mul(*factors), True, reason) if factors else frozenset()
        rest = rest.subs(of, z)
        try:
            return solve(rest, isinstance(condition, sp.Gt | sp.Lt), z), used
        except (NotImplementedError, ValueError) as error:  # SymPy's, for what it cannot solve or has more unknowns
            raise ProofError(self.claim.name, reason, f"{condition}, which is not solved for {of}") from error

    def _therefore(self, relation: Any, squared: bool) -> str:
        return rf", \quad {tex(relation)}" if squared else ""

    def _add(self, kind: Kind, relation: Any, reason: str, used: Used, latex: str | None = None) -> None:
        ordered = [h for h in self.claim.hypotheses if h in used]
        self.steps.append(
            Step(latex or tex(relation), reason, kind, tuple(in_words(ordered, short=True)), relation=relation)
        )
        self._step_used.append(used)
        if kind != "definition":
            self._granted.append(_Granted(relation, used))


def _replaced(gap: Any, rules: Sequence[tuple[Any, Any]]) -> Any:
    """An expression with the products of letters that stand for something replaced."""
    for rule in rules:
        gap = sp.expand(gap).subs(*rule)
    return gap


def _is_room(symbol: Any) -> bool:
    return symbol.name.startswith(r"{\left(")


def _is_length(symbol: Any) -> bool:
    return symbol.name.startswith(r"\|")


def _sympified(side: Any) -> Any:
    return sp.Tuple(*map(_sympified, side)) if isinstance(side, list | tuple) else sp.sympify(side)


def _difference(left: Any, right: Any) -> Any:
    if isinstance(left, sp.Tuple):
        return sp.Tuple(*(_difference(u, w) for u, w in zip(left, right, strict=True)))
    return left - right


def _signs(granted: Sequence[_Granted]) -> dict[sp.Symbol, sp.Symbol]:
    """The symbols of granted signs, with these as their assumptions."""
    signs: dict[Any, sp.Symbol] = {}
    for g in sorted(granted, key=lambda g: isinstance(g.relation, sp.Gt | sp.Lt)):
        sign = "positive" if isinstance(g.relation, sp.Gt | sp.Lt) else "nonnegative"
        assert g.symbol is not None
        signs[g.symbol] = sp.Symbol(g.symbol.name, **{sign: True, "integer": g.symbol.is_integer})
    return signs
