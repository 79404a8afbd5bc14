"""The prefix of keys, command by command."""

import pytest

from tasks.key_prefix import with_prefix


@pytest.mark.parametrize(
    ("command", "sent"),
    [
        ("SET k v EX 3", "SET p:k v EX 3"),
        ("DEL k l", "DEL p:k p:l"),
        ("EVALSHA sha 1 k a", "EVALSHA sha 1 p:k a"),
        ("SCAN 0 MATCH *", "SCAN 0 MATCH *"),
    ],
)
def test_it_stands_before_keys_and_nothing_else(command: str, sent: str) -> None:
    assert with_prefix("p:", tuple(command.split())) == tuple(sent.split())


def test_a_command_that_the_table_lacks_is_not_sent() -> None:
    assert with_prefix("p:", ("CLIENT SETINFO", "lib-name", "x"))[1:] == ("lib-name", "x")
    with pytest.raises(LookupError, match="RENAME"):
        with_prefix("p:", ("RENAME", "a", "b"))
