package io.github.rmbgqueue.client;

import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;

/**
 * How a request is tried again: after a pause that doubles, varied by up to half, or after {@code Retry-After}.
 *
 * @param maxAttempts most attempts at one request, the first one included
 * @param firstPause the pause after the first attempt
 * @param maxPause the longest pause; an answer that asks for a longer one ends the attempts
 */
public record RetryPolicy(int maxAttempts, Duration firstPause, Duration maxPause) {
    /** Six attempts within about 15 seconds: enough for a service that is restarted. */
    public static final RetryPolicy DEFAULT =
        new RetryPolicy(6, Duration.ofMillis(500), Duration.ofSeconds(30));

    /** One attempt. */
    public static final RetryPolicy NONE = new RetryPolicy(1, Duration.ofMillis(1), Duration.ZERO);

    /** Checks the numbers. */
    public RetryPolicy {
        if (maxAttempts < 1 || firstPause.isNegative() || maxPause.isNegative()) {
            throw new IllegalArgumentException("A retry policy has at least one attempt, and no negative pause.");
        }
    }

    /** Returns the pause after so many failed attempts. */
    Duration pause(int failures) {
        double doubled = firstPause.toMillis() * Math.pow(2, Math.min(failures - 1, 30));
        double longest = Math.min(doubled, maxPause.toMillis());
        return Duration.ofMillis((long) (longest * ThreadLocalRandom.current().nextDouble(0.5, 1)));
    }
}
