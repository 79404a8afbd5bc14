package io.github.rmbgqueue.client;

/**
 * The answer to a submission.
 *
 * @param taskId id of the task, under which its state can be asked for from now on
 * @param status its state: queued, or succeeded if the cutout was cached
 * @param replayed whether the task was made by an earlier request with the same idempotency key
 */
public record Submission(String taskId, TaskStatus status, boolean replayed) {}
