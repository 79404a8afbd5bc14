package io.github.rmbgqueue.client;

import java.time.Instant;
import java.util.List;
import java.util.Optional;

/**
 * A batch as the service shows it.
 *
 * @param id the batch's id
 * @param status {@code processing}, {@code completed} or {@code expired}
 * @param total how many pictures it has
 * @param progress share of its pictures that are final, 0 to 1
 * @param createdAt when it was submitted
 * @param expiresAt when its pictures are removed
 * @param items its pictures, in the order of submission
 */
public record Batch(
        String id, String status, int total, double progress, Instant createdAt, Instant expiresAt, List<Item> items) {

    /**
     * Tells whether all of its tasks are final.
     *
     * @return whether it is completed or expired
     */
    public boolean isFinal() {
        return !status.equals("processing");
    }

    static Batch of(JsonObject object) {
        return new Batch(
            object.text("batch_id"),
            object.text("status"),
            (int) object.number("total"),
            object.decimal("progress"),
            object.time("created_at"),
            object.time("expires_at"),
            object.objects("items").stream().map(Item::of).toList());
    }

    /**
     * One picture of a batch.
     *
     * @param index its place, from 0
     * @param name its file name, or its address
     * @param taskId its task; empty if the picture was refused
     * @param status its task's state; {@link TaskStatus#FAILED} if the picture was refused
     * @param error why it failed
     */
    public record Item(
            int index, String name, Optional<String> taskId, TaskStatus status, Optional<TaskError> error) {
        static Item of(JsonObject object) {
            return new Item(
                (int) object.number("index"),
                object.text("name"),
                object.optional("task_id"),
                TaskStatus.of(object.text("status")),
                object.has("error") ? Optional.of(TaskError.of(object.object("error"))) : Optional.empty());
        }
    }
}
