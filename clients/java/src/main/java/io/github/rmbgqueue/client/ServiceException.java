package io.github.rmbgqueue.client;

import java.time.Duration;
import java.util.Map;
import java.util.Optional;

/** The service refused a request; its message says what is wrong and what to do. */
public final class ServiceException extends RmbgException {
    private static final long serialVersionUID = 1L;

    private final int status;
    private final int code;
    private final String type;
    private final transient Map<String, String> fields;
    private final String requestId;
    private final Duration retryAfter;

    ServiceException(
            int status,
            int code,
            String type,
            String message,
            Map<String, String> fields,
            String requestId,
            Duration retryAfter) {
        super(text(status, type, message, fields), null);
        this.status = status;
        this.code = code;
        this.type = type;
        this.fields = Map.copyOf(fields);
        this.requestId = requestId;
        this.retryAfter = retryAfter;
    }

    /**
     * Returns the HTTP status.
     *
     * @return such as 422
     */
    public int status() {
        return status;
    }

    /**
     * Returns the service's number of the error.
     *
     * @return such as 42210; 0 if the answer was not the service's own
     */
    public int code() {
        return code;
    }

    /**
     * Returns the stable name of the error.
     *
     * @return such as {@code invalid_image}; empty if the answer was not the service's own
     */
    public String type() {
        return type;
    }

    /**
     * Returns what is wrong with which parameter.
     *
     * @return a text for each parameter at fault
     */
    public Map<String, String> fields() {
        return fields == null ? Map.of() : fields;
    }

    /**
     * Returns the id under which the service's log holds the request.
     *
     * @return the id, or an empty text
     */
    public String requestId() {
        return requestId;
    }

    /**
     * Returns after which time the request may succeed.
     *
     * @return as the service asked for it
     */
    public Optional<Duration> retryAfter() {
        return Optional.ofNullable(retryAfter);
    }

    private static String text(int status, String type, String message, Map<String, String> fields) {
        return status + (type.isEmpty() ? "" : " " + type) + ": " + message + (fields.isEmpty() ? "" : " " + fields);
    }
}
