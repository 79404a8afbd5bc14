import pytest

from api.errors import BY_STATUS, ERRORS, from_inference, from_validation
from inference.errors import (
    ImageTooLargeError,
    ImageTooSmallError,
    InferenceError,
    InvalidImageError,
    InvalidOptionError,
    UnsupportedFormatError,
)


def test_no_two_errors_share_a_code() -> None:
    codes = [row.code for row in ERRORS.values()]
    assert len(codes) == len(set(codes))
    assert all(400 <= row.status < 600 for row in ERRORS.values())


def test_codes_that_clients_rely_on_stay_what_they_are() -> None:
    assert ERRORS["image_too_large"].code == 41301
    assert ERRORS["task_not_found"].code == 40401
    assert ERRORS["invalid_parameter"].code == 42201


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 500])
def test_what_flask_itself_answers_has_a_row(status: int) -> None:
    assert BY_STATUS[status].status == status


@pytest.mark.parametrize(
    "kind", [InvalidImageError, UnsupportedFormatError, ImageTooLargeError, ImageTooSmallError]
)
def test_a_picture_that_cannot_be_used_is_the_callers_fault(kind: type[InferenceError]) -> None:
    error = from_inference(kind("why"))
    assert 400 <= error.row.status < 500
    assert str(error) == "why"


def test_an_inference_error_without_a_row_is_our_fault() -> None:
    assert from_inference(InferenceError("boom")).row.status == 500


def test_a_parameter_that_is_unknown_or_out_of_range_is_named() -> None:
    error = from_inference(InvalidOptionError("matte_color", "Give a colour."))
    assert error.row.type == "invalid_parameter"
    assert error.fields == {"matte_color": "Give a colour."}
    error = from_validation({"files": {"imgae": ["Unknown field."], "quality": ["Bad."]}})
    assert error.row.type == "unknown_parameter"
    assert "imgae" in str(error)
    assert "quality" not in error.fields


def test_ten_unknown_parameters_are_named_and_the_rest_is_counted() -> None:
    names = [f"{number:05}" + "x" * 1000 for number in range(20_000)]
    error = from_validation({"body": {name: ["Unknown field."] for name in names}})
    assert len(error.fields) == 10
    assert "and 19990 more" in str(error)
    assert len(str(error)) < 1000
