"""The choice of a connection that gives way, against the rule written out."""

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from service.server.waiting import WaitingConnections


@dataclass(eq=False)
class Connection:
    address: str
    has_unread_answer: bool = False
    state: str = "busy"
    turn: int = 0


@dataclass
class Model:
    """Connections with their states, and the waiting ones under test."""

    connections: list[Connection] = field(default_factory=list)
    waiting: WaitingConnections[Connection] = field(default_factory=WaitingConnections)
    turns: int = 0

    def change(self, connection: Connection, state: str) -> None:
        changes = {
            "idle": self.waiting.begin_idleness,
            "head": self.waiting.await_head,
            "busy": self.waiting.begin_work,
        }
        changes[state](connection, connection.address)
        self.turns += 1
        connection.state, connection.turn = state, self.turns

    def expected(self, address: str) -> tuple[Connection, bool] | None:
        held = Counter(each.address for each in self.connections)
        closable = [
            each
            for each in self.connections
            if (each.state == "idle" and not each.has_unread_answer)
            or (each.state == "head" and held[each.address] > held[address])
        ]
        if not closable:
            return None
        chosen = min(
            closable, key=lambda each: (-held[each.address], each.state != "idle", each.turn)
        )
        return chosen, chosen.state == "idle"


ADDRESSES = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), ADDRESSES, st.booleans()),
        st.tuples(st.just("close"), st.integers(0, 20)),
        st.tuples(st.sampled_from(["idle", "head", "busy"]), st.integers(0, 20)),
    ),
    max_size=40,
)


@given(STEPS, ADDRESSES)
def test_the_choice_follows_the_rule(steps: list[tuple[object, ...]], address: str) -> None:
    model = Model()
    for name, *rest in steps:
        if name == "open":
            model.connections.append(Connection(str(rest[0]), bool(rest[1])))
            model.waiting.add(str(rest[0]))
        elif model.connections:
            (place,) = rest
            assert isinstance(place, int)
            connection = model.connections[place % len(model.connections)]
            if name == "close":
                model.connections.remove(connection)
                model.waiting.remove(connection, connection.address)
            else:
                model.change(connection, str(name))
        assert model.waiting.choose(address) == model.expected(address)


def test_a_choice_among_many_connections_of_an_address_looks_at_few() -> None:
    looked = 0

    class Counted(Connection):
        def __hash__(self) -> int:
            nonlocal looked
            looked += 1
            return id(self)

    waiting: WaitingConnections[Connection] = WaitingConnections()
    for _ in range(1000):
        connection = Counted("a")
        waiting.add("a")
        waiting.await_head(connection, "a")
    looked = 0
    assert waiting.choose("a") is None
    assert waiting.choose("b") is not None
    assert looked < 10
