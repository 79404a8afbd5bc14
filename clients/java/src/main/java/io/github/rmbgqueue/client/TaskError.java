package io.github.rmbgqueue.client;

/**
 * Why a task failed.
 *
 * @param type the error's stable name, such as {@code invalid_image}
 * @param message what went wrong and what to do, for people
 * @param retryable whether the same picture may succeed if it is submitted again
 */
public record TaskError(String type, String message, boolean retryable) {
    static TaskError of(JsonObject object) {
        return new TaskError(object.text("type"), object.text("message"), object.flag("retryable"));
    }
}
