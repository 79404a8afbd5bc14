from tasks.api_keys import Owner


def test_no_secret_shows_when_an_owner_is_printed() -> None:
    assert "whsec" not in repr(Owner("o-1", "shop", webhook_secret="whsec_new"))


def test_a_key_may_be_for_some_models_only() -> None:
    assert Owner("o-1", "shop").may_use("u2netp")
    assert not Owner("o-1", "shop", models=("rmbg-2.0",)).may_use("u2netp")
