"""Where and when the values of a step are computed, if a step alternates between products of whole
rows and loops over the units of each review.

What needs whole rows, a product or a sum over units, is at a higher level than what it reads.
Products add to each other and to biases in one place: in that of the activation, if nothing else
reads the sum. A value that a later level reads is stored if it is costly, else computed once more.

A pure function of a plan, like the plan itself. Rows of groups: S is what a step leaves for its
gradient, W what it needs for itself, D the columns of its gradient, Z what is multiplied by D after
it; "state0" is the new state, "grad0" the new gradient of tensor 0 of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, permutations
from typing import NamedTuple

from .groups import COSTLY, OVER_UNITS, Graph, Input, MatrixGrad, Row
from .plan import Plan


X_ITSELF = -1  # in place of a node: the input, if it is as wide as the state
MOST_CLASSES = 7  # of groups of which all orders are tried: 5,040

Key = tuple[tuple[int, ...], int, bool]
"""A product: the groups of its left operand, none for x; the constant; whether it is transposed."""


class Place(NamedTuple):
    row: str
    slot: int = 0


class Sum(NamedTuple):
    """What adds up in one place: products, biases, and the rest, which is added in the end."""

    terms: tuple[tuple[Key, int], ...]  # products, and the number of the group
    vectors: tuple[int, ...] = ()
    rest: tuple[int, ...] = ()

    def and_also(self, other: Sum) -> Sum:
        return Sum(self.terms + other.terms, self.vectors + other.vectors, self.rest + other.rest)


class Schedule:
    """One direction of a plan. Abstract: a direction says what is known and what is kept."""

    def __init__(
        self, plan: Plan, order: Sequence[int], leaves: Iterable[int], roots: Iterable[int]
    ) -> None:
        self.plan = plan
        self.graph: Graph = plan.graph
        self.nodes = plan.graph.nodes
        self.leaves = {*leaves, *plan.rows}
        self.readers: dict[int, set[int]] = {}
        for node in order:
            for operand in self.graph.operands(node):
                self.readers.setdefault(operand, set()).add(node)
        self.sums: dict[int, Sum] = {}
        self.order = self._find_sums(order, {*roots})
        self.levels: dict[int, int] = {}
        for node in sorted(self.order):
            self.levels[node] = self._level(node)
        self.places: dict[int, Place] = {}  # of values, after their level
        self.sum_places: dict[int, Place] = {}  # where products add up
        self.operands: dict[int, Place] = {}  # of products, side by side
        self.over_units: dict[int, int] = {}  # numbers of sums over units
        self.stores: dict[int, list[tuple[tuple[int, ...], Place]]] = {}  # by level: added up
        self.width = 0  # groups of W

    # Sums and levels

    def _find_sums(self, order: Sequence[int], roots: set[int]) -> list[int]:
        """Fill `sums`; the order without what is part of a sum."""
        absorbed: set[int] = set()

        def collect(node: int, top: bool) -> Sum | None:
            """None if there is no product in it, or if it needs a place for itself."""
            kind, *rest = self.nodes[node]
            alone = node in roots or len(self.readers.get(node, ())) > 1
            if node in self.leaves or (alone and not top):
                return None
            if kind == "product":
                left, c, transposed, g = rest
                return Sum((((left, c, transposed), g),))
            if kind == "input":
                terms = tuple((((), c, False), g) for c, g in rest[0] if c is not None)
                return Sum(terms, rest[1], (X_ITSELF,) * (len(rest[0]) - len(terms)))
            if kind != "add":
                return None
            total = Sum(())
            for operand in rest:
                below = collect(operand, False)
                if below is None:
                    known = operand in self.plan.rows
                    below = Sum((), (operand,)) if known else Sum((), (), (operand,))
                total = total.and_also(below)
            return total if total.terms else None

        def absorb(node: int) -> None:
            for operand in self.nodes[node][1:] if self.nodes[node][0] == "add" else ():
                if collect(operand, False) is not None:
                    absorbed.add(operand)
                    absorb(operand)

        for node in reversed(order):
            if node not in absorbed:
                found = collect(node, True)
                if found is not None and found.terms:
                    self.sums[node] = found
                    absorb(node)
        return [node for node in order if node not in absorbed]

    def level(self, node: int) -> int:
        return self.levels.get(node, 0)

    def term_level(self, key: Key) -> int:
        """At which a product can be computed."""
        return max((self.level(o) + 1 for o in key[0] if o in self.levels), default=0)

    def _level(self, node: int) -> int:
        kind, *rest = self.nodes[node]
        if node in self.sums:
            terms, _, more = self.sums[node]
            return max(*(self.term_level(key) for key, _ in terms), *map(self.level, more), 0)
        if kind in OVER_UNITS:
            return 1 + max(map(self.level, rest[0]))
        return max(map(self.level, self.graph.operands(node)), default=0)

    @property
    def top(self) -> int:
        """The last level at which something is done."""
        levels = [self.term_level(key) for total in self.sums.values() for key, _ in total.terms]
        return max([*levels, *self.stores, *(self.level(n) - 1 for n in self.over_units), 0])

    # Places

    def _wide(self) -> Place:
        """A new group of W."""
        self.width += 1
        return Place("W", self.width - 1)

    def _store(self, nodes: tuple[int, ...], place: Place) -> None:
        """The sum of values, at the level at which all of them are known."""
        self.stores.setdefault(max(map(self.level, nodes)), []).append((nodes, place))

    def target(self, node: int, kept: Iterable[int]) -> int | None:
        """Of the kept nodes, that in whose place this sum can add up."""
        if node in kept:
            return node
        readers = self.readers.get(node, set())
        for reader in readers if len(readers) == 1 else ():
            if (
                reader in kept
                and reader not in self.sums
                and self.level(reader) == self.level(node)
            ):
                return reader
        return None

    def families(self, of: Callable[[int], int | None]) -> list[list[int]]:
        """What each product adds to, `of` its sums."""
        found: dict[Key, list[int]] = {}
        for node, total in self.sums.items():
            place = of(node)
            for key, _ in total.terms if place is not None else ():
                found.setdefault(key, []).append(place)  # type: ignore[arg-type]
        return list(found.values())

    def _place_sums(self, kept: dict[int, Place]) -> None:
        """In the place of the node itself or of its only reader, else in W."""
        for node in self.sums:
            target = self.target(node, kept)
            if node not in self.sum_places and target is not None:
                self.sum_places[node] = kept[target]
        others = [node for node in self.sums if node not in self.sum_places]
        for node in arrange(others, self.families(lambda n: n if n in others else None)):
            self.sum_places[node] = self._wide()

    def _keep(self, node: int, place: Place) -> None:
        """Store a value in its place, unless the products have left it there."""
        total = self.sums.get(node)
        self.places[node] = place
        if total is None or total.rest or self.sum_places[node] != place:
            self._store((node,), place)

    def _place_operands(self) -> None:
        """Side by side in W, what products read and is nowhere else."""
        for total in self.sums.values():
            for (left, _, _), _ in total.terms:
                for group in () if self.stands(left) else left:
                    if group not in self.operands:
                        self.operands[group] = self._wide()
                        self._store((group,), self.operands[group])

    def stands(self, left: tuple[int, ...]) -> bool:
        """Whether a product's left operand can be read where it is."""
        if not left or self.is_state(left):
            return True
        rows = {self.places[group].row if group in self.places else "" for group in left}
        return "" not in rows and (len(left) == 1 or rows == {"D"})  # D is zero beyond H

    def is_state(self, left: tuple[int, ...]) -> bool:
        return len(left) == 1 and self.nodes[left[0]][0] == "state"

    def _require(self, ones: Iterable[int] = ()) -> None:
        """Places in W for what a later level reads, and numbers for sums over units."""
        seen: set[tuple[int, int]] = set()

        def need(node: int, level: int) -> None:
            known = node == X_ITSELF or node in self.leaves or self.graph.value(node) is not None
            if known or (node, level) in seen:
                return
            seen.add((node, level))
            kind = self.nodes[node][0]
            below = self.level(node) < level
            if kind in OVER_UNITS:
                self.over_units.setdefault(node, len(self.over_units))
                for operand in self.graph.operands(node):
                    need(operand, self.level(node) - 1)
            elif below and (node in self.places or node in self.operands):
                pass
            elif below and kind in COSTLY and node not in self.sums:
                self.places[node] = self._wide()
                self._store((node,), self.places[node])
                need(node, self.level(node))
            else:
                below_it = self.sums[node].rest if node in self.sums else self.graph.operands(node)
                for operand in below_it:
                    need(operand, level)

        for node in ones:
            need(node, self.level(node))
        for level, stores in [*self.stores.items()]:
            for nodes, _ in [*stores]:
                for node in nodes:
                    need(node, level)

    def loop(self, level: int) -> tuple[list[tuple[tuple[int, ...], Place]], list[int]]:
        """What a level stores, and the sums over units that it adds up for the next one."""
        whole = [node for node in self.over_units if self.level(node) == level + 1]
        return self.stores.get(level, []), whole

    def products(self, level: int) -> Iterator[tuple[Key, list[tuple[Place, int, int]]]]:
        """Of a level: each with its places, groups and sums. Those of x come first."""
        found: dict[Key, list[tuple[Place, int, int]]] = {}
        for node, total in self.sums.items():
            for key, g in total.terms:
                if self.term_level(key) == level:
                    found.setdefault(key, []).append((self.sum_places[node], g, node))
        yield from sorted(found.items(), key=lambda item: (item[0][0] != (), -len(item[1])))


class Forward(Schedule):
    """A step; `saved` and `state_slots` are the slots of S by node and by tensor of the state."""

    def __init__(self, plan: Plan) -> None:
        states = [node for node, (kind, *_) in enumerate(plan.graph.nodes) if kind == "state"]
        order = sorted({*plan.forward, *plan.inputs})
        super().__init__(plan, order, states, [*plan.saved, *plan.after])
        ones = [node for node in plan.saved if self.nodes[node][0] in OVER_UNITS]
        self.ones = {node: number for number, node in enumerate(ones)}
        kept = [k for k in range(plan.states) if k > 0 or k in plan.states_after]
        computed = [plan.after[k] for k in kept if plan.after[k] in self.order]
        wide = [*dict.fromkeys(n for n in (*plan.saved, *computed) if n not in self.ones)]
        slots = arrange(wide, self.families(lambda node: self.target(node, wide)))
        self.saved = {node: slot for slot, node in enumerate(slots)}
        self.groups = len(slots)
        self.state_slots: dict[int, int] = {}
        self._place_sums({node: Place("S", slot) for node, slot in self.saved.items()})
        for node, slot in self.saved.items():
            self._keep(node, Place("S", slot))
        for k in kept:
            slot = self.saved.get(plan.after[k], self.groups)
            if slot in self.state_slots.values():  # of another tensor
                slot = self.groups
            if slot == self.groups:
                self.groups += 1
                self._store((plan.after[k],), Place("S", slot))
            self.state_slots[k] = slot
        self._store((plan.after[0],), Place("state0"))
        self._place_operands()
        self._require(self.ones)


class Outer(NamedTuple):
    """Part of a matrix's gradient: slots of D, side by side, times slots of Z; None: times x."""

    constant: int
    transposed: bool
    right: tuple[int, ...]
    left: tuple[int, ...] | None


class Backward(Schedule):
    """The gradient of a step; `columns` and `lefts` are the slots of D and Z by node."""

    def __init__(self, plan: Plan) -> None:
        nodes, gradient = plan.graph.nodes, plan.gradient
        known = [node for node, (kind, *_) in enumerate(nodes) if kind in ("state", "grad")]
        after = [plan.after[k] for k in plan.states_after]
        roots = [*plan.columns, *gradient.state]
        super().__init__(plan, plan.backward, [*known, *plan.saved, *after], roots)
        matrices = [
            (c, *product)
            for c, constant in enumerate(gradient.constants)
            if isinstance(constant, MatrixGrad)
            for product in constant.products
        ]
        families = [groups for groups, _ in gradient.x]
        families += [right.groups for _, _, right, _ in matrices if isinstance(right, Row)]
        families += [left for total in self.sums.values() for (left, _, _), _ in total.terms]
        order = arrange(plan.columns, families)
        self.columns = {node: slot for slot, node in enumerate(order)}
        self._place_gradients()
        self._place_sums({node: Place("D", slot) for node, slot in self.columns.items()})
        for node, slot in self.columns.items():
            if node in self.order:
                self._keep(node, Place("D", slot))
            else:
                self._store((node,), Place("D", slot))
        for k, node in enumerate(gradient.state):
            if self.sum_places.get(node) != Place(f"grad{k}") or self.sums[node].rest:
                self._store((node,), Place(f"grad{k}"))
        state0 = plan.graph.numbers.get(("state", 0))
        self.lefts = {} if state0 is None else {state0: 0}
        self.outers: list[Outer] = []
        for c, left, right, transposed in matrices:
            assert isinstance(right, Row)
            slots = None if isinstance(left, Input) else tuple(map(self._left, left.groups))
            for run in runs(self.columns[group] for group in right.groups):
                self.outers.append(Outer(c, transposed, tuple(run), slots))
        self._place_operands()
        self._require()

    def _left(self, node: int) -> int:
        if node not in self.lefts:
            self.lefts[node] = len(self.lefts)
            self._store((node,), Place("Z", self.lefts[node]))
        return self.lefts[node]

    def _place_gradients(self) -> None:
        """Sums that are gradients of the state add up in its place, on what is known before."""
        for k, node in enumerate(self.plan.gradient.state):
            total = self.sums.get(node)
            if total is None or node in self.columns or node in self.sum_places:
                continue
            if self.readers.get(node):
                continue
            place = self.sum_places[node] = Place(f"grad{k}")
            first = min(self.term_level(key) for key, _ in total.terms)
            if total.rest and max(map(self.level, total.rest)) < first:
                self._store((*total.rest, *total.vectors), place)
                self.sums[node] = Sum(total.terms)


def arrange(items: Iterable[int], families: Iterable[Sequence[int]]) -> list[int]:
    """The items in an order in which the members of a family are neighbours, if there is one."""
    items = [*dict.fromkeys(items)]
    sets = [{*family} for family in dict.fromkeys(tuple(sorted({*f})) for f in families)]
    sets = [family for family in sets if len(family) > 1 and family <= {*items}]
    classes: dict[tuple[bool, ...], list[int]] = {}
    for item in items:
        classes.setdefault(tuple(item in family for family in sets), []).append(item)
    free = classes.pop((False,) * len(sets), [])
    groups = [*classes.values()]
    if len(groups) > MOST_CLASSES:
        return [*(item for group in groups for item in group), *free]

    def together(order: Sequence[list[int]]) -> int:
        flat = [item for group in order for item in group]
        places = [[flat.index(item) for item in family] for family in sets]
        return sum(len(at) for at in places if max(at) - min(at) + 1 == len(at))

    best = max(permutations(groups), key=together)
    return [*(item for group in best for item in group), *free]


def runs(numbers: Iterable[int]) -> list[list[int]]:
    """Consecutive numbers, rising."""
    pairs = enumerate(sorted({*numbers}))
    return [[n for _, n in run] for _, run in groupby(pairs, lambda pair: pair[1] - pair[0])]
