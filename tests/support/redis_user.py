"""A user of Redis that may do what `docs/own-servers.md` asks for, and nothing else."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Final

from tasks.redis_client import connect
from tests.support.paths import ROOT

PREFIX: Final = "shop:"


@contextmanager
def documented_user(url: str, *changes: str) -> Iterator[str]:
    """Make a user by the page's line, with other rights behind it; yield the URL for it."""
    page = (ROOT / "docs/own-servers.md").read_text()
    [line] = re.findall(r"^ACL SETUSER rmbg (.*)$", page, re.MULTILINE)
    name, password = f"user-{token_hex(4)}", token_hex(8)
    database = url.rpartition("/")[2]
    rights = line.replace(">password", f">{password}").replace("/0.", f"/{database}.").split()
    with connect(url) as admin:
        admin.execute_command("ACL", "SETUSER", name, *rights, *changes)
        try:
            yield re.sub("//.*@", f"//{name}:{password}@", url)
        finally:
            log = admin.execute_command("ACL", "LOG", "1000")
            admin.execute_command("ACL", "DELUSER", name)
        refused = [str(each) for each in log if name in str(each)]
        assert bool(refused) == bool(changes), refused
