import pytest

from deploy.local import service
from deploy.local.service import SetupError


def test_a_missing_program_says_what_to_install() -> None:
    with pytest.raises(SetupError, match=r"pip install 'rmbg-queue\[embedded\]'"):
        service.script("no-such-program")
    with pytest.raises(SetupError, match=r"pip install 'rmbg-queue\[embedded\]'"):
        service.require_module("no_such_package")
