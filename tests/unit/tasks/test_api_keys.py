from tasks.api_keys import ANONYMOUS, Owner
from tasks.jobs.job import Job
from tasks.jobs.job_objects import read_manifest, write_manifest


def test_anybody_has_no_id_and_no_secret() -> None:
    assert ANONYMOUS.anonymous
    assert ANONYMOUS.signing_secrets(0) == ()


def test_both_secrets_sign_while_one_follows_the_other() -> None:
    owner = Owner(
        "o-1",
        "shop",
        webhook_secret="whsec_new",
        old_webhook_secret="whsec_old",
        old_webhook_secret_until=100.0,
    )
    assert owner.signing_secrets(99.0) == ("whsec_new", "whsec_old")
    assert owner.signing_secrets(100.0) == ("whsec_new",)


def test_no_secret_shows_when_an_owner_is_printed() -> None:
    assert "whsec" not in repr(Owner("o-1", "shop", webhook_secret="whsec_new"))


def test_a_key_may_be_for_some_models_only() -> None:
    assert Owner("o-1", "shop").may_use("u2netp")
    assert not Owner("o-1", "shop", models=("rmbg-2.0",)).may_use("u2netp")


def test_a_restored_job_is_still_its_owners() -> None:
    job = Job("rm-1", "u2netp", "", "originals/rm-1", 1.0, 2.0, owner="o-1")
    found = read_manifest("originals/rm-1", write_manifest(job))
    assert found is not None
    assert found.owner == "o-1"
