"""`/api/v1/uploads`: large files in pieces, by tus 1.0.0."""

from functools import partial
from typing import Final

from flask import Response, g, request, url_for
from flask.views import MethodView

from api import tus
from api.auth import current_owner, services
from api.errors import ApiError
from api.forms import unbounded_body
from api.idempotency import HEADER as IDEMPOTENCY_HEADER
from api.idempotency import Reservation
from api.inputs import MAX_NAME
from api.openapi import ApiBlueprint
from api.quotas import note_usage
from api.wsgi_bridge import ANNOUNCED
from tasks.uploads.service import new_upload_id
from tasks.uploads.store import ResumableUpload

_DESCRIPTION: Final = (
    "Large files in pieces, by the protocol tus 1.0.0 (https://tus.io): any of its clients "
    "will do. The last part of `Location` is the `upload_id` of a submission."
)
blueprint = ApiBlueprint(
    "uploads", __name__, url_prefix="/api/v1/uploads", description=_DESCRIPTION
)


@blueprint.before_request
def _read_the_body_here() -> None:
    g.body = unbounded_body(request)
    if request.method != "OPTIONS":
        tus.check_version(request.headers)


@blueprint.after_request
def _name_the_protocol(response: Response) -> Response:
    response.headers["Tus-Resumable"] = tus.VERSION
    response.headers["Cache-Control"] = "no-store"
    if response.status_code == 412:  # noqa: PLR2004 - HTTP's own number
        response.headers["Tus-Version"] = tus.VERSION
    return response


@blueprint.route("")
class Uploads(MethodView):
    """All uploads."""

    @blueprint.response(204, description="What the server can do, in `Tus-*` headers.")
    def options(self) -> Response:
        """Get the server's version and extensions of tus."""
        return _options()

    @blueprint.doc(**tus.CREATE_DOC)
    @blueprint.fails(*tus.CREATE_ERRORS)
    @blueprint.response(201, description="Begun; `Location` is the upload's address.")
    def post(self) -> Response:
        """Create an upload of `Upload-Length` bytes; the body may be its first chunk.

        Sent again under its `Idempotency-Key`, as where the answer was lost, it finds the upload
        that it has made. A first chunk is appended then if nothing has come so far.
        """
        length = tus.length(request.headers, services().settings.max_image_bytes)
        names = tus.metadata(request.headers)
        with_chunk = request.mimetype == tus.CHUNK_TYPE
        if request.content_length and not with_chunk:
            raise ApiError("unsupported_media_type", f"Send a first piece as {tus.CHUNK_TYPE}.")
        owner, runtime = current_owner(), services().runtime
        metadata = request.headers.get("Upload-Metadata", "")

        def create(upload_id: str, reservation: Reservation | None) -> ResumableUpload:
            return runtime.uploads.create(
                owner.id,
                length,
                quota=runtime.quotas.of(owner),
                metadata=metadata,
                file_name=(names.get("filename") or names.get("name", ""))[:MAX_NAME],
                upload_id=upload_id,
                reservation=reservation.to_keep() if reservation else None,
            )

        upload, replayed = services().idempotency.accept(
            owner.id,
            request.headers.get(IDEMPOTENCY_HEADER),
            ["upload", length, metadata],
            new_id=new_upload_id,
            make=create,
            find=partial(runtime.uploads.find, owner.id),
        )
        note_usage(runtime.quotas.usage(owner))
        if with_chunk:
            upload = _append(upload.upload_id, 0)
        location = url_for("uploads.Upload", upload_id=upload.upload_id, _external=True)
        headers = {**tus.state(upload), "Location": location}
        if replayed:
            headers["Idempotency-Replayed"] = "true"
        return Response(status=201, headers=headers)


@blueprint.route("/<string:upload_id>")
class Upload(MethodView):
    """One upload."""

    @blueprint.response(204, description="What the server can do, in `Tus-*` headers.")
    def options(self, upload_id: str) -> Response:  # noqa: ARG002 - of no influence
        """Get the server's version and extensions of tus."""
        return _options()

    @blueprint.doc(**tus.STATUS_DOC)
    @blueprint.fails(*tus.STATUS_ERRORS)
    @blueprint.response(200, description="`Upload-Offset` says how many bytes have come.")
    def head(self, upload_id: str) -> Response:
        """Get the number of bytes received."""
        upload = services().runtime.uploads.status(current_owner().id, upload_id)
        headers = {**tus.state(upload), "Upload-Length": str(upload.length)}
        if upload.metadata:
            headers["Upload-Metadata"] = upload.metadata
        return Response(status=200, headers=headers)

    @blueprint.doc(**tus.APPEND_DOC)
    @blueprint.fails(*tus.APPEND_ERRORS)
    @blueprint.response(204, description="Taken; `Upload-Offset` says how many bytes have come.")
    def patch(self, upload_id: str) -> Response:
        """Append a chunk at `Upload-Offset`."""
        if request.mimetype != tus.CHUNK_TYPE:
            raise ApiError("unsupported_media_type", f"Send the piece as {tus.CHUNK_TYPE}.")
        upload = _append(upload_id, tus.number(request.headers, "Upload-Offset"))
        return Response(status=204, headers=tus.state(upload))

    @blueprint.doc(**tus.STATUS_DOC)
    @blueprint.fails(*tus.TERMINATE_ERRORS)
    @blueprint.response(204, description="Gone.")
    def delete(self, upload_id: str) -> Response:
        """Delete the upload and its bytes."""
        services().runtime.uploads.end(current_owner().id, upload_id)
        return Response(status=204)

    @blueprint.doc(**tus.OVERRIDE_DOC)
    @blueprint.fails(*tus.OVERRIDE_ERRORS)
    @blueprint.response(204, description="As the method in `X-HTTP-Method-Override`.")
    def post(self, upload_id: str) -> Response:
        """Do what `X-HTTP-Method-Override` says, for clients that can only send POST."""
        override = request.headers.get("X-HTTP-Method-Override", "").upper()
        handlers = {"PATCH": self.patch, "DELETE": self.delete, "HEAD": self.head}
        if override not in handlers:
            raise ApiError("method_not_allowed")
        answer: Response = handlers[override](upload_id)
        return answer


def _append(upload_id: str, offset: int) -> ResumableUpload:
    return services().runtime.uploads.append(
        current_owner().id,
        upload_id,
        offset,
        g.body,
        announced=request.environ.get(ANNOUNCED, request.content_length),
        checksum=tus.checksum(request.headers),
    )


def _options() -> Response:
    most = services().settings.max_image_bytes
    return Response(status=204, headers=tus.capabilities(most))
