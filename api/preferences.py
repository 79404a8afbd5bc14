"""`Prefer: wait=N` (RFC 7240): the answer may take so long, if it is the finished task then."""

import re
from typing import Final

from flask import Request

_WAIT: Final = re.compile(r"wait\s*=\s*\"?(\d{1,6})\"?\Z", re.IGNORECASE)
#: Longest wait, in seconds.
MAX_SECONDS: Final = 60


def preferred_wait(request: Request) -> int:
    """Seconds that the client would wait for the result; 0 where it asks for none.

    What cannot be read is ignored, as the standard has it, and more than a minute is a minute.
    """
    for line in request.headers.getlist("Prefer"):
        for preference in line.split(","):
            # Parameters of a preference follow a semicolon; none is known.
            match = _WAIT.match(preference.partition(";")[0].strip())
            if match:
                return min(int(match[1]), MAX_SECONDS)
    return 0
