package io.github.rmbgqueue.client;

/** A request is no webhook of the service: answer it with 400 or 401, and do nothing. */
public final class InvalidWebhookException extends RmbgException {
    private static final long serialVersionUID = 1L;

    InvalidWebhookException(String message, Throwable cause) {
        super(message, cause);
    }
}
