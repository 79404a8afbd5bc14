"""The API's own settings: what is refused at start."""

import pytest

from api.settings import ApiSettings
from tasks.errors import SettingsError


@pytest.mark.parametrize("origins", ["shop.example", "https://a.example,b.example"])
def test_an_origin_without_its_scheme_is_a_wrong_setting(origins: str) -> None:
    with pytest.raises(SettingsError, match="RMBG_CORS_ORIGINS"):
        ApiSettings.load(cors_origins=origins)
