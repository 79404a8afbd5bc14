package io.github.rmbgqueue.client;

import java.time.Instant;
import java.util.Optional;

/**
 * What a webhook tells. Events arrive at least once and in any order: remember the ids that were handled.
 *
 * @param id of the event; the same in every attempt
 * @param type {@code removal.succeeded}, {@code removal.failed}, {@code removal.canceled} or {@code batch.completed}
 * @param time when it happened
 * @param task the task that has ended; empty for a batch
 * @param batch the batch that has ended; empty for a task
 */
public record WebhookEvent(String id, String type, Instant time, Optional<Task> task, Optional<Batch> batch) {
    static WebhookEvent of(String id, JsonObject body) {
        JsonObject data = body.object("data");
        return new WebhookEvent(
            id,
            body.text("type"),
            body.time("timestamp"),
            data.has("task_id") ? Optional.of(Task.of(data)) : Optional.empty(),
            data.has("batch_id") ? Optional.of(Batch.of(data)) : Optional.empty());
    }
}
