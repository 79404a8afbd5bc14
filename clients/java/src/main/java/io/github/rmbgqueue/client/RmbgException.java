package io.github.rmbgqueue.client;

/** What every method of this client throws where it does not return. */
public abstract class RmbgException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    RmbgException(String message, Throwable cause) {
        super(message, cause);
    }
}
