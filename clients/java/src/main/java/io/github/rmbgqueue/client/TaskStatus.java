package io.github.rmbgqueue.client;

import java.util.Locale;

/** The state of a task. */
public enum TaskStatus {
    /** It waits for a worker. */
    QUEUED,
    /** A worker runs it. */
    PROCESSING,
    /** The cutout can be downloaded. */
    SUCCEEDED,
    /** It has ended without a cutout; {@link Task#error()} says why. */
    FAILED,
    /** Its caller or an operator ended it. */
    CANCELED,
    /** Its pictures were removed, as they were kept for long enough. */
    EXPIRED,
    /** A state that is newer than this client. */
    UNKNOWN;

    /**
     * Tells whether the state will not change any more, except by expiry.
     *
     * @return false for {@link #QUEUED}, {@link #PROCESSING} and {@link #UNKNOWN}
     */
    public boolean isFinal() {
        return this == SUCCEEDED || this == FAILED || this == CANCELED || this == EXPIRED;
    }

    static TaskStatus of(String text) {
        for (TaskStatus status : values()) {
            if (status.name().toLowerCase(Locale.ROOT).equals(text)) {
                return status;
            }
        }
        return UNKNOWN;
    }
}
