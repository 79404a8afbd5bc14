package io.github.rmbgqueue.client;

import java.net.URI;
import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import java.util.Optional;

/**
 * A task as the service shows it.
 *
 * @param id the task's id
 * @param status its state
 * @param resultUrl signed address of the cutout, valid for a limited time; empty unless it succeeded
 * @param originalUrl signed address of the original; empty once it was removed
 * @param format format of the cutout, such as {@code png}
 * @param width of the cutout, in pixels; 0 until there is one
 * @param height of the cutout, in pixels; 0 until there is one
 * @param size of the cutout, in bytes; 0 until there is one
 * @param elapsed from submission to end; empty until it is final
 * @param cached whether the cutout of an earlier, equal task was taken
 * @param model name of the model
 * @param attempts how often a worker has begun it
 * @param metadata as it was submitted
 * @param createdAt when it was submitted
 * @param finishedAt when it became final
 * @param expiresAt when its pictures are removed
 * @param error why it failed
 */
public record Task(
        String id,
        TaskStatus status,
        Optional<URI> resultUrl,
        Optional<URI> originalUrl,
        Optional<String> format,
        int width,
        int height,
        long size,
        Optional<Duration> elapsed,
        boolean cached,
        String model,
        int attempts,
        Map<String, Object> metadata,
        Instant createdAt,
        Optional<Instant> finishedAt,
        Instant expiresAt,
        Optional<TaskError> error) {

    static Task of(JsonObject object) {
        return new Task(
            object.text("task_id"),
            TaskStatus.of(object.text("status")),
            object.optional("result_url").map(URI::create),
            object.optional("original_url").map(URI::create),
            object.optional("format"),
            (int) object.number("width"),
            (int) object.number("height"),
            object.number("size"),
            object.has("elapsed_ms") ? Optional.of(Duration.ofMillis(object.number("elapsed_ms"))) : Optional.empty(),
            object.flag("cached"),
            object.text("model"),
            (int) object.number("attempts"),
            object.object("metadata").values(),
            object.time("created_at"),
            object.optional("finished_at").map(JsonObject::instant),
            object.time("expires_at"),
            object.has("error") ? Optional.of(TaskError.of(object.object("error"))) : Optional.empty());
    }
}
