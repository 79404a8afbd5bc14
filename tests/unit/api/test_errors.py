from api.errors import BY_STATUS, ERRORS, from_inference, from_validation
from inference.errors import (
    ImageTooLargeError,
    ImageTooSmallError,
    InferenceError,
    InvalidImageError,
    InvalidOptionError,
    UnsupportedFormatError,
)


def test_no_two_errors_share_a_code_and_those_that_clients_rely_on_stay() -> None:
    codes = [row.code for row in ERRORS.values()]
    assert len(codes) == len(set(codes))
    known = {"image_too_large": 41301, "task_not_found": 40401, "invalid_parameter": 42201}
    assert known == {name: ERRORS[name].code for name in known}
    assert {400, 404, 405, 413, 415, 500} <= BY_STATUS.keys(), "what Flask itself answers"


def test_a_picture_that_cannot_be_used_is_the_callers_fault_and_all_else_is_ours() -> None:
    kinds = (InvalidImageError, UnsupportedFormatError, ImageTooLargeError, ImageTooSmallError)
    assert {from_inference(kind("why")).row.status for kind in kinds} <= {413, 415, 422}
    assert from_inference(InferenceError("boom")).row.status == 500


def test_a_parameter_that_is_unknown_or_out_of_range_is_named() -> None:
    error = from_inference(InvalidOptionError("matte_color", "Give a colour."))
    assert error.row.type == "invalid_parameter"
    assert error.fields == {"matte_color": "Give a colour."}
    for kind in InvalidOptionError.__subclasses__():  # such as an empty region
        assert from_inference(kind("roi", "Give another.")).row.status == 422
    error = from_validation({"files": {"imgae": ["Unknown field."], "quality": ["Bad."]}})
    assert (error.row.type, set(error.fields)) == ("unknown_parameter", {"imgae"})


def test_ten_unknown_parameters_are_named_and_the_rest_is_counted() -> None:
    names = [f"{number:05}" + "x" * 1000 for number in range(20_000)]
    error = from_validation({"body": {name: ["Unknown field."] for name in names}})
    assert len(error.fields) == 10
    assert "and 19990 more" in str(error)
    assert len(str(error)) < 1000
