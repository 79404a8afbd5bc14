"""Schemas of queries and answers, from which the OpenAPI document is made."""

from functools import cache
from typing import Any, Final

from flask_smorest.fields import Upload
from marshmallow import Schema, fields, validate

from api.parameters import RemovalJson, TaskParameters
from tasks.webhooks.deliveries import DeliveryState

#: Most tasks that one stream of events follows.
MAX_FOLLOWED: Final = 100
#: A task's states, as a caller sees them.
VISIBLE_STATUSES: Final = ("queued", "processing", "succeeded", "failed", "canceled", "expired")


class WaitQuery(Schema):
    """How long to wait for a task's end."""

    wait = fields.Float(
        load_default=0,
        validate=validate.Range(0, 300),
        metadata={"description": "Seconds to wait for the task's end.", "example": 30},
    )


class ResultQuery(Schema):
    """How a result is delivered."""

    download = fields.Boolean(
        load_default=False, metadata={"description": "Have browsers save it under a file name."}
    )
    redirect = fields.Boolean(
        load_default=True,
        metadata={"description": "false: the answer is the file itself, from this address."},
    )


class EventsQuery(Schema):
    """Which tasks are followed."""

    ids = fields.String(
        required=True,
        validate=validate.Length(1, MAX_FOLLOWED * 41),
        metadata={
            "description": f"Up to {MAX_FOLLOWED} ids of tasks, comma-separated.",
            "example": "rm-20261122-8w3kq5t7y2m4n6p9r2s4",
        },
    )


class TaskListQuery(Schema):
    """Which of the caller's tasks are listed."""

    status = fields.String(
        load_default=None,
        validate=validate.OneOf(VISIBLE_STATUSES),
        metadata={"description": "Only tasks in this state.", "example": "succeeded"},
    )
    limit = fields.Integer(
        load_default=20,
        validate=validate.Range(1, 100),
        metadata={"description": "How many tasks at most.", "example": 50},
    )
    cursor = fields.String(
        load_default=None,
        metadata={
            "description": "`next_cursor` of the page before, as it was given.",
            "example": "MTc5NTM0NTI2Ny4yNSBybS0yMDI2MTEyMi04dzNrcTV0N3kybTRuNnA5cjJzNA",
        },
    )


class TaskErrorSchema(Schema):
    """Why a task failed."""

    type = fields.String(required=True)
    message = fields.String(required=True)
    retryable = fields.Boolean(required=True)


class SubmittedSchema(Schema):
    """A task that was accepted."""

    task_id = fields.String(required=True, metadata={"example": "rm-20261122-8w3kq5t7y2m4n6p9r2s4"})
    status = fields.String(required=True)
    status_url = fields.Url(required=True)
    result_url = fields.Url(required=True, allow_none=True)
    queue = fields.String(required=True)
    position = fields.Integer(
        required=True, metadata={"description": "How many tasks of its queue go before this one."}
    )
    created_at = fields.DateTime(required=True)


class TaskSchema(Schema):
    """A task in any state."""

    task_id = fields.String(required=True)
    status = fields.String(required=True)
    original_url = fields.Url(required=True, allow_none=True)
    result_url = fields.Url(required=True, allow_none=True)
    urls_expire_at = fields.DateTime(
        required=True,
        allow_none=True,
        metadata={
            "description": "Until when these two work, for GET alone; each answer has new ones."
        },
    )
    format = fields.String(required=True, allow_none=True)
    width = fields.Integer(required=True, allow_none=True)
    height = fields.Integer(required=True, allow_none=True)
    size = fields.Integer(required=True, allow_none=True, metadata={"description": "Bytes."})
    elapsed_ms = fields.Integer(required=True, allow_none=True)
    cached = fields.Boolean(required=True)
    model = fields.String(required=True)
    attempts = fields.Integer(required=True)
    worker = fields.String(required=True, allow_none=True)
    metadata = fields.Dict(
        keys=fields.String(), required=True, metadata={"description": "As it was submitted."}
    )
    timings = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True)
    created_at = fields.DateTime(required=True)
    started_at = fields.DateTime(required=True, allow_none=True)
    finished_at = fields.DateTime(required=True, allow_none=True)
    expires_at = fields.DateTime(required=True)
    error = fields.Nested(TaskErrorSchema, required=True, allow_none=True)


class AttemptSchema(Schema):
    """One attempt of a webhook delivery."""

    at = fields.DateTime(required=True)
    outcome = fields.String(
        required=True,
        metadata={"description": "delivered, refused, or the kind of network error."},
    )
    status = fields.Integer(required=True, allow_none=True, metadata={"description": "Of HTTP."})
    ms = fields.Integer(required=True)
    answer = fields.String(
        required=True, metadata={"description": "The first 500 bytes, or why there is none."}
    )


class DeliverySchema(Schema):
    """A webhook delivery."""

    number = fields.Integer(required=True, metadata={"description": "From 1 on, for the replay."})
    webhook_id = fields.String(required=True)
    type = fields.String(required=True, metadata={"example": "removal.succeeded"})
    url = fields.String(required=True)
    state = fields.String(
        required=True, validate=validate.OneOf([each.value for each in DeliveryState])
    )
    reason = fields.String(required=True, metadata={"description": "Why it was given up."})
    created_at = fields.DateTime(required=True)
    next_attempt_at = fields.DateTime(required=True, allow_none=True)
    attempts = fields.List(fields.Nested(AttemptSchema), required=True)


class DeliveriesSchema(Schema):
    """A task's webhooks."""

    deliveries = fields.List(fields.Nested(DeliverySchema), required=True)


class TaskListSchema(Schema):
    """One page of the caller's tasks, newest first."""

    tasks = fields.List(fields.Nested(TaskSchema), required=True)
    next_cursor = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "`cursor` of the next page; null on the last one."},
    )


class ErasedSchema(Schema):
    """What is left of a task that was erased."""

    task_id = fields.String(required=True)
    erased = fields.Boolean(required=True, metadata={"example": True})


class HealthSchema(Schema):
    """The health checks."""

    checks = fields.Dict(keys=fields.String(), values=fields.String(), required=True)


class ErrorDetailSchema(Schema):
    """The stable name of an error, and the parameters at fault."""

    type = fields.String(required=True)
    fields_ = fields.Dict(
        keys=fields.String(), values=fields.String(), required=True, data_key="fields"
    )


class ErrorEnvelope(Schema):
    """Every failure."""

    code = fields.Integer(required=True, metadata={"example": 42201})
    message = fields.String(required=True)
    data = fields.Raw(required=True, allow_none=True)
    error = fields.Nested(ErrorDetailSchema, required=True)
    request_id = fields.String(required=True)


@cache
def envelope(schema: type[Schema]) -> type[Schema]:
    """Return the schema of a success with `schema` as its data."""
    parts: dict[str, Any] = {
        "code": fields.Integer(required=True, metadata={"example": 0}),
        "message": fields.String(required=True, metadata={"example": "success"}),
        "data": fields.Nested(schema, required=True),
        "request_id": fields.String(required=True),
    }
    return type(f"{schema.__name__.removesuffix('Schema')}Envelope", (Schema,), parts)


@cache
def dumper(schema: type[Schema], *, exclude: tuple[str, ...] = ()) -> Schema:
    """Return the one instance of a schema; to make another copies all of its fields."""
    return schema(exclude=exclude)


class BatchForm(TaskParameters):
    """Pictures as files, with parameters that they share."""

    images = fields.List(
        Upload(), required=True, metadata={"description": "The pictures: JPEG, PNG, WebP, …"}
    )


class BatchJson(TaskParameters):
    """Pictures by address, base64 or upload, each with its own parameters if need be."""

    items = fields.List(fields.Nested(RemovalJson), required=True, validate=validate.Length(min=1))


class CountsSchema(Schema):
    """How many items are in which state."""

    queued = fields.Integer(required=True)
    processing = fields.Integer(required=True)
    succeeded = fields.Integer(required=True)
    failed = fields.Integer(required=True)
    canceled = fields.Integer(required=True)


class ItemSchema(Schema):
    """One picture of a batch."""

    index = fields.Integer(required=True)
    name = fields.String(required=True, metadata={"example": "cup.jpg"})
    task_id = fields.String(required=True, allow_none=True)
    status = fields.String(required=True)
    status_url = fields.Url(required=True, allow_none=True)
    error = fields.Nested(TaskErrorSchema, required=True, allow_none=True)


class BatchSchema(Schema):
    """A batch in any state."""

    batch_id = fields.String(
        required=True, metadata={"example": "rb-20261122-8w3kq5t7y2m4n6p9r2s4"}
    )
    status = fields.String(
        required=True, validate=validate.OneOf(["processing", "completed", "expired"])
    )
    status_url = fields.Url(required=True)
    archive_url = fields.Url(required=True)
    total = fields.Integer(required=True)
    counts = fields.Nested(CountsSchema, required=True)
    progress = fields.Float(required=True, metadata={"description": "0 to 1."})
    metadata = fields.Dict(required=True)
    created_at = fields.DateTime(required=True)
    completed_at = fields.DateTime(required=True, allow_none=True)
    expires_at = fields.DateTime(required=True)
    items = fields.List(fields.Nested(ItemSchema), required=True)


class ErasedBatchSchema(Schema):
    """What is left of a batch that was erased."""

    batch_id = fields.String(required=True)
    erased = fields.Boolean(required=True, metadata={"example": True})
