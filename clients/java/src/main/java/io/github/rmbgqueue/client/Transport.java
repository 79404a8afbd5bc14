package io.github.rmbgqueue.client;

import java.io.IOException;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandler;
import java.nio.charset.StandardCharsets;
import java.time.Clock;
import java.time.DateTimeException;
import java.time.Duration;
import java.time.Instant;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/** Sends requests, tries them again, and turns refusals into exceptions. */
final class Transport {
    private static final Set<Integer> TRANSIENT = Set.of(408, 429, 502, 503, 504);
    /** A request with the same idempotency key is being accepted. */
    private static final String IN_PROGRESS = "idempotency_in_progress";

    private final HttpClient http;
    private final Clock clock;
    private final RetryPolicy policy;
    private final Duration timeout;

    Transport(HttpClient http, Clock clock, RetryPolicy policy, Duration timeout) {
        this.http = http;
        this.clock = clock;
        this.policy = policy;
        this.timeout = timeout;
    }

    /**
     * Sends a request until it is answered with 2xx, or its attempts are used up.
     *
     * @param request makes the request anew for each attempt
     * @param body how the body of a 2xx is read; that of any other answer is read as text
     */
    <T> CompletableFuture<HttpResponse<T>> send(Supplier<HttpRequest> request, BodyHandler<T> body) {
        return attempt(request, body, 1);
    }

    /** Completes after a pause, on a thread of the JDK. */
    static CompletableFuture<Void> pause(Duration time) {
        return CompletableFuture.runAsync(
            () -> { }, CompletableFuture.delayedExecutor(time.toMillis(), TimeUnit.MILLISECONDS));
    }

    /** Returns what a future failed with, without the wrappers. */
    static Throwable cause(Throwable error) {
        return error instanceof CompletionException && error.getCause() != null ? cause(error.getCause()) : error;
    }

    private <T> CompletableFuture<HttpResponse<T>> attempt(
            Supplier<HttpRequest> request, BodyHandler<T> body, int number) {
        CompletableFuture<HttpResponse<T>> sent;
        String server;
        try {
            HttpRequest made = request.get();
            // Without the path: that of a signed address is a secret.
            server = made.uri().getScheme() + "://" + made.uri().getAuthority();
            sent = once(made, body);
        } catch (RuntimeException error) {
            return CompletableFuture.failedFuture(error); // a file that is not there
        }
        return sent.handle((response, error) -> {
            if (error == null) {
                return sent;
            }
            Throwable cause = cause(error);
            Optional<Duration> pause = pause(cause, number);
            if (pause.isEmpty()) {
                return CompletableFuture.<HttpResponse<T>>failedFuture(
                    cause instanceof IOException
                        ? new UnavailableException("No answer from " + server + " in " + number + " attempt(s): "
                            + cause + ". Is it running?", cause)
                        : cause);
            }
            return pause(pause.get()).thenCompose(ignored -> attempt(request, body, number + 1));
        }).thenCompose(next -> next);
    }

    /** Returns how long to wait before the next attempt; empty if there is none. */
    private Optional<Duration> pause(Throwable cause, int attempts) {
        if (attempts >= policy.maxAttempts()) {
            return Optional.empty();
        }
        if (cause instanceof ServiceException refusal) {
            if (!TRANSIENT.contains(refusal.status()) && !refusal.type().equals(IN_PROGRESS)) {
                return Optional.empty();
            }
            Duration asked = refusal.retryAfter().orElse(Duration.ZERO);
            Duration own = policy.pause(attempts);
            // Beyond the longest pause the caller decides: the exception says how long.
            return asked.compareTo(policy.maxPause()) > 0
                ? Optional.empty()
                : Optional.of(asked.compareTo(own) > 0 ? asked : own);
        }
        return cause instanceof IOException ? Optional.of(policy.pause(attempts)) : Optional.empty();
    }

    /** Sends a request once; the time limit is for the whole exchange, the body included. */
    private <T> CompletableFuture<HttpResponse<T>> once(HttpRequest request, BodyHandler<T> body) {
        CompletableFuture<HttpResponse<Object>> exchange = http.sendAsync(request, info -> {
            boolean good = info.statusCode() / 100 == 2;
            BodyHandler<?> handler = good ? body : HttpResponse.BodyHandlers.ofString(StandardCharsets.UTF_8);
            @SuppressWarnings("unchecked") // read back by the same rule below
            HttpResponse.BodySubscriber<Object> subscriber =
                (HttpResponse.BodySubscriber<Object>) handler.apply(info);
            return subscriber;
        });
        CompletableFuture<HttpResponse<T>> limited = exchange
            .copy()
            .orTimeout(request.timeout().orElse(timeout).toMillis(), TimeUnit.MILLISECONDS)
            .handle((response, error) -> {
                if (error != null) {
                    exchange.cancel(true);
                    throw new CompletionException(asIoException(cause(error)));
                }
                if (response.statusCode() / 100 != 2) {
                    throw refusal(response);
                }
                @SuppressWarnings("unchecked") // a 2xx was read by `body`
                HttpResponse<T> good = (HttpResponse<T>) response;
                return good;
            });
        return limited;
    }

    private static Throwable asIoException(Throwable error) {
        return error instanceof java.util.concurrent.TimeoutException
            ? new IOException("the time limit of the request is over", error)
            : error;
    }

    private ServiceException refusal(HttpResponse<?> response) {
        String text = String.valueOf(response.body());
        JsonObject answer;
        try {
            answer = JsonObject.parse(text);
        } catch (IllegalArgumentException error) {
            // Of a proxy in front of the service, for example.
            answer = JsonObject.parse("{}");
        }
        JsonObject detail = answer.object("error");
        Map<String, String> fields = new LinkedHashMap<>();
        detail.object("fields").values().forEach((name, value) -> fields.put(name, String.valueOf(value)));
        return new ServiceException(
            response.statusCode(),
            (int) answer.number("code"),
            detail.text("type"),
            answer.optional("message").orElse("The answer is not the service's own."),
            fields,
            answer.text("request_id"),
            response.headers().firstValue("Retry-After").map(this::retryAfter).orElse(null));
    }

    /** Reads seconds or a date; null if it is neither. */
    private Duration retryAfter(String text) {
        try {
            return Duration.ofSeconds(Math.max(0, Long.parseLong(text.strip())));
        } catch (NumberFormatException notSeconds) {
            try {
                Instant at = ZonedDateTime.parse(text.strip(), DateTimeFormatter.RFC_1123_DATE_TIME).toInstant();
                Duration left = Duration.between(clock.instant(), at);
                return left.isNegative() ? Duration.ZERO : left;
            } catch (DateTimeException neither) {
                return null;
            }
        }
    }
}
