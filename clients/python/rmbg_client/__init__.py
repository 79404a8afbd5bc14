"""A client of rmbg-queue, a self-hosted service that removes the backgrounds of pictures."""

from rmbg_client.client import AsyncClient, Client
from rmbg_client.errors import (
    InvalidWebhookError,
    NoAnswerError,
    NoCutoutError,
    RmbgError,
    ServiceError,
    WaitTimeoutError,
)
from rmbg_client.models import Batch, BatchItem, Submission, Task, TaskError, TaskPage
from rmbg_client.parameters import Parameters
from rmbg_client.pictures import Bytes, File, Picture, Upload, Url
from rmbg_client.transport import RetryPolicy
from rmbg_client.webhooks import WebhookEvent, verify_webhook

__all__ = [
    "AsyncClient",
    "Batch",
    "BatchItem",
    "Bytes",
    "Client",
    "File",
    "InvalidWebhookError",
    "NoAnswerError",
    "NoCutoutError",
    "Parameters",
    "Picture",
    "RetryPolicy",
    "RmbgError",
    "ServiceError",
    "Submission",
    "Task",
    "TaskError",
    "TaskPage",
    "Upload",
    "Url",
    "WaitTimeoutError",
    "WebhookEvent",
    "verify_webhook",
]
