"""The contract of batches."""

from flask_smorest.fields import Upload
from marshmallow import Schema, fields, validate

from api.schemas import TaskErrorSchema
from api.submission.parameters import RemovalJson, TaskParameters


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
    """One picture of a batch; its task tells the rest."""

    index = fields.Integer(required=True)
    name = fields.String(required=True, metadata={"example": "cup.jpg"})
    task_id = fields.String(required=True, allow_none=True)
    status = fields.String(required=True)
    status_url = fields.Url(required=True, allow_none=True)
    error = fields.Nested(TaskErrorSchema, required=True, allow_none=True)


class BatchSchema(Schema):
    """A batch, whatever its state."""

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
