package io.github.rmbgqueue.client;

/** What was waited for did not end in time. It goes on: wait again, or cancel it. */
public final class WaitTimeoutException extends RmbgException {
    private static final long serialVersionUID = 1L;

    private final String id;

    WaitTimeoutException(String id, String message, Throwable cause) {
        super(message, cause);
        this.id = id;
    }

    /**
     * Returns the id of the task or batch.
     *
     * @return its id
     */
    public String id() {
        return id;
    }
}
