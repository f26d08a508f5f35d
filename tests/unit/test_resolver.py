"""Names stand for all of their addresses, and keep those that are known while they cannot be resolved."""

from services.gateway.resolver import MOST_REPLICAS, Resolver, look_up
from tests.unit.names import Names


async def test_a_list_is_taken_as_it_is() -> None:
    names = Names()
    found = Resolver("a:1,b:2,a:1", names.look_up)
    await found.resolve()
    assert found.addresses() == ["a:1", "b:2"]
    assert not found.changes
    assert not names.asked


async def test_a_name_stands_for_all_of_its_addresses() -> None:
    names = Names(workers=["10.0.0.2", "fd00::1", "10.0.0.1", "10.0.0.2"], more=["10.0.0.3"])
    found = Resolver("dns:///workers:70,b:2,dns:more:71", names.look_up)
    assert found.changes
    assert found.addresses() == ["b:2"]
    await found.resolve()
    assert found.addresses() == ["10.0.0.1:70", "10.0.0.2:70", "[fd00::1]:70", "b:2", "10.0.0.3:71"]
    assert sorted(names.asked) == [("more", 71), ("workers", 70)]


async def test_a_name_that_cannot_be_resolved_keeps_what_is_known() -> None:
    names = Names(workers=["10.0.0.1"], more=["10.0.0.2"])
    found = Resolver("dns:///workers:70,dns:///more:70", names.look_up)
    await found.resolve()
    del names.hosts["workers"]
    names.hosts["more"] = ["10.0.0.3"]
    await found.resolve()
    assert found.addresses() == ["10.0.0.1:70", "10.0.0.3:70"]


async def test_no_more_replicas_than_can_be_looked_after() -> None:
    names = Names(workers=[f"10.0.{number // 256}.{number % 256}" for number in range(300)])
    found = Resolver("dns:///workers:70", names.look_up)
    await found.resolve()
    assert len(found.addresses()) == MOST_REPLICAS


async def test_the_systems_resolver_is_asked() -> None:
    found = Resolver("dns:///localhost:70")
    await found.resolve()
    assert "127.0.0.1:70" in found.addresses()
    for host in ("127.0.0.7", "[::1]"):
        literal = Resolver(f"dns:///{host}:70")
        await literal.resolve()
        assert literal.addresses() == [f"{host}:70"]


async def test_a_host_that_no_name_can_have_is_a_failed_resolution() -> None:
    found = Resolver(f"dns:///{'x' * 70}.example:70", look_up)
    await found.resolve()
    assert found.addresses() == []
