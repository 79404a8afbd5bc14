package io.github.rmbgqueue.client;

/** The service could not be reached, or did not answer in time, in any of the attempts. */
public final class UnavailableException extends RmbgException {
    private static final long serialVersionUID = 1L;

    UnavailableException(String message, Throwable cause) {
        super(message, cause);
    }
}
