"""How a proof is made: each step is checked by SymPy from what is granted, and what it used is written beside it.

Granted are the hypotheses of the claim, and the relations of earlier steps with the hypotheses that these used. A
symbol has no sign of its own: that beta is nonnegative is known in a step only where a hypothesis, or a step, says so.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import sympy as sp
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom
from sympy.matrices import MatrixBase

from .claim import Claim, Hypothesis, Words, in_words
from .notation import parenthesised, tex
from .proof import Fact, Kind, Proof, Step, shown

_POINTS, _TRIES, _CLEARLY = 12, 400, 1e-20  # points drawn; tries to draw one; by how much a false step must fail
_NEAR = 1e-6  # closer to zero than this, floating point does not decide
_INEQUALITIES = sp.Ge | sp.Le | sp.Gt | sp.Lt
Statement = sp.Basic | MatrixBase | bool
Used = frozenset[Hypothesis]
Signs = Mapping[sp.Symbol, sp.Symbol]


class ProofError(AssertionError):
    """A step that does not simplify to true, or that rests on what is not granted.

    `residual` is what is left over; `witness` is a point at which the step is false, or None where none was found.
    """

    def __init__(self, claim: str, step: str, residual: Any, witness: Mapping[Any, sp.Expr] | None = None):
        self.claim, self.step, self.residual, self.witness = claim, step, residual, witness
        at = ", ".join(f"{symbol} = {value}" for symbol, value in (witness or {}).items())
        where = "no point at which it fails was found" if witness is None else f"it is false at {at or 'every point'}"
        super().__init__(f'{claim}: the step "{step}" leaves {residual}; {where}.')


def check(statement: Statement, reason: str, *, claim: str = "claim") -> None:
    """Check that an expression or matrix vanishes, or that an equation or inequality holds, by its symbols alone.

    statement: an expression or matrix, to be zero; or a relation, to hold under the assumptions of its symbols.

    Raises ProofError, which names the claim, the step and the residual, for what does not simplify to true. A sign
    that SymPy cannot see from the form that it is given is refused, even where the inequality is true.
    """
    residual: Any
    if isinstance(statement, bool | BooleanAtom):
        residual = None if statement else sp.false
        witness = {}
    else:
        inequality = isinstance(statement, _INEQUALITIES)
        gap: Any = _gap(statement) if isinstance(statement, Relational) else statement
        strict = isinstance(statement, sp.Gt | sp.Lt)
        residual = (None if _seen(gap, strict) else gap) if inequality else _remainder(gap)
        witness = None if residual is None else _refuting(gap, inequality, strict, ())
    if residual is not None:
        raise ProofError(claim, reason, residual, witness)


@dataclass(frozen=True)
class _Granted:
    """A relation that may be used, and the hypotheses that it rests on."""

    relation: Any
    used: Used

    @property
    def symbol(self) -> sp.Symbol | None:
        """The symbol whose sign this is, if it is one's."""
        if not isinstance(self.relation, _INEQUALITIES):
            return None
        gap = _gap(self.relation)
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
            witness = _refuting(self._meant(expr)[0], True, positive, self._bounds(bounds))
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
        witness = _refuting(meant, True, strict, named if rooms_only else self._bounds([*used, *rooms]))
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
            says = lambda g, h: _same(g.relation, h) or (isinstance(h, sp.Ne) and _unequal(g.relation, _gap(h)))
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
            found = [i for i, step in enumerate(steps) if _same(step.relation, conclusion.relation)]
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
        passes = lambda signs: _remainder(gap.xreplace(dict(signs)), thorough or bool(signs)) is None
        used = self._needed(passes, symbols)
        if used is None and not (thorough or passes(dict[sp.Symbol, sp.Symbol]())):
            used = frozenset() if _remainder(gap) is None else None
        if used is None:
            raise ProofError(self.claim.name, reason, _remainder(gap), _refuting(gap, False, False, ()))
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
        found = self._needed(lambda signs: _seen(expr.xreplace(dict(signs)), strict), expr.free_symbols)
        if found is None:
            witness = _refuting(self._meant(expr)[0], True, strict, self._bounds(self.claim.hypotheses))
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
            found = next((g.used for g in self._granted if _unequal(g.relation, plain)), None)
            if found is None:
                found = self._needed(lambda s, b=base: bool(b.xreplace(dict(s)).is_nonzero), base.free_symbols)
            if found is None:
                raise ProofError(self.claim.name, reason, f"a division by {base}, which may be zero")
            used |= found
        return used

    def _find(self, expr: Any, positive: bool) -> Used | None:
        """What the granted relation that says expr >= 0 (or > 0) used."""
        for g in self._granted:
            says = isinstance(g.relation, _INEQUALITIES) and (isinstance(g.relation, sp.Gt | sp.Lt) or not positive)
            if says and sp.expand(_gap(g.relation) - expr) == 0:
                return g.used
        return None

    def _granted_all(self, needed: Iterable[Any], reason: str) -> Used:
        """What the relations and words that a step needs used; each must be granted, or plainly true."""
        used: Used = frozenset()
        for one in needed:
            if one == sp.true:
                continue
            found = next((g.used for g in self._granted if _same(g.relation, one)), None)
            if found is None and isinstance(one, _INEQUALITIES):
                found = self._find(_gap(one), isinstance(one, sp.Gt | sp.Lt))
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
        gap, used = self._meant(_gap(condition))
        factors, rest = [], sp.S.One
        for factor in sp.Mul.make_args(sp.factor_terms(sp.expand(gap))):
            if of.free_symbols & factor.free_symbols:
                rest *= factor
            else:
                factors.append(factor)
        used |= self._sign(sp.Mul(*factors), True, reason) if factors else frozenset()
        rest = rest.subs(of, z)
        try:
            return _solve(rest, isinstance(condition, sp.Gt | sp.Lt), z), used
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


def _gap(relation: Any) -> Any:
    """What must vanish, or be at least zero, where the relation holds."""
    left, right = (relation.lhs, relation.rhs) if relation.rel_op in ("==", "!=") else (relation.gts, relation.lts)
    return left - right


def _same(left: Any, right: Any) -> bool:
    """Whether two relations say the same, term by term."""
    if left == right:
        return True
    if isinstance(left, _INEQUALITIES) and isinstance(right, _INEQUALITIES):
        strict = [isinstance(x, sp.Gt | sp.Lt) for x in (left, right)]
        return strict[0] == strict[1] and sp.expand(_gap(left) - _gap(right)) == 0
    return False


def _unequal(relation: Any, base: Any) -> bool:
    """Whether a relation says that an expression is not zero."""
    if not isinstance(relation, sp.Ne | sp.Gt | sp.Lt):
        return False
    return sp.expand(_gap(relation) - base) == 0 or sp.expand(_gap(relation) + base) == 0


# What is checked does not depend on who asks: claims share steps, and a proof made again is the same.
_remembered = lru_cache(maxsize=4096)


@_remembered
def _seen(gap: Any, strict: bool) -> bool:
    sign = "is_positive" if strict else "is_nonnegative"
    return any(getattr(form(gap), sign) for form in (lambda e: e, sp.expand, sp.factor))


def _remainder(gap: Any, thorough: bool = True) -> Any:
    """What is left of the first entry that does not simplify to zero."""
    for entry in _entries(gap):
        for part in [entry] if entry.is_commutative else _coefficients(entry):
            left = _left_over(part, thorough)
            if left != 0:
                return left
    return None


@_remembered
def _left_over(part: Any, thorough: bool) -> Any:
    """What an expression simplifies to, as far as it takes to reach zero."""
    for simplify in (_plain, sp.expand, _cancelled, *([sp.simplify] if thorough else [])):
        part = simplify(part)
        if part == 0:
            break
    return part


def _cancelled(entry: Any) -> Any:
    return sp.cancel(sp.together(_split_powers(entry)))


def _coefficients(entry: Any) -> list[Any]:
    """What stands before each word of letters that do not commute."""
    found: dict[Any, Any] = {}
    for term in sp.Add.make_args(sp.expand(entry)):
        numbers, word = term.args_cnc()
        found[tuple(word)] = found.get(tuple(word), 0) + sp.Mul(*numbers)
    return list(found.values())


def _plain(entry: Any) -> Any:
    """max(u, w) = (u + w + |u - w|) / 2, with what is common taken out of absolute values and roots."""
    if entry.has(sp.Max):
        entry = entry.rewrite(sp.Abs).replace(sp.Abs, lambda inside: sp.Abs(sp.factor(inside)))
    is_root = lambda e: e.is_Pow and e.exp == sp.S.Half and e.base.is_commutative
    return entry.replace(is_root, lambda e: sp.sqrt(sp.factor(e.base)))


def _split_powers(entry: Any) -> Any:
    """b^(n + 1) = b^n b, for a symbolic n."""
    split = lambda base, power: base ** power.as_coeff_Add()[1] * base ** power.as_coeff_Add()[0]
    powers = {p: split(p.base, p.exp) for p in entry.atoms(sp.Pow) if p.exp.is_Add}
    names = {p: sp.Dummy() for new in powers.values() for p in new.atoms(sp.Pow) if p.exp.free_symbols}
    powers = {old: sp.Mul(*(names.get(f, f) for f in sp.Mul.make_args(new))) for old, new in powers.items()}
    return entry.xreplace(powers | names)


def _entries(gap: Any) -> list[Any]:
    if isinstance(gap, sp.Tuple):
        return [entry for part in gap for entry in _entries(part)]
    if isinstance(gap, MatrixBase):
        return list(gap.flat())
    if isinstance(gap, sp.MatrixExpr):
        gap = gap.doit().expand().doit()
        return [sp.S.Zero] if gap == sp.ZeroMatrix(*gap.shape) else [sp.Symbol(str(gap))]
    return [gap]


def _solve(gap: Any, strict: bool, z: sp.Symbol) -> Any:
    """Where gap >= 0 (or > 0); a maximum that is subtracted is bounded where each of its arguments is."""
    for largest in gap.atoms(sp.Max):
        if sp.diff(gap.subs(largest, sp.Symbol("M")), sp.Symbol("M")).is_negative:
            return sp.Intersection(*(_solve(gap.subs(largest, part), strict, z) for part in largest.args))
    relation = gap > 0 if strict else gap >= 0
    if isinstance(relation, BooleanAtom):
        return sp.S.Reals if relation else sp.S.EmptySet
    return sp.solve_univariate_inequality(relation, z, relational=False)


def _refuting(gap: Any, inequality: bool, strict: bool, bounds: Iterable[Any]) -> dict[Any, sp.Expr] | None:
    """A rational point that meets the bounds, and the symbols' assumptions, and at which the step is clearly false."""
    return _refuting_point(tuple(_entries(gap)), inequality, strict, tuple(b for b in bounds if b != sp.true))


@_remembered
def _refuting_point(entries: Any, inequality: bool, strict: bool, bounds: Any) -> dict[Any, sp.Expr] | None:
    free = sorted(set().union(*(x.free_symbols for x in (*entries, *bounds))), key=str)
    if not all(symbol.is_commutative for symbol in free):
        return None
    draw, found = random.Random(0), 0
    rooms, gaps = _floats([_margin(bound) for bound in bounds], free), _floats(entries, free)
    values = {symbol: _values(symbol, bounds) for symbol in free}
    for _ in range(_TRIES):
        point: dict[Any, sp.Expr] = {symbol: draw.choice(values[symbol]) for symbol in free}
        place = rooms(point)
        if place is None or any(room < -_NEAR for room in place):
            continue
        if not all(room > _NEAR for room in place) and any(bound.subs(point) != sp.true for bound in bounds):
            continue
        found += 1
        seen = gaps(point) if inequality else None
        clearly_true = seen is not None and all(value > _NEAR for value in seen)
        for entry in () if clearly_true else entries:
            value = sp.N(entry.subs(point), 30)
            if not value.is_extended_real:
                continue
            wrong = -value if inequality else abs(value)
            if wrong > _CLEARLY or (strict and inequality and value == 0):
                return point
        if inequality and bounds and found == _POINTS:
            break
    return None


def _margin(bound: Any) -> Any:
    """An expression that is positive inside a bound, negative outside."""
    gap = _gap(bound)
    return gap if isinstance(bound, _INEQUALITIES) else sp.Abs(gap) if bound.rel_op == "!=" else -sp.Abs(gap)


def _floats(exprs: Sequence[Any], free: Sequence[Any]) -> Callable[[Mapping[Any, Any]], list[float] | None]:
    """Values at a point in floating point, which decide most points; None where there are none."""
    function = sp.lambdify(free, list(exprs), "math")

    def values(point: Mapping[Any, Any]) -> list[float] | None:
        try:
            return [float(value) for value in function(*(float(point[symbol]) for symbol in free))]
        except (ArithmeticError, ValueError, TypeError, NameError):  # a root below zero, a name that math lacks
            return None

    return values


def _values(symbol: Any, bounds: Sequence[Any]) -> list[Any]:
    """Rational values of a symbol to try: those within the bounds that are its alone, evenly spaced."""
    low, high = (1, 8) if symbol.is_positive else (0, 8) if symbol.is_nonnegative else (-8, 8)
    ends: list[Any] = [sp.Rational(low, 4), sp.Rational(high, 4)]
    for bound in (b for b in bounds if b.lhs == symbol and b.rhs.is_Rational):
        if bound.rel_op == "==":
            return [bound.rhs]
        if bound.rel_op in ("<=", "<"):
            ends[1] = min(ends[1], bound.rhs)
        if bound.rel_op in (">=", ">"):
            ends[0] = max(ends[0], bound.rhs)
    if symbol.is_integer:
        low = int(ends[0])
        return [sp.Integer(n) for n in range(max(2, low), max(5, low + 3) + 1)]
    return [ends[0] + (ends[1] - ends[0]) * sp.Rational(n, 16) for n in range(17)]
