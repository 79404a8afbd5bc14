package io.github.rmbgqueue.client;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandler;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.time.Clock;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.function.Function;
import java.util.function.Predicate;
import java.util.function.Supplier;

/**
 * A client of one service. It is safe for many threads, starts none of its own, and needs no closing.
 *
 * <p>Every method has a form that returns a {@link CompletableFuture}. The others block, and throw
 * {@link RmbgException}s: {@link ServiceException} for a refusal, {@link UnavailableException} if there was no
 * answer. Submissions carry an idempotency key, so that a submission whose answer was lost is not made twice.
 */
public final class RmbgClient {
    /** The longest time for which one request waits for a task's end. */
    private static final Duration LONGEST_WAIT = Duration.ofSeconds(20);

    /** Between two requests that ask for a task, for which the service itself has waited. */
    private static final Duration TASK_PAUSE = Duration.ofMillis(200);

    /** Between two requests that ask for a batch. */
    private static final Duration BATCH_PAUSE = Duration.ofSeconds(1);

    private final String base;
    private final Optional<String> apiKey;
    private final Duration timeout;
    private final Transport transport;
    /** Used where a caller waits until a time: each failure is one of many there. */
    private final Transport patient;

    private final RetryPolicy policy;

    private RmbgClient(Builder builder) {
        this.base = builder.address.toString().replaceAll("/+$", "");
        this.apiKey = Optional.ofNullable(builder.apiKey);
        this.timeout = builder.timeout;
        this.policy = builder.policy;
        HttpClient http = builder.http != null
            ? builder.http
            : HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(5)).build();
        this.transport = new Transport(http, builder.clock, builder.policy, builder.timeout);
        this.patient = new Transport(http, builder.clock, RetryPolicy.NONE, builder.timeout);
    }

    /**
     * Begins to make a client.
     *
     * @param address of the service, such as {@code http://127.0.0.1:8000}, with its path prefix if it has one
     * @return a builder
     */
    public static Builder builder(URI address) {
        return new Builder(address);
    }

    /**
     * Submits a picture, waits for its cutout, and returns the cutout's bytes.
     *
     * @param picture the picture
     * @param options its parameters
     * @param limit how long to wait for the task's end
     * @return the file of the cutout
     * @throws TaskFailedException the task ended without a cutout
     * @throws WaitTimeoutException the task did not end in time
     */
    public byte[] remove(Picture picture, RemovalOptions options, Duration limit) {
        return get(removeAsync(picture, options, limit));
    }

    /**
     * Does what {@link #remove} does.
     *
     * @param picture the picture
     * @param options its parameters
     * @param limit how long to wait for the task's end
     * @return completes with the file of the cutout
     */
    public CompletableFuture<byte[]> removeAsync(Picture picture, RemovalOptions options, Duration limit) {
        return submitAsync(picture, options)
            .thenCompose(submission -> awaitTaskAsync(submission.taskId(), limit))
            .thenCompose(task -> resultAsync(task.id()));
    }

    /**
     * Submits a picture.
     *
     * @param picture the picture
     * @param options its parameters
     * @return the task's id and state
     * @throws UncheckedIOException the picture's file cannot be read
     */
    public Submission submit(Picture picture, RemovalOptions options) {
        return get(submitAsync(picture, options));
    }

    /**
     * Submits a picture.
     *
     * @param picture the picture
     * @param options its parameters
     * @return completes with the task's id and state
     */
    public CompletableFuture<Submission> submitAsync(Picture picture, RemovalOptions options) {
        return submitAsync(picture, options, UUID.randomUUID().toString());
    }

    /**
     * Submits a picture under an idempotency key of the caller's, so that it is submitted once even if the
     * caller itself starts again.
     *
     * @param picture the picture
     * @param options its parameters
     * @param idempotencyKey the same for the same picture and parameters, within 24 hours
     * @return completes with the task's id and state
     */
    public CompletableFuture<Submission> submitAsync(
            Picture picture, RemovalOptions options, String idempotencyKey) {
        return submitting(() -> {
            if (picture instanceof Picture.File || picture instanceof Picture.Bytes) {
                return form(new Multipart().fields(options.values()).file("image", picture));
            }
            return json(item(picture, options.values()));
        }, "/api/v1/remove-bg", idempotencyKey)
            .thenApply(response -> {
                JsonObject data = data(response);
                return new Submission(
                    data.text("task_id"), TaskStatus.of(data.text("status")), isReplayed(response));
            });
    }

    /**
     * Returns a task.
     *
     * @param taskId its id
     * @return the task as it is now
     */
    public Task task(String taskId) {
        return get(taskAsync(taskId));
    }

    /**
     * Returns a task.
     *
     * @param taskId its id
     * @return completes with the task as it is now
     */
    public CompletableFuture<Task> taskAsync(String taskId) {
        return call("GET", "/api/v1/tasks/" + encode(taskId)).thenApply(Task::of);
    }

    /**
     * Waits for a task's end, also while the service is restarted.
     *
     * @param taskId its id
     * @param limit how long to wait
     * @return the task, which succeeded
     * @throws TaskFailedException the task ended without a cutout
     * @throws WaitTimeoutException the task did not end in time
     */
    public Task awaitTask(String taskId, Duration limit) {
        return get(awaitTaskAsync(taskId, limit));
    }

    /**
     * Waits for a task's end, also while the service is restarted.
     *
     * @param taskId its id
     * @param limit how long to wait
     * @return completes with the task, which succeeded
     */
    public CompletableFuture<Task> awaitTaskAsync(String taskId, Duration limit) {
        long end = System.nanoTime() + limit.toNanos();
        return poll(taskId, end, TASK_PAUSE, () -> waitFor(taskId, end), task -> task.status().isFinal(), 0)
            .thenApply(task -> {
                if (task.status() != TaskStatus.SUCCEEDED) {
                    throw new TaskFailedException(task);
                }
                return task;
            });
    }

    /**
     * Lists the caller's tasks, newest first.
     *
     * @param status only tasks in this state, such as {@code failed}; null for all
     * @param limit 1 to 100
     * @param cursor {@link TaskPage#nextCursor} of the page before; null for the first page
     * @return one page
     */
    public TaskPage tasks(String status, int limit, String cursor) {
        StringBuilder path = new StringBuilder("/api/v1/tasks?limit=" + limit);
        if (status != null) {
            path.append("&status=").append(encode(status));
        }
        if (cursor != null) {
            path.append("&cursor=").append(encode(cursor));
        }
        JsonObject page = get(call("GET", path.toString()));
        return new TaskPage(page.objects("tasks").stream().map(Task::of).toList(), page.optional("next_cursor"));
    }

    /**
     * Returns the file of a task's cutout.
     *
     * @param taskId its id
     * @return the bytes
     * @throws TaskFailedException the task has no cutout, or none yet
     */
    public byte[] result(String taskId) {
        return get(resultAsync(taskId));
    }

    /**
     * Returns the file of a task's cutout.
     *
     * @param taskId its id
     * @return completes with the bytes
     */
    public CompletableFuture<byte[]> resultAsync(String taskId) {
        return taskAsync(taskId).thenCompose(task -> fetch(task, BodyHandlers.ofByteArray()));
    }

    /**
     * Downloads a task's cutout. The file is there as a whole or not at all.
     *
     * @param taskId its id
     * @param target path of the file; a file there is replaced
     * @return completes with that path
     */
    public CompletableFuture<Path> downloadAsync(String taskId, Path target) {
        return saving(target, handler -> taskAsync(taskId).thenCompose(task -> fetch(task, handler)));
    }

    /**
     * Downloads a task's cutout. The file is there as a whole or not at all.
     *
     * @param taskId its id
     * @param target path of the file; a file there is replaced
     * @return that path
     */
    public Path download(String taskId, Path target) {
        return get(downloadAsync(taskId, target));
    }

    /**
     * Cancels a task that is not final.
     *
     * @param taskId its id
     * @return the task: canceled, or final as it was before
     */
    public Task cancel(String taskId) {
        CompletableFuture<Task> canceled = call("POST", "/api/v1/tasks/" + encode(taskId) + "/cancel")
            .handle((answer, error) -> {
                if (error == null || isRefusal(error, "task_finished")) {
                    return taskAsync(taskId);
                }
                return CompletableFuture.<Task>failedFuture(Transport.cause(error));
            })
            .thenCompose(next -> next);
        return get(canceled);
    }

    /**
     * Erases a task with its pictures; nothing happens if there is no such task.
     *
     * @param taskId its id
     */
    public void erase(String taskId) {
        get(gone(call("DELETE", "/api/v1/tasks/" + encode(taskId)), "task_not_found"));
    }

    /**
     * Submits many pictures, all of them files and bytes or none of them.
     *
     * @param pictures the pictures
     * @param options parameters of them all
     * @return the batch; a picture that was refused is an item that has failed
     */
    public Batch submitBatch(List<Picture> pictures, RemovalOptions options) {
        return get(submitBatchAsync(pictures, options));
    }

    /**
     * Submits many pictures, all of them files and bytes or none of them.
     *
     * @param pictures the pictures
     * @param options parameters of them all
     * @return completes with the batch
     */
    public CompletableFuture<Batch> submitBatchAsync(List<Picture> pictures, RemovalOptions options) {
        List<Picture> all = List.copyOf(pictures);
        long sent = all.stream().filter(each -> each instanceof Picture.File || each instanceof Picture.Bytes).count();
        if (all.isEmpty() || (sent != 0 && sent != all.size())) {
            throw new IllegalArgumentException(
                "A batch has at least one picture, and either files and bytes or addresses and uploads.");
        }
        return submitting(() -> {
            if (sent != 0) {
                Multipart body = new Multipart().fields(options.values());
                all.forEach(picture -> body.file("images", picture));
                return form(body);
            }
            Map<String, Object> values = new LinkedHashMap<>(options.values());
            values.put("items", all.stream().map(picture -> item(picture, Map.of())).toList());
            return json(values);
        }, "/api/v1/remove-bg/batch", UUID.randomUUID().toString()).thenApply(response -> Batch.of(data(response)));
    }

    /**
     * Returns a batch.
     *
     * @param batchId its id
     * @return the batch as it is now
     */
    public Batch batch(String batchId) {
        return get(batchAsync(batchId));
    }

    /**
     * Waits until all tasks of a batch are final, also while the service is restarted.
     *
     * @param batchId its id
     * @param limit how long to wait
     * @return the batch; some of its items may have failed
     * @throws WaitTimeoutException it did not end in time
     */
    public Batch awaitBatch(String batchId, Duration limit) {
        return get(awaitBatchAsync(batchId, limit));
    }

    /**
     * Waits until all tasks of a batch are final, also while the service is restarted.
     *
     * @param batchId its id
     * @param limit how long to wait
     * @return completes with the batch
     */
    public CompletableFuture<Batch> awaitBatchAsync(String batchId, Duration limit) {
        long end = System.nanoTime() + limit.toNanos();
        Supplier<CompletableFuture<Batch>> ask = () -> callOnce("/api/v1/batches/" + encode(batchId)).thenApply(Batch::of);
        return poll(batchId, end, BATCH_PAUSE, ask, Batch::isFinal, 0);
    }

    /**
     * Downloads the cutouts of a completed batch as a ZIP archive, which is there as a whole or not at all.
     *
     * @param batchId its id
     * @param target path of the file; a file there is replaced
     * @return that path
     */
    public Path archive(String batchId, Path target) {
        String path = "/api/v1/batches/" + encode(batchId) + "/archive";
        return get(saving(target, handler -> transport.send(() -> request("GET", path, none()).build(), handler)));
    }

    /**
     * Erases a batch with all of its tasks; nothing happens if there is no such batch.
     *
     * @param batchId its id
     */
    public void eraseBatch(String batchId) {
        get(gone(call("DELETE", "/api/v1/batches/" + encode(batchId)), "batch_not_found"));
    }

    private CompletableFuture<Batch> batchAsync(String batchId) {
        return call("GET", "/api/v1/batches/" + encode(batchId)).thenApply(Batch::of);
    }

    /** Asks for a task once it is final, for as long as one request may wait. */
    private CompletableFuture<Task> waitFor(String taskId, long end) {
        long left = Math.max(0, Math.min(end - System.nanoTime(), LONGEST_WAIT.toNanos()));
        String seconds = String.format(Locale.ROOT, "%.3f", left / 1e9);
        return callOnce("/api/v1/tasks/" + encode(taskId) + "?wait=" + seconds).thenApply(Task::of);
    }

    /** Asks again and again until it is done or the time is over; failures that pass are waited out. */
    private <T> CompletableFuture<T> poll(
            String id, long end, Duration between, Supplier<CompletableFuture<T>> ask, Predicate<T> done, int failures) {
        return ask.get().handle((state, error) -> {
            if (error == null && done.test(state)) {
                return CompletableFuture.completedFuture(state);
            }
            Throwable cause = error == null ? null : Transport.cause(error);
            if (cause != null && !mayPass(cause)) {
                return CompletableFuture.<T>failedFuture(cause);
            }
            Duration left = Duration.ofNanos(Math.max(0, end - System.nanoTime()));
            if (left.isZero()) {
                return CompletableFuture.<T>failedFuture(new WaitTimeoutException(
                    id, id + " did not end in time" + (cause == null ? "." : "; the last answer was: " + cause), cause));
            }
            Duration pause = cause == null ? between : pauseAfter(cause, failures + 1);
            return Transport.pause(pause.compareTo(left) < 0 ? pause : left)
                .thenCompose(ignored -> poll(id, end, between, ask, done, cause == null ? 0 : failures + 1));
        }).thenCompose(next -> next);
    }

    private Duration pauseAfter(Throwable cause, int failures) {
        Duration own = policy.pause(failures);
        return cause instanceof ServiceException refusal ? refusal.retryAfter().orElse(own) : own;
    }

    private static boolean mayPass(Throwable cause) {
        return cause instanceof UnavailableException
            || cause instanceof ServiceException refusal && (refusal.status() == 429 || refusal.status() >= 502);
    }

    /** Fetches a cutout from its signed address, without the API key. */
    private <T> CompletableFuture<HttpResponse<T>> fetch(Task task, BodyHandler<T> handler, int attempts) {
        URI address = task.resultUrl().orElseThrow(() -> new TaskFailedException(task));
        Supplier<HttpRequest> request = () -> HttpRequest.newBuilder(address)
            .version(HttpClient.Version.HTTP_1_1).timeout(timeout).GET().build();
        return transport.send(request, handler).handle((response, error) -> {
            // A signed address is valid for a limited time: the task has a new one.
            if (error != null && attempts > 1 && Transport.cause(error) instanceof ServiceException) {
                return taskAsync(task.id()).thenCompose(again -> fetch(again, handler, attempts - 1));
            }
            return error == null
                ? CompletableFuture.completedFuture(response)
                : CompletableFuture.<HttpResponse<T>>failedFuture(Transport.cause(error));
        }).thenCompose(next -> next);
    }

    private <T> CompletableFuture<T> fetch(Task task, BodyHandler<T> handler) {
        return fetch(task, handler, 2).thenApply(HttpResponse::body);
    }

    /** Writes to a file beside the target, and renames it once it is whole. */
    private static CompletableFuture<Path> saving(
            Path target, Function<BodyHandler<Path>, CompletableFuture<?>> download) {
        Path parent = target.toAbsolutePath().getParent();
        if (parent == null || !Files.isDirectory(parent)) {
            return CompletableFuture.failedFuture(
                new UncheckedIOException(new IOException("There is no folder " + parent + " to save in")));
        }
        Path part = target.resolveSibling(target.getFileName() + "." + UUID.randomUUID() + ".part");
        return download.apply(BodyHandlers.ofFile(part)).handle((ignored, error) -> {
            try {
                if (error == null) {
                    return Files.move(part, target, StandardCopyOption.REPLACE_EXISTING);
                }
                Files.deleteIfExists(part);
            } catch (IOException broken) {
                throw new UncheckedIOException(broken);
            }
            throw new CompletionException(Transport.cause(error));
        });
    }

    private record Body(String contentType, BodyPublisher publisher) {}

    private static Body none() {
        return new Body("", BodyPublishers.noBody());
    }

    private static Body form(Multipart multipart) {
        return new Body(multipart.contentType(), multipart.publisher());
    }

    private static Body json(Map<String, Object> values) {
        return new Body("application/json", BodyPublishers.ofString(Json.write(values)));
    }

    private static Map<String, Object> item(Picture picture, Map<String, Object> options) {
        Map<String, Object> values = new LinkedHashMap<>(options);
        if (picture instanceof Picture.Address address) {
            values.put("image_url", address.uri().toString());
        } else if (picture instanceof Picture.Upload upload) {
            values.put("upload_id", upload.id());
        }
        return values;
    }

    private CompletableFuture<HttpResponse<String>> submitting(Supplier<Body> body, String path, String key) {
        return transport.send(
            () -> request("POST", path, body.get()).header("Idempotency-Key", key).build(), BodyHandlers.ofString());
    }

    private CompletableFuture<JsonObject> call(String method, String path) {
        return transport.send(() -> request(method, path, none()).build(), BodyHandlers.ofString())
            .thenApply(RmbgClient::data);
    }

    private CompletableFuture<JsonObject> callOnce(String path) {
        Duration longer = timeout.plus(LONGEST_WAIT);
        return patient.send(() -> request("GET", path, none()).timeout(longer).build(), BodyHandlers.ofString())
            .thenApply(RmbgClient::data);
    }

    private HttpRequest.Builder request(String method, String path, Body body) {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(base + path))
            .version(HttpClient.Version.HTTP_1_1)
            .timeout(timeout)
            .header("Accept", "application/json")
            .method(method, body.publisher());
        if (!body.contentType().isEmpty()) {
            request.header("Content-Type", body.contentType());
        }
        apiKey.ifPresent(key -> request.header("X-API-Key", key));
        return request;
    }

    private static JsonObject data(HttpResponse<String> response) {
        return JsonObject.parse(response.body()).object("data");
    }

    private static boolean isReplayed(HttpResponse<?> response) {
        return response.headers().firstValue("Idempotency-Replayed").isPresent();
    }

    private static boolean isRefusal(Throwable error, String type) {
        return Transport.cause(error) instanceof ServiceException refusal && refusal.type().equals(type);
    }

    /** Takes "there is none" for success: an earlier attempt may have erased it. */
    private static CompletableFuture<?> gone(CompletableFuture<JsonObject> erased, String type) {
        return erased.exceptionally(error -> {
            if (isRefusal(error, type)) {
                return null;
            }
            throw new CompletionException(Transport.cause(error));
        });
    }

    private static String encode(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8);
    }

    private static <T> T get(CompletableFuture<T> future) {
        try {
            return future.get();
        } catch (InterruptedException error) {
            future.cancel(true);
            Thread.currentThread().interrupt();
            throw new UnavailableException("The thread was interrupted while it waited for an answer.", error);
        } catch (ExecutionException error) {
            Throwable cause = Transport.cause(error.getCause());
            if (cause instanceof RuntimeException known) {
                throw known;
            }
            throw new UnavailableException(String.valueOf(cause), cause);
        }
    }

    /** Makes a client. */
    public static final class Builder {
        private final URI address;
        private String apiKey;
        private HttpClient http;
        private Clock clock = Clock.systemUTC();
        private RetryPolicy policy = RetryPolicy.DEFAULT;
        private Duration timeout = Duration.ofSeconds(60);

        private Builder(URI address) {
            this.address = Objects.requireNonNull(address, "address");
            if (!Set.of("http", "https").contains(String.valueOf(address.getScheme())) || address.getHost() == null) {
                throw new IllegalArgumentException(
                    "\"" + address + "\" is no address of a service; give one as http://HOST:PORT");
            }
        }

        /**
         * Sets the caller's API key.
         *
         * @param key as {@code rmbg keys add} printed it
         * @return this builder
         */
        public Builder apiKey(String key) {
            this.apiKey = key;
            return this;
        }

        /**
         * Sets the HTTP client: its executor, proxy, TLS and connect timeout are used.
         *
         * @param client of the JDK
         * @return this builder
         */
        public Builder httpClient(HttpClient client) {
            this.http = client;
            return this;
        }

        /**
         * Sets the clock, by which a date in {@code Retry-After} is read.
         *
         * @param other the clock
         * @return this builder
         */
        public Builder clock(Clock other) {
            this.clock = other;
            return this;
        }

        /**
         * Sets how requests are tried again.
         *
         * @param other the policy
         * @return this builder
         */
        public Builder retryPolicy(RetryPolicy other) {
            this.policy = other;
            return this;
        }

        /**
         * Sets the time limit of one request, its whole body and answer included; a minute by default.
         *
         * @param limit as long as the largest file takes to be sent
         * @return this builder
         */
        public Builder timeout(Duration limit) {
            this.timeout = limit;
            return this;
        }

        /**
         * Makes the client.
         *
         * @return a client
         */
        public RmbgClient build() {
            return new RmbgClient(this);
        }
    }
}
